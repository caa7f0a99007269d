//! The same conversation with the server itself and through respgate; both must read the same.

use super::client::{Client, encode};
use super::proxy::Proxy;
use super::servers::{Flavor, Server};

/// A server, and respgate in front of it.
pub struct Pair {
    pub proxy: Proxy,
    pub server: Server,
}

impl Pair {
    /// A server without password, and respgate with one worker at its fixed address.
    pub fn start(flavor: Flavor) -> Self {
        Self::start_with(flavor, &[], &[])
    }

    /// With more options for the server and more flags for respgate.
    pub fn start_with(flavor: Flavor, options: &[&str], flags: &[&str]) -> Self {
        let server = Server::start_with(flavor, options);
        let proxy = Proxy::start_with(&format!("redis://127.0.0.1:{}", server.port), 1, flags);
        Self { proxy, server }
    }

    /// With a `[limits]` or `[upstreams.main]` table for respgate; `URL` in the text stands for the server's.
    pub fn start_file(flavor: Flavor, toml: &str) -> Self {
        let server = Server::start(flavor);
        let proxy = Proxy::start_file(1, &toml.replace("URL", &format!("redis://127.0.0.1:{}", server.port)));
        Self { proxy, server }
    }

    /// Runs `conversation` directly, empties the server, runs it through respgate, and compares all that was read.
    #[track_caller]
    pub fn compare(&self, conversation: impl Fn(&mut Recorder)) {
        let mut transcripts = [self.server.port, self.proxy.port].map(|port| {
            self.server.run(&["FLUSHALL"]);
            self.server.run(&["SCRIPT", "FLUSH"]);
            let mut recorder = Recorder::new(port);
            conversation(&mut recorder);
            recorder.transcript
        });
        let through = std::mem::take(&mut transcripts[1]);
        assert_same(&transcripts[0], &through);
    }

    /// Sends these bytes, expects this many frames, and compares them.
    #[track_caller]
    pub fn compare_bytes(&self, bytes: impl AsRef<[u8]>, frames: usize) {
        self.compare(|client| {
            client.send(&bytes);
            client.replies(frames);
        });
    }

    /// Sends these bytes, reads until the connection is closed, and compares.
    #[track_caller]
    pub fn compare_until_closed(&self, bytes: impl AsRef<[u8]>) {
        self.compare(|client| {
            client.send(&bytes);
            client.closed();
        });
    }
}

/// Panics at the first line that differs, with the line before it.
#[track_caller]
fn assert_same(direct: &[String], through: &[String]) {
    for (index, (left, right)) in direct.iter().zip(through).enumerate() {
        let before = index.checked_sub(1).map_or("", |at| direct[at].as_str());
        assert!(left == right, "line {index} differs, after {before}\n  direct:  {left}\n  through: {right}");
    }
    assert_eq!(direct.len(), through.len(), "one conversation is longer");
}

/// A client (or several) that writes down what it sends and reads.
pub struct Recorder {
    port: u16,
    clients: Vec<Client>,
    transcript: Vec<String>,
}

impl Recorder {
    fn new(port: u16) -> Self {
        Self { port, clients: vec![Client::connect(port)], transcript: Vec::new() }
    }

    /// Another client of the same address; its number goes into [`Recorder::at`].
    pub fn another(&mut self) -> usize {
        self.clients.push(Client::connect(self.port));
        self.clients.len() - 1
    }

    /// The client of this number, for its methods that are not recorded.
    pub fn at(&mut self, client: usize) -> &mut Client {
        &mut self.clients[client]
    }

    /// Sends bytes on the first client.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.note("send", 0, bytes.as_ref());
        self.clients[0].send(bytes);
    }

    /// One command and its reply, on the first client.
    #[track_caller]
    pub fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Vec<u8> {
        self.call_on(0, arguments)
    }

    /// One command and its reply, on this client.
    #[track_caller]
    pub fn call_on<A: AsRef<[u8]>>(&mut self, client: usize, arguments: &[A]) -> Vec<u8> {
        self.note("send", client, &encode(arguments));
        self.clients[client].send_command(arguments);
        self.reply_on(client)
    }

    /// Commands one after another, written in one piece, and then all their replies.
    #[track_caller]
    pub fn pipeline(&mut self, commands: &[&[&str]]) {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
        self.send(bytes);
        self.replies(commands.len());
    }

    /// Takes this many frames from the first client.
    #[track_caller]
    pub fn replies(&mut self, count: usize) {
        for _ in 0..count {
            self.reply_on(0);
        }
    }

    /// Takes one frame from this client.
    #[track_caller]
    pub fn reply_on(&mut self, client: usize) -> Vec<u8> {
        let reply = self.clients[client].reply();
        self.note("read", client, &reply);
        reply
    }

    /// Takes what is left, up to the close that must come.
    #[track_caller]
    pub fn closed(&mut self) {
        let rest = self.clients[0].rest();
        self.note("read, then closed:", 0, &rest);
    }

    fn note(&mut self, what: &str, client: usize, bytes: &[u8]) {
        let text = without_connection_number(bytes.escape_ascii().to_string());
        self.transcript.push(format!("[{client}] {what} {text}"));
    }
}

/// HELLO's reply names the connection's number, which differs between any two connections.
fn without_connection_number(text: String) -> String {
    const LABEL: &str = "$2\\r\\nid\\r\\n:";
    match text.split_once(LABEL) {
        Some((before, after)) => {
            format!("{before}{LABEL}N{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => text,
    }
}
