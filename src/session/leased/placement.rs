//! Says where a lease is, in a cluster.

use std::rc::Rc;

use crate::cluster::slot::Slot;
use crate::session::cluster::LeaseTarget;
use crate::upstream::shards::Shard;

/// The number of times that nodes may redirect a request. The client then gets an error.
pub(super) const MAX_REDIRECTS: u8 = 16;

/// Where a lease stands in a cluster. The default stands for the home shard, and for an upstream that is no cluster.
#[derive(Default)]
pub(super) struct Placement {
    /// The shard; `None` for the connections of commands without keys.
    pub(super) shard: Option<Rc<Shard>>,
    /// The slot of the open transaction's keys, or of the watched keys, once one is named.
    pub(super) slot: Option<Slot>,
    /// Where the session goes on, if it must leave the connection.
    pub(super) moves_to: Option<LeaseTarget>,
    /// True if every command must follow an ASKING, because its slot is being moved to this node.
    pub(super) asks: bool,
    /// The version of the upstream's layout under which the lease began: one primary, or a cluster.
    pub(super) layout: u64,
    /// How often nodes have redirected the front request.
    pub(super) redirects: u8,
}

impl Placement {
    /// Returns the placement of a lease at `shard`, in an upstream of this layout.
    pub(super) fn at(target: &LeaseTarget, shard: Option<Rc<Shard>>, layout: u64) -> Self {
        let asks = matches!(target, LeaseTarget::Importing(_));
        Self { shard, asks, layout, ..Self::default() }
    }

    /// Returns true if the session must leave the connection because of where it is.
    pub(super) fn is_moving(&self) -> bool {
        self.moves_to.is_some()
    }

    /// Keeps what goes on at this lease from a `former` one.
    pub(super) fn follow(&mut self, former: &Self) {
        self.slot = former.slot;
        self.redirects = former.redirects;
    }

    /// Takes note that a node has run a request.
    pub(super) fn note_answered(&mut self) {
        self.redirects = 0;
    }
}
