//! One connection, plain and blocking, whose frames can also be taken without waiting.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::client::encode;
use crate::value::{Item, Value};

/// How long a write may wait for its peer to read: longer means that the peer does not.
const WRITE: Duration = Duration::from_secs(4);
/// So many bytes fit into any socket that is read.
const SURE: usize = 16 * 1024;
/// How often a read looks at its deadline.
const READ: Duration = Duration::from_millis(50);

/// Where to connect to.
#[derive(Clone, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection and what has been read from it.
pub struct Wire {
    stream: Stream,
    buffer: Vec<u8>,
    scratch: Box<[u8]>,
    /// Bytes of `buffer` that were taken.
    taken: usize,
    /// The peer has closed, and this has been said.
    told: bool,
    ended: bool,
    blocking: bool,
}

impl Wire {
    /// # Errors
    /// The peer cannot be reached.
    pub fn connect(address: &Address) -> io::Result<Self> {
        let stream = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(WRITE))?;
                stream.set_read_timeout(Some(READ))?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => Stream::Unix(unix(path)?),
        };
        let scratch = vec![0; 64 * 1024].into_boxed_slice();
        Ok(Self { stream, buffer: Vec::new(), scratch, taken: 0, told: false, ended: false, blocking: true })
    }

    /// Writes all bytes.
    ///
    /// # Errors
    /// The peer takes no bytes for 4 s, or has closed.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > SURE {
            self.set_blocking(true);
        }
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }

    /// One command and its reply, on a connection that has no other traffic.
    pub fn ask<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Value {
        self.write(&encode(arguments)).expect("the server to take a command of the control connection");
        match self.take(Instant::now() + Duration::from_secs(30)) {
            Some(Item::Frame(value)) => value,
            other => panic!("the control connection has ended: {other:?}"),
        }
    }

    /// As [`Self::ask`], as text.
    pub fn ask_text<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> String {
        String::from_utf8_lossy(self.ask(arguments).text().unwrap_or_default()).into_owned()
    }

    /// Several commands at once; the last one's reply.
    pub fn ask_all(&mut self, commands: &[&[&str]]) -> Vec<Value> {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
        self.write(&bytes).expect("the server to take commands of the control connection");
        let until = Instant::now() + Duration::from_secs(30);
        let reply = || match self.take(until) {
            Some(Item::Frame(value)) => value,
            other => panic!("the control connection has ended: {other:?}"),
        };
        std::iter::repeat_with(reply).take(commands.len()).collect()
    }

    /// The next frame, or the end, if it comes by `until`.
    pub fn take(&mut self, until: Instant) -> Option<Item> {
        self.set_blocking(true);
        loop {
            if let Some(item) = self.next_item() {
                return Some(item);
            }
            if self.told || Instant::now() >= until {
                return None;
            }
            self.read();
        }
    }

    /// All frames that have already arrived.
    pub fn arrived(&mut self) -> Vec<Item> {
        if !self.ended {
            self.set_blocking(false);
            while !self.ended && self.read() {}
        }
        self.read_already()
    }

    /// All frames that were read together with the last one that was taken.
    pub fn read_already(&mut self) -> Vec<Item> {
        std::iter::from_fn(|| self.next_item()).collect()
    }

    /// Bytes of a frame whose rest has not come.
    pub fn unfinished(&self) -> usize {
        if self.ended { 0 } else { self.buffer.len() - self.taken }
    }

    /// Whether anything has come by `until` that was not taken.
    pub fn anything(&mut self, until: Instant) -> bool {
        self.set_blocking(true);
        while self.taken == self.buffer.len() && !self.ended && Instant::now() < until {
            self.read();
        }
        self.taken < self.buffer.len() || self.ended
    }

    /// Ends this side's writes.
    pub fn end_writes(&mut self) {
        let _ = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    fn next_item(&mut self) -> Option<Item> {
        let rest = &self.buffer[self.taken..];
        if let Some((value, length)) = Value::parse(rest) {
            self.taken += length;
            if self.taken == self.buffer.len() {
                self.buffer.clear();
                self.taken = 0;
            }
            return Some(Item::Frame(value));
        }
        if self.ended && !self.told {
            self.told = true;
            if !rest.is_empty() {
                return Some(Item::Frame(Value::Line(b'?', rest.to_vec())));
            }
            return Some(Item::Closed);
        }
        None
    }

    /// Reads once; false if nothing was there.
    fn read(&mut self) -> bool {
        let read = match &mut self.stream {
            Stream::Tcp(stream) => stream.read(&mut self.scratch),
            Stream::Unix(stream) => stream.read(&mut self.scratch),
        };
        match read {
            Ok(0) => self.ended = true,
            Ok(count) => {
                self.buffer.extend_from_slice(&self.scratch[..count]);
                return true;
            }
            Err(error) => self.ended |= !waits(&error),
        }
        false
    }

    fn set_blocking(&mut self, blocking: bool) {
        if std::mem::replace(&mut self.blocking, blocking) == blocking {
            return;
        }
        let set = match &self.stream {
            Stream::Tcp(stream) => stream.set_nonblocking(!blocking),
            Stream::Unix(stream) => stream.set_nonblocking(!blocking),
        };
        set.expect("to set the mode of a socket");
    }
}

fn unix(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_write_timeout(Some(WRITE))?;
    stream.set_read_timeout(Some(READ))?;
    Ok(stream)
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
