//! The fan-ins of one worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::link::FanIn;
use crate::topology::Generation;
use crate::upstream::connection::identity::Identity;
use crate::upstream::connection::open::Dialing;
use crate::upstream::room::SharedRoom;

/// The part of the byte budget that the subscriptions of all clients may take: a quarter. More are refused, so that no client is
/// disconnected because of other clients' subscriptions.
const BUDGET_PARTS: usize = 4;

/// The fan-ins of one worker to one upstream, and what serves them.
pub(in crate::upstream) struct FanIns {
    pub(in crate::upstream) dialing: Rc<Dialing>,
    pub(in crate::upstream) room: Rc<SharedRoom>,
    /// The fan-in of each identity, by the identity's number.
    fans: RefCell<HashMap<u64, Rc<FanIn>>>,
}

impl FanIns {
    pub(in crate::upstream) fn new(dialing: Rc<Dialing>, room: Rc<SharedRoom>) -> Self {
        Self { dialing, room, fans: RefCell::default() }
    }

    /// Returns the fan-in of this user's subscriptions, if there is one.
    pub(super) fn get(&self, identity: &Identity) -> Option<Rc<FanIn>> {
        self.fans.borrow().get(&identity.id()).cloned()
    }

    /// Adds the fan-in of this user's subscriptions. The caller drives it.
    pub(super) fn add(&self, identity: &Rc<Identity>) -> Rc<FanIn> {
        let fan = FanIn::new(identity.clone(), self.dialing.meter.clone());
        self.fans.borrow_mut().insert(identity.id(), fan.clone());
        fan
    }

    /// Removes the fan-in if only its driver still holds it. Returns true if it did.
    pub(super) fn forget_unused(&self, fan: &Rc<FanIn>) -> bool {
        let mut fans = self.fans.borrow_mut();
        // One reference is the map's, one the driver's.
        let unused = Rc::strong_count(fan) <= 2;
        if unused {
            fans.remove(&fan.identity.id());
        }
        unused
    }

    /// Returns the number of names to which a session is subscribed, or asks to be.
    pub(in crate::upstream) fn names(&self) -> usize {
        self.fans.borrow().values().map(|fan| fan.names()).sum()
    }

    /// Returns true if a request of `bytes` bytes exceeds what the subscriptions of all clients of this worker may take.
    pub(in crate::upstream) fn is_full(&self, bytes: usize) -> bool {
        let size: usize = self.fans.borrow().values().map(|fan| fan.table.borrow().size()).sum();
        let budget = self.dialing.buffers.share().budget();
        size.saturating_add(bytes) > budget.limit() / BUDGET_PARTS / budget.workers()
    }

    /// Closes a connection that no session uses. Returns false if all are in use.
    pub(in crate::upstream) fn close_unused(&self) -> bool {
        self.fans.borrow().values().any(|fan| fan.retire_unused())
    }

    /// Has the connection of this identity authenticated again.
    pub(in crate::upstream) fn refresh(&self, identity: &Identity) {
        if let Some(fan) = self.fans.borrow().get(&identity.id()) {
            fan.refresh();
        }
    }

    /// Wakes every driver.
    pub(in crate::upstream) fn wake(&self) {
        self.fans.borrow().values().for_each(|fan| fan.wake());
    }

    /// Ends every connection that is not of the `newest` generation.
    pub(in crate::upstream) fn cut(&self, newest: Option<Generation>) {
        self.fans.borrow().values().for_each(|fan| fan.cut(newest));
    }

    /// Checks every connection, once a second.
    pub(in crate::upstream) fn inspect(&self) {
        let Dialing { config, hold, reports, .. } = &*self.dialing;
        let config = config.get();
        self.fans.borrow().values().for_each(|fan| fan.inspect(&config, hold, reports));
    }
}
