//! The upstreams in force, and their change by a reload.
//!
//! [`Upstreams::follow`] starts what is new. The workers must know it before listeners lead to it, and [`Upstreams::publish`]
//! shows the change to operators and to the admin listener. What is removed goes on for its clients until [`RemovedUpstream::end`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::plan;
use crate::admin::{UpstreamLimits, View, Views};
use crate::cluster::ClusterTopology;
use crate::config::Upstream;
use crate::discovery::config::DiscoveryConfig;
use crate::discovery::read_replicas::configured::ConfiguredReplicas;
use crate::discovery::read_replicas::health::ReplicaHealth;
use crate::discovery::read_replicas::shards::ShardReplicas;
use crate::discovery::read_replicas::{self, ReadReplicas};
use crate::discovery::replicas::{self, ReplicaSampler};
use crate::operator::{self, Steered, TargetContext};
use crate::timeline::Timelines;
use crate::topology::Topology;
use crate::upstream::UpstreamPlan;
use crate::upstream::connection::scripts::Scripts;
use crate::worker::Worker;

/// The upstreams in force.
pub struct Upstreams {
    running: Vec<Running>,
    /// The number of the next new upstream.
    next: usize,
    workers: usize,
    /// True if somebody can see how far replicas are behind.
    shows_replicas: bool,
    ctx: TargetContext,
    steered: watch::Sender<Vec<Steered>>,
    views: watch::Sender<Vec<View>>,
}

struct Running {
    steered: Steered,
    plan: UpstreamPlan,
    limits: watch::Sender<UpstreamLimits>,
    /// The replicas that the configuration names.
    replicas: watch::Sender<ConfiguredReplicas>,
    /// The state of the replicas that may serve reads.
    health: watch::Receiver<ReplicaHealth>,
    /// The same for each shard of a cluster.
    shards: ShardReplicas,
    /// Samples the replicas, if the configuration permits it.
    sampler: Option<ReplicaSampler>,
}

/// An upstream that is no longer in force. Its clients may still use it.
pub struct RemovedUpstream {
    steered: Steered,
}

impl Upstreams {
    /// Creates a set without upstreams, for this number of workers. Samples replicas if `shows_replicas`.
    pub fn new(workers: usize, shows_replicas: bool, ctx: TargetContext) -> Self {
        let (steered, views) = (watch::Sender::default(), watch::Sender::default());
        Self { running: Vec::new(), next: 0, workers, shows_replicas, ctx, steered, views }
    }

    /// Takes over the upstreams of a configuration. `fair` is true if tenants share their connections. Starts discovery for new
    /// ones. Returns those that the configuration lacks. The address of a known one is not touched: that is a switch.
    pub fn follow(&mut self, upstreams: &[Upstream], fair: bool) -> Vec<RemovedUpstream> {
        let mut former = std::mem::take(&mut self.running);
        for upstream in upstreams {
            let config = &upstream.config;
            let at = former.iter().position(|known| known.plan.config.name == config.name);
            let mut running = match at {
                Some(at) => former.swap_remove(at),
                None => self.start(upstream),
            };
            running.plan.config = plan::share(config, self.workers);
            running.plan.fair = fair;
            running.limits.send_replace(plan::limits(upstream, self.workers));
            running.steered.config.send_replace(config.clone());
            running.replicas.send_if_modified(|known| {
                let newest = configured_replicas(upstream);
                let differs = *known != newest;
                *known = newest;
                differs
            });
            let samples = config.replica_sampling && self.shows_replicas;
            running.sampler = running.sampler.filter(|_| samples).or_else(|| {
                samples.then(|| replicas::follow::follow(&config.name, running.steered.sampled.clone()))
            });
            self.running.push(running);
        }
        former.into_iter().map(|Running { steered, .. }| RemovedUpstream { steered }).collect()
    }

    fn start(&mut self, upstream: &Upstream) -> Running {
        let number = self.next;
        self.next += 1;
        let config = &upstream.config;
        let steered = operator::steer(number, config.clone(), upstream.target(), &self.ctx);
        tokio::spawn(log_when_ready(config.name.clone(), steered.topology.clone()));
        let replicas = watch::Sender::new(configured_replicas(upstream));
        let ReadReplicas { feed, health } = read_replicas::spawn(
            &config.name,
            steered.sampled.clone(),
            steered.topology.clone(),
            replicas.subscribe(),
        );
        let shards =
            read_replicas::shards::spawn(&config.name, steered.sampled.clone(), steered.cluster.clone());
        let plan = UpstreamPlan {
            number,
            config: config.clone(),
            access: steered.access.clone(),
            topology: steered.topology.clone(),
            hints: steered.hints.clone(),
            scripts: Scripts::default(),
            fair: false,
            timelines: Timelines::default(),
            replicas: feed,
            cluster: steered.cluster.clone(),
            shard_replicas: shards.feeds.clone(),
        };
        let limits = watch::Sender::new(plan::limits(upstream, self.workers));
        let (cluster, name) = (steered.cluster.clone(), config.name.clone());
        tokio::spawn(log_when_short(name, cluster, limits.subscribe()));
        Running { steered, plan, limits, replicas, health, shards, sampler: None }
    }

    /// Shows the upstreams in force to operators and to the admin listener.
    pub fn publish(&self) {
        self.steered.send_replace(self.running.iter().map(|running| running.steered.clone()).collect());
        let views = self.running.iter().map(
            |Running { steered, plan, limits, replicas: _, health, shards, sampler }| View {
                number: steered.number,
                name: plan.config.name.clone(),
                limits: limits.subscribe(),
                target: steered.target.clone(),
                topology: steered.topology.clone(),
                cluster: steered.cluster.clone(),
                discovery: steered.discovery.clone(),
                reads: health.clone(),
                shard_reads: shards.health.clone(),
                replication: sampler.as_ref().map(|sampler| sampler.newest.clone()),
                access: steered.access.clone(),
                ordered: steered.status.clone(),
                timelines: plan.timelines.clone(),
            },
        );
        self.views.send_replace(views.collect());
    }

    /// Returns the workers' plans, with each worker's share of the limits.
    pub fn plans(&self) -> Vec<UpstreamPlan> {
        self.running.iter().map(|running| running.plan.clone()).collect()
    }

    /// Returns the names of the upstreams.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.running.iter().map(|running| running.plan.config.name.as_str().into()).collect()
    }

    /// Returns the number of an upstream.
    pub fn number(&self, name: &str) -> Option<usize> {
        self.running
            .iter()
            .find(|running| running.plan.config.name == name)
            .map(|running| running.plan.number)
    }

    /// Returns the newest topology of each upstream, with the upstream's name.
    pub fn topologies(&self) -> Vec<(String, watch::Receiver<Topology>)> {
        let running = self.running.iter();
        running.map(|known| (known.plan.config.name.clone(), known.plan.topology.clone())).collect()
    }

    /// Returns what operators act on.
    pub fn steered(&self) -> watch::Receiver<Vec<Steered>> {
        self.steered.subscribe()
    }

    /// Returns what the admin listener shows.
    pub fn views(&self) -> Views {
        self.views.subscribe()
    }
}

impl RemovedUpstream {
    /// Ends the upstream's sessions: each as soon as none of its commands is under way, and after `within` at once. Then ends its
    /// connections and discovery. No listener may lead to it any longer.
    pub async fn end(self, workers: Vec<Worker>, within: Duration) {
        let (number, upstream) = (self.steered.number, self.steered.name());
        tracing::info!(
            upstream,
            "the upstream is removed: respgate disconnects its clients when their commands are answered"
        );
        let mut ending = JoinSet::new();
        for worker in workers {
            ending.spawn(async move { worker.end_upstream(number, within).await });
        }
        while ending.join_next().await.is_some() {}
        tracing::info!(upstream, "the removed upstream has no clients and no connections any more");
    }
}

fn configured_replicas(upstream: &Upstream) -> ConfiguredReplicas {
    let primary = match &upstream.discovery {
        DiscoveryConfig::Fixed(address) => Some(address.clone()),
        DiscoveryConfig::Sentinel(_) | DiscoveryConfig::Cluster(_) => None,
    };
    ConfiguredReplicas { primary, replicas: upstream.replicas.clone() }
}

/// Logs when the limit of open files leaves few connections to the shards of a cluster.
async fn log_when_short(
    upstream: String,
    mut cluster: watch::Receiver<Option<Arc<ClusterTopology>>>,
    limits: watch::Receiver<UpstreamLimits>,
) {
    let mut known = None;
    loop {
        let shards = cluster.borrow_and_update().as_ref().map_or(0, |cluster| cluster.shards.len());
        let short = limits.borrow().short_of_files(shards).filter(|_| shards > 0);
        if let Some(why) = short.as_ref().filter(|_| short != known) {
            tracing::warn!(
                upstream,
                why,
                "the limit of open files is low for the shards of the cluster: raise it (ulimit -n, LimitNOFILE=); until then respgate closes connections to some shards to open others"
            );
        }
        known = short;
        if cluster.changed().await.is_err() {
            return;
        }
    }
}

/// Logs once that the clients of an upstream are served.
async fn log_when_ready(upstream: String, mut topology: watch::Receiver<Topology>) {
    if let Ok(known) = topology.wait_for(|topology| topology.primary().is_some()).await {
        let address = known.primary().map(|primary| primary.address.to_string());
        tracing::info!(upstream, address, "ready: the primary is verified");
    }
}
