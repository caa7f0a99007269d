//! Knows the replicas of an upstream, and picks one for a session that reads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::drive::drive;
use super::lane::ReplicaLane;
use super::node::ReplicaNode;
use super::pick::{Candidate, Picked, pick};
use super::server::ReplicaServer;
use super::waiting::WaitingSessions;
use crate::replica::answered_writes::AnsweredWrites;
use crate::replica::{ReplicaFeed, ReplicaSet, ReplicaState};
use crate::topology::Generation;
use crate::upstream::connection::open::{ConnectionKey, Dialing};
use crate::upstream::hold::Hold;
use crate::upstream::leased::pool::LeasePool;
use crate::upstream::reports::Reports;
use crate::upstream::room::SharedRoom;
use crate::upstream::shared::lanes::Lanes;
use crate::upstream::tasks::Tasks;

/// The time between two demands for a sample soon.
const SOON: Duration = Duration::from_millis(1);
/// The time between two demands that only keep the sampler at work.
const KEEP: Duration = Duration::from_secs(1);

/// The replicas of one worker's upstream.
pub(in crate::upstream) struct ReplicaReads {
    feed: ReplicaFeed,
    /// The lanes of the primary, which take over what a replica leaves.
    primary: Rc<Lanes>,
    nodes: RefCell<Vec<Rc<ReplicaNode>>>,
    waiting: Rc<WaitingSessions>,
    demanded: Cell<Option<Instant>>,
}

/// The replica for a session.
pub enum ReplicaChoice {
    /// This lane serves the session now.
    Lane(Rc<ReplicaLane>),
    /// No replica can serve the session now, but one will soon.
    Soon,
    /// No replica is within the bound of lag.
    Nobody,
}

impl ReplicaReads {
    pub(in crate::upstream) fn new(feed: ReplicaFeed, primary: Rc<Lanes>) -> Rc<Self> {
        Rc::new(Self {
            feed,
            primary,
            nodes: RefCell::default(),
            waiting: Rc::default(),
            demanded: Cell::default(),
        })
    }

    /// Follows the samples, and the primary, until the sampler ends.
    pub(in crate::upstream) async fn follow(self: Rc<Self>) {
        let mut newest = self.feed.newest.clone();
        loop {
            tokio::select! {
                changed = newest.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let set = newest.borrow_and_update().clone();
                    self.adopt(set);
                }
                () = self.primary.hold.changed() => {
                    self.nodes.borrow().iter().for_each(|node| node.wake_drivers());
                }
            }
            self.waiting.wake_all();
        }
    }

    /// Takes over newer samples.
    fn adopt(&self, ReplicaSet { generation, replicas }: ReplicaSet) {
        let mut nodes = self.nodes.borrow_mut();
        nodes.retain(|node| {
            let same = Some(node.server.generation) == generation;
            let state = replicas.iter().find(|state| same && node.server.is(state)).cloned();
            let keep = state.is_some();
            node.server.set_state(state);
            node.wake_drivers();
            keep
        });
        let Some(generation) = generation else { return };
        for state in replicas {
            if !nodes.iter().any(|node| node.server.is(&state)) {
                nodes.push(self.node(state, generation));
            }
        }
    }

    /// Creates a node. It shares the primary's settings, credentials and counters; its hold and its reports are its own, because its
    /// failures are no sign of a failover.
    fn node(&self, state: ReplicaState, generation: Generation) -> Rc<ReplicaNode> {
        let primary = &self.primary.dialing;
        let reports = Rc::new(Reports::of_replica(&primary.reports));
        let hold = Rc::new(Hold::new(primary.config.clone(), reports.clone()));
        let dialing = Rc::new(Dialing {
            config: primary.config.clone(),
            hold,
            reports,
            identities: primary.identities.clone(),
            server: Default::default(),
            ids: Default::default(),
            pause: Default::default(),
            scripts: primary.scripts.clone(),
            dialer: RefCell::new(primary.dialer.borrow().clone()),
            access: primary.access.clone(),
            buffers: primary.buffers.clone(),
            tasks: Tasks::new(primary.meter.clone()),
            meter: primary.meter.clone(),
        });
        let room = Rc::new(SharedRoom::new(primary.config.clone()));
        let serving = Rc::new(Lanes::of_replica(Rc::new(LeasePool::new(dialing)), room));
        ReplicaNode::new(ReplicaServer::new(state, generation, serving, self.primary.hold.clone()))
    }

    /// Chooses the replica for a session whose last one was `kept`, and that has seen what was answered before `floor`.
    pub(in crate::upstream) fn choose(
        &self,
        key: &ConnectionKey,
        kept: Option<&Rc<ReplicaLane>>,
        floor: Option<Instant>,
        now: Instant,
    ) -> ReplicaChoice {
        let nodes: Vec<Rc<ReplicaNode>> =
            self.nodes.borrow().iter().filter(|node| node.server.is_current()).cloned().collect();
        let Some(bound) = nodes.first().map(|node| node.server.bound()) else {
            self.demand(KEEP, now);
            return ReplicaChoice::Nobody;
        };
        let lanes: Vec<Rc<ReplicaLane>> = nodes.iter().map(|node| self.lane(node, key, now)).collect();
        let candidates: Vec<Candidate> = lanes
            .iter()
            .map(|lane| Candidate {
                // Nobody waits for a connection that the replica refuses.
                applied: lane
                    .applied()
                    .or_else(|| lane.server.state().filter(|_| !lane.has_ended()).map(|state| state.applied)),
                open: lane.lane.is_open() && lane.applied().is_some(),
                kept: kept.is_some_and(|kept| Rc::ptr_eq(kept, lane)),
                outstanding: lane.lane.queue.borrow().len(),
            })
            .collect();
        match pick(&candidates, bound, floor, now) {
            Picked::Replica(index) => {
                self.demand(KEEP, now);
                lanes.get(index).map_or(ReplicaChoice::Nobody, |lane| ReplicaChoice::Lane(lane.clone()))
            }
            Picked::Soon => {
                self.demand(SOON, now);
                ReplicaChoice::Soon
            }
            Picked::Nobody => {
                self.demand(KEEP, now);
                ReplicaChoice::Nobody
            }
        }
    }

    /// Returns the node's lane for this key. Starts one if there is none.
    fn lane(&self, node: &ReplicaNode, key: &ConnectionKey, now: Instant) -> Rc<ReplicaLane> {
        let (lane, new) = node.lane(key, now);
        if new {
            let (driven, primary, waiting) = (lane.clone(), self.primary.clone(), self.waiting.clone());
            self.primary.dialing.tasks.spawn(async move {
                drive(&driven, &primary).await;
                waiting.wake_all();
            });
        }
        lane
    }

    /// Has the replicas sampled soon, unless the last demand is younger than `unless`.
    fn demand(&self, unless: Duration, now: Instant) {
        if self.demanded.get().is_none_or(|last| now.saturating_duration_since(last) >= unless) {
            self.demanded.set(Some(now));
            // A demand that waits already serves this worker, too.
            let _ = self.feed.demand.try_send(());
        }
    }

    /// Has the replicas sampled soon, because a session has seen what they may lack.
    pub(in crate::upstream) fn sample_soon(&self, now: Instant) {
        self.demand(SOON, now);
    }

    /// Returns when the newest write of the clients without a tenant was answered.
    pub(in crate::upstream) fn answered_writes(&self) -> &Arc<AnsweredWrites> {
        &self.feed.answered
    }

    /// Keeps the sampler at work while a session goes on with its replica.
    pub(in crate::upstream) fn keep_sampling(&self, now: Instant) {
        self.demand(KEEP, now);
    }

    /// Wakes this client's session once, when another choice may be possible.
    pub(in crate::upstream) fn wait(&self, client: u64, waker: &Waker) {
        self.waiting.add(client, waker);
    }

    /// Removes the client from those that wait.
    pub(in crate::upstream) fn stop_waiting(&self, client: u64) {
        self.waiting.remove(client);
    }
}
