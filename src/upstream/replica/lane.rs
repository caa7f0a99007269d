//! A lane of one replica. It has one connection in its life.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::server::ReplicaServer;
use crate::replica::Applied;
use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::shared::lane::Lane;

/// The pause after a connection that could not be opened, or that ended sooner than this.
const RETRY: Duration = Duration::from_secs(1);

/// One lane of a replica, for one kind of connections.
pub struct ReplicaLane {
    /// The requests, in order.
    pub lane: Rc<Lane>,
    pub(super) server: Rc<ReplicaServer>,
    /// When the connection was opened; `None` before.
    opened: Cell<Option<Instant>>,
    /// When the connection ended, or could not be opened.
    ended: Cell<Option<Instant>>,
}

impl ReplicaLane {
    pub(super) fn new(server: Rc<ReplicaServer>, key: &ConnectionKey) -> Rc<Self> {
        let lane = Lane::new(key.clone(), false);
        Rc::new(Self { lane, server, opened: Cell::default(), ended: Cell::default() })
    }

    pub(super) fn note_opened(&self) {
        self.opened.set(Some(Instant::now()));
    }

    pub(super) fn note_ended(&self) {
        self.ended.set(Some(Instant::now()));
    }

    /// Returns true if the connection has ended, or could not be opened.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    /// Returns true if another lane may take the place of this one.
    pub(super) fn may_be_replaced(&self, now: Instant) -> bool {
        self.ended.get().is_some_and(|ended| {
            let lasted = self.opened.get().is_some_and(|opened| ended - opened >= RETRY);
            lasted || now - ended >= RETRY
        })
    }

    /// Returns what the process at the other end of the connection has applied. An answer that the sampler got before the connection
    /// was opened may be that of another process, which has restarted since.
    pub(super) fn applied(&self) -> Option<Applied> {
        let opened = self.opened.get().filter(|_| self.ended.get().is_none())?;
        self.server.state().filter(|state| state.asked > opened).map(|state| state.applied)
    }

    /// Returns true if the replica may serve a session at `now` that has seen what was answered before `floor`.
    pub fn serves(&self, floor: Option<Instant>, now: Instant) -> bool {
        self.is_fit(now)
            && floor.is_none_or(|floor| self.applied().is_some_and(|applied| applied.covers(floor)))
    }

    /// Returns true if a reply of the replica at `now` is within the bound.
    pub(super) fn is_fit(&self, now: Instant) -> bool {
        let bound = self.server.bound();
        self.server.is_current() && self.applied().is_some_and(|applied| applied.is_within(bound, now))
    }

    /// Returns true if the node is no replica of the primary any more.
    pub(super) fn is_retired(&self) -> bool {
        !self.server.is_current() || self.server.is_retired()
    }

    /// Returns when the replica falls out of the bound, unless it is sampled again before.
    pub(super) fn fit_until(&self, now: Instant) -> Instant {
        self.applied().map_or(now, |applied| applied.until + self.server.bound().time).max(now)
    }
}
