//! The fan-ins of one worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use super::link::{FanIn, FanInKey};
use crate::cluster::slot::Slot;
use crate::topology::Generation;
use crate::upstream::connection::identity::Identity;
use crate::upstream::connection::open::Dialing;
use crate::upstream::leased::pool::LeasePool;
use crate::upstream::room::SharedRoom;
use crate::upstream::shared::fair::fair_queue::Share;

/// The part of the byte budget that the subscriptions of all clients may take: a quarter. More are refused, so that no client is
/// disconnected because of other clients' subscriptions.
const BUDGET_PARTS: usize = 4;

/// The fan-ins of one worker to one upstream, and what serves them.
pub(in crate::upstream) struct FanIns {
    pub(in crate::upstream) dialing: Rc<Dialing>,
    pub(in crate::upstream) room: Rc<SharedRoom>,
    /// Has the room for connections that one session has to itself.
    pub(super) pool: Rc<LeasePool>,
    fans: RefCell<HashMap<FanInKey, Rc<FanIn>>>,
    /// The number of connections so far that one session has to itself.
    private: Cell<u64>,
}

impl FanIns {
    pub(in crate::upstream) fn new(dialing: Rc<Dialing>, room: Rc<SharedRoom>, pool: Rc<LeasePool>) -> Self {
        Self { dialing, room, pool, fans: RefCell::default(), private: Cell::default() }
    }

    /// Returns the fan-in of this user's subscriptions, if there is one.
    pub(super) fn get(&self, identity: &Identity) -> Option<Rc<FanIn>> {
        self.fans.borrow().get(&FanInKey::Identity(identity.id())).cloned()
    }

    /// Adds the fan-in of this user's subscriptions. The caller drives it.
    pub(super) fn add(&self, identity: &Rc<Identity>) -> Rc<FanIn> {
        self.insert(FanInKey::Identity(identity.id()), Share::default(), identity)
    }

    /// Adds a connection for one session, which waits as `share` for its room. The caller drives it.
    pub(super) fn add_private(&self, identity: &Rc<Identity>, share: Share) -> Rc<FanIn> {
        let number = self.private.replace(self.private.get() + 1);
        let fan = self.insert(FanInKey::Session(number), share, identity);
        fan.table.borrow_mut().tell_ends();
        fan
    }

    fn insert(&self, key: FanInKey, share: Share, identity: &Rc<Identity>) -> Rc<FanIn> {
        let fan = FanIn::new(key, share, identity.clone(), self.dialing.meter.clone());
        self.fans.borrow_mut().insert(key, fan.clone());
        fan
    }

    /// Removes the fan-in if only its driver still holds it. Returns true if it did.
    pub(super) fn forget_unused(&self, fan: &Rc<FanIn>) -> bool {
        let mut fans = self.fans.borrow_mut();
        // One reference is the map's, one the driver's.
        let unused = Rc::strong_count(fan) <= 2;
        if unused {
            fans.remove(&fan.key);
        }
        unused
    }

    /// Returns the number of names to which a session is subscribed, or asks to be.
    pub(in crate::upstream) fn names(&self) -> usize {
        self.fans.borrow().values().filter(|fan| !fan.is_private()).map(|fan| fan.names()).sum()
    }

    /// Returns the estimated size of the subscriptions that share connections, in bytes.
    pub(in crate::upstream) fn size(&self) -> usize {
        let fans = self.fans.borrow();
        fans.values().filter(|fan| !fan.is_private()).map(|fan| fan.table.borrow().size()).sum()
    }

    /// Returns true if a request of `bytes` bytes exceeds what the subscriptions of all clients of this worker may take. `size`: what
    /// they take now.
    pub(in crate::upstream) fn is_full(&self, size: usize, bytes: usize) -> bool {
        let budget = self.dialing.buffers.share().budget();
        size.saturating_add(bytes) > budget.limit() / BUDGET_PARTS / budget.workers()
    }

    /// Closes a connection that no session uses. Returns false if all are in use.
    pub(in crate::upstream) fn close_unused(&self) -> bool {
        self.fans.borrow().values().any(|fan| fan.retire_unused())
    }

    /// Has the connection of this identity authenticated again.
    pub(in crate::upstream) fn refresh(&self, identity: &Identity) {
        let fans = self.fans.borrow();
        fans.values().filter(|fan| fan.identity.id() == identity.id()).for_each(|fan| fan.refresh());
    }

    /// Has sessions leave with their shard channels for other shards, because other ones have got the slots for which `leaves` returns
    /// true.
    pub(in crate::upstream) fn slots_left(&self, leaves: impl Fn(Slot) -> bool) {
        let fans: Vec<Rc<FanIn>> = self.fans.borrow().values().cloned().collect();
        fans.iter().for_each(|fan| fan.slots_left(&leaves));
    }

    /// Has every session leave with its shard channels for other shards, because this one has left the cluster.
    pub(in crate::upstream) fn leave(&self) {
        let fans: Vec<Rc<FanIn>> = self.fans.borrow().values().cloned().collect();
        fans.iter().for_each(|fan| fan.leave());
    }

    /// Returns the identity of each connection that one session has to itself.
    pub(in crate::upstream) fn identities(&self) -> Vec<Rc<Identity>> {
        let fans = self.fans.borrow();
        fans.values().filter(|fan| fan.is_private()).map(|fan| fan.identity.clone()).collect()
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
