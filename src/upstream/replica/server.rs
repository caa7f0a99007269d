//! One replica, as a worker sees it: where it is, what it has applied, and what opens connections to it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::time::Instant;

use super::counters::ReplicaCounters;
use super::terms::Terms;
use crate::replica::{Applied, ReplicaState};
use crate::topology::{Address, Generation, NodeId};
use crate::upstream::connection::open::Dialing;
use crate::upstream::hold::Hold;
use crate::upstream::room::SharedRoom;
use crate::upstream::shared::lanes::Lanes;

/// One replica of a primary of one generation.
pub struct ReplicaServer {
    pub(super) address: Address,
    pub(super) id: Option<NodeId>,
    pub(super) generation: Generation,
    /// What serves its connections.
    pub(super) serving: Rc<Lanes>,
    /// The connections that it may have, apart from those of other nodes.
    pub(super) room: Rc<SharedRoom>,
    /// What this worker counts for it.
    pub(super) counters: Rc<ReplicaCounters>,
    /// The hold of the primary.
    primary: Rc<Hold>,
    /// The newest sample; `None` once it is no replica of this primary any more.
    state: RefCell<Option<ReplicaState>>,
    /// When respgate sent the newest question that the primary has answered.
    primary_answered: Cell<Option<Instant>>,
}

impl ReplicaServer {
    /// Creates the replica of a sample. `serving` opens and serves its connections.
    pub(super) fn new(
        state: ReplicaState,
        generation: Generation,
        serving: Rc<Lanes>,
        counters: Rc<ReplicaCounters>,
        primary: Rc<Hold>,
    ) -> Rc<Self> {
        Rc::new(Self {
            address: state.address.clone(),
            id: state.node.clone(),
            generation,
            room: serving.room.clone(),
            serving,
            counters,
            primary,
            state: RefCell::new(Some(state)),
            primary_answered: Cell::default(),
        })
    }

    pub(super) fn dialing(&self) -> &Rc<Dialing> {
        &self.serving.dialing
    }

    /// Returns true if `state` is a sample of the same process.
    pub(super) fn is(&self, state: &ReplicaState) -> bool {
        self.address == state.address && self.id == state.node
    }

    /// Returns what `look` makes of the newest sample; `None` if the node is no replica of the primary any more.
    pub(super) fn with_state<T>(&self, look: impl FnOnce(&ReplicaState) -> Option<T>) -> Option<T> {
        self.state.borrow().as_ref().and_then(look)
    }

    /// Replaces the newest sample. respgate sent the newest question that the primary has answered at `primary_answered`.
    pub(super) fn set_state(&self, state: Option<ReplicaState>, primary_answered: Option<Instant>) {
        self.state.replace(state);
        self.primary_answered.set(primary_answered);
    }

    /// Returns what the node has applied, if it may serve at `now`.
    pub(super) fn applied(&self, now: Instant) -> Option<Applied> {
        self.with_state(|state| self.terms(now).applied(state, now))
    }

    /// Returns true if `reads-in-hold` lets replicas serve without their primary.
    pub(super) fn serves_alone(&self) -> bool {
        self.dialing().config.get().replicas_serve_alone()
    }

    /// Returns the terms on which the node may serve at `now`.
    pub(super) fn terms(&self, now: Instant) -> Terms {
        let config = self.dialing().config.get();
        let (generation, failing_over) = (self.primary.generation(), self.primary.is_failing_over());
        let serves_alone = config.replicas_serve_alone();
        // Before discovery knows the next primary, it knows none.
        let of_newest = generation.is_none_or(|generation| generation == self.generation);
        let held = serves_alone && of_newest && self.primary.is_active() && !self.primary.is_ordered();
        Terms {
            bound: config.lag_bound,
            is_current: generation == Some(self.generation) && !failing_over,
            serves_alone,
            hold_ends: held.then(|| now + self.primary.left()),
            primary_answered: self.primary_answered.get(),
        }
    }

    /// Returns true if the node is no replica of the primary any more, or may not serve without it.
    pub(super) fn is_retired(&self, now: Instant) -> bool {
        self.state.borrow().is_none() || !self.may_serve(now)
    }

    /// Returns true if replicas of this primary may serve at `now`.
    pub(super) fn may_serve(&self, now: Instant) -> bool {
        let terms = self.terms(now);
        terms.is_current || terms.hold_ends.is_some_and(|ends| now < ends)
    }
}
