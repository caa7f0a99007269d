//! The reports of one worker about its upstream: counts, hints to discovery, and the steps of failovers.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::mpsc;

use crate::hint::Hint;
use crate::latency::UpstreamLatency;
use crate::metrics::Counters;
use crate::resp::server_error::ServerError;
use crate::timeline::Timelines;
use crate::topology::Generation;

/// The sign of a failover that nothing has announced yet.
const CONNECTION_LOST: &str = "a connection to the primary was lost";

/// The receivers of what one worker reports of its upstream.
pub(super) struct Reports {
    pub(super) counters: Rc<Counters>,
    /// Where the time of commands goes.
    pub(super) latency: Rc<UpstreamLatency>,
    /// The failovers of the upstream; the workers share them.
    pub(super) timelines: Timelines,
    hints: mpsc::Sender<Hint>,
    /// The generation that last gave a reply.
    proven: Cell<Option<Generation>>,
}

impl Reports {
    pub(super) fn new(
        counters: Rc<Counters>,
        latency: Rc<UpstreamLatency>,
        timelines: Timelines,
        hints: mpsc::Sender<Hint>,
    ) -> Self {
        Self { counters, latency, timelines, hints, proven: Cell::default() }
    }

    /// Creates the reports about a replica: they are counted with those of `primary`, and are no signs of a failover.
    pub(super) fn of_replica(primary: &Self) -> Self {
        let (counters, latency) = (primary.counters.clone(), primary.latency.clone());
        Self::new(counters, latency, Timelines::default(), mpsc::channel(1).0)
    }

    /// Sends a hint to discovery. Drops it if 64 hints wait already: one more would add nothing.
    pub(super) fn hint(&self, hint: Hint) {
        let _ = self.hints.try_send(hint);
    }

    /// Counts an error reply. Tells discovery about an error that only a node gives that is not the primary.
    pub(super) fn note_error(&self, line: &[u8], generation: Generation) {
        self.counters.error_replies.inc();
        if ServerError::of(line).is_not_primary() {
            self.hint(Hint::NotPrimary(generation));
        }
    }

    /// Takes note that the primary of this generation gave a reply.
    pub(super) fn succeeded(&self, generation: Generation) {
        if self.proven.replace(Some(generation)) != Some(generation) {
            self.timelines.succeeded(generation);
        }
    }

    /// Reports that a connection to the primary of this generation was lost. `demoted`: the node said that it is not the primary.
    pub(super) fn note_lost(&self, generation: Generation, demoted: bool) {
        self.counters.lost.inc();
        self.timelines.sign(generation, CONNECTION_LOST, false);
        self.hint(if demoted { Hint::NotPrimary(generation) } else { Hint::Lost(generation) });
    }

    /// Counts the lost connection of a lease to the primary of this generation, which may be the first sign of a failover.
    pub(super) fn note_lease_lost(&self, generation: Generation) {
        self.counters.lost.inc();
        self.timelines.sign(generation, CONNECTION_LOST, false);
    }

    /// Counts what became of the requests of a lost connection.
    pub(super) fn note_settled(&self, resent: usize, unknown: usize, migrated: usize) {
        let (resent, unknown, migrated) = (resent as u64, unknown as u64, migrated as u64);
        self.counters.resent.add(resent);
        self.counters.outcome_unknown.add(unknown);
        self.counters.migrated.add(migrated);
        self.timelines.settled(resent, unknown, migrated);
    }
}
