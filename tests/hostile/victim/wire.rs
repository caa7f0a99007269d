//! A victim's connection: it knows every byte that it is owed.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::arena::{Door, Doors, connect};
use crate::round::Round;
use crate::support::client::{encode, frame_length};

/// Victims come from here.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// After this a reply counts as lost.
const LOST: Duration = Duration::from_secs(15);

/// How much of unexpected bytes is shown.
const SHOWN: usize = 300;

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resp {
    Two,
    Three,
}

/// One connection.
pub struct Wire {
    pub who: String,
    pub resp: Resp,
    stream: TcpStream,
    round: Arc<Round>,
    /// Came, and is owed to a later question.
    ahead: Vec<u8>,
}

/// What a victim saw, in words; `Err` ends it.
pub type Seen<T> = Result<T, String>;

impl Wire {
    /// Connects, logs in and chooses the protocol.
    pub fn open(who: &str, door: Door, resp: Resp, doors: &Doors, round: &Arc<Round>) -> Seen<Self> {
        let stream =
            connect(doors.address(door), SOURCE).map_err(|error| format!("cannot connect: {error}"))?;
        let (who, round) = (who.to_owned(), Arc::clone(round));
        let mut wire = Self { who, resp, stream, round, ahead: Vec::new() };
        if let Some(login) = doors.login(door) {
            wire.send(login)?;
            wire.owes("its login", b"+OK\r\n")?;
        }
        if resp == Resp::Three {
            wire.send(encode(&["HELLO", "3"]))?;
            let greeting = wire.frame("HELLO 3")?;
            if !greeting.starts_with(b"%7\r\n") {
                return Err(format!("HELLO 3 was answered with {}", greeting.escape_ascii()));
            }
        }
        Ok(wire)
    }

    pub fn send(&mut self, bytes: Vec<u8>) -> Seen<()> {
        self.stream.write_all(&bytes).map_err(|error| format!("cannot write: {error}"))
    }

    /// One command, and its reply to the byte.
    pub fn ask<A: AsRef<[u8]>>(&mut self, words: &[A], reply: &[u8]) -> Seen<()> {
        self.send(encode(words))?;
        let name = String::from_utf8_lossy(words[0].as_ref()).into_owned();
        self.owes(&name, reply)
    }

    /// These bytes come next.
    pub fn owes(&mut self, what: &str, bytes: &[u8]) -> Seen<()> {
        let begun = Instant::now();
        let result = loop {
            let common = self.ahead.len().min(bytes.len());
            if self.ahead[..common] != bytes[..common] {
                // What else comes with it tells whose it is.
                let _ = self.more(Instant::now() + Duration::from_millis(100));
                break Err(format!("{what}: {}", difference(bytes, &self.ahead)));
            }
            if self.ahead.len() >= bytes.len() {
                self.ahead.drain(..bytes.len());
                break Ok(());
            }
            if let Err(error) = self.more(begun + LOST) {
                let got = self.ahead.len();
                break Err(format!("{what}: {error}, after {got} of {} bytes", bytes.len()));
            }
        };
        self.round.waited(&self.who, what, begun);
        result
    }

    /// The next frame, whatever it says.
    pub fn frame(&mut self, what: &str) -> Seen<Vec<u8>> {
        let begun = Instant::now();
        loop {
            if let Some(length) = frame_length(&self.ahead) {
                self.round.waited(&self.who, what, begun);
                return Ok(self.ahead.drain(..length).collect());
            }
            self.more(begun + LOST).map_err(|error| format!("{what}: {error}"))?;
        }
    }

    /// Nothing is owed, and nothing has come.
    pub fn quiet(&mut self) -> Seen<()> {
        let _ = self.stream.set_nonblocking(true);
        let mut chunk = [0; 4096];
        let read = self.stream.read(&mut chunk);
        let _ = self.stream.set_nonblocking(false);
        match read {
            Ok(0) => return Err("respgate has closed the connection".to_owned()),
            Ok(count) => self.ahead.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(format!("the connection is lost: {error}")),
        }
        if self.ahead.is_empty() {
            return Ok(());
        }
        Err(format!("nobody asked for {}", show(&self.ahead)))
    }

    fn more(&mut self, until: Instant) -> Seen<()> {
        let mut chunk = [0; 64 * 1024];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("nothing more came".to_owned());
            }
            self.stream.set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
            return match self.stream.read(&mut chunk) {
                Ok(0) => Err("respgate has closed the connection".to_owned()),
                Ok(count) => {
                    self.ahead.extend_from_slice(&chunk[..count]);
                    Ok(())
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    continue;
                }
                Err(error) => Err(lost(&error)),
            };
        }
    }

    /// A value as a reply.
    pub fn bulk(value: &[u8]) -> Vec<u8> {
        [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
    }

    /// No value, no list, or an EXEC that did not run.
    pub fn nothing(&self, is_list: bool) -> &'static [u8] {
        match (self.resp, is_list) {
            (Resp::Three, _) => b"_\r\n",
            (Resp::Two, false) => b"$-1\r\n",
            (Resp::Two, true) => b"*-1\r\n",
        }
    }
}

fn lost(error: &io::Error) -> String {
    format!("the connection is lost: {error}")
}

fn difference(owed: &[u8], got: &[u8]) -> String {
    let at = owed.iter().zip(got).position(|(one, other)| one != other).unwrap_or(owed.len());
    let from = at.saturating_sub(20);
    let rest = |bytes: &[u8]| show(bytes.get(from..).unwrap_or_default());
    format!("owed, from byte {from} on, {}; got {}", rest(owed), rest(got))
}

fn show(bytes: &[u8]) -> String {
    let more = if bytes.len() > SHOWN { " …" } else { "" };
    format!("\"{}\"{more}", bytes[..bytes.len().min(SHOWN)].escape_ascii())
}
