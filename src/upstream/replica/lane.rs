//! A lane of one replica. It has one connection in its life.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::server::ReplicaServer;
use crate::replica::Applied;
use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::shared::lane::Lane;
use crate::upstream::shared::queue::LossCause;

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

    /// Counts a read that was sent to the replica.
    pub fn count_read(&self) {
        self.server.counters.reads.inc();
    }

    /// Returns true if another lane may take the place of this one.
    pub(super) fn may_be_replaced(&self, now: Instant) -> bool {
        self.ended.get().is_some_and(|ended| {
            let lasted = self.opened.get().is_some_and(|opened| ended - opened >= RETRY);
            lasted || now - ended >= RETRY
        })
    }

    /// Returns what the process at the other end of the connection has applied, and until when it may serve; `None` if it may not
    /// serve at `now`. An answer that the sampler got before the connection was opened may be that of another process, which has
    /// restarted since.
    fn proof(&self, now: Instant) -> Option<(Applied, Instant)> {
        let opened = self.opened.get().filter(|_| self.ended.get().is_none())?;
        self.server.with_state(|state| {
            let until = self.server.terms(now).serves_until(state, now).filter(|_| state.asked > opened)?;
            Some((state.applied, until))
        })
    }

    /// Returns what the process at the other end of the connection has applied, if it may serve at `now`.
    pub(super) fn applied(&self, now: Instant) -> Option<Applied> {
        self.proof(now).map(|(applied, _)| applied)
    }

    /// Returns until when a reply of the replica may be passed on, unless it is sampled again before; `None` if it may not now.
    pub(super) fn fit_until(&self, now: Instant) -> Option<Instant> {
        self.proof(now).map(|(_, until)| until)
    }

    /// Returns true if the replica may serve a session at `now` that has seen what was answered before `floor`.
    pub fn serves(&self, floor: Option<Instant>, now: Instant) -> bool {
        self.applied(now).is_some_and(|applied| floor.is_none_or(|floor| applied.covers(floor)))
    }

    /// Settles the reads that are due when the connection has ended, so that they can be sent elsewhere. Returns their number.
    pub(super) fn settle(&self) -> usize {
        let mut queue = self.lane.queue.borrow_mut();
        let settled = queue.settle(LossCause::Superseded);
        self.server.serving.reports.counters.resent.add(settled.resent as u64);
        queue.len()
    }

    /// Moves the settled reads behind the requests of `other`.
    pub(super) fn move_reads_to(&self, other: &Lane) {
        self.lane.queue.borrow_mut().move_to(&mut other.queue.borrow_mut());
        other.wake_driver();
    }

    /// Returns the number of requests that wait there.
    pub(super) fn outstanding(&self) -> usize {
        self.lane.queue.borrow().len()
    }
}
