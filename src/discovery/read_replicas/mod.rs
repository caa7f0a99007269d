//! Samples how far replicas have come, for workers that send reads to them.
//!
//! One task per upstream coordinates, and each node has a task of its own (`node`), so that a silent node delays no other. `reply`
//! parses the answers, `history` decides what a replica has applied, and `health` says what operators see, all without I/O. A round
//! asks the primary first and the replicas once the primary has answered: a replica that keeps up has then applied what the primary's
//! answer counts.
//!
//! `shards` has a sampler for each shard of a cluster, and `pace` says how often each works.
//!
//! Nothing is asked before a worker demands it, nor when none has for [`IDLE`]. respgate dials replicas only at addresses that
//! Sentinels, the nodes of the cluster or the configuration name, because it sends its password there.

pub mod configured;
pub mod health;
mod history;
mod node;
mod pace;
mod reply;
pub mod shards;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use self::configured::ConfiguredReplicas;
use self::health::{Obstacle, ReplicaHealth, ReplicaSample};
use self::history::OffsetHistory;
use self::node::{NodeAnswer, NodeNews, NodeWatch};
use self::pace::{SamplerAtWork, SamplingPace};
use self::reply::Report;
use crate::discovery::config::{DiscoveryConfig, SentinelConfig};
use crate::discovery::replicas::MAX_REPLICAS;
use crate::discovery::replicas::follow::SampledPlace;
use crate::discovery::replicas::sentinel::ReplicaList;
use crate::discovery::{Dialers, DiscoveryStatus, Logins};
use crate::replica::{ReplicaFeed, ReplicaSet, ReplicaState};
use crate::topology::{Address, Generation, NodeId, Topology};

/// The time after the last demand when the sampling ends.
const IDLE: Duration = Duration::from_secs(60);
/// The capacity of the queue for answers of nodes.
const NEWS: usize = 64;

/// Starts the sampler of an upstream, which ends after the workers have dropped the feed. `places` says how the nodes are reached, and
/// `topology` is what the workers follow. `configured` are the replicas of the configuration, which a reload may change. `name` is
/// the upstream's name, for logs.
pub fn spawn(
    name: &str,
    places: watch::Receiver<SampledPlace>,
    topology: watch::Receiver<Topology>,
    configured: watch::Receiver<ConfiguredReplicas>,
) -> ReadReplicas {
    let (outputs, sampling) = sampler(places, topology, configured, SamplingPace::default(), false);
    tokio::spawn(sampling.instrument(tracing::info_span!("read-replicas", upstream = name)));
    outputs
}

/// Creates a sampler. The caller runs the future. `in_cluster`: it samples one shard of a cluster.
fn sampler(
    mut places: watch::Receiver<SampledPlace>,
    topology: watch::Receiver<Topology>,
    mut configured: watch::Receiver<ConfiguredReplicas>,
    pace: SamplingPace,
    in_cluster: bool,
) -> (ReadReplicas, impl Future<Output = ()> + Send + 'static) {
    let SampledPlace { config, logins, dialers, topology: _, status } = places.borrow_and_update().clone();
    let (newest, seen) = watch::channel(ReplicaSet::default());
    let (health, health_seen) = watch::channel(ReplicaHealth::default());
    let (demand, demanded) = mpsc::channel(1);
    let (news_sender, news) = mpsc::channel(NEWS);
    let (lists_sender, lists) = mpsc::channel(1);
    let listed = configured.borrow_and_update().of(&config);
    let coordinator = Coordinator {
        source: Source::of(config, status),
        places,
        configured,
        logins,
        dialers,
        in_cluster,
        topology,
        newest,
        health,
        news: news_sender,
        lists: lists_sender,
        primary_rounds: watch::channel(0).0,
        replica_rounds: watch::channel(0).0,
        tasks: JoinSet::new(),
        primary: None,
        nodes: HashMap::new(),
        listed,
        history: OffsetHistory::default(),
        primary_lost: false,
        published: false,
        ends: None,
        pace,
        at_work: None,
        next_round: Instant::now(),
        last_round: None,
    };
    let feed = ReplicaFeed { newest: seen, demand, answered: Arc::default() };
    (ReadReplicas { feed, health: health_seen }, coordinator.run(news, lists, demanded))
}

/// The outputs of a sampler.
pub struct ReadReplicas {
    /// The samples, for workers.
    pub feed: ReplicaFeed,
    /// The state of each replica, for operators.
    pub health: watch::Receiver<ReplicaHealth>,
}

/// Where the addresses of replicas come from.
enum Source {
    /// The configuration, or the nodes of a cluster.
    Fixed,
    Sentinels(Box<SentinelConfig>, watch::Receiver<DiscoveryStatus>),
}

impl Source {
    fn of(config: DiscoveryConfig, status: watch::Receiver<DiscoveryStatus>) -> Self {
        match config {
            // The nodes of a cluster name the replicas, as the configuration does elsewhere.
            DiscoveryConfig::Fixed(_) | DiscoveryConfig::Cluster(_) => Self::Fixed,
            DiscoveryConfig::Sentinel(config) => Self::Sentinels(Box::new(config), status),
        }
    }
}

/// Decides which nodes are asked and when, and publishes what they say.
struct Coordinator {
    source: Source,
    places: watch::Receiver<SampledPlace>,
    configured: watch::Receiver<ConfiguredReplicas>,
    logins: Logins,
    dialers: Dialers,
    /// True if the nodes are those of a cluster, of which there may be any number.
    in_cluster: bool,
    topology: watch::Receiver<Topology>,
    newest: watch::Sender<ReplicaSet>,
    health: watch::Sender<ReplicaHealth>,
    news: mpsc::Sender<NodeNews>,
    lists: mpsc::Sender<Option<Vec<Address>>>,
    /// The number of the primary's present round: a change has it asked.
    primary_rounds: watch::Sender<u64>,
    /// The same, for the replicas.
    replica_rounds: watch::Sender<u64>,
    tasks: JoinSet<()>,
    primary: Option<PrimaryState>,
    nodes: HashMap<Address, NodeState>,
    /// The addresses of the replicas.
    listed: Vec<Address>,
    history: OffsetHistory,
    /// True if the connection to the primary was lost, and no other is open yet.
    primary_lost: bool,
    /// True if the samples were published after the primary's last answer.
    published: bool,
    /// When the sampling ends; `None` while nothing is sampled.
    ends: Option<Instant>,
    pace: SamplingPace,
    /// Counts this sampler while it samples.
    at_work: Option<SamplerAtWork>,
    next_round: Instant,
    last_round: Option<Instant>,
}

/// The primary that is asked.
struct PrimaryState {
    /// Since when it is asked.
    since: Instant,
    /// When it was asked what it has answered last.
    answered: Option<Instant>,
    generation: Generation,
    address: Address,
    /// The process that discovery has verified.
    node: Option<NodeId>,
    task: AbortHandle,
}

/// A replica that is asked.
struct NodeState {
    task: AbortHandle,
    newest: Option<ReplicaState>,
}

impl Coordinator {
    async fn run(
        mut self,
        mut news: mpsc::Receiver<NodeNews>,
        mut lists: mpsc::Receiver<Option<Vec<Address>>>,
        mut demand: mpsc::Receiver<()>,
    ) {
        loop {
            let sampling = self.ends.is_some();
            tokio::select! {
                () = sleep_until(self.next_round), if sampling => self.begin_round(Instant::now()),
                Some(()) = demand.recv() => self.demanded(Instant::now()),
                Some(news) = news.recv(), if sampling => self.note(news),
                Some(listed) = lists.recv(), if sampling => {
                    // Without the Sentinels' list, no address is known to which the password may go.
                    self.listed = listed.unwrap_or_default();
                    self.listed.truncate(MAX_REPLICAS);
                    self.follow();
                }
                Ok(()) = self.places.changed() => self.follow_place(),
                Ok(()) = self.configured.changed() => self.follow_configured(),
                Ok(()) = self.topology.changed(), if sampling => self.follow(),
                // Collect ended tasks so that they do not accumulate.
                Some(_) = self.tasks.join_next() => {}
                else => return,
            }
        }
    }

    /// Asks nobody of the former place any more, because the upstream is elsewhere, or is reached in another way. The next demand
    /// begins the sampling again.
    fn follow_place(&mut self) {
        let place = self.places.borrow_and_update().clone();
        self.end();
        self.listed = self.configured.borrow().of(&place.config);
        self.source = Source::of(place.config, place.status);
        (self.logins, self.dialers) = (place.logins, place.dialers);
    }

    /// Takes over the replicas of a newer configuration, unless Sentinels name them.
    fn follow_configured(&mut self) {
        let configured = self.configured.borrow_and_update().clone();
        if matches!(self.source, Source::Fixed) {
            self.listed = configured.of(&self.places.borrow().config);
            if self.ends.is_some() {
                self.follow();
            }
        }
    }

    /// Begins a round as soon as the pace allows one. Begins the sampling if there is none.
    fn demanded(&mut self, now: Instant) {
        if self.ends.replace(now + IDLE).is_none() {
            self.at_work = Some(self.pace.begin());
            if let Source::Sentinels(config, status) = &self.source {
                let list = ReplicaList::new(config, &self.logins, &self.dialers, status.clone());
                self.tasks.spawn(list.follow(self.lists.clone()).in_current_span());
            }
            self.follow();
        }
        let soonest = self.last_round.map_or(now, |last| last + self.pace.shortest());
        self.next_round = self.next_round.min(soonest);
    }

    fn begin_round(&mut self, now: Instant) {
        if self.ends.is_some_and(|ends| ends <= now) {
            return self.end();
        }
        // The replicas are asked when the primary has answered. While it does not, they may still be promoted or synchronised.
        let answered = self.primary.as_ref().and_then(|primary| primary.answered);
        if self.last_round.is_some_and(|last| answered.is_none_or(|answered| answered < last)) {
            self.replica_rounds.send_modify(|round| *round += 1);
        }
        (self.last_round, self.next_round) = (Some(now), now + self.pace.interval());
        self.primary_rounds.send_modify(|round| *round += 1);
    }

    /// Ends the sampling, until the next demand.
    fn end(&mut self) {
        self.tasks.abort_all();
        self.nodes.clear();
        if matches!(self.source, Source::Sentinels(..)) {
            self.listed.clear();
        }
        (self.primary, self.ends, self.at_work) = (None, None, None);
        self.history = OffsetHistory::default();
        self.primary_lost = false;
        self.publish();
        self.health.send_modify(ReplicaHealth::end);
    }

    /// Asks the present primary and its replicas from now on, and no other node.
    fn follow(&mut self) {
        let newest = self.topology.borrow_and_update().primary().cloned();
        let known = self.primary.as_ref().map(|known| known.generation);
        let mut changed = false;
        if let Some(newest) = newest.filter(|newest| Some(newest.generation) != known) {
            // The replicas of a former primary say nothing about the new one.
            self.history = OffsetHistory::default();
            self.health.send_modify(ReplicaHealth::forget_answers);
            for (_, node) in self.nodes.drain() {
                node.task.abort();
            }
            if let Some(former) = self.primary.take() {
                former.task.abort();
            }
            let task = self.watch(&newest.address, &self.primary_rounds.clone());
            changed = true;
            self.primary_lost = false;
            self.primary = Some(PrimaryState {
                since: Instant::now(),
                answered: None,
                generation: newest.generation,
                address: newest.address.clone(),
                node: newest.node.clone(),
                task,
            });
        }
        let Some(primary) = &self.primary else { return };
        let wanted: Vec<Address> =
            self.listed.iter().filter(|address| **address != primary.address).cloned().collect();
        self.nodes.retain(|address, node| {
            let keep = wanted.contains(address);
            if !keep {
                node.task.abort();
                changed = true;
            }
            keep
        });
        let mut moved = false;
        for address in wanted {
            if !self.nodes.contains_key(&address) {
                moved = true;
                let task = self.watch(&address, &self.replica_rounds.clone());
                self.nodes.insert(address, NodeState { task, newest: None });
            }
        }
        if moved || changed || !self.health.borrow().asked {
            self.health.send_modify(|health| health.follow(self.nodes.keys()));
        }
        if changed {
            self.publish();
        }
    }

    fn watch(&mut self, address: &Address, rounds: &watch::Sender<u64>) -> AbortHandle {
        let watch = NodeWatch {
            address: address.clone(),
            login: self.logins.nodes.clone(),
            dialer: self.dialers.data.clone(),
            news: self.news.clone(),
            room: self.in_cluster.then(|| self.dialers.room.samples.clone()),
            rounds: rounds.subscribe(),
        };
        self.tasks.spawn(watch.run().in_current_span())
    }

    fn note(&mut self, NodeNews { address, answer }: NodeNews) {
        // What a node said of itself before a failover must not be compared with what another says after it.
        self.follow();
        let Some(primary) = &mut self.primary else { return };
        let since = primary.since;
        let answer = answer.and_then(|it| if it.asked >= since { Ok(it) } else { Err(Obstacle::Pending) });
        if primary.address == address {
            let lost = answer.is_err();
            if let Ok(NodeAnswer { asked, node, report: Report::Primary(position), .. }) = answer
                && (primary.node.is_none() || node.is_none() || primary.node == node)
            {
                self.history.add(asked, &position.history, position.offset);
                primary.answered = Some(asked);
                self.health.send_modify(|health| health.primary_answered = Some(asked));
                self.replica_rounds.send_modify(|round| *round += 1);
            }
            // Workers must learn how far a silent replica falls behind.
            if std::mem::replace(&mut self.primary_lost, lost) != lost || !std::mem::take(&mut self.published)
            {
                self.publish();
                self.published = false;
            }
            return;
        }
        let Some(state) = self.nodes.get_mut(&address) else { return };
        let peer = answer.as_ref().ok().map(|answer| answer.peer.clone());
        let judged = answer.and_then(|NodeAnswer { asked, node, zone, report, .. }| match report {
            Report::Replica { position, linked } => {
                let applied = self.history.applied(&position.history, position.offset);
                let applied =
                    applied.ok_or_else(|| self.history.obstacle(&position.history, position.offset))?;
                Ok(ReplicaState { address: address.clone(), node, zone, linked, asked, applied })
            }
            Report::Primary(_) => Err(Obstacle::NotReplica),
            Report::OutOfSync => Err(Obstacle::Syncing),
        });
        let sample = judged.as_ref().map(|&ReplicaState { asked, linked, applied, .. }| ReplicaSample {
            asked,
            linked,
            applied,
        });
        let sample = sample.map_err(Obstacle::clone);
        self.health.send_modify(|health| health.note(&address, peer, sample));
        state.newest = judged.ok();
        self.publish();
    }

    fn publish(&mut self) {
        self.published = true;
        let mut replicas: Vec<ReplicaState> =
            self.nodes.values().filter_map(|node| node.newest.clone()).collect();
        replicas.sort_by_key(|replica| replica.address.to_string());
        let primary = self.primary.as_ref();
        self.newest.send_replace(ReplicaSet {
            generation: primary.map(|primary| primary.generation),
            primary_answered: primary.and_then(|primary| primary.answered),
            primary_lost: self.primary_lost,
            replicas,
        });
    }
}
