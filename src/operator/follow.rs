//! Stands between discovery and the workers of one upstream: publishes what discovery finds as an operator's orders change
//! it, and passes hints on.

use std::sync::Arc;

use tokio::sync::watch::error::RecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::overlay::{Overlay, Pause};
use super::target::{Reach, Target, TargetContext};
use crate::cluster::ClusterTopology;
use crate::discovery::DiscoveryStatus;
use crate::discovery::replicas::follow::SampledPlace;
use crate::hint::Hint;
use crate::topology::{Primary, Topology};
use crate::upstream::access::Access;

/// The capacity of the queue of orders.
pub(super) const ORDERS: usize = 16;

/// The capacity of the hint queue. A full queue already causes a probe, so connections drop further hints.
pub(super) const HINTS: usize = 64;

/// An order to the task of one upstream.
pub(super) enum Order {
    /// Hold commands until `until`, unless the pause is ended or ordered again before.
    Pause { pause: Pause, until: Instant, by: Arc<str>, done: oneshot::Sender<()> },
    /// End the pause. Answers false if there is none.
    Resume { done: oneshot::Sender<bool> },
    /// Hold commands for a switch. Answers the primary that it leaves.
    BeginSwitch { to: Arc<str>, by: Arc<str>, done: oneshot::Sender<Result<Option<Arc<Primary>>, String>> },
    /// Send commands to the present server again: the switch did not succeed.
    EndSwitch { done: oneshot::Sender<()> },
    /// Send commands to another server, and end the switch and a pause that was ordered before it.
    Adopt { adopted: Box<Adopted>, done: oneshot::Sender<()> },
    /// Take note of where the configuration says that the upstream is.
    Configured { target: Box<Target>, done: oneshot::Sender<()> },
}

/// Where a switch leads.
pub(super) struct Adopted {
    pub(super) reach: Reach,
    pub(super) target: Target,
    /// True if the configuration says so.
    pub(super) is_configured: bool,
}

/// What operators have ordered for one upstream.
#[derive(Clone, Debug, Default)]
pub struct OperatorStatus {
    /// The pause, if the upstream is paused.
    pub paused: Option<PauseStatus>,
    /// The switch under way, while it holds commands.
    pub switching: Option<SwitchStatus>,
    /// Where the upstream is until the next start, if the configuration says otherwise.
    pub switched: Option<Arc<str>>,
    /// The number of switches since the start.
    pub switches: u64,
    /// True if the upstream has had a primary since the start.
    pub has_served: bool,
}

/// A pause that is in force.
#[derive(Clone, Debug)]
pub struct PauseStatus {
    /// Whether connections are closed too. A pause at once stays one if it is ordered again with a drain.
    pub pause: Pause,
    /// When it began.
    pub since: Instant,
    /// When it ends by itself.
    pub until: Instant,
    /// Who ordered it last, as in the log.
    pub by: Arc<str>,
}

/// A switch that holds commands.
#[derive(Clone, Debug)]
pub struct SwitchStatus {
    /// Where it leads.
    pub to: Arc<str>,
    /// When commands began to wait.
    pub since: Instant,
    /// Who ordered it, as in the log.
    pub by: Arc<str>,
}

/// The task of one upstream.
pub(super) struct Follow {
    pub(super) name: Arc<str>,
    pub(super) overlay: Overlay,
    pub(super) reach: Reach,
    pub(super) topology: watch::Sender<Topology>,
    /// The cluster for workers; `None` while the upstream is none.
    pub(super) cluster: watch::Sender<Option<Arc<ClusterTopology>>>,
    pub(super) access: watch::Sender<Access>,
    pub(super) discovery: watch::Sender<DiscoveryStatus>,
    pub(super) status: watch::Sender<OperatorStatus>,
    pub(super) target: watch::Sender<Target>,
    pub(super) sampled: watch::Sender<SampledPlace>,
    pub(super) ctx: TargetContext,
    /// Where the configuration says that the upstream is.
    pub(super) configured: Target,
    pub(super) hints: mpsc::Receiver<Hint>,
    pub(super) orders: mpsc::Receiver<Order>,
}

impl Follow {
    /// Runs until nobody can give orders any more.
    pub(super) async fn run(mut self) {
        loop {
            let until = self.status.borrow().paused.as_ref().map(|pause| pause.until);
            tokio::select! {
                changed = self.reach.discovery.topology.changed() => match changed {
                    Ok(()) => {
                        self.overlay.discover(self.reach.discovery.topology.borrow_and_update().clone());
                        self.publish();
                    }
                    Err(_) => return,
                },
                changed = changed(&mut self.reach.discovery.cluster) => match changed {
                    Ok(cluster) => {
                        self.overlay.discover_cluster(cluster);
                        self.publish();
                    }
                    Err(_) => return,
                },
                changed = self.reach.discovery.status.changed() => match changed {
                    Ok(()) => {
                        let status = self.reach.discovery.status.borrow_and_update().clone();
                        self.discovery.send_replace(status);
                    }
                    Err(_) => return,
                },
                Some(hint) = self.hints.recv() => {
                    if let Some(hint) = self.overlay.inner(hint) {
                        // One more hint would add nothing to a full queue.
                        let _ = self.reach.discovery.hints.try_send(hint);
                    }
                }
                order = self.orders.recv() => match order {
                    Some(order) => self.carry_out(order),
                    None => return,
                },
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    tracing::warn!(upstream = &*self.name, "the deadline of the pause has passed: commands are sent again");
                    self.resume();
                }
            }
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Pause { pause, until, by, done } => {
                let pause = self.overlay.pause(pause);
                let now = Instant::now();
                self.status.send_modify(|status| {
                    let since = status.paused.as_ref().map_or(now, |paused| paused.since);
                    status.paused = Some(PauseStatus { pause, since, until, by });
                });
                self.publish();
                let _ = done.send(());
            }
            Order::Resume { done } => {
                let _ = done.send(self.resume());
            }
            Order::BeginSwitch { to, by, done } => {
                let begun = self.overlay.begin_switch();
                if begun.is_ok() {
                    let switch = SwitchStatus { to, since: Instant::now(), by };
                    self.status.send_modify(|status| status.switching = Some(switch));
                }
                self.publish();
                let _ = done.send(begun);
            }
            Order::EndSwitch { done } => {
                self.overlay.end_switch();
                self.status.send_modify(|status| status.switching = None);
                self.publish();
                let _ = done.send(());
            }
            Order::Adopt { adopted, done } => {
                self.adopt(*adopted);
                let _ = done.send(());
            }
            Order::Configured { target, done } => {
                self.configured = *target;
                self.note_switched();
                let _ = done.send(());
            }
        }
    }

    fn adopt(&mut self, adopted: Adopted) {
        let Adopted { mut reach, target, is_configured } = adopted;
        let cluster = reach.discovery.cluster.as_mut().map(|cluster| cluster.borrow_and_update().clone());
        self.overlay.adopt(reach.discovery.topology.borrow_and_update().clone(), cluster);
        // Workers take it over together with the topology.
        self.access.send_replace(reach.access.clone());
        self.sampled.send_replace(reach.sampled.clone());
        self.status.send_modify(|status| {
            status.paused = status.paused.take().filter(|_| self.overlay.is_paused());
            status.switching = None;
            status.switches += 1;
        });
        if is_configured {
            self.configured = target.clone();
        }
        self.target.send_replace(target);
        self.note_switched();
        self.publish();
        // The former target leaves the lists before the new one enters them.
        self.reach = reach;
        self.reach.put_in_force(&self.ctx);
    }

    /// Notes where the upstream is, if the configuration says otherwise.
    fn note_switched(&self) {
        let target = self.target.borrow();
        let switched = (*target != self.configured).then(|| target.to_string().into());
        self.status.send_modify(|status| status.switched = switched);
    }

    /// Ends the pause. Returns false if there is none.
    fn resume(&mut self) -> bool {
        let paused = self.overlay.resume();
        self.status.send_modify(|status| status.paused = None);
        self.publish();
        paused
    }

    fn publish(&mut self) {
        let topology = self.overlay.topology();
        if topology.primary().is_some() && !self.status.borrow().has_served {
            self.status.send_modify(|status| status.has_served = true);
        }
        // The cluster first: if one replaces a primary, or a primary a cluster, workers must know it before commands go on.
        let cluster = self.overlay.cluster();
        if cluster.is_some() || self.cluster.borrow().is_some() {
            self.cluster.send_replace(cluster);
        }
        self.topology.send_replace(topology);
    }
}

/// Waits until the cluster changes, and returns it; waits for ever if the upstream is none.
async fn changed(
    cluster: &mut Option<watch::Receiver<Arc<ClusterTopology>>>,
) -> Result<Arc<ClusterTopology>, RecvError> {
    match cluster {
        Some(cluster) => {
            cluster.changed().await?;
            Ok(cluster.borrow_and_update().clone())
        }
        None => std::future::pending().await,
    }
}
