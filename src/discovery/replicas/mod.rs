//! Samples how far the replicas are behind the primary, once a second, for the status page, the metrics and alerts.
//!
//! Nothing depends on the result: discovery does not read it. One task per upstream coordinates; each node that respgate
//! asks has a task of its own (`node`), so that a silent node delays no other. `follow` starts anew when an
//! operator switches the upstream, `reply` parses the answers, `sentinel` asks
//! a Sentinel for the replicas, and `lag` computes, without I/O.
//!
//! respgate dials replicas only at addresses that Sentinels name, because it sends its password there. Behind a fixed
//! address it believes the primary's own list, with the offsets that the replicas have acknowledged.

pub mod follow;
mod lag;
mod node;
mod reply;
pub(in crate::discovery) mod sentinel;

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::Instrument;

use self::lag::OffsetHistory;
use self::node::{NodeNews, NodeWatch};
use self::reply::{ListedReplica, Report};
use self::sentinel::ReplicaList;
use crate::discovery::config::DiscoveryConfig;
use crate::discovery::{Dialers, DiscoveryStatus, Logins};
use crate::topology::{Address, Generation, Topology};

/// The time between two samples.
const INTERVAL: Duration = Duration::from_secs(1);
/// The age from which a node's answer no longer counts.
const STALE: Duration = Duration::from_secs(5);
/// The greatest number of replicas of one upstream that respgate samples and shows.
pub const MAX_REPLICAS: usize = 16;
/// The capacity of the queue for answers of nodes.
const NEWS: usize = 64;

/// What is known of an upstream's replication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replication {
    /// The primary's replication offset, in bytes; `None` if the primary has not told it lately.
    pub offset: Option<u64>,
    /// The replicas, by address.
    pub replicas: Vec<ReplicaSample>,
    /// Why nothing is known of the replicas, for operators; `None` if there is no such reason.
    pub unavailable: Option<String>,
    /// How often the set of replicas has changed.
    pub version: u64,
}

/// The newest sample of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSample {
    /// The replica's address.
    pub address: Address,
    /// The state of its link to the primary, as ROLE names it: `connected`, `sync`, `connect`, …; `None` if unknown.
    pub link: Option<String>,
    /// Its replication offset, in bytes.
    pub offset: Option<u64>,
    /// The bytes of the primary's history that it lacks.
    pub lag_bytes: Option<u64>,
    /// The age of the oldest write that it lacks. If that is older than the primary's history of samples, their age.
    pub lag: Option<Duration>,
    /// Why respgate cannot sample it.
    pub error: Option<String>,
}

impl ReplicaSample {
    /// Returns true if the replica's link to the primary is up.
    pub fn is_connected(&self) -> bool {
        self.link.as_deref() == Some("connected")
    }
}

/// A running sampler. Dropping it ends its tasks and connections.
#[derive(Debug)]
pub struct ReplicaSampler {
    /// The newest samples.
    pub newest: watch::Receiver<Replication>,
    _task: JoinSet<()>,
}

/// Starts to sample an upstream. `name` is the upstream's name, for logs.
fn spawn(
    name: &str,
    config: &DiscoveryConfig,
    logins: Logins,
    dialers: Dialers,
    topology: watch::Receiver<Topology>,
    status: watch::Receiver<DiscoveryStatus>,
) -> ReplicaSampler {
    let (newest, seen) = watch::channel(Replication::default());
    let (news_sender, news) = mpsc::channel(NEWS);
    let (lists_sender, lists) = mpsc::channel(1);
    let span = tracing::info_span!("replicas", upstream = name);
    let mut tasks = JoinSet::new();
    let sentinels = match config {
        DiscoveryConfig::Fixed(_) | DiscoveryConfig::Cluster(_) => false,
        DiscoveryConfig::Sentinel(config) => {
            let list = ReplicaList::new(config, &logins, &dialers, status);
            tasks.spawn(list.follow(lists_sender).instrument(span.clone()));
            true
        }
    };
    let coordinator = Coordinator {
        sentinels,
        logins,
        dialers,
        topology,
        newest,
        news: news_sender,
        rounds: watch::channel(0).0,
        tasks,
        nodes: HashMap::new(),
        listed: None,
        primary: None,
        history: OffsetHistory::default(),
        version: 0,
    };
    let mut task = JoinSet::new();
    task.spawn(coordinator.run(news, lists).instrument(span));
    ReplicaSampler { newest: seen, _task: task }
}

/// Decides which nodes are asked, and publishes what they say.
struct Coordinator {
    /// True if Sentinels name the replicas.
    sentinels: bool,
    logins: Logins,
    dialers: Dialers,
    topology: watch::Receiver<Topology>,
    newest: watch::Sender<Replication>,
    news: mpsc::Sender<NodeNews>,
    /// The number of the present round: a change asks every node.
    rounds: watch::Sender<u64>,
    tasks: JoinSet<()>,
    nodes: HashMap<Address, NodeState>,
    /// The replicas that the Sentinels name; `None` if they may not be asked.
    listed: Option<Vec<Address>>,
    primary: Option<(Generation, Address)>,
    history: OffsetHistory,
    version: u64,
}

/// What is known of one node.
struct NodeState {
    task: AbortHandle,
    answer: Option<(Instant, Report)>,
    error: Option<String>,
}

impl NodeState {
    fn fresh(&self, now: Instant) -> Option<&Report> {
        self.answer.as_ref().filter(|(at, _)| now - *at < STALE).map(|(_, report)| report)
    }
}

impl Coordinator {
    async fn run(
        mut self,
        mut news: mpsc::Receiver<NodeNews>,
        mut lists: mpsc::Receiver<Option<Vec<Address>>>,
    ) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    self.publish(Instant::now());
                    self.follow();
                    self.rounds.send_modify(|round| *round += 1);
                }
                Some(said) = news.recv() => self.note(said, Instant::now()),
                Some(listed) = lists.recv() => self.listed = listed,
                // Collect ended tasks so that they do not accumulate.
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    /// Asks the present primary and its replicas from now on, and no other node.
    fn follow(&mut self) {
        let newest = self.topology.borrow().primary().map(|known| (known.generation, known.address.clone()));
        if let Some((generation, address)) = newest
            && self.primary.as_ref().map(|(known, _)| *known) != Some(generation)
        {
            // The address may lead to another node by now, and offsets of different primaries do not compare.
            if let Some(former) = self.nodes.remove(&address) {
                former.task.abort();
            }
            self.history = OffsetHistory::default();
            self.primary = Some((generation, address));
        }
        let primary = self.primary.iter().map(|(_, address)| address);
        let wanted: Vec<Address> = primary.chain(self.listed.iter().flatten()).cloned().collect();
        self.nodes.retain(|address, node| {
            let keep = wanted.contains(address);
            if !keep {
                node.task.abort();
            }
            keep
        });
        for address in wanted.into_iter().take(MAX_REPLICAS + 1) {
            if self.nodes.contains_key(&address) {
                continue;
            }
            let watch = NodeWatch {
                address: address.clone(),
                login: self.logins.nodes.clone(),
                dialer: self.dialers.data.clone(),
                news: self.news.clone(),
                rounds: self.rounds.subscribe(),
            };
            let task = self.tasks.spawn(watch.run().in_current_span());
            self.nodes.insert(address, NodeState { task, answer: None, error: None });
        }
    }

    fn note(&mut self, NodeNews { address, said }: NodeNews, now: Instant) {
        let is_primary = self.primary.as_ref().is_some_and(|(_, primary)| *primary == address);
        let Some(node) = self.nodes.get_mut(&address) else { return };
        match said {
            Ok(report) => {
                if let (true, Report::Primary { offset: Some(offset), .. }) = (is_primary, &report) {
                    self.history.add(now, *offset);
                }
                node.answer = Some((now, report));
                node.error = None;
            }
            Err(error) => node.error = Some(error),
        }
    }

    fn publish(&mut self, now: Instant) {
        let Some((_, primary)) = &self.primary else { return };
        let node = self.nodes.get(primary);
        let (offset, attached) = match node.and_then(|node| node.fresh(now)) {
            Some(Report::Primary { offset, replicas }) => (*offset, replicas.as_slice()),
            _ => (None, &[][..]),
        };
        let listed = self.listed.as_ref().filter(|_| self.sentinels);
        let mut replicas: Vec<ReplicaSample> = match listed {
            Some(listed) => listed
                .iter()
                .filter(|address| *address != primary)
                .map(|address| self.sample(address, attached, now))
                .collect(),
            None => attached.iter().map(|replica| self.measured(replica, now)).collect(),
        };
        replicas.truncate(MAX_REPLICAS);
        replicas.sort_by_key(|replica| replica.address.to_string());
        let known =
            self.newest.borrow().replicas.iter().map(|known| known.address.clone()).collect::<Vec<_>>();
        if !replicas.iter().map(|replica| &replica.address).eq(&known) {
            self.version += 1;
        }
        let unavailable = node.and_then(|node| node.error.clone()).map(|error| format!("{primary}: {error}"));
        self.newest.send_replace(Replication { offset, replicas, unavailable, version: self.version });
    }

    /// Returns the sample of a replica that a Sentinel names: what it says itself, or else what the primary says of it.
    fn sample(&self, address: &Address, attached: &[ListedReplica], now: Instant) -> ReplicaSample {
        let node = self.nodes.get(address);
        if let Some(Report::Replica { link, offset }) = node.and_then(|node| node.fresh(now)) {
            let own = ListedReplica { address: address.clone(), link: link.clone(), offset: *offset };
            return self.measured(&own, now);
        }
        let error = node.and_then(|node| node.error.clone());
        match attached.iter().find(|replica| replica.address == *address) {
            Some(replica) => ReplicaSample { error, ..self.measured(replica, now) },
            None => ReplicaSample {
                address: address.clone(),
                link: None,
                offset: None,
                lag_bytes: None,
                lag: None,
                error,
            },
        }
    }

    fn measured(&self, replica: &ListedReplica, now: Instant) -> ReplicaSample {
        let lag = replica.offset.and_then(|offset| self.history.lag(offset, now));
        ReplicaSample {
            address: replica.address.clone(),
            link: Some(replica.link.clone()),
            offset: replica.offset,
            lag_bytes: lag.map(|(bytes, _)| bytes),
            lag: lag.map(|(_, time)| time),
            error: None,
        }
    }
}
