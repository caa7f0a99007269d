//! Limits the connections of one worker to all nodes of a cluster together, so that the limit of open files suffices for any number of
//! shards.
//!
//! The connections to each node have limits of their own besides ([`SharedRoom`](super::room), [`LeasePool`](super::leased::pool)). While
//! the upstream is one primary, those are the only ones.
//!
//! # The rules
//!
//! - Room is kept for one shared connection to each primary that has none, but not more than half of all room: leases need some too.
//! - When the room is short, connections that carry nothing make room: first idle leased ones, then shared ones that no session uses, then
//!   those to replicas, whose reads primaries can answer, and at last shared ones without a request under way, which are opened again
//!   when they are needed. A lease gets the room of these last ones only while they have more than half of all room.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::config::LiveConfig;
use crate::resp::error_line::ErrorLine;

/// The time between two looks whether a connection can make room, while sessions wait for some.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The connections that may be closed to make room, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spare {
    /// Idle leased connections.
    Idle,
    /// Shared connections that no session uses.
    Unused,
    /// Connections to replicas.
    Replica,
    /// Shared connections without a request under way.
    Quiet,
}

/// The connections to one primary and its replicas, as the room sees them.
pub(super) trait NodeConnections {
    /// Closes a connection of exactly this kind, or orders that. Returns false if there is none.
    fn close_spare(&self, kind: Spare) -> bool;

    /// Gives a session that waits for a lease the room that it needs. Returns false if none waits, or none gets room.
    fn serve_waiting(&self) -> bool;

    /// Returns true if a session waits for a lease, and the node's own limit allows one more.
    fn waits_for_room(&self) -> bool;
}

/// The room for the connections of one worker to all nodes of a cluster.
pub(super) struct ClusterRoom {
    config: Rc<LiveConfig>,
    /// True while the upstream is a cluster.
    active: Cell<bool>,
    open: Cell<usize>,
    /// The number of primaries, and of those that have a shared connection.
    primaries: Cell<usize>,
    reached: Cell<usize>,
    nodes: RefCell<Vec<Weak<dyn NodeConnections>>>,
    /// The place in `nodes` of the one whose turn it is.
    turn: Cell<usize>,
    freed: Notify,
}

/// Room for one connection. Dropping it frees the room.
pub(super) struct ClusterPermit(Rc<ClusterRoom>);

/// Counts one primary as long as it lives.
pub(super) struct CountedPrimary {
    room: Rc<ClusterRoom>,
    reached: Cell<bool>,
}

impl ClusterRoom {
    pub(super) fn new(config: Rc<LiveConfig>) -> Rc<Self> {
        Rc::new(Self {
            config,
            active: Cell::default(),
            open: Cell::default(),
            primaries: Cell::default(),
            reached: Cell::default(),
            nodes: RefCell::default(),
            turn: Cell::default(),
            freed: Notify::new(),
        })
    }

    /// Begins or ceases to limit the connections: the upstream is a cluster from now on, or is none any more.
    pub(super) fn set_active(&self, active: bool) {
        self.active.set(active);
        self.freed.notify_one();
    }

    fn limit(&self) -> usize {
        if self.active.get() { self.config.get().max_open.max(2) } else { usize::MAX }
    }

    /// Returns how many first shared connections room is kept for, at most.
    fn kept_at_most(limit: usize) -> usize {
        limit.div_ceil(2)
    }

    /// Counts one more primary.
    pub(super) fn count_primary(self: &Rc<Self>) -> CountedPrimary {
        self.primaries.set(self.primaries.get() + 1);
        CountedPrimary { room: self.clone(), reached: Cell::default() }
    }

    /// Adds connections that can make room, until they are dropped.
    pub(super) fn add(&self, node: Weak<dyn NodeConnections>) {
        let mut nodes = self.nodes.borrow_mut();
        nodes.retain(|node| node.strong_count() > 0);
        nodes.push(node);
    }

    /// Takes room for one more connection, which is not the first shared one to a primary.
    pub(super) fn take(self: &Rc<Self>) -> Option<ClusterPermit> {
        let (limit, reached) = (self.limit(), self.reached.get());
        let most = Self::kept_at_most(limit).saturating_sub(reached);
        let kept = self.primaries.get().saturating_sub(reached).min(most);
        self.take_below(limit.saturating_sub(kept))
    }

    fn take_below(self: &Rc<Self>, limit: usize) -> Option<ClusterPermit> {
        (self.open.get() < limit).then(|| {
            self.open.set(self.open.get() + 1);
            ClusterPermit(self.clone())
        })
    }

    /// Closes a connection to make room, of the first kind up to `most` of which there is one. Returns false if there is none.
    pub(super) fn make_room(&self, most: Spare) -> bool {
        [Spare::Idle, Spare::Unused, Spare::Replica, Spare::Quiet]
            .into_iter()
            .take_while(|kind| *kind <= most)
            .any(|kind| self.in_turn(|node| node.close_spare(kind)))
    }

    /// Takes room for a lease. Has another connection closed for it if that is necessary; the room may then come later.
    pub(super) fn take_for_lease(self: &Rc<Self>) -> Option<ClusterPermit> {
        self.take().or_else(|| {
            let many = self.reached.get() > Self::kept_at_most(self.limit());
            let most = if many { Spare::Quiet } else { Spare::Replica };
            self.make_room(most).then(|| self.take()).flatten()
        })
    }

    /// Returns true if the room of a lease that ends goes by turns, because sessions wait at other nodes for room that only other
    /// connections than theirs can give. `waits`: sessions wait so at the node of the lease.
    pub(super) fn goes_by_turns(&self, waits: bool) -> bool {
        self.open.get() >= self.limit() && self.waiting_nodes() > usize::from(waits)
    }

    fn waiting_nodes(&self) -> usize {
        self.nodes.borrow().iter().filter_map(Weak::upgrade).filter(|node| node.waits_for_room()).count()
    }

    /// Calls `act` for each node until it returns true, and begins the next time with the node after that one.
    fn in_turn(&self, act: impl Fn(&dyn NodeConnections) -> bool) -> bool {
        let nodes: Vec<Rc<dyn NodeConnections>> =
            self.nodes.borrow().iter().filter_map(Weak::upgrade).collect();
        let first = self.turn.get();
        let at = (0..nodes.len()).map(|step| (first + step) % nodes.len());
        let acted = at.filter_map(|at| nodes.get(at).map(|node| (at, node))).find(|(_, node)| act(&***node));
        if let Some((at, _)) = acted {
            self.turn.set(at + 1);
        }
        acted.is_some()
    }

    /// Gives room that has become free to sessions that wait for a lease, until the upstream ends.
    pub(super) async fn serve_waiting(self: Rc<Self>) {
        loop {
            self.freed.notified().await;
            while self.active.get() && self.waiting_nodes() > 0 {
                if !self.in_turn(|node| node.serve_waiting()) {
                    let _ = tokio::time::timeout(LOOK_AGAIN, self.freed.notified()).await;
                }
            }
        }
    }

    /// Takes note that a session waits for a lease.
    pub(super) fn note_waiting(&self) {
        if self.active.get() {
            self.freed.notify_one();
        }
    }

    /// Returns the error line, for a command that found no room. `None` if there is some.
    pub(super) fn limit_error(self: &Rc<Self>) -> Option<ErrorLine> {
        self.take().is_none().then(|| {
            let text = format!(
                "-ERR respgate: this worker has all {} connections to the nodes of upstream '{}' open that the limit of open files allows; raise it (ulimit -n, LimitNOFILE=)",
                self.limit(),
                self.config.name,
            );
            text.into_bytes().into()
        })
    }
}

impl CountedPrimary {
    /// Takes room for one more shared connection to the primary. `first`: it has none.
    pub(super) fn take(&self, first: bool) -> Option<ClusterPermit> {
        if !first {
            return self.room.take();
        }
        let limit = self.room.limit();
        let few = self.room.reached.get() < ClusterRoom::kept_at_most(limit);
        let free = few || self.room.waiting_nodes() == 0;
        let permit = free.then(|| self.room.take_below(limit)).flatten();
        self.set_reached(permit.is_some());
        permit
    }

    /// Takes note of whether the primary has a shared connection.
    pub(super) fn set_reached(&self, reached: bool) {
        let count = self.room.reached.get();
        match (self.reached.replace(reached), reached) {
            (false, true) => self.room.reached.set(count + 1),
            (true, false) => self.room.reached.set(count.saturating_sub(1)),
            _ => {}
        }
    }
}

impl Drop for CountedPrimary {
    fn drop(&mut self) {
        self.set_reached(false);
        self.room.primaries.set(self.room.primaries.get().saturating_sub(1));
    }
}

impl Drop for ClusterPermit {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests;
