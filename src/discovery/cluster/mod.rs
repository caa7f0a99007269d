//! Follows a cluster: which shards it has, which of them serves each slot, and where the primary of each is.
//!
//! `machine` makes the decisions, without I/O. Its parts:
//! - `asked` chooses the nodes that are asked, and `pace` says when;
//! - `reply` parses what one node says, and `views` combines what all say: the newest epoch wins, also over time (`slot_epochs`). `moving` remembers which slots are on their way;
//! - `numbering` gives each shard its number, `shard` verifies its primary, and `home` shows one shard as the only primary.
//!
//! `node` asks one node. `survey` puts together what nodes say once, for the doctor.

mod asked;
mod home;
mod machine;
mod moving;
mod node;
mod numbering;
mod pace;
mod reply;
mod shard;
mod slot_epochs;
pub mod status;
pub mod survey;
mod views;

pub use self::asked::MAX_ASKED;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use self::machine::{ClusterAction, ClusterEvent, ClusterMachine};
use self::node::NodeFollower;
use self::status::ClusterStatus;
use crate::cluster::{ClusterTopology, ShardNumber};
use crate::discovery::config::ClusterConfig;
use crate::discovery::probe::{self, KeptCheck};
use crate::discovery::room::DiscoveryRoom;
use crate::hint::Hint;
use crate::net::connect::Dialer;
use crate::rotation::login::Login;
use crate::topology::{Address, Outage, Topology};

/// The capacity of the queue for events of nodes and probes.
const NEWS: usize = 64;

/// What the discovery of a cluster publishes, and hears.
pub(super) struct ClusterFeeds {
    /// The topology of the home shard.
    pub(super) topology: watch::Sender<Topology>,
    /// The whole cluster.
    pub(super) cluster: watch::Sender<Arc<ClusterTopology>>,
    /// Shows the state to operators.
    pub(super) show: Box<dyn Fn(ClusterState) + Send>,
    /// Signs of a change.
    pub(super) hints: mpsc::Receiver<Hint>,
}

/// The state of the discovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterState {
    pub(super) status: ClusterStatus,
    /// Why no node tells of the cluster.
    pub(super) uncertainty: Option<Outage>,
    /// The number of queries to nodes for their role so far.
    pub(super) probes: u64,
}

/// Follows a cluster until the future is dropped. It probes a working primary every `interval`.
pub(super) async fn run(
    config: ClusterConfig,
    interval: Duration,
    login: Login,
    dialer: Dialer,
    room: DiscoveryRoom,
    feeds: ClusterFeeds,
) {
    let (news, events) = mpsc::channel(NEWS);
    let machine = ClusterMachine::new(&config, interval, Instant::now());
    let driver = ClusterDriver {
        config: Arc::new(config),
        login,
        dialer,
        room,
        feeds,
        logged: Arc::default(),
        news,
        tasks: JoinSet::new(),
        followers: HashMap::new(),
        running: HashMap::new(),
        kept: HashMap::new(),
        probes: 0,
    };
    driver.run(machine, events).await;
}

/// Runs the actions of the machine.
struct ClusterDriver {
    config: Arc<ClusterConfig>,
    login: Login,
    dialer: Dialer,
    room: DiscoveryRoom,
    feeds: ClusterFeeds,
    /// Which warnings about nodes are logged already.
    logged: Arc<probe::LoggedProbes>,
    news: mpsc::Sender<ClusterEvent>,
    tasks: JoinSet<()>,
    followers: HashMap<Address, Followed>,
    /// The probe of each shard.
    running: HashMap<ShardNumber, AbortHandle>,
    /// The connection of each shard's last probe, for the next one. A probe under way has taken it.
    kept: HashMap<ShardNumber, Arc<Mutex<Option<KeptCheck>>>>,
    probes: u64,
}

/// The task that asks one node.
struct Followed {
    task: AbortHandle,
    /// The number of the node's present round.
    rounds: watch::Sender<u64>,
}

impl ClusterDriver {
    async fn run(mut self, mut machine: ClusterMachine, mut events: mpsc::Receiver<ClusterEvent>) {
        let mut batch = vec![ClusterEvent::Tick];
        let mut shown = ClusterState::default();
        loop {
            if !batch.is_empty() {
                for action in machine.handle(batch.drain(..), Instant::now()) {
                    self.carry_out(action);
                }
                let state = ClusterState {
                    status: machine.status(),
                    uncertainty: machine.uncertainty(),
                    probes: self.probes,
                };
                if state != shown {
                    shown = state.clone();
                    (self.feeds.show)(state);
                }
            }
            let wake_at = machine.wake_at();
            tokio::select! {
                _ = events.recv_many(&mut batch, NEWS) => {}
                Some(hint) = self.feeds.hints.recv() => batch.push(ClusterEvent::Hinted(hint)),
                () = sleep_until(wake_at) => batch.push(ClusterEvent::Tick),
                // Collect ended tasks so that they do not accumulate. Their results arrive as events.
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    fn carry_out(&mut self, action: ClusterAction) {
        match action {
            ClusterAction::Track(address) => self.track(address),
            ClusterAction::Forget(address) => {
                if let Some(follower) = self.followers.remove(&address) {
                    follower.task.abort();
                }
            }
            ClusterAction::Ask(part) => {
                let asked = |address: &Address| part.as_ref().is_none_or(|part| part.contains(address));
                for (_, follower) in self.followers.iter().filter(|(address, _)| asked(address)) {
                    follower.rounds.send_modify(|round| *round += 1);
                }
            }
            ClusterAction::Probe { shard, ticket, address, anew } => {
                self.probe(shard, ticket, address, anew);
            }
            ClusterAction::StopProbe(shard) => {
                self.kept.remove(&shard);
                if let Some(probe) = self.running.remove(&shard) {
                    probe.abort();
                }
            }
            ClusterAction::Publish { home, cluster } => self.publish(home, cluster),
            ClusterAction::Warn(text) => tracing::warn!("{text}"),
            ClusterAction::Inform(text) => tracing::info!("{text}"),
        }
    }

    fn track(&mut self, address: Address) {
        let mut dialer = self.dialer.clone();
        dialer.connect_timeout =
            dialer.connect_timeout.min(self.config.timeout.max(Duration::from_millis(500)));
        let (rounds, seen) = watch::channel(0);
        let follower = NodeFollower {
            address: address.clone(),
            config: Arc::clone(&self.config),
            login: self.login.clone(),
            dialer,
            news: self.news.clone(),
            rounds: seen,
        };
        let task = self.tasks.spawn(follower.run().in_current_span());
        if let Some(former) = self.followers.insert(address, Followed { task, rounds }) {
            former.task.abort();
        }
    }

    fn probe(&mut self, shard: ShardNumber, ticket: u64, address: Address, anew: bool) {
        self.probes += 1;
        let place = self.kept.entry(shard).or_default().clone();
        let kept = take(&place).filter(|_| !anew);
        let room = self.room.clone();
        let (dialer, login, news) = (self.dialer.clone(), self.login.clone(), self.news.clone());
        let logged = Arc::clone(&self.logged);
        let probe = async move {
            let (finding, kept) = probe::check(&address, &login, &dialer, &logged, &room, kept).await;
            if let Some(kept) = kept {
                put(&place, kept);
            }
            // The receiver is gone while discovery is being dropped.
            let _ = news.send(ClusterEvent::Probed { shard, ticket, finding }).await;
        };
        let task = self.tasks.spawn(probe.in_current_span());
        if let Some(former) = self.running.insert(shard, task) {
            former.abort();
        }
    }

    fn publish(&mut self, home: Topology, cluster: Arc<ClusterTopology>) {
        let former = self.feeds.cluster.send_replace(Arc::clone(&cluster));
        for shard in &cluster.shards {
            log_change(
                shard.number,
                former.shard(shard.number).map(|known| &known.topology),
                &shard.topology,
            );
        }
        if let Topology::Unknown(outage) = &home
            && cluster.shards.is_empty()
            && **outage != Outage::Starting
        {
            tracing::warn!("the cluster is not known: {outage}");
        }
        self.feeds.topology.send_if_modified(|known| {
            let differs = *known != home;
            *known = home;
            differs
        });
    }
}

fn take(place: &Mutex<Option<KeptCheck>>) -> Option<KeptCheck> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn put(place: &Mutex<Option<KeptCheck>>, kept: KeptCheck) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
}

/// Logs what has become of a shard.
fn log_change(shard: ShardNumber, former: Option<&Topology>, newest: &Topology) {
    let shard = shard.0;
    match (former, newest) {
        (Some(Topology::Known(_) | Topology::Failing(..)), Topology::Unknown(outage)) => {
            tracing::warn!(shard, "the shard has no primary: {outage}");
        }
        (Some(Topology::Known(_)), Topology::Failing(primary, sign)) => {
            tracing::info!(shard, address = %primary.address, %sign, "failover: respgate holds commands for the shard");
        }
        (former, Topology::Known(primary)) => {
            let known = former.is_some_and(
                |former| matches!(former, Topology::Known(known) if known.generation == primary.generation),
            );
            if !known {
                tracing::info!(
                    shard,
                    address = %primary.address,
                    generation = primary.generation.0,
                    config_epoch = primary.config_epoch,
                    "primary of a shard found"
                );
            }
        }
        _ => {}
    }
}
