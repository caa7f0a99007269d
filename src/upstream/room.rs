//! Limits the shared connections of one worker to one node: those of lanes and those of fan-in together.

use crate::resp::error_line::ErrorLine;
use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use super::cluster_room::{ClusterPermit, ClusterRoom, CountedPrimary, Spare};
use super::config::LiveConfig;

/// The room for shared connections.
pub(super) struct SharedRoom {
    config: Rc<LiveConfig>,
    open: Rc<OpenShared>,
    /// Closes a connection that no session uses. Returns false if all are in use.
    close_unused: OnceCell<Box<dyn Fn() -> bool>>,
}

/// The shared connections to one node.
struct OpenShared {
    count: Cell<usize>,
    /// The room for the connections to all nodes of a cluster.
    cluster: Rc<ClusterRoom>,
    /// Counts the node if it is a primary.
    primary: Option<CountedPrimary>,
}

/// Room for one shared connection. Dropping it frees the room.
pub(super) struct SharedPermit {
    open: Rc<OpenShared>,
    _cluster: ClusterPermit,
}

impl SharedRoom {
    /// Creates the room at a primary.
    pub(super) fn of_primary(config: Rc<LiveConfig>, cluster: &Rc<ClusterRoom>) -> Self {
        Self::with(config, cluster, Some(cluster.count_primary()))
    }

    /// Creates the room at a replica.
    pub(super) fn of_replica(config: Rc<LiveConfig>, cluster: &Rc<ClusterRoom>) -> Self {
        Self::with(config, cluster, None)
    }

    fn with(config: Rc<LiveConfig>, cluster: &Rc<ClusterRoom>, primary: Option<CountedPrimary>) -> Self {
        let open = OpenShared { count: Cell::default(), cluster: cluster.clone(), primary };
        Self { config, open: Rc::new(open), close_unused: OnceCell::new() }
    }

    fn limit(&self) -> usize {
        self.config.get().max_shared()
    }

    /// Returns true if the limit of this node is reached.
    fn is_full(&self) -> bool {
        self.open.count.get() >= self.limit()
    }

    /// Takes room for one more shared connection; `None` if the limit of this node is reached, or that of all nodes of a cluster.
    pub(super) fn take(&self) -> Option<SharedPermit> {
        if self.is_full() {
            return None;
        }
        let count = self.open.count.get();
        let cluster = match &self.open.primary {
            Some(primary) => primary.take(count == 0),
            None => self.open.cluster.take(),
        }?;
        self.open.count.set(count + 1);
        Some(SharedPermit { open: self.open.clone(), _cluster: cluster })
    }

    /// Has a connection closed to make room for one that [`Self::take`] found none for. Returns false if all are in use, but true if
    /// they are those of other nodes of the cluster, and `patient`.
    pub(super) fn make_room(&self, patient: bool) -> bool {
        if self.is_full() {
            self.close_unused()
        } else {
            self.open.cluster.make_room(Spare::Quiet) || patient
        }
    }

    /// Sets what [`Self::close_unused`] calls.
    pub(super) fn on_close_unused(&self, close: impl Fn() -> bool + 'static) {
        let _ = self.close_unused.set(Box::new(close));
    }

    /// Closes a shared connection to this node that no session uses. Returns false if all are in use.
    pub(super) fn close_unused(&self) -> bool {
        self.close_unused.get().is_some_and(|close| close())
    }

    /// Returns the error line, for a command that needs one more shared connection than the limit allows.
    pub(super) fn limit_error(&self) -> ErrorLine {
        if !self.is_full()
            && let Some(line) = self.open.cluster.limit_error()
        {
            return line;
        }
        format!(
            "-ERR respgate: upstream '{}' has all {} shared connections of this worker open (one per user, database and protocol version, and one per user for fan-in); raise max-connections",
            self.config.name,
            self.limit()
        )
        .into_bytes()
        .into()
    }
}

impl Drop for SharedPermit {
    fn drop(&mut self) {
        let left = self.open.count.get().saturating_sub(1);
        self.open.count.set(left);
        if let Some(primary) = self.open.primary.as_ref().filter(|_| left == 0) {
            primary.set_reached(false);
        }
    }
}
