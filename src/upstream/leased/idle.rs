//! The idle connections of the pool: leased connections that no session uses at present.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::net::read_buffer::ReadBuffer;
use crate::topology::Generation;
use crate::upstream::cluster_room::ClusterPermit;
use crate::upstream::connection::identity::{AgeFate, Identity};
use crate::upstream::connection::open::{Connection, ConnectionKey};
use crate::upstream::connection::probe::PING;

/// The time within which the reply to a PING must come.
const PONG_TIMEOUT: Duration = Duration::from_secs(5);

/// The idle connections. The one that was used last is at the end.
#[derive(Default)]
pub(in crate::upstream) struct IdleConnections(RefCell<Vec<Idle>>);

struct Idle {
    key: ConnectionKey,
    link: Connection,
    /// Its room among the connections to all nodes of a cluster.
    permit: ClusterPermit,
    /// Since when the connection has been idle.
    since: Instant,
    /// When the server last sent something: at the latest when the connection became idle.
    heard: Instant,
    /// When the PING was sent that the server has not answered.
    pinged: Option<Instant>,
}

/// The state of an idle connection.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Open and silent.
    Sound,
    /// The server owes the reply to a PING.
    Awaiting,
    /// Closed, or the server sent bytes that no request asked for.
    Broken,
}

impl IdleConnections {
    /// Returns the number of idle connections.
    pub(in crate::upstream) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Adds a connection.
    pub(in crate::upstream) fn put(&self, key: ConnectionKey, link: Connection, permit: ClusterPermit) {
        let now = Instant::now();
        self.0.borrow_mut().push(Idle { key, link, permit, since: now, heard: now, pinged: None });
    }

    /// Closes the connection that has been idle for longest. Returns false if there is none.
    pub(in crate::upstream) fn drop_oldest(&self) -> bool {
        let mut idle = self.0.borrow_mut();
        let any = !idle.is_empty();
        if any {
            idle.remove(0);
        }
        any
    }

    /// Takes out a sound connection for this key, of this generation. Closes those for the key that are broken or of another
    /// generation.
    pub(in crate::upstream) fn take(
        &self,
        key: &ConnectionKey,
        generation: Option<Generation>,
    ) -> Option<(Connection, ClusterPermit)> {
        let mut idle = self.0.borrow_mut();
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            let Some(one) = idle.get_mut(at).filter(|one| one.key == *key) else { continue };
            let current = Some(one.link.generation) == generation;
            match one.state() {
                State::Awaiting if current => {}
                State::Sound if current => {
                    let Idle { link, permit, .. } = idle.remove(at);
                    return Some((link, permit));
                }
                _ => drop(idle.remove(at)),
            }
        }
        None
    }

    /// Closes the connections for which `wanted` returns false.
    pub(in crate::upstream) fn retain(&self, wanted: impl Fn(&ConnectionKey, &Connection) -> bool) {
        self.0.borrow_mut().retain(|idle| wanted(&idle.key, &idle.link));
    }

    /// Closes connections that have been idle for `limit`, are too old or broken. Pings those that have been quiet for `ping` (zero:
    /// none). Returns the keys of connections that are too old, if it is not known whether the server still accepts their user.
    pub(in crate::upstream) fn tend(
        &self,
        limit: Duration,
        ping: Duration,
        may_ping: impl Fn(&Identity) -> bool,
    ) -> Vec<ConnectionKey> {
        let now = Instant::now();
        let mut asks: Vec<ConnectionKey> = Vec::new();
        self.0.borrow_mut().retain_mut(|idle| {
            let due = idle.link.retires.filter(|at| *at <= now);
            let fate = due.map(|due| idle.key.identity.fate_at_max_age(due));
            if fate == Some(AgeFate::Ends) || now - idle.since >= limit {
                return false;
            }
            let known = |key: &ConnectionKey| key.identity.id() == idle.key.identity.id();
            if fate == Some(AgeFate::AskFirst) && !asks.iter().any(known) {
                asks.push(idle.key.clone());
            }
            match idle.state() {
                State::Broken => false,
                State::Awaiting => idle.pinged.is_none_or(|at| now - at < PONG_TIMEOUT),
                State::Sound if ping.is_zero() || now - idle.heard < ping || idle.link.unnaming => true,
                State::Sound if !may_ping(&idle.key.identity) => true,
                State::Sound => idle.ping(now),
            }
        });
        asks
    }
}

impl Idle {
    /// Reads the reply to a PING, and returns the state of the connection. Does not wait.
    fn state(&mut self) -> State {
        if self.pinged.is_some() {
            let mut cx = Context::from_waker(Waker::noop());
            let read = self.link.read.poll_fill(&mut cx, &mut self.link.stream);
            match (read, reply_len(self.link.read.bytes())) {
                (Poll::Ready(Ok(0) | Err(_)), _) | (_, None) => return State::Broken,
                (_, Some(0)) => return State::Awaiting,
                (_, Some(len)) => {
                    self.link.read.consume(len);
                    self.pinged = None;
                    self.heard = Instant::now();
                }
            }
        }
        if sound(&mut self.link) { State::Sound } else { State::Broken }
    }

    /// Sends a PING. Returns false if the connection cannot be written to.
    fn ping(&mut self, now: Instant) -> bool {
        self.pinged = Some(now);
        let mut cx = Context::from_waker(Waker::noop());
        let mut stream = Pin::new(&mut self.link.stream);
        let wrote = matches!(stream.as_mut().poll_write(&mut cx, PING), Poll::Ready(Ok(count)) if count == PING.len());
        wrote && !matches!(stream.poll_flush(&mut cx), Poll::Ready(Err(_)))
    }
}

/// Returns the length of the reply to a PING, 0 while it is incomplete, and `None` if the bytes are no such reply. An error is one,
/// too: the user may lack the permission.
fn reply_len(bytes: &[u8]) -> Option<usize> {
    match bytes.first() {
        None => Some(0),
        Some(b'+' | b'-') => Some(memchr::memchr(b'\n', bytes).map_or(0, |at| at + 1)),
        Some(_) => None,
    }
}

/// Returns true if an idle connection is open and silent, apart from the reply that takes its name away. The caller closes one on which the server sent anything since the last
/// reply, because the next session would take it for its own reply.
pub(in crate::upstream) fn sound(link: &mut Connection) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    if link.unnaming {
        let read = link.read.poll_fill(&mut cx, &mut link.stream);
        if matches!(read, Poll::Ready(Ok(0) | Err(_))) || !link.read_unnamed() {
            return false;
        }
        if link.unnaming {
            return true;
        }
    }
    let silent = link.read.is_empty()
        && matches!(ReadBuffer::new(1).poll_fill(&mut cx, &mut link.stream), Poll::Pending);
    link.read.release();
    silent
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::stream::Stream;
    use crate::resp::Resp;
    use crate::rotation::login::Login;
    use crate::upstream::cluster_room::ClusterRoom;
    use crate::upstream::config::{LiveConfig, UpstreamConfig};
    use crate::upstream::connection::identities::Identities;

    const NOW: Option<Generation> = Some(Generation(1));
    const LONG: Duration = Duration::from_secs(3600);

    struct Bench {
        idle: IdleConnections,
        key: ConnectionKey,
        server: TcpStream,
    }

    impl Bench {
        /// One idle connection that is pinged now.
        async fn pinged() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let identity = Rc::clone(Identities::new(Login::default()).own());
            let key = ConnectionKey::new(identity, 0, Resp::V2);
            let link = Connection {
                stream: Stream::Tcp(stream),
                read: ReadBuffer::new(1024),
                generation: Generation(1),
                began: Instant::now(),
                round_trip: Duration::ZERO,
                retires: None,
                id: Default::default(),
                unnaming: false,
            };
            let mut bench = Self { idle: IdleConnections::default(), key, server };
            let room = ClusterRoom::new(Rc::new(LiveConfig::new(UpstreamConfig::new("u"))));
            bench.idle.put(bench.key.clone(), link, room.take().unwrap());
            bench.idle.tend(LONG, Duration::from_nanos(1), |_| true);
            let mut sent = [0; 14];
            bench.server.read_exact(&mut sent).await.unwrap();
            assert_eq!(&sent, PING);
            bench
        }

        async fn say(&mut self, bytes: &[u8]) {
            self.server.write_all(bytes).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }

        fn take(&self) -> Option<Connection> {
            self.idle.take(&self.key, NOW).map(|(link, _)| link)
        }
    }

    #[tokio::test]
    async fn one_that_owes_an_answer_is_not_lent_before_it_has_come() {
        let mut bench = Bench::pinged().await;
        assert!(bench.take().is_none());
        bench.say(b"+PO").await;
        assert!(bench.take().is_none());
        bench.say(b"NG\r\n").await;
        let mut link = bench.take().unwrap();
        assert!(link.read.is_empty() && sound(&mut link));
        let mut refused = Bench::pinged().await;
        refused.say(b"-NOPERM no\r\n").await;
        assert!(refused.take().is_some());
    }

    #[tokio::test]
    async fn one_that_says_too_much_or_nothing_is_closed() {
        for said in [&b"+PONG\r\n+PONG\r\n"[..], b"$4\r\nPONG\r\n"] {
            let mut bench = Bench::pinged().await;
            bench.say(said).await;
            assert!(bench.take().is_none());
            assert_eq!(bench.idle.len(), 0);
        }
        let silent = Bench::pinged().await;
        silent.idle.tend(LONG, LONG, |_| true);
        assert_eq!(silent.idle.len(), 1);
        tokio::time::pause();
        tokio::time::advance(PONG_TIMEOUT).await;
        silent.idle.tend(LONG, LONG, |_| true);
        assert_eq!(silent.idle.len(), 0);
    }

    #[tokio::test]
    async fn those_of_an_older_primary_are_closed() {
        let mut bench = Bench::pinged().await;
        bench.say(b"+PONG\r\n").await;
        assert!(bench.idle.take(&bench.key, Some(Generation(2))).is_none());
        assert_eq!(bench.idle.len(), 0);
    }
}
