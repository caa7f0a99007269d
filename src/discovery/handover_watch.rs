//! Asks both nodes of a coordinated failover, and the Sentinel that leads it, whether the primary has handed over.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::discovery::event::info_age;
use crate::discovery::handover::{INFO_PERIOD, Parties, ReplicationState, has_handed_over, is_soon};
use crate::discovery::machine::Event;
use crate::discovery::probe::{ANSWER_TIMEOUT, open_node};
use crate::discovery::sentinel::Follower;
use crate::net::connect::Dialer;
use crate::net::stream::Stream;
use crate::resp::control::{Control, ControlError};
use crate::rotation::login::Login;
use crate::topology::Address;

/// The time between two questions to a node.
const PACE: Duration = Duration::from_millis(10);

/// The longest time that a watch takes. It exceeds the limit of the sign for which it was started.
const WATCH_LIMIT: Duration = Duration::from_secs(30);

/// Watches one coordinated failover in a task of its own.
pub(super) struct HandoverWatch {
    pub(super) ticket: u64,
    pub(super) parties: Parties,
    /// The credentials for the nodes.
    pub(super) login: Login,
    /// Dials the nodes.
    pub(super) dialer: Dialer,
    /// Opens a connection to the leading Sentinel.
    pub(super) leader: Follower,
    pub(super) news: mpsc::Sender<Event>,
}

impl HandoverWatch {
    /// Watches until the connections to the successor have been closed, a question fails, or [`WATCH_LIMIT`] is over.
    pub(super) async fn run(self) {
        let _ = timeout(WATCH_LIMIT, self.watch()).await;
        // The receiver is gone while discovery is being dropped.
        let _ = self.news.send(Event::HandoverWatchEnded { ticket: self.ticket }).await;
    }

    /// Returns when the connections to the successor have been closed, or with `None` if a question fails.
    async fn watch(&self) -> Option<()> {
        let (mut former, mut successor) =
            tokio::try_join!(self.open(&self.parties.former), self.open(&self.parties.successor)).ok()?;
        let history = former.replication_state().await?.primary_history()?.to_owned();
        let mut leader = self.leader.open().await.ok()?;
        loop {
            let (old, new) = tokio::join!(former.replication_state(), successor.acknowledge());
            if has_handed_over(&history, &old?, &new?) {
                break;
            }
            sleep(PACE).await;
        }
        loop {
            let closing = self.closing(&mut leader).await?;
            self.news.send(Event::HandedOver { ticket: self.ticket, closing }).await.ok()?;
            // The Sentinel closes this connection together with those of clients.
            let next = if is_soon(closing, Instant::now()) { PACE } else { WATCH_LIMIT };
            match successor.control.receive(Instant::now() + next).await {
                Err(ControlError::Timeout) => {}
                _ => return Some(()),
            }
        }
    }

    async fn open(&self, address: &Address) -> Result<Node, ()> {
        let control = open_node(address, &self.login, &self.dialer).await.ok_or(())?;
        Ok(Node { control, acknowledges: true })
    }

    /// Returns the earliest moment at which the leader can close the connections to the successor. The age that the
    /// leader tells counts from the moment of the question, which is before the leader's answer.
    async fn closing(&self, leader: &mut Control<Stream>) -> Option<Instant> {
        let asked = Instant::now();
        let name = self.leader.config.primary_name.as_bytes();
        let reply = leader.call(&[b"SENTINEL", b"REPLICAS", name], asked + self.leader.config.timeout).await;
        let info = info_age(&reply.ok()?, &self.parties.successor, &self.leader.config)?;
        // The leader has noticed the hand-over: it closes the connections now.
        Some(if info.shows_primary { asked } else { asked + INFO_PERIOD.saturating_sub(info.age) })
    }
}

/// A connection to a node.
struct Node {
    control: Control<Stream>,
    /// True unless the node has refused `REPLCONF GETACK`.
    acknowledges: bool,
}

impl Node {
    /// Asks the node for its replication state. Returns `None` if the node does not tell it.
    async fn replication_state(&mut self) -> Option<ReplicationState> {
        let reply =
            self.control.call(&[b"INFO", b"replication"], Instant::now() + ANSWER_TIMEOUT).await.ok()?;
        reply.text().and_then(ReplicationState::from_info)
    }

    /// Has a replica tell its primary at once what it has received, and asks it for its replication state. By itself a replica tells
    /// that once a second, and a primary that hands over waits for it while its clients wait. The command has no reply.
    /// Where the server's ACL does not allow it (`+replconf`), the hand-over takes up to 1 s.
    async fn acknowledge(&mut self) -> Option<ReplicationState> {
        if self.acknowledges {
            self.control.send(&[b"REPLCONF", b"GETACK", b"*"]);
        }
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut reply = self.control.call(&[b"INFO", b"replication"], deadline).await.ok()?;
        if self.acknowledges && reply.error().is_some() {
            self.acknowledges = false;
            reply = self.control.reply(deadline).await.ok()?;
        }
        reply.text().and_then(ReplicationState::from_info)
    }
}

#[cfg(test)]
mod tests;
