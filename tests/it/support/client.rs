//! A raw RESP client: writes bytes, reads frames as bytes, and never hides what came back.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::place::Place;
use super::tls::TlsConnection;
use super::wait::PATIENCE;

/// How long a connection may take to be made: a host that is cut off does not answer at all.
const CONNECT: Duration = Duration::from_secs(2);

trait Stream: Read + Write + Send {
    fn wait_at_most(&self, limit: Duration) -> io::Result<()>;
    fn end_writes(&mut self) -> io::Result<()>;
    fn another(&self) -> io::Result<Box<dyn Stream>>;
}

impl Stream for TcpStream {
    fn wait_at_most(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))
    }
    fn end_writes(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
    fn another(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.try_clone()?))
    }
}

impl Stream for UnixStream {
    fn wait_at_most(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))
    }
    fn end_writes(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
    fn another(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.try_clone()?))
    }
}

impl Stream for TlsConnection {
    fn wait_at_most(&self, limit: Duration) -> io::Result<()> {
        self.sock.set_read_timeout(Some(limit))
    }
    fn end_writes(&mut self) -> io::Result<()> {
        self.conn.send_close_notify();
        self.flush()?;
        self.sock.shutdown(Shutdown::Write)
    }
    fn another(&self) -> io::Result<Box<dyn Stream>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a TLS connection cannot be used by two threads"))
    }
}

/// One connection.
pub struct Client {
    stream: Box<dyn Stream>,
    /// Bytes that arrived after the last frame that was taken.
    buffer: Vec<u8>,
    limit: Duration,
}

impl Client {
    /// A client of a loopback port.
    #[track_caller]
    pub fn connect(port: u16) -> Self {
        Self::connect_to(Place::LOOPBACK.address(port))
    }

    /// A client of any address.
    #[track_caller]
    pub fn connect_to(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT)?;
        stream.set_nodelay(true)?;
        Ok(Self::over(Box::new(stream)))
    }

    /// A client whose own address is `from`, such as another one of the loopback network.
    #[track_caller]
    pub fn connect_from(from: Ipv4Addr, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address of its own");
        socket.connect_timeout(&address.into(), CONNECT).expect("a connection");
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).expect("no delay");
        Self::over(Box::new(stream))
    }

    /// A client of a unix socket.
    #[track_caller]
    pub fn connect_unix(path: &Path) -> Self {
        Self::try_connect_unix(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn try_connect_unix(path: &Path) -> io::Result<Self> {
        Ok(Self::over(Box::new(UnixStream::connect(path)?)))
    }

    /// A client of a connection that has shaken hands.
    pub fn over_tls(stream: TlsConnection) -> Self {
        Self::over(Box::new(stream))
    }

    fn over(stream: Box<dyn Stream>) -> Self {
        Self { stream, buffer: Vec::new(), limit: PATIENCE }
    }

    /// How long each read may wait from now on.
    pub fn deadline(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Writes bytes as they are. A peer that has closed already is noticed by the next read.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Writes one command in canonical form.
    pub fn send_command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) {
        self.send(encode(arguments));
    }

    /// Another handle of the same connection, so that one thread can write while another reads.
    #[track_caller]
    pub fn writer(&self) -> Self {
        Self::over(self.stream.another().expect("a second handle"))
    }

    /// Ends this side's writes, as `nc -N` does.
    pub fn end_writes(&mut self) {
        let _ = self.stream.end_writes();
    }

    /// The next frame, attributes and pushes included as frames of their own, as raw bytes.
    #[track_caller]
    pub fn reply(&mut self) -> Vec<u8> {
        self.try_reply().unwrap_or_else(|error| {
            panic!("no reply: {error}; {} bytes of one: {}", self.buffer.len(), self.buffer.escape_ascii())
        })
    }

    pub fn try_reply(&mut self) -> io::Result<Vec<u8>> {
        let until = Instant::now() + self.limit;
        loop {
            if let Some(length) = frame_length(&self.buffer) {
                return Ok(self.buffer.drain(..length).collect());
            }
            self.fill(until)?;
        }
    }

    /// All bytes until the peer closes; panics if it does not.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        let until = Instant::now() + self.limit;
        loop {
            match self.fill(until) {
                Ok(()) => {}
                Err(error) if is_close(&error) => return std::mem::take(&mut self.buffer),
                Err(error) => panic!("not closed: {error}; got {}", self.buffer.escape_ascii()),
            }
        }
    }

    /// One command and its reply.
    #[track_caller]
    pub fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Vec<u8> {
        self.send_command(arguments);
        self.reply()
    }

    /// One command, whose reply must be this.
    #[track_caller]
    pub fn expect<A: AsRef<[u8]>>(&mut self, arguments: &[A], reply: &str) {
        let got = self.call(arguments);
        assert_eq!(got.escape_ascii().to_string(), reply.as_bytes().escape_ascii().to_string());
    }

    /// The next frame must be this.
    #[track_caller]
    pub fn expect_reply(&mut self, reply: &str) {
        let got = self.reply();
        assert_eq!(got.escape_ascii().to_string(), reply.as_bytes().escape_ascii().to_string());
    }

    /// The next frames must be these.
    #[track_caller]
    pub fn replies_are(&mut self, replies: &[&str]) {
        for reply in replies {
            self.expect_reply(reply);
        }
    }

    /// Nothing arrives for this long: for proving that a command still waits.
    #[track_caller]
    pub fn expect_silence(&mut self, time: Duration) {
        match self.fill(Instant::now() + time) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            Err(error) => panic!("expected silence: {error}"),
            Ok(()) => panic!("expected silence, got {}", self.buffer.escape_ascii()),
        }
        assert!(self.buffer.is_empty(), "unread: {}", self.buffer.escape_ascii());
    }

    fn fill(&mut self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.wait_at_most(left)?;
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection")),
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came in time"))
            }
            // Some kernels interrupt a read with a time limit without a signal that anybody handles.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.fill(until),
            Err(error) => Err(error),
        }
    }
}

/// A reset is a close too: the kernel sends one when the peer left input unread.
fn is_close(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

/// `*N\r\n$L\r\n…`.
pub fn encode<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Length of the first whole frame in `bytes`.
pub fn frame_length(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let count = || std::str::from_utf8(&bytes[1..line - 2]).ok()?.parse::<i64>().ok();
    match bytes[0] {
        b'$' | b'!' | b'=' => {
            let body = usize::try_from(count()?).map_or(0, |length| length + 2);
            (bytes.len() >= line + body).then_some(line + body)
        }
        kind @ (b'*' | b'~' | b'>' | b'%' | b'|') => {
            let pairs = if matches!(kind, b'%' | b'|') { 2 } else { 1 };
            let mut end = line;
            for _ in 0..count()?.max(0) * pairs {
                end += frame_length(&bytes[end..])?;
            }
            Some(end)
        }
        _ => Some(line),
    }
}

#[test]
fn frames_are_cut_at_their_ends() {
    for frame in [
        "+OK\r\n",
        "$-1\r\n",
        "$3\r\na\r\n\r\n",
        "*2\r\n:1\r\n*1\r\n$0\r\n\r\n",
        "%1\r\n+a\r\n*0\r\n",
        "*-1\r\n",
    ] {
        let more = format!("{frame}+next\r\n");
        assert_eq!(frame_length(more.as_bytes()), Some(frame.len()), "{frame:?}");
        for cut in 0..frame.len() {
            assert_eq!(frame_length(&frame.as_bytes()[..cut]), None, "{frame:?} cut at {cut}");
        }
    }
}
