//! Knows the replicas of an upstream, and picks one for a session that reads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::counters::{CountersByReplica, ReplicaCounts};
use super::drive::serve;
use super::lane::ReplicaLane;
use super::node::ReplicaNode;
use super::pick::{Candidate, Picked, pick};
use super::server::ReplicaServer;
use super::waiting::WaitingSessions;
use crate::hint::Hint;
use crate::replica::answered_writes::AnsweredWrites;
use crate::replica::{ReplicaFeed, ReplicaSet, ReplicaState};
use crate::topology::{Address, Generation};
use crate::upstream::cluster_room::{NodeConnections, Spare};
use crate::upstream::connection::identity::Identity;
use crate::upstream::connection::open::{ConnectionKey, Dialing};
use crate::upstream::held::HeldBytes;
use crate::upstream::hold::Hold;
use crate::upstream::leased::pool::LeasePool;
use crate::upstream::reports::Reports;
use crate::upstream::room::SharedRoom;
use crate::upstream::shared::drive as primary;
use crate::upstream::shared::lane::Order;
use crate::upstream::shared::lanes::Lanes;
use crate::upstream::tasks::Tasks;

/// The time between two demands for a sample soon.
const SOON: Duration = Duration::from_millis(1);
/// The time between two demands that only keep the sampler at work.
const KEEP: Duration = Duration::from_secs(1);
/// The time that the reads of a lost replica wait for another replica before they go to the primary.
const TAKE_OVER: Duration = Duration::from_millis(50);

/// The replicas of one primary, as one worker uses them.
pub struct ReplicaReads {
    feed: RefCell<ReplicaFeed>,
    /// When the newest write of the clients without a tenant was answered.
    answered: Arc<AnsweredWrites>,
    /// The lanes of the primary, which take over what a replica leaves.
    primary: Rc<Lanes>,
    nodes: RefCell<Vec<Rc<ReplicaNode>>>,
    waiting: Rc<WaitingSessions>,
    /// Notified when newer samples are taken over.
    adopted: Notify,
    demanded: Cell<Option<Instant>>,
    counters: CountersByReplica,
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
            answered: feed.answered.clone(),
            feed: RefCell::new(feed),
            primary,
            nodes: RefCell::default(),
            waiting: Rc::default(),
            adopted: Notify::new(),
            demanded: Cell::default(),
            counters: CountersByReplica::default(),
        })
    }

    /// Replaces the feed. Returns false if it is the same. The caller runs [`Self::follow`] again: the former one ends with its sampler.
    pub(in crate::upstream) fn replace_feed(&self, feed: &ReplicaFeed) -> bool {
        if self.feed.borrow().newest.same_channel(&feed.newest) {
            return false;
        }
        self.feed.replace(feed.clone());
        true
    }

    /// Follows the samples, and the primary, until the sampler ends.
    pub(in crate::upstream) async fn follow(self: Rc<Self>) {
        let mut newest = self.feed.borrow().newest.clone();
        let hold = &self.primary.hold;
        loop {
            let in_hold = hold.is_active();
            tokio::select! {
                changed = newest.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let set = newest.borrow_and_update().clone();
                    self.adopt(set);
                }
                () = hold.changed() => self.wake_drivers(),
                () = hold.becomes(!in_hold) => self.wake_drivers(),
            }
            self.waiting.wake_all();
        }
    }

    /// Takes over newer samples.
    fn adopt(&self, ReplicaSet { generation, primary_answered, primary_lost, replicas }: ReplicaSet) {
        let in_hold = self.primary.hold.is_active();
        let serve_alone = self.primary.dialing.config.get().replicas_serve_alone();
        if primary_lost
            && serve_alone
            && !in_hold
            && let Some(generation) = generation
        {
            // The hold must begin before the bound of lag takes the replicas out of use.
            self.primary.reports.hint(Hint::Lost(generation));
        }
        let mut nodes = self.nodes.borrow_mut();
        nodes.retain(|node| {
            let same = Some(node.server.generation) == generation;
            let state = replicas.iter().find(|state| same && node.server.is(state)).cloned();
            let keep = state.is_some();
            node.server.set_state(state, primary_answered);
            node.wake_drivers();
            keep
        });
        let Some(generation) = generation else { return };
        for state in replicas {
            if !nodes.iter().any(|node| node.server.is(&state)) {
                let node = self.node(state.clone(), generation);
                node.server.set_state(Some(state), primary_answered);
                nodes.push(node);
            }
        }
        drop(nodes);
        self.adopted.notify_waiters();
    }

    /// Has every lane look whether it may still serve.
    fn wake_drivers(&self) {
        self.nodes.borrow().iter().for_each(|node| node.wake_drivers());
    }

    /// Creates a node. It shares the primary's settings, credentials and counters; its hold and its reports are its own, because its
    /// failures are no sign of a failover.
    fn node(&self, state: ReplicaState, generation: Generation) -> Rc<ReplicaNode> {
        let primary = &self.primary.dialing;
        let reports = Rc::new(Reports::of_replica(&primary.reports));
        let hold = Rc::new(Hold::new(primary.config.clone(), reports.clone(), HeldBytes::default()));
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
            room: primary.room.clone(),
            access: primary.access.clone(),
            buffers: primary.buffers.clone(),
            tasks: Tasks::new(primary.meter.clone()),
            meter: primary.meter.clone(),
        });
        let room = Rc::new(SharedRoom::of_replica(primary.config.clone(), &primary.room));
        let serving = Lanes::of_replica(Rc::new(LeasePool::new(dialing)), room);
        let serving = Rc::new(serving.redirected_as(&self.primary));
        let counters = self.counters.of(&state.address);
        ReplicaNode::new(ReplicaServer::new(state, generation, serving, counters, self.primary.hold.clone()))
    }

    /// Chooses the replica for a session whose last one was `kept`, and that has seen what was answered before `floor`.
    pub fn choose(
        self: &Rc<Self>,
        key: &ConnectionKey,
        kept: Option<&Rc<ReplicaLane>>,
        floor: Option<Instant>,
        now: Instant,
    ) -> ReplicaChoice {
        self.choose_except(None, key, kept, floor, now)
    }

    /// As [`Self::choose`], without one of the replicas.
    fn choose_except(
        self: &Rc<Self>,
        except: Option<&Rc<ReplicaServer>>,
        key: &ConnectionKey,
        kept: Option<&Rc<ReplicaLane>>,
        floor: Option<Instant>,
        now: Instant,
    ) -> ReplicaChoice {
        let config = self.primary.dialing.config.get();
        let usable = |server: &Rc<ReplicaServer>| {
            server.may_serve(now) && except.is_none_or(|except| !Rc::ptr_eq(server, except))
        };
        let mut nodes: Vec<Rc<ReplicaNode>> =
            self.nodes.borrow().iter().filter(|node| usable(&node.server)).cloned().collect();
        // Among equals, the first is picked. Each worker knows only its own sessions, so workers must not all begin with the same one.
        fastrand::shuffle(&mut nodes);
        let lanes: Vec<Rc<ReplicaLane>> = nodes.iter().map(|node| self.lane(node, key, now)).collect();
        let near = |server: &ReplicaServer| {
            config.availability_zone.is_some()
                && server.with_state(|state| state.zone.clone()).as_deref()
                    == config.availability_zone.as_deref()
        };
        let candidates: Vec<Candidate> = lanes
            .iter()
            .zip(&nodes)
            .map(|(lane, node)| {
                let applied = lane.applied(now);
                Candidate {
                    open: lane.lane.is_open() && applied.is_some(),
                    // Nobody waits for a connection that the replica refuses.
                    applied: applied.or_else(|| node.server.applied(now).filter(|_| !lane.has_ended())),
                    kept: kept.is_some_and(|kept| Rc::ptr_eq(kept, lane)),
                    near: near(&node.server),
                    outstanding: lane.outstanding(),
                    sessions: node.sessions(),
                }
            })
            .collect();
        let picked = pick(&candidates, floor);
        self.demand(if picked == Picked::Soon { SOON } else { KEEP }, now);
        match picked {
            Picked::Replica(index) => {
                lanes.get(index).map_or(ReplicaChoice::Nobody, |lane| ReplicaChoice::Lane(lane.clone()))
            }
            Picked::Soon => ReplicaChoice::Soon,
            Picked::Nobody => ReplicaChoice::Nobody,
        }
    }

    /// Returns the node's lane for this key. Starts one if there is none.
    fn lane(self: &Rc<Self>, node: &ReplicaNode, key: &ConnectionKey, now: Instant) -> Rc<ReplicaLane> {
        let (lane, new) = node.lane(key, now);
        if new {
            let (driven, reads) = (lane.clone(), self.clone());
            // The replica belongs to the present primary, and is reached as that one is.
            let dialer = self.primary.dialing.dialer.borrow().clone();
            node.server.dialing().dialer.replace(dialer);
            self.primary.dialing.tasks.spawn(async move {
                serve(&driven).await;
                reads.waiting.wake_all();
                reads.pass_on(&driven).await;
            });
        }
        lane
    }

    /// Passes on the reads that a lost lane owes: to another replica, if that has applied everything that their clients can have seen
    /// before now, and else to the primary's lane. No client has sent a write while these were due.
    async fn pass_on(self: &Rc<Self>, lost: &ReplicaLane) {
        let (now, key) = (Instant::now(), lost.lane.key());
        let owed = lost.settle();
        if owed == 0 {
            return;
        }
        self.primary.reports.counters.replica_reads_returned.add(owed as u64);
        let deadline = now + TAKE_OVER;
        loop {
            match self.choose_except(Some(&lost.server), key, None, Some(now), Instant::now()) {
                ReplicaChoice::Lane(other) => return lost.move_reads_to(&other.lane),
                ReplicaChoice::Nobody => break,
                ReplicaChoice::Soon => {}
            }
            if timeout_at(deadline, self.adopted.notified()).await.is_err() {
                break;
            }
        }
        lost.move_reads_to(&primary::lane(&self.primary, key));
    }

    /// Has the replicas sampled soon, unless the last demand is younger than `unless`.
    fn demand(&self, unless: Duration, now: Instant) {
        if self.demanded.get().is_none_or(|last| now.saturating_duration_since(last) >= unless) {
            self.demanded.set(Some(now));
            // A demand that waits already serves this worker, too.
            let _ = self.feed.borrow().demand.try_send(());
        }
    }

    /// Has the replicas sampled soon, because a session has seen what they may lack.
    pub fn sample_soon(&self, now: Instant) {
        self.demand(SOON, now);
    }

    /// Returns when the newest write of the clients without a tenant was answered.
    pub(in crate::upstream) fn answered_writes(&self) -> &Arc<AnsweredWrites> {
        &self.answered
    }

    /// Keeps the sampler at work while a session goes on with its replica.
    pub fn keep_sampling(&self, now: Instant) {
        self.demand(KEEP, now);
    }

    fn every_lane(&self) -> Vec<Rc<ReplicaLane>> {
        self.nodes.borrow().iter().flat_map(|node| node.every_lane()).collect()
    }

    /// Has the connections of one identity (`None`: of all) replaced, each at a time that `at` returns.
    pub(in crate::upstream) fn retire_by(&self, identity: Option<&Identity>, at: impl Fn() -> Instant) {
        let lanes = self.every_lane();
        let applies = |lane: &&Rc<ReplicaLane>| {
            identity.is_none_or(|identity| lane.lane.key().identity.id() == identity.id())
        };
        lanes.iter().filter(applies).for_each(|lane| lane.lane.retire_by(at()));
    }

    /// Has every open connection replaced now. The reads that it owes go to the primary.
    pub(in crate::upstream) fn replace_all(&self) {
        let lanes = self.every_lane();
        lanes.iter().filter(|lane| lane.lane.is_connected()).for_each(|lane| lane.lane.order(Order::Replace));
    }

    /// Returns the number of open connections, and how many of them a reconnect has not replaced yet.
    pub(in crate::upstream) fn connections(&self) -> (u64, usize) {
        let open = self.nodes.borrow().iter().map(|node| node.server.counters.connections()).sum();
        let lanes = self.every_lane();
        let replacing =
            |lane: &&Rc<ReplicaLane>| lane.lane.is_connected() && lane.lane.ordered() == Some(Order::Replace);
        (open, lanes.iter().filter(replacing).count())
    }

    /// Returns what was counted for each replica.
    pub(in crate::upstream) fn counts(&self) -> Vec<(Address, ReplicaCounts)> {
        let nodes = self.nodes.borrow();
        self.counters.snapshot(|address| {
            let of_replica = nodes.iter().filter(|node| node.server.address == *address);
            let lanes = of_replica.flat_map(|node| node.every_lane());
            lanes.map(|lane| lane.lane.queue.borrow().len() as u64).sum()
        })
    }

    /// Returns true if commands wait for the primary.
    pub fn in_hold(&self) -> bool {
        self.primary.hold.is_active()
    }

    /// Returns true if commands wait for the primary, and replicas may answer reads meanwhile.
    pub fn serve_in_hold(&self) -> bool {
        self.in_hold() && self.primary.dialing.config.get().replicas_serve_alone()
    }

    /// Wakes every session that waits for a replica, so that it looks again where its read belongs.
    pub(in crate::upstream) fn wake_waiting(&self) {
        self.waiting.wake_all();
    }

    /// Wakes this client's session once, when another choice may be possible.
    pub fn wait(&self, client: u64, waker: &Waker) {
        self.waiting.add(client, waker);
    }

    /// Removes the client from those that wait.
    pub fn stop_waiting(&self, client: u64) {
        self.waiting.remove(client);
    }
}

impl NodeConnections for ReplicaReads {
    fn close_spare(&self, kind: Spare) -> bool {
        let lanes = self.every_lane();
        let spare = |lane: &&Rc<ReplicaLane>| lane.lane.is_connected() && lane.lane.ordered().is_none();
        // The primary answers the reads that it owes.
        kind == Spare::Replica
            && lanes.iter().find(spare).inspect(|lane| lane.lane.order(Order::Replace)).is_some()
    }

    fn serve_waiting(&self) -> bool {
        false
    }

    fn waits_for_room(&self) -> bool {
        false
    }
}
