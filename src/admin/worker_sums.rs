//! Asks the workers what they have counted, and adds it up.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::latency::LatencySnapshot;
use crate::metrics::Snapshot;
use crate::metrics::counters::FIGURES;
use crate::net::tls::accept::Handshakes;
use crate::poll_meter::PollFigures;
use crate::tenant::figures::Counted;
use crate::topology::Address;
use crate::upstream::replica::counters::ReplicaCounts;
use crate::worker::{Counted as WorkerCounts, Worker};

/// Time that respgate waits for a busy worker. After it, the sums leave out that worker's counts: gauges
/// fall, and counters keep their last value.
const WORKER_TIMEOUT: Duration = Duration::from_secs(1);

/// What all workers have counted.
#[derive(Default)]
pub(super) struct WorkerSums {
    /// Counts by the number of the upstream.
    pub(super) upstreams: BTreeMap<usize, Snapshot>,
    /// Counts by replica: the number of the upstream, and the replica's address.
    pub(super) replicas: HashMap<(usize, Address), ReplicaCounts>,
    /// Where the time of commands went, by the number of the upstream.
    pub(super) latency: BTreeMap<usize, LatencySnapshot>,
    /// Counts by the number of the tenant.
    pub(super) tenants: HashMap<usize, Counted>,
    /// Bytes held for clients.
    pub(super) buffered: u64,
    /// TLS handshakes, by the number of the listener.
    pub(super) handshakes: HashMap<usize, Handshakes>,
    /// Durations of polls, each with the worker's number.
    pub(super) polls: Vec<(usize, PollFigures)>,
    /// True if every worker answered in time.
    pub(super) complete: bool,
}

impl WorkerSums {
    /// Asks all workers at the same time. Leaves out those that do not answer within the timeout.
    pub(super) async fn collect(workers: &[Worker]) -> Self {
        let mut sums = Self::default();
        for (number, counted) in snapshots(workers).await {
            sums.add(number, counted);
        }
        sums.complete = sums.polls.len() == workers.len();
        sums
    }

    fn add(&mut self, number: usize, counted: WorkerCounts) {
        self.polls.push((number, counted.polls));
        self.buffered += counted.buffered as u64;
        for (tenant, counted) in &counted.tenants {
            self.tenants.entry(*tenant).or_default().add(counted);
        }
        for (listener, counted) in &counted.handshakes {
            self.handshakes.entry(*listener).or_default().add(counted);
        }
        for (upstream, counted) in &counted.latency {
            self.latency.entry(*upstream).or_default().add(counted);
        }
        for (replica, counts) in counted.replicas {
            self.replicas.entry(replica).or_default().add(counts);
        }
        for (upstream, snapshot) in counted.upstreams {
            let sum = self.upstreams.entry(upstream).or_insert([0; FIGURES.len()]);
            sum.iter_mut().zip(snapshot).for_each(|(sum, value)| *sum += value);
        }
    }

    /// Returns the counts of an upstream: zeros if no worker has told them.
    pub(super) fn upstream(&self, number: usize) -> Snapshot {
        self.upstreams.get(&number).copied().unwrap_or([0; FIGURES.len()])
    }
}

async fn snapshots(workers: &[Worker]) -> Vec<(usize, WorkerCounts)> {
    let mut asked = JoinSet::new();
    for (number, worker) in workers.iter().cloned().enumerate() {
        asked.spawn(async move {
            let counted = timeout(WORKER_TIMEOUT, worker.snapshot()).await.ok().flatten()?;
            Some((number, counted))
        });
    }
    let mut counts = Vec::with_capacity(workers.len());
    while let Some(counted) = asked.join_next().await {
        counts.extend(counted.ok().flatten());
    }
    counts
}
