//! Servers of the tests' own making, for what real ones do not show on demand.

use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

use super::client::encode;
use super::read;

/// What is said in answer to one command.
pub enum Said {
    /// These bytes.
    Bytes(Vec<u8>),
    /// These, and then the connection is closed.
    Last(Vec<u8>),
}

/// What one connection says to its commands.
type Answer = Box<dyn FnMut(&[String]) -> Said + Send>;

/// A server that answers as it is told. It ends when it is dropped.
pub struct Scripted {
    pub port: u16,
    accepted: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Scripted {
    /// Listens on a free port. `answer` is called for every command, on one thread for each connection.
    pub fn start(answer: impl Fn(&[String]) -> Said + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::start_each(move || {
            let answer = Arc::clone(&answer);
            Box::new(move |command| answer(command))
        })
    }

    /// As [`Scripted::start`], with something to remember for each connection.
    pub fn start_each(connect: impl Fn() -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (accepted, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, ended) = (Arc::clone(&accepted), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                counter.fetch_add(1, Ordering::Relaxed);
                let answer = connect();
                thread::spawn(move || serve(stream, answer));
            }
        });
        Self { port, accepted, stop, thread: Some(thread) }
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, mut answer: Answer) {
    let _ = stream.set_nodelay(true);
    // A peer that is silent for so long has been forgotten by its test.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(120)));
    let mut buffer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        while let Some((command, length)) = command(&buffer) {
            buffer.drain(..length);
            let (bytes, last) = match answer(&command) {
                Said::Bytes(bytes) => (bytes, false),
                Said::Last(bytes) => (bytes, true),
            };
            if last {
                // The end is to arrive together with what comes before it: nothing can be sent in between.
                let _ = SockRef::from(&stream).set_tcp_cork(true);
            }
            if stream.write_all(&bytes).is_err() || last {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        }
        match read::once(&mut stream, &mut chunk) {
            Ok(count) if count > 0 => buffer.extend_from_slice(&chunk[..count]),
            _ => return,
        }
    }
}

/// The first command in `bytes`, which is in canonical form, and its length.
fn command(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let line = |at: usize| {
        let rest = bytes.get(at..)?;
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let number = std::str::from_utf8(rest.get(1..end)?).ok()?.parse::<usize>().ok()?;
        Some((number, at + end + 2))
    };
    let (count, mut at) = line(0)?;
    let mut arguments = Vec::new();
    for _ in 0..count {
        let (length, start) = line(at)?;
        arguments.push(String::from_utf8_lossy(bytes.get(start..start + length)?).into_owned());
        at = start + length + 2;
    }
    (at <= bytes.len()).then_some((arguments, at))
}

/// What a primary says to a connection that introduces itself, and to whoever asks for its role; `None`: another
/// command.
pub fn as_primary(command: &[String]) -> Option<Vec<u8>> {
    let words: Vec<String> = command.iter().map(|word| word.to_uppercase()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Some(match words[..] {
        ["HELLO", "3", ..] => b"%3\r\n+server\r\n+valkey\r\n+version\r\n+8.0.1\r\n+proto\r\n:3\r\n".to_vec(),
        ["HELLO", ..] => b"*6\r\n+server\r\n+valkey\r\n+version\r\n+8.0.1\r\n+proto\r\n:2\r\n".to_vec(),
        ["ROLE"] => b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n".to_vec(),
        ["PING"] => b"+PONG\r\n".to_vec(),
        ["SELECT" | "CLIENT" | "AUTH", ..] => b"+OK\r\n".to_vec(),
        ["COMMAND", ..] => b"*0\r\n".to_vec(),
        _ => return None,
    })
}

/// What a Sentinel answers that names this port; it confirms subscriptions and publishes nothing.
pub fn as_sentinel(command: &[String], primary: u16, epoch: u64) -> Vec<u8> {
    let port = primary.to_string();
    let words: Vec<String> = command.iter().map(|word| word.to_uppercase()).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["SUBSCRIBE", ..] => {
            let confirmations = command.iter().skip(1).enumerate().map(|(number, channel)| {
                format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:{}\r\n", channel.len(), number + 1)
            });
            confirmations.collect::<String>().into_bytes()
        }
        ["SENTINEL", "MYID"] => format!("$40\r\n{}\r\n", "a".repeat(40)).into_bytes(),
        ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", _] => encode(&["127.0.0.1", &port]),
        ["SENTINEL", "MASTER", _] => {
            let epoch = epoch.to_string();
            encode(&["ip", "127.0.0.1", "port", &port, "flags", "master", "config-epoch", &epoch])
        }
        ["SENTINEL", "SENTINELS", _] => b"*0\r\n".to_vec(),
        _ => b"+OK\r\n".to_vec(),
    }
}
