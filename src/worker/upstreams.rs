//! The upstreams as one worker sees them, and what a reload changes.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::latency::{LatencySnapshot, WorkerLatency};
use crate::metrics::Snapshot;
use crate::net::buffers::Buffers;
use crate::poll_meter::PollMeter;
use crate::session::answers::UpstreamTable;
use crate::session::registry::SessionRegistry;
use crate::topology::Address;
use crate::upstream::replica::counters::ReplicaCounts;
use crate::upstream::{Upstream, UpstreamPlan};

/// The upstreams of one worker, by their numbers.
pub(super) struct WorkerUpstreams {
    table: Rc<UpstreamTable>,
    buffers: Rc<Buffers>,
    meter: Rc<PollMeter>,
    latency: Rc<WorkerLatency>,
}

impl WorkerUpstreams {
    /// Starts the upstreams of `plans`.
    pub(super) fn new(
        plans: Vec<UpstreamPlan>,
        buffers: Rc<Buffers>,
        meter: Rc<PollMeter>,
        latency: Rc<WorkerLatency>,
    ) -> Self {
        let upstreams = Self { table: Rc::default(), buffers, meter, latency };
        upstreams.adopt(plans);
        upstreams
    }

    /// Returns the table that follows each change.
    pub(super) fn table(&self) -> Rc<UpstreamTable> {
        self.table.clone()
    }

    /// Takes over the upstreams of a new configuration. One that `plans` does not have stays until [`Self::end`].
    pub(super) fn adopt(&self, plans: Vec<UpstreamPlan>) {
        for plan in plans {
            let known = self.get(plan.number);
            match known {
                Some(upstream) => {
                    upstream.reconfigure(plan.config);
                    upstream.set_fair(plan.fair);
                }
                None => {
                    let (number, buffers, meter) = (plan.number, self.buffers.clone(), self.meter.clone());
                    let upstream = Upstream::start(plan, buffers, meter, self.latency.clone());
                    self.table.borrow_mut().insert(number, upstream);
                }
            }
        }
    }

    /// Returns the upstream of this number, if there is one.
    pub(super) fn get(&self, number: usize) -> Option<Rc<Upstream>> {
        self.table.borrow().get(&number).cloned()
    }

    /// Returns the counts of each upstream, with its number.
    pub(super) fn snapshots(&self) -> Vec<(usize, Snapshot)> {
        self.table.borrow().iter().map(|(number, upstream)| (*number, upstream.snapshot())).collect()
    }

    /// Returns the counts of each replica, with the number of the upstream and the replica's address.
    pub(super) fn replica_counts(&self) -> Vec<((usize, Address), ReplicaCounts)> {
        let table = self.table.borrow();
        let counts = table.iter().flat_map(|(number, upstream)| {
            upstream.replica_counts().into_iter().map(|(address, counts)| ((*number, address), counts))
        });
        counts.collect()
    }

    /// Returns where the time of each upstream's commands went, with its number.
    pub(super) fn latency_snapshots(&self) -> Vec<(usize, LatencySnapshot)> {
        self.table.borrow().iter().map(|(number, upstream)| (*number, upstream.latency_snapshot())).collect()
    }

    /// Ends the sessions of an upstream as soon as none of their commands is under way, those that are left after `within` at
    /// once, and then the upstream. Answers when it is gone. New clients no longer come to it.
    pub(super) fn end(
        &self,
        number: usize,
        within: Duration,
        sessions: Rc<SessionRegistry>,
        answer: oneshot::Sender<()>,
    ) {
        let table = self.table.clone();
        if let Some(upstream) = self.get(number) {
            upstream.leave();
        }
        sessions.wake_of(number);
        tokio::task::spawn_local(async move {
            if timeout(within, sessions.emptied_of(number)).await.is_err() {
                sessions.kill_of(number);
                sessions.emptied_of(number).await;
            }
            table.borrow_mut().remove(&number);
            let _ = answer.send(());
        });
    }
}
