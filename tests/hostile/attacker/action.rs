//! What an attacker does, as values that can be performed, shown, kept and performed again.

use std::collections::VecDeque;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::arena::{Door, Doors, connect};
use crate::round::Round;

/// How long a write may take: respgate may stop reading a client.
const WRITE_LIMIT: Duration = Duration::from_millis(100);

/// How long an attacker that reads waits for something.
const READ_LIMIT: Duration = Duration::from_millis(4);

/// How much of an action's bytes is shown.
const SHOWN: usize = 160;

/// How many actions of an attacker are kept, and how many bytes of them.
const KEPT: usize = 4000;
const KEPT_BYTES: usize = 16 << 20;

/// One action. A slot holds one connection at a time.
#[derive(Clone, Debug)]
pub enum Action {
    Connect {
        slot: usize,
        door: Door,
    },
    Send {
        slot: usize,
        bytes: Arc<[u8]>,
    },
    /// Takes what comes, up to a number of bytes.
    Read {
        slot: usize,
        limit: usize,
    },
    Pause(Duration),
    EndWrites {
        slot: usize,
    },
    /// With a reset or with an ordinary close.
    Leave {
        slot: usize,
        abruptly: bool,
    },
}

impl Action {
    fn size(&self) -> usize {
        match self {
            Action::Send { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Connect { slot, door } => write!(f, "{slot}: connect to {door:?}"),
            Action::Send { slot, bytes } => {
                let shown = bytes[..bytes.len().min(SHOWN)].escape_ascii();
                let more = if bytes.len() > SHOWN { " …" } else { "" };
                write!(f, "{slot}: send {} bytes: {shown}{more}", bytes.len())
            }
            Action::Read { slot, limit } => write!(f, "{slot}: read up to {limit} bytes"),
            Action::Pause(time) => write!(f, "pause for {time:?}"),
            Action::EndWrites { slot } => write!(f, "{slot}: end writes"),
            Action::Leave { slot, abruptly: true } => write!(f, "{slot}: reset the connection"),
            Action::Leave { slot, abruptly: false } => write!(f, "{slot}: close the connection"),
        }
    }
}

struct Connection {
    stream: TcpStream,
    door: Door,
    /// The end of what was read, for a secret that comes in two reads.
    tail: Vec<u8>,
}

/// Performs actions, and keeps the last ones.
pub struct Performer {
    name: String,
    source: Ipv4Addr,
    doors: Doors,
    round: Arc<Round>,
    connections: Vec<Option<Connection>>,
    done: VecDeque<(Duration, Action)>,
    done_bytes: usize,
}

impl Performer {
    pub fn new(name: String, source: Ipv4Addr, doors: Doors, round: Arc<Round>) -> Self {
        let connections = Vec::new();
        Self { name, source, doors, round, connections, done: VecDeque::new(), done_bytes: 0 }
    }

    /// The last actions, and when each began.
    pub fn done(self) -> (String, Vec<(Duration, Action)>) {
        (self.name, self.done.into())
    }

    pub fn perform(&mut self, action: Action) {
        self.round.actions.fetch_add(1, Ordering::Relaxed);
        self.round.bytes.fetch_add(action.size() as u64, Ordering::Relaxed);
        self.keep(action.clone());
        match action {
            Action::Connect { slot, door } => {
                if self.connections.len() <= slot {
                    self.connections.resize_with(slot + 1, || None);
                }
                let stream = connect(self.doors.address(door), self.source).and_then(|stream| {
                    stream.set_write_timeout(Some(WRITE_LIMIT))?;
                    stream.set_read_timeout(Some(READ_LIMIT))?;
                    Ok(stream)
                });
                self.connections[slot] =
                    stream.ok().map(|stream| Connection { stream, door, tail: Vec::new() });
            }
            Action::Send { slot, bytes } => {
                if let Some(connection) = self.connection(slot)
                    && connection.stream.write_all(&bytes).is_err()
                {
                    // The rest of these bytes is never sent, so that what follows would be another message.
                    self.connections[slot] = None;
                }
            }
            Action::Read { slot, limit } => self.read(slot, limit),
            Action::Pause(time) => thread::sleep(time),
            Action::EndWrites { slot } => {
                if let Some(connection) = self.connection(slot) {
                    let _ = connection.stream.shutdown(Shutdown::Write);
                }
            }
            Action::Leave { slot, abruptly } => {
                if let Some(connection) = self.connections.get_mut(slot).and_then(Option::take)
                    && abruptly
                {
                    let _ = SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO));
                }
            }
        }
    }

    fn connection(&mut self, slot: usize) -> Option<&mut Connection> {
        self.connections.get_mut(slot)?.as_mut()
    }

    fn keep(&mut self, action: Action) {
        self.done_bytes += action.size();
        self.done.push_back((self.round.now(), action));
        while self.done.len() > KEPT || (self.done_bytes > KEPT_BYTES && self.done.len() > 1) {
            let (_, oldest) = self.done.pop_front().expect("there is one");
            self.done_bytes -= oldest.size();
        }
    }

    fn read(&mut self, slot: usize, limit: usize) {
        let secret = self.round.secret.clone().into_bytes();
        let Some(connection) = self.connection(slot) else { return };
        let mut taken = 0;
        let mut chunk = [0; 16 * 1024];
        let until = Instant::now() + Duration::from_millis(200);
        let mut leaked = None;
        while taken < limit && Instant::now() < until {
            match connection.stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => {
                    taken += count;
                    let seen = &mut connection.tail;
                    seen.extend_from_slice(&chunk[..count]);
                    if connection.door.is_confined() && memchr::memmem::find(seen, &secret).is_some() {
                        leaked = Some((connection.door, seen.escape_ascii().to_string()));
                        break;
                    }
                    seen.drain(..seen.len().saturating_sub(secret.len()));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if let Some((door, bytes)) = leaked {
            let shown: String = bytes.chars().take(400).collect();
            self.round
                .fault(&self.name, format!("an attacker at {door:?} has read a victim's secret: {shown}"));
        }
    }
}
