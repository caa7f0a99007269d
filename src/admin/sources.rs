//! The parts of the process that the admin listener reads.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::security::TlsStatus;
use crate::cluster::{ClusterTopology, ShardNumber};
use crate::descriptors;
use crate::discovery::DiscoveryStatus;
use crate::discovery::read_replicas::health::{ReadTerms, ReplicaHealth};
use crate::discovery::read_replicas::shards::ShardsHealth;
use crate::discovery::replicas::Replication;
use crate::drain::FormerProcess;
use crate::listener::ListenerCounts;
use crate::logs::LogLimit;
use crate::net::budget::Budget;
use crate::operator::{OperatorStatus, Target};
use crate::replica::LagBound;
use crate::rotation::Tallies;
use crate::tenant::Tenants;
use crate::tenant::store::Stores;
use crate::timeline::Timelines;
use crate::topology::Topology;
use crate::upstream::access::Access;
use crate::worker::Worker;

/// The sources about the process as a whole.
#[derive(Clone)]
pub struct Sources {
    /// State of TLS and of listeners.
    pub security: watch::Receiver<TlsStatus>,
    /// The tenants in force.
    pub tenants: watch::Receiver<Tenants>,
    /// The connections through which rates are shared.
    pub stores: Stores,
    /// The outcomes of reloads: the configuration, certificates and passwords.
    pub reloads: Tallies,
    /// The process that this one has replaced, as long as it runs.
    pub former: watch::Receiver<Option<FormerProcess>>,
    /// The workers, which count.
    pub workers: Vec<Worker>,
    /// The byte budget of all clients.
    pub budget: Arc<Budget>,
    /// The listeners in force.
    pub listeners: watch::Receiver<Vec<ListenerView>>,
    /// The limit of log lines, which counts the suppressed ones.
    pub logs: LogLimit,
}

/// The sources about one listener.
#[derive(Clone)]
pub struct ListenerView {
    /// The listener's name.
    pub name: String,
    /// The address that it is bound to.
    pub address: String,
    /// The upstream that serves its clients.
    pub upstream: String,
    /// The tenant that its clients belong to, if it names one.
    pub tenant: Option<String>,
    /// True if its clients speak TLS.
    pub tls: bool,
    /// Its clients and their limit, and the connections that it did not serve at once.
    pub counts: Arc<ListenerCounts>,
}

impl ListenerView {
    /// Returns the number of clients connected now.
    pub(super) fn connected(&self) -> usize {
        self.counts.clients.load(Ordering::Relaxed)
    }

    /// Returns the greatest number of clients at once.
    pub(super) fn max_clients(&self) -> usize {
        self.counts.max_clients.load(Ordering::Relaxed)
    }

    /// Returns the number of connections that were closed because there were as many clients as may be.
    pub(super) fn turned_away(&self) -> u64 {
        self.counts.turned_away.load(Ordering::Relaxed)
    }

    /// Returns the number of connections that waited because of the rate of their source.
    pub(super) fn delayed(&self) -> u64 {
        self.counts.delayed.load(Ordering::Relaxed)
    }

    /// Returns the number of connections that were closed because of the rate of their source.
    pub(super) fn refused(&self) -> u64 {
        self.counts.refused.load(Ordering::Relaxed)
    }
}

/// The settings of an upstream that `/status` shows.
#[derive(Clone, Debug)]
pub struct UpstreamLimits {
    /// The greatest number of connections, all workers together.
    pub max_connections: usize,
    /// The greatest number of those that sessions hold.
    pub max_leased: usize,
    /// The greatest number of connections to all nodes of a cluster together, which the limit of open files allows.
    pub max_open: usize,
    /// The number of workers.
    pub workers: usize,
    /// The time that commands wait for a primary.
    pub hold_timeout: Duration,
    /// The greatest lag of a replica that serves reads.
    pub lag_bound: LagBound,
    /// True if replicas go on serving reads while there is no primary.
    pub reads_in_hold: bool,
}

impl UpstreamLimits {
    /// Returns what an operator should know if the limit of open files leaves few connections to this number of shards.
    pub fn short_of_files(&self, shards: usize) -> Option<String> {
        let (open, needed) = (self.max_open, descriptors::needed(shards, self.workers));
        (open < needed).then(|| {
            format!(
                "the limit of open files leaves {open} connections to the {shards} shards of the cluster; {} workers need {needed}",
                self.workers
            )
        })
    }
}

/// The sources about one upstream.
#[derive(Clone)]
pub struct View {
    /// The upstream's number, which no other upstream of the process ever has.
    pub number: usize,
    /// The upstream's name.
    pub name: String,
    /// The settings that `/status` shows.
    pub limits: watch::Receiver<UpstreamLimits>,
    /// Where the upstream is.
    pub target: watch::Receiver<Target>,
    /// Discovery's newest result.
    pub topology: watch::Receiver<Topology>,
    /// The newest state of the cluster; `None` while the upstream is none.
    pub cluster: watch::Receiver<Option<Arc<ClusterTopology>>>,
    /// The state of the Sentinels, or of the nodes of the cluster, as discovery knows it.
    pub discovery: watch::Receiver<DiscoveryStatus>,
    /// The state of the replicas that may serve reads.
    pub reads: watch::Receiver<ReplicaHealth>,
    /// The same for each shard of a cluster.
    pub shard_reads: watch::Receiver<Arc<ShardsHealth>>,
    /// The newest samples of the replicas; `None` if they are not sampled.
    pub replication: Option<watch::Receiver<Replication>>,
    /// How respgate reaches the upstream, with its own credentials there.
    pub access: watch::Receiver<Access>,
    /// What operators have ordered for the upstream.
    pub ordered: watch::Receiver<OperatorStatus>,
    /// The upstream's failovers.
    pub timelines: Timelines,
}

/// The replicas of one primary.
pub(super) struct ReadReplicasView {
    /// The shard of a cluster; `None` if there is one primary only.
    pub(super) shard: Option<ShardNumber>,
    /// True if the primary is known.
    pub(super) has_primary: bool,
    pub(super) health: ReplicaHealth,
    /// The terms on which they serve reads now.
    pub(super) terms: ReadTerms,
}

impl View {
    /// Returns the state of the replicas of each primary, and the terms on which they serve reads now.
    pub(super) fn read_replicas(&self) -> Vec<ReadReplicasView> {
        let Some(cluster) = self.cluster.borrow().clone() else {
            return vec![self.read_replicas_of(None, self.reads.borrow().clone(), &self.topology.borrow())];
        };
        let health = self.shard_reads.borrow().clone();
        let shards = cluster.shards.iter().filter_map(|shard| {
            let health = health.get(&shard.number)?.borrow().clone();
            Some(self.read_replicas_of(Some(shard.number), health, &shard.topology))
        });
        shards.collect()
    }

    fn read_replicas_of(
        &self,
        shard: Option<ShardNumber>,
        health: ReplicaHealth,
        topology: &Topology,
    ) -> ReadReplicasView {
        let UpstreamLimits { lag_bound: bound, reads_in_hold: serves_alone, .. } = *self.limits.borrow();
        let held = match topology {
            Topology::Known(_) => false,
            Topology::Failing(_, sign) => !sign.is_ordered(),
            Topology::Unknown(_) => true,
        };
        let held_since = health.primary_answered.filter(|_| held && serves_alone);
        let has_primary = topology.primary().is_some();
        ReadReplicasView { shard, has_primary, health, terms: ReadTerms { bound, serves_alone, held_since } }
    }

    /// Returns a number that changes when replicas that may serve reads have come or gone.
    pub(super) fn read_replicas_version(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for ReadReplicasView { shard, health, .. } in self.read_replicas() {
            (shard, health.version).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Returns the newest samples of the replicas; `None` if they are not sampled.
    pub(super) fn sampled(&self) -> Option<Replication> {
        Some(self.replication.as_ref()?.borrow().clone())
    }
}

/// The sources about the upstreams in force. A reload changes them.
pub type Views = watch::Receiver<Vec<View>>;
