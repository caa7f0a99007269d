//! The parts of one worker's side of an upstream, for the tasks that act on all of them.

use std::rc::Rc;

use super::connection::open::Dialing;
use super::fanin::fans::FanIns;
use super::leased::pool::LeasePool;
use super::replica::reads::ReplicaReads;
use super::shared::lanes::Lanes;

/// The parts of one worker's side of an upstream.
#[derive(Clone)]
pub(super) struct Parts {
    /// Opens the connections.
    pub(super) dialing: Rc<Dialing>,
    /// The leased connections.
    pub(super) pool: Rc<LeasePool>,
    /// The shared connections.
    pub(super) lanes: Rc<Lanes>,
    /// The connections of subscribers.
    pub(super) fans: Rc<FanIns>,
    /// The connections to replicas.
    pub(super) replicas: Rc<ReplicaReads>,
}
