//! One replica, as a worker sees it: where it is, what it has applied, and what opens connections to it.

use std::cell::RefCell;
use std::rc::Rc;

use crate::replica::{LagBound, ReplicaState};
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
    /// The hold of the primary.
    primary: Rc<Hold>,
    /// The newest sample; `None` once it is no replica of this primary any more.
    state: RefCell<Option<ReplicaState>>,
}

impl ReplicaServer {
    /// Creates the replica of a sample. `serving` opens and serves its connections.
    pub(super) fn new(
        state: ReplicaState,
        generation: Generation,
        serving: Rc<Lanes>,
        primary: Rc<Hold>,
    ) -> Rc<Self> {
        Rc::new(Self {
            address: state.address.clone(),
            id: state.node.clone(),
            generation,
            room: serving.room.clone(),
            serving,
            primary,
            state: RefCell::new(Some(state)),
        })
    }

    pub(super) fn dialing(&self) -> &Rc<Dialing> {
        &self.serving.dialing
    }

    /// Returns true if `state` is a sample of the same process.
    pub(super) fn is(&self, state: &ReplicaState) -> bool {
        self.address == state.address && self.id == state.node
    }

    pub(super) fn state(&self) -> Option<ReplicaState> {
        self.state.borrow().clone()
    }

    /// Replaces the newest sample.
    pub(super) fn set_state(&self, state: Option<ReplicaState>) {
        self.state.replace(state);
    }

    /// Returns true if the node is no replica of the primary any more.
    pub(super) fn is_retired(&self) -> bool {
        self.state.borrow().is_none()
    }

    /// Returns the greatest lag of a replica that serves reads.
    pub(super) fn bound(&self) -> LagBound {
        self.dialing().config.get().lag_bound
    }

    /// Returns true if the node replicates from the primary that is in use, and no failover is under way.
    pub(super) fn is_current(&self) -> bool {
        self.primary.generation() == Some(self.generation) && !self.primary.is_failing_over()
    }
}
