//! Samples the replicas of each shard of a cluster.
//!
//! Each shard has a sampler of its own, as one primary has: offsets of two shards say nothing about each other. The nodes of the cluster
//! name the replicas. The samplers begin and end with their shards, and each asks nobody before a worker demands it.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tracing::Instrument;

use super::configured::ConfiguredReplicas;
use super::health::ReplicaHealth;
use super::pace::SamplingPace;
use super::{ReadReplicas, sampler};
use crate::cluster::{ClusterTopology, Shard, ShardNumber};
use crate::discovery::replicas::follow::SampledPlace;
use crate::replica::ShardFeeds;
use crate::topology::Topology;

/// The state of the replicas of each shard, for operators.
pub type ShardsHealth = HashMap<ShardNumber, watch::Receiver<ReplicaHealth>>;

/// The outputs of the samplers of a cluster.
#[derive(Clone, Debug)]
pub struct ShardReplicas {
    /// The samples of each shard, for workers.
    pub feeds: watch::Receiver<Arc<ShardFeeds>>,
    /// The state of the replicas of each shard, for operators.
    pub health: watch::Receiver<Arc<ShardsHealth>>,
}

/// Starts the samplers of a cluster's shards, which end with discovery. `places` says how the nodes are reached, and `cluster` is what
/// the workers follow: `None` while there is one primary. `name` is the upstream's name, for logs.
pub fn spawn(
    name: &str,
    places: watch::Receiver<SampledPlace>,
    cluster: watch::Receiver<Option<Arc<ClusterTopology>>>,
) -> ShardReplicas {
    let (feeds, feeds_seen) = watch::channel(Arc::default());
    let (health, health_seen) = watch::channel(Arc::default());
    let samplers = ShardSamplers {
        name: name.to_owned(),
        places,
        pace: SamplingPace::default(),
        all: HashMap::new(),
        tasks: JoinSet::new(),
        feeds,
        health,
    };
    tokio::spawn(samplers.run(cluster));
    ShardReplicas { feeds: feeds_seen, health: health_seen }
}

/// Has a sampler for each shard.
struct ShardSamplers {
    name: String,
    places: watch::Receiver<SampledPlace>,
    pace: SamplingPace,
    all: HashMap<ShardNumber, ShardSampler>,
    tasks: JoinSet<()>,
    feeds: watch::Sender<Arc<ShardFeeds>>,
    health: watch::Sender<Arc<ShardsHealth>>,
}

/// The sampler of one shard, and what it follows.
struct ShardSampler {
    topology: watch::Sender<Topology>,
    replicas: watch::Sender<ConfiguredReplicas>,
    outputs: ReadReplicas,
    task: AbortHandle,
}

impl ShardSamplers {
    async fn run(mut self, mut cluster: watch::Receiver<Option<Arc<ClusterTopology>>>) {
        loop {
            let newest = cluster.borrow_and_update().clone();
            self.follow(&newest.unwrap_or_default());
            if cluster.changed().await.is_err() {
                return;
            }
            // Collect ended tasks so that they do not accumulate.
            while self.tasks.try_join_next().is_some() {}
        }
    }

    fn follow(&mut self, cluster: &ClusterTopology) {
        let before = self.all.len();
        self.all.retain(|number, sampler| {
            let stays = cluster.shard(*number).is_some();
            if !stays {
                sampler.task.abort();
            }
            stays
        });
        let mut changed = self.all.len() != before;
        for shard in &cluster.shards {
            let replicas = ConfiguredReplicas { primary: None, replicas: shard.replicas.clone() };
            match self.all.get(&shard.number) {
                Some(sampler) => {
                    replace(&sampler.replicas, replicas);
                    replace(&sampler.topology, shard.topology.clone());
                }
                None => {
                    let sampler = self.start(shard, replicas);
                    self.all.insert(shard.number, sampler);
                    changed = true;
                }
            }
        }
        if changed {
            let outputs = || self.all.iter().map(|(number, sampler)| (*number, &sampler.outputs));
            let feeds = outputs().map(|(number, outputs)| (number, outputs.feed.clone()));
            self.feeds.send_replace(Arc::new(feeds.collect()));
            let health = outputs().map(|(number, outputs)| (number, outputs.health.clone()));
            self.health.send_replace(Arc::new(health.collect()));
        }
    }

    fn start(&mut self, shard: &Shard, replicas: ConfiguredReplicas) -> ShardSampler {
        let (topology, topology_seen) = watch::channel(shard.topology.clone());
        let (replicas, replicas_seen) = watch::channel(replicas);
        let (outputs, sampling) =
            sampler(self.places.clone(), topology_seen, replicas_seen, self.pace.clone(), true);
        let span = tracing::info_span!("read-replicas", upstream = self.name, shard = shard.number.0);
        let task = self.tasks.spawn(sampling.instrument(span));
        ShardSampler { topology, replicas, outputs, task }
    }
}

/// Replaces a value that differs.
fn replace<T: PartialEq>(known: &watch::Sender<T>, newest: T) {
    known.send_if_modified(|known| {
        let differs = *known != newest;
        *known = newest;
        differs
    });
}
