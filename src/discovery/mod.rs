//! Finds the primary through Sentinels or at a fixed address, and publishes it.
//!
//! `machine` makes the decisions, without I/O. Its parts:
//! - `sentinel_table` keeps the newest answer of each Sentinel;
//! - `consensus` decides which node the Sentinels name together;
//! - `verify` checks whether that node itself says that it is the primary;
//! - `resolved` tells when the name of a fixed address leads to other IP addresses;
//! - `sign` tells whether a failover is about to replace it;
//! - `candidate` tells when to ask a replica whether a failover has promoted it already;
//! - `handover` decides when to follow a coordinated failover.
//!
//! `sentinel` holds the connections to one Sentinel, `event` parses what it sends, and `probe` asks a node for its
//! role. `cluster` follows a cluster, which has neither Sentinels nor one primary. `handover_watch` asks the nodes of a coordinated failover, and `primary_watch` the followed node and the resolver.
//! `replicas` samples the replication lag, and `read_replicas` samples the replicas that may serve reads; nothing here reads either. Discovery treats a fixed address as a node that Sentinels always name.

pub mod cluster;
pub mod config;
pub mod consensus;
pub mod event;
mod handover;
mod handover_watch;
mod machine;
mod node;
mod primary_watch;
mod probe;
pub mod read_replicas;
pub mod replicas;
mod resolved;
pub mod room;
pub mod sentinel_table;
mod candidate;
mod sentinel;
mod sign;
mod verify;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use crate::cluster::ClusterTopology;
use crate::discovery::cluster::status::ClusterStatus;
use crate::discovery::cluster::{ClusterFeeds, ClusterState};
use crate::discovery::config::{DiscoveryConfig, SentinelConfig};

use crate::discovery::handover::Parties;
use crate::discovery::handover_watch::HandoverWatch;
use crate::discovery::machine::{Action, Event, Machine};
use crate::discovery::primary_watch::{RoleWatch, watch_name};
use crate::discovery::room::DiscoveryRoom;
use crate::discovery::sentinel::Follower;
use crate::discovery::sentinel_table::SentinelStatus;
use crate::hint::Hint;
use crate::net::connect::Dialer;
use crate::rotation::login::Login;
use crate::topology::{Address, Generation, Outage, Topology};

/// The capacity of the hint queue. A full queue already causes a probe, so connections drop further hints.
const HINTS: usize = 64;

/// The capacity of the queue for events of Sentinels and probes.
const NEWS: usize = 64;

/// The delay of an answer to ROLE after which discovery probes a fixed address.
const LATE: Duration = Duration::from_millis(250);

/// The handle of a running discovery. Dropping it ends all its tasks and connections.
#[derive(Debug)]
pub struct Discovery {
    /// The newest topology; of a cluster, that of its home shard. Only discovery writes it.
    pub topology: watch::Receiver<Topology>,
    /// The newest state of the cluster; `None` if the upstream is none.
    pub cluster: Option<watch::Receiver<Arc<ClusterTopology>>>,
    /// Where connections report signs of a change. They use `try_send`, so that they never wait.
    pub hints: mpsc::Sender<Hint>,
    /// The status of the Sentinels, and the number of queries to them and to nodes.
    pub status: watch::Receiver<DiscoveryStatus>,
    /// Dropping the set aborts the driver's task, which drops all other tasks.
    _task: JoinSet<()>,
}

/// Discovery's inner state, for metrics and the status page.
#[derive(Clone, Debug, Default)]
pub struct DiscoveryStatus {
    /// Every Sentinel that discovery follows; empty with a fixed address.
    pub sentinels: Vec<SentinelStatus>,
    /// Why the Sentinels name no primary at present. Discovery keeps a primary that it verified before all the same.
    pub uncertainty: Option<Outage>,
    /// The number of query rounds to the Sentinels, or to the nodes of a cluster, so far.
    pub asks: u64,
    /// The number of queries to nodes for their role so far.
    pub probes: u64,
    /// The nodes of the cluster that discovery asks; `None` if the upstream is none.
    pub cluster: Option<ClusterStatus>,
}

/// How discovery opens its connections. Each dialer has its own TLS settings.
#[derive(Clone, Debug, Default)]
pub struct Dialers {
    /// Dials data nodes.
    pub data: Dialer,
    /// Dials Sentinels.
    pub sentinels: Dialer,
    /// The room for connections to the nodes of a cluster.
    pub room: DiscoveryRoom,
}

/// The credentials that discovery uses; by default none.
#[derive(Clone, Debug, Default)]
pub struct Logins {
    /// For data nodes, which discovery asks for their role.
    pub nodes: Login,
    /// For Sentinels.
    pub sentinels: Login,
}

/// Starts discovery on the current tokio runtime. `name` is the upstream's name, for logs.
///
/// Every `interval`, discovery opens a new connection to a working primary, which shows which node the address leads to.
/// As often, and every 500 ms at least with a fixed address, it sends ROLE on a connection that stays open, which shows
/// whether that node is still a primary, and looks up the name of a fixed address. If `interval` is zero, discovery does
/// none of this.
///
/// Discovery never ends by itself: it keeps trying at jittered intervals, whatever its peers do.
pub fn spawn(
    name: &str,
    config: DiscoveryConfig,
    interval: Duration,
    logins: Logins,
    dialers: Dialers,
) -> Discovery {
    let (topology, topology_seen) = watch::channel(Topology::Unknown(Arc::new(Outage::Starting)));
    let (status, status_seen) = watch::channel(DiscoveryStatus::default());
    let (hints, hints_seen) = mpsc::channel(HINTS);
    let (news_sender, news) = mpsc::channel(NEWS);
    let span = tracing::info_span!("discovery", upstream = name);
    let mut task = JoinSet::new();
    let config = match config {
        DiscoveryConfig::Cluster(config) => {
            let (cluster, cluster_seen) = watch::channel(Arc::default());
            let show = Box::new(move |state| show_cluster(&status, state));
            let feeds = ClusterFeeds { topology, cluster, show, hints: hints_seen };
            let run = cluster::run(config, interval, logins.nodes, dialers.data, dialers.room, feeds);
            task.spawn(run.instrument(span));
            let cluster = Some(cluster_seen);
            return Discovery { topology: topology_seen, cluster, hints, status: status_seen, _task: task };
        }
        config => config,
    };
    let driver = Driver {
        sentinel_config: match &config {
            DiscoveryConfig::Sentinel(config) => Some(Arc::new(config.clone())),
            DiscoveryConfig::Fixed(_) | DiscoveryConfig::Cluster(_) => None,
        },
        interval,
        watch_interval: config.watch_interval(interval),
        dialers,
        logins,
        logged: Arc::default(),
        topology,
        status,
        asks: watch::channel(0).0,
        news: news_sender,
        tasks: JoinSet::new(),
        followers: HashMap::new(),
        probe: None,
        candidate_probe: None,
        handover_watch: None,
        role_watch: None,
        probes: 0,
    };
    task.spawn(driver.run(config, hints_seen, news).instrument(span));
    Discovery { topology: topology_seen, cluster: None, hints, status: status_seen, _task: task }
}

/// Shows operators the state of a cluster's discovery.
fn show_cluster(status: &watch::Sender<DiscoveryStatus>, state: ClusterState) {
    let ClusterState { status: cluster, uncertainty, probes } = state;
    let (sentinels, asks) = (Vec::new(), cluster.refreshes);
    status.send_replace(DiscoveryStatus { sentinels, uncertainty, asks, probes, cluster: Some(cluster) });
}

/// Runs the actions of the machine.
struct Driver {
    sentinel_config: Option<Arc<SentinelConfig>>,
    /// The time between two probes of a working primary.
    interval: Duration,
    /// The time between two ROLE queries on an open connection, and between two name look-ups.
    watch_interval: Duration,
    dialers: Dialers,
    logins: Logins,
    /// Which warnings about nodes are logged already.
    logged: Arc<probe::LoggedProbes>,
    topology: watch::Sender<Topology>,
    status: watch::Sender<DiscoveryStatus>,
    asks: watch::Sender<u64>,
    news: mpsc::Sender<Event>,
    tasks: JoinSet<()>,
    followers: HashMap<Address, AbortHandle>,
    probe: Option<AbortHandle>,
    candidate_probe: Option<AbortHandle>,
    handover_watch: Option<AbortHandle>,
    /// The task that asks the node of this generation for its role on a connection that stays open.
    role_watch: Option<(Generation, AbortHandle)>,
    probes: u64,
}

impl Driver {
    async fn run(
        mut self,
        config: DiscoveryConfig,
        mut hints: mpsc::Receiver<Hint>,
        mut news: mpsc::Receiver<Event>,
    ) {
        let (mut machine, actions) = Machine::new(&config, self.interval, Instant::now());
        self.carry_out(actions);
        self.watch_name(&config);
        let mut event = Event::Tick;
        loop {
            let actions = machine.handle(event, Instant::now());
            self.carry_out(actions);
            self.status.send_replace(DiscoveryStatus {
                sentinels: machine.sentinels().to_vec(),
                uncertainty: machine.uncertainty().cloned(),
                asks: *self.asks.borrow(),
                probes: self.probes,
                cluster: None,
            });
            let wake_at = machine.wake_at();
            event = tokio::select! {
                Some(event) = news.recv() => event,
                Some(hint) = hints.recv() => Event::Hinted(hint),
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => Event::Tick,
                // Collect ended tasks so that they do not accumulate. Their results arrive as events.
                Some(_) = self.tasks.join_next() => Event::Tick,
            };
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Track(address) => self.track(address),
                Action::Forget(address) => {
                    if let Some(follower) = self.followers.remove(&address) {
                        follower.abort();
                    }
                }
                Action::Ask => self.asks.send_modify(|round| *round += 1),
                Action::Probe { ticket, address } => self.probe(ticket, address),
                Action::ProbeCandidate { ticket, address } => self.probe_candidate(ticket, address),
                Action::WatchHandover { ticket, parties } => self.watch_handover(ticket, parties),
                Action::StopHandoverWatch => {
                    if let Some(watch) = self.handover_watch.take() {
                        watch.abort();
                    }
                }
                Action::Publish(topology) => self.publish(topology),
                Action::Warn(text) => tracing::warn!("{text}"),
                Action::Inform(text) => tracing::info!("{text}"),
            }
        }
    }

    fn track(&mut self, address: Address) {
        let Some(follower) = self.follower(address.clone()) else { return };
        let task = self.tasks.spawn(follower.run().in_current_span());
        if let Some(former) = self.followers.insert(address, task) {
            former.abort();
        }
    }

    /// Returns a follower of this Sentinel; `None` with a fixed address.
    fn follower(&self, address: Address) -> Option<Follower> {
        let config = Arc::clone(self.sentinel_config.as_ref()?);
        let mut dialer = self.dialers.sentinels.clone();
        dialer.connect_timeout = dialer.connect_timeout.min(config.timeout);
        Some(Follower {
            address,
            config,
            login: self.logins.sentinels.clone(),
            dialer,
            news: self.news.clone(),
            asks: self.asks.subscribe(),
        })
    }

    fn watch_handover(&mut self, ticket: u64, parties: Parties) {
        let Some(leader) = self.follower(parties.leader.clone()) else { return };
        let watch = HandoverWatch {
            ticket,
            parties,
            login: self.logins.nodes.clone(),
            dialer: self.dialers.data.clone(),
            leader,
            news: self.news.clone(),
        };
        let task = self.tasks.spawn(watch.run().in_current_span());
        if let Some(former) = self.handover_watch.replace(task) {
            former.abort();
        }
    }

    fn probe(&mut self, ticket: u64, address: Address) {
        if let Some(former) = self.probe.take() {
            former.abort();
        }
        self.probes += 1;
        let (dialer, login, news) = (self.dialers.data.clone(), self.logins.nodes.clone(), self.news.clone());
        let (logged, fixed) = (self.logged.clone(), self.sentinel_config.is_none());
        let working = matches!(*self.topology.borrow(), Topology::Known(_));
        let overlap = if working { probe::OVERLAP_OF_WORKING } else { probe::OVERLAP };
        let probe = async move {
            let finding = if fixed {
                probe::probe_overlapping(address, login, dialer, logged, overlap).await
            } else {
                probe::probe(&address, &login, &dialer, &logged).await
            };
            // The receiver is gone while discovery is being dropped.
            let _ = news.send(Event::Probed { ticket, finding }).await;
        };
        self.probe = Some(self.tasks.spawn(probe.in_current_span()));
    }

    fn probe_candidate(&mut self, ticket: u64, address: Address) {
        if let Some(former) = self.candidate_probe.take() {
            former.abort();
        }
        self.probes += 1;
        let (dialer, login, news) = (self.dialers.data.clone(), self.logins.nodes.clone(), self.news.clone());
        let question = async move {
            let primary = probe::says_primary(&address, &login, &dialer).await;
            let _ = news.send(Event::CandidateProbed { ticket, primary }).await;
        };
        self.candidate_probe = Some(self.tasks.spawn(question.in_current_span()));
    }

    /// Starts to watch the name of the fixed address, if it has one.
    fn watch_name(&mut self, config: &DiscoveryConfig) {
        if let Some((host, port)) = config.watched_name()
            && !self.watch_interval.is_zero()
        {
            let watch = watch_name(host.to_owned(), port, self.watch_interval, self.news.clone());
            self.tasks.spawn(watch.in_current_span());
        }
    }

    /// Keeps a connection open to the node of this generation and asks it for its role.
    fn watch_role(&mut self, topology: &Topology) {
        let Topology::Known(primary) = topology else { return };
        let generation = primary.generation;
        if self.interval.is_zero()
            || self.role_watch.as_ref().is_some_and(|(watched, _)| *watched == generation)
        {
            return;
        }
        let watch = RoleWatch {
            primary: primary.clone(),
            login: self.logins.nodes.clone(),
            dialer: self.dialers.data.clone(),
            news: self.news.clone(),
            interval: self.watch_interval,
            reopen: self.interval,
            // Sentinels tell of a frozen node.
            late: if self.sentinel_config.is_some() { probe::ANSWER_TIMEOUT } else { LATE },
        };
        let task = self.tasks.spawn(watch.run().in_current_span());
        if let Some((_, former)) = self.role_watch.replace((generation, task)) {
            former.abort();
        }
    }

    fn publish(&mut self, topology: Topology) {
        self.watch_role(&topology);
        match &topology {
            Topology::Unknown(outage)
                if matches!(**outage, Outage::Starting | Outage::Asking(_) | Outage::Verifying(_)) =>
            {
                tracing::debug!("no primary: {outage}");
            }
            Topology::Unknown(outage) => tracing::warn!("no primary: {outage}"),
            Topology::Failing(primary, sign) => {
                tracing::info!(address = %primary.address, %sign, "failover: respgate holds commands");
            }
            Topology::Known(primary) => tracing::info!(
                address = %primary.address,
                generation = primary.generation.0,
                config_epoch = primary.config_epoch,
                "primary found"
            ),
        }
        self.topology.send_replace(topology);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    async fn closed(mut stream: TcpStream) {
        let mut rest = Vec::new();
        let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "still open");
    }

    #[tokio::test]
    async fn dropping_it_closes_every_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::tcp("127.0.0.1", listener.local_addr().unwrap().port());
        let mut sentinel = SentinelConfig::new(vec![address.clone()], "mymaster");
        sentinel.timeout = Duration::from_secs(60);
        for config in [DiscoveryConfig::Sentinel(sentinel), DiscoveryConfig::Fixed(address)] {
            let discovery = spawn("db", config, Duration::ZERO, Logins::default(), Dialers::default());
            let (stream, _) = listener.accept().await.unwrap();
            drop(discovery);
            closed(stream).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hints_without_end_are_taken_in_and_dropped() {
        let address = Address::Unix("/nonexistent/server.sock".into());
        let mut discovery = spawn(
            "db",
            DiscoveryConfig::Fixed(address),
            Duration::ZERO,
            Logins::default(),
            Dialers::default(),
        );
        let outage =
            |topology: &Topology| matches!(topology, Topology::Unknown(why) if **why != Outage::Starting);
        discovery.topology.wait_for(outage).await.unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            let _ = discovery.hints.try_send(Hint::Lost(crate::topology::Generation(0)));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let probes = discovery.status.borrow().probes;
        assert!((50..=300).contains(&probes), "{probes} probes in a minute");
    }
}
