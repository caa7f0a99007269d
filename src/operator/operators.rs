//! Takes an operator's orders for upstreams: pause, resume and reconnect. `switch` adds the switch.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use super::follow::{Follow, HINTS, ORDERS, OperatorStatus, Order};
use super::overlay::{Overlay, Pause};
use super::target::{Target, TargetContext};
use crate::cluster::ClusterTopology;
use crate::discovery::DiscoveryStatus;
use crate::discovery::replicas::follow::SampledPlace;
use crate::hint::Hint;
use crate::tenant::Tenants;
use crate::topology::Topology;
use crate::upstream::UpstreamActivity;
use crate::upstream::access::Access;
use crate::upstream::config::UpstreamConfig;
use crate::worker::Worker;

/// The time between two questions to the workers whether they have done what was ordered.
pub(super) const PACE: Duration = Duration::from_millis(2);

/// The longest time that an order waits for the commands under way. An answer over HTTP must not take longer than 15 s.
pub(super) const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// The longest time that a reconnect waits until every connection is replaced.
const RECONNECT_LIMIT: Duration = Duration::from_secs(8);

/// The longest time that workers take to follow what was ordered.
const FOLLOW_LIMIT: Duration = Duration::from_secs(2);

/// The part of `hold-timeout` after which a pause ends by itself. The rest is left for the commands that wait, so that none of
/// them fails.
const PAUSE_PART: f64 = 0.9;

/// One upstream's way from discovery to the workers. It ends when every clone is dropped.
#[derive(Clone)]
pub struct Steered {
    /// The upstream's number, which no other upstream of the process ever has.
    pub number: usize,
    /// The settings of the connections.
    pub config: watch::Sender<UpstreamConfig>,
    /// The topology for workers.
    pub topology: watch::Receiver<Topology>,
    /// The cluster for workers; `None` while the upstream is none.
    pub cluster: watch::Receiver<Option<Arc<ClusterTopology>>>,
    /// How workers reach the primary.
    pub access: watch::Receiver<Access>,
    /// What the present discovery knows of the Sentinels.
    pub discovery: watch::Receiver<DiscoveryStatus>,
    /// Where replicas are sampled.
    pub sampled: watch::Receiver<SampledPlace>,
    /// Where workers send hints.
    pub hints: mpsc::Sender<Hint>,
    /// What operators have ordered.
    pub status: watch::Receiver<OperatorStatus>,
    /// Where the upstream is.
    pub target: watch::Receiver<Target>,
    pub(super) orders: mpsc::Sender<Order>,
    /// Held while a switch or a reconnect is under way, so that there is one at a time.
    pub(super) turn: Arc<Mutex<()>>,
}

/// Follows `target`, and starts the task between discovery and the workers of one upstream.
pub fn steer(number: usize, config: UpstreamConfig, target: Target, ctx: &TargetContext) -> Steered {
    let mut reach = target.open(&config, &config.name, ctx);
    reach.put_in_force(ctx);
    let mut overlay = Overlay::new();
    overlay.discover(reach.discovery.topology.borrow().clone());
    if let Some(cluster) = &reach.discovery.cluster {
        overlay.discover_cluster(cluster.borrow().clone());
    }
    let (topology, topology_seen) = watch::channel(overlay.topology());
    let (cluster, cluster_seen) = watch::channel(overlay.cluster());
    let (access, access_seen) = watch::channel(reach.access.clone());
    let (discovery, discovery_seen) = watch::channel(reach.discovery.status.borrow().clone());
    let (sampled, sampled_seen) = watch::channel(reach.sampled.clone());
    let (status, status_seen) = watch::channel(OperatorStatus::default());
    let configured = target.clone();
    let (target, target_seen) = watch::channel(target);
    let (hints, hinted) = mpsc::channel(HINTS);
    let (orders, ordered) = mpsc::channel(ORDERS);
    let name = config.name.as_str().into();
    let follow = Follow {
        name,
        overlay,
        reach,
        topology,
        cluster,
        access,
        discovery,
        status,
        target,
        sampled,
        ctx: ctx.clone(),
        configured,
        hints: hinted,
        orders: ordered,
    };
    tokio::spawn(follow.run());
    Steered {
        number,
        config: watch::Sender::new(config),
        topology: topology_seen,
        cluster: cluster_seen,
        access: access_seen,
        discovery: discovery_seen,
        sampled: sampled_seen,
        hints,
        status: status_seen,
        target: target_seen,
        orders,
        turn: Arc::default(),
    }
}

impl Steered {
    /// Returns the upstream's name.
    pub fn name(&self) -> String {
        self.config.borrow().name.clone()
    }
}

/// Takes an operator's orders for every upstream. A clone is cheap.
#[derive(Clone)]
pub struct Operators {
    /// The upstreams in force.
    pub upstreams: watch::Receiver<Vec<Steered>>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// The tenants in force, with respgate's own users.
    pub tenants: watch::Receiver<Tenants>,
    /// What every target needs to be followed.
    pub ctx: TargetContext,
    /// Who orders, for the state that is shown.
    pub by: Arc<str>,
}

/// The state of a pause when its order is answered.
#[derive(Clone, Copy, Debug)]
pub struct Paused {
    /// The time after which the pause ends by itself.
    pub deadline: Duration,
    /// The time after which commands that wait fail.
    pub hold_timeout: Duration,
    /// The number of commands that are still under way. Commands that block do not count.
    pub running: usize,
    /// The number of clients whose commands wait.
    pub waiting: u64,
    /// The number of connections that are open, without those of discovery.
    pub connections: u64,
    /// True if the upstream was paused already.
    pub again: bool,
}

/// The state of a reconnect when its order is answered.
#[derive(Clone, Copy, Debug)]
pub struct Reconnected {
    /// The number of former connections that are still in use.
    pub left: usize,
}

impl Operators {
    /// Returns the same for the orders of somebody, as the log shows him.
    pub fn ordered_by(&self, by: &str) -> Self {
        Self { by: by.into(), ..self.clone() }
    }

    /// Pauses an upstream: commands wait as in a failover. Returns when the commands under way have been answered, and with
    /// [`Pause::AtOnce`] every connection is closed, after [`DRAIN_LIMIT`] at the latest. The pause ends by itself after `deadline`.
    ///
    /// # Errors
    /// Returns the reason why there is no pause.
    pub async fn pause(
        &self,
        upstream: &str,
        pause: Pause,
        deadline: Option<Duration>,
    ) -> Result<Paused, String> {
        let chosen = self.find(upstream)?;
        let hold_timeout = chosen.config.borrow().hold_timeout;
        if hold_timeout.is_zero() {
            return Err(format!(
                "hold-timeout of upstream '{upstream}' is 0, so commands cannot wait: raise it to pause"
            ));
        }
        let deadline = deadline.unwrap_or_else(|| hold_timeout.mul_f64(PAUSE_PART));
        let again = chosen.status.borrow().paused.is_some();
        let (until, by) = (Instant::now() + deadline, self.by.clone());
        self.order(&chosen, |done| Order::Pause { pause, until, by, done }).await?;
        let limit = DRAIN_LIMIT.min(deadline);
        let activity = match pause {
            Pause::Drained => self.drained(&chosen, limit).await,
            Pause::AtOnce => self.disconnected(&chosen, limit).await,
        };
        if chosen.status.borrow().paused.is_none() {
            return Err(format!(
                "the pause of upstream '{upstream}' has ended before every command was answered"
            ));
        }
        let (running, waiting, connections) = (activity.unanswered, activity.waiting, activity.connections);
        Ok(Paused { deadline, hold_timeout, running, waiting, connections, again })
    }

    /// Ends the pause of an upstream. Returns how long it lasted, once every worker sends commands again.
    ///
    /// # Errors
    /// Returns an error if the upstream is not paused.
    pub async fn resume(&self, upstream: &str) -> Result<Duration, String> {
        let chosen = self.find(upstream)?;
        let since = chosen.status.borrow().paused.as_ref().map(|paused| paused.since);
        match (self.order(&chosen, |done| Order::Resume { done }).await?, since) {
            (true, Some(since)) => {
                self.followed(&chosen).await;
                Ok(since.elapsed())
            }
            _ => Err(format!("upstream '{upstream}' is not paused")),
        }
    }

    /// Replaces every connection to the primary of an upstream. Returns when no former one is in use, after
    /// [`RECONNECT_LIMIT`] at the latest.
    ///
    /// # Errors
    /// Returns the reason why nothing was done.
    pub async fn reconnect(&self, upstream: &str) -> Result<Reconnected, String> {
        let chosen = self.find(upstream)?;
        let Ok(_turn) = chosen.turn.try_lock() else { return Err(busy(upstream)) };
        if !matches!(*chosen.topology.borrow(), Topology::Known(_)) {
            return Err(format!(
                "upstream '{upstream}' has no primary that commands go to at this moment; try again when it has"
            ));
        }
        for worker in &self.workers {
            worker.reconnect(chosen.number).await;
        }
        let limit = Instant::now() + RECONNECT_LIMIT;
        loop {
            let left = self.activity(&chosen).await.former;
            if left == 0 || Instant::now() >= limit {
                return Ok(Reconnected { left });
            }
            sleep(PACE).await;
        }
    }

    /// Takes note of where the configuration says that an upstream is. It decides whether `/readyz` asks for a change of the
    /// configuration.
    ///
    /// # Errors
    /// Returns an error if there is no such upstream.
    pub async fn configured(&self, upstream: &str, target: Target) -> Result<(), String> {
        let chosen = self.find(upstream)?;
        self.order(&chosen, |done| Order::Configured { target: Box::new(target), done }).await
    }

    /// Returns where an upstream is now.
    ///
    /// # Errors
    /// Returns an error if there is no such upstream.
    pub fn target(&self, upstream: &str) -> Result<Target, String> {
        Ok(self.find(upstream)?.target.borrow().clone())
    }

    /// Returns the number of an upstream. Without a name, it is that of the only one.
    ///
    /// # Errors
    /// Returns an error if there is no such upstream, or if there are several and none is named.
    pub fn number(&self, upstream: Option<&str>) -> Result<usize, String> {
        let upstreams = self.upstreams.borrow();
        let named = |steered: &&Steered| upstream.is_none_or(|name| steered.config.borrow().name == name);
        match upstreams.iter().filter(named).collect::<Vec<_>>()[..] {
            [one] => Ok(one.number),
            _ => {
                let names: Vec<String> = upstreams.iter().map(Steered::name).collect();
                Err(format!("name one of the upstreams: {}", names.join(", ")))
            }
        }
    }

    pub(super) fn find(&self, upstream: &str) -> Result<Steered, String> {
        let upstreams = self.upstreams.borrow();
        upstreams.iter().find(|steered| steered.config.borrow().name == upstream).cloned().ok_or_else(|| {
            let names: Vec<String> = upstreams.iter().map(Steered::name).collect();
            format!("no upstream is named {upstream:?}; there are {}", names.join(", "))
        })
    }

    /// Gives an order to the task of an upstream. Returns its answer.
    pub(super) async fn order<T>(
        &self,
        chosen: &Steered,
        order: impl FnOnce(oneshot::Sender<T>) -> Order,
    ) -> Result<T, String> {
        let (done, answered) = oneshot::channel();
        let stopped = || "respgate is stopping".to_owned();
        chosen.orders.send(order(done)).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())
    }

    /// Waits until every worker follows the newest topology, for [`FOLLOW_LIMIT`] at most. A client whom an operator tells of
    /// the answer must not meet a worker that still does as before.
    pub(super) async fn followed(&self, chosen: &Steered) {
        let limit = Instant::now() + FOLLOW_LIMIT;
        for worker in &self.workers {
            while let Some(activity) = worker.activity(chosen.number).await {
                if activity.follows(&chosen.topology.borrow()) || Instant::now() >= limit {
                    break;
                }
                sleep(PACE).await;
            }
        }
    }

    /// Waits until every worker holds commands and no reply is due, for `limit` at most. Returns what the workers do then.
    pub(super) async fn drained(&self, chosen: &Steered, limit: Duration) -> UpstreamActivity {
        let until = Instant::now() + limit;
        loop {
            let activity = self.activity(chosen).await;
            if activity.holds && activity.unanswered == 0 || Instant::now() >= until {
                return activity;
            }
            sleep(PACE).await;
        }
    }

    /// Waits until [`Self::drained`] would return, and every connection is closed, for `limit` at most.
    async fn disconnected(&self, chosen: &Steered, limit: Duration) -> UpstreamActivity {
        let until = Instant::now() + limit;
        loop {
            let activity = self.drained(chosen, until - Instant::now()).await;
            if activity.connections == 0 || Instant::now() >= until {
                return activity;
            }
            sleep(PACE).await;
        }
    }

    /// Returns what all workers do at the upstream. `holds` is true if each of them holds commands or knows no primary.
    pub(super) async fn activity(&self, chosen: &Steered) -> UpstreamActivity {
        let mut sum = UpstreamActivity { holds: true, ..UpstreamActivity::default() };
        for worker in &self.workers {
            let Some(activity) = worker.activity(chosen.number).await else { continue };
            sum.holds &= activity.holds || activity.generation.is_none();
            sum.unanswered += activity.unanswered;
            sum.waiting += activity.waiting;
            sum.former += activity.former;
            sum.connections += activity.connections;
        }
        sum
    }
}

/// Returns the refusal of an order while another one is under way.
pub(super) fn busy(upstream: &str) -> String {
    format!("another switch or reconnect of upstream '{upstream}' is under way")
}
