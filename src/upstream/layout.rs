//! What an upstream consists of now: one primary, or the shards of a cluster. A switch may replace one by the other while sessions live.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;

use super::parts::{Common, Parts};
use super::shards::Shards;
use crate::cluster::ClusterTopology;
use crate::replica::ShardFeeds;
use crate::topology::Topology;

/// One worker's side of an upstream: one primary, or the shards of a cluster.
pub(super) struct Layout {
    common: Rc<Common>,
    /// The connections to the only primary, or to the home shard of a cluster.
    home: Parts,
    is_cluster: Cell<bool>,
    has_been_cluster: Cell<bool>,
    /// Rises whenever a cluster replaces one primary, and back.
    version: Cell<u64>,
    fair: Cell<bool>,
    /// The shards, once the upstream has been a cluster.
    shards: OnceCell<Rc<Shards>>,
    /// What is known of the replicas of each shard.
    feeds: watch::Receiver<Arc<ShardFeeds>>,
}

impl Layout {
    /// Creates the layout of the newest `cluster`, or of one primary.
    pub(super) fn new(
        common: Rc<Common>,
        home: Parts,
        fair: bool,
        feeds: watch::Receiver<Arc<ShardFeeds>>,
        cluster: Option<&ClusterTopology>,
    ) -> Rc<Self> {
        let layout = Rc::new(Self {
            common,
            home,
            is_cluster: Cell::default(),
            has_been_cluster: Cell::default(),
            version: Cell::default(),
            fair: Cell::new(fair),
            shards: OnceCell::new(),
            feeds,
        });
        layout.adopt(cluster);
        layout
    }

    /// Returns true while the upstream is a cluster.
    #[inline]
    pub(super) fn is_cluster(&self) -> bool {
        self.is_cluster.get()
    }

    /// Returns true if the upstream is a cluster, or has been one.
    #[inline]
    pub(super) fn has_been_cluster(&self) -> bool {
        self.has_been_cluster.get()
    }

    /// Returns a number that rises whenever a cluster replaces one primary, and back.
    pub(super) fn version(&self) -> u64 {
        self.version.get()
    }

    /// Returns the shards, once the upstream has been a cluster.
    #[inline]
    pub(super) fn shards(&self) -> Option<&Rc<Shards>> {
        self.shards.get()
    }

    /// Turns the fair scheduler on or off.
    pub(super) fn set_fair(&self, fair: bool) {
        self.fair.set(fair);
        self.home.lanes.set_fair(fair);
        if let Some(shards) = self.shards() {
            shards.set_fair(fair);
        }
    }

    /// Follows the topology of the only primary or of the home shard, and the cluster, for as long as the upstream exists.
    pub(super) async fn follow(
        self: Rc<Self>,
        mut topology: watch::Receiver<Topology>,
        mut cluster: watch::Receiver<Option<Arc<ClusterTopology>>>,
    ) {
        let mut home = Some(topology.borrow_and_update().clone());
        let mut newest = Some(cluster.borrow_and_update().clone());
        loop {
            // The cluster first. A switch publishes it while commands wait, and then the topology that lets them go on: a session must
            // not go on in the former layout. So the topology is read first.
            if let Some(cluster) = newest.take() {
                self.adopt(cluster.as_deref());
            }
            if let Some(home) = home.take() {
                self.home.adopt(&home);
            }
            tokio::select! {
                () = news(&mut topology) => {}
                () = news(&mut cluster) => {}
            }
            home = take_newest(&mut topology);
            newest = take_newest(&mut cluster);
        }
    }

    /// Takes over the newest state of the cluster; `None` stands for one primary.
    fn adopt(&self, cluster: Option<&ClusterTopology>) {
        let redirects = &self.common.redirects;
        if self.is_cluster.replace(cluster.is_some()) != cluster.is_some() {
            self.version.set(self.version.get() + 1);
            redirects.set_active(cluster.is_some());
            self.common.room.set_active(cluster.is_some());
            if cluster.is_some() {
                // The home shard serves the slots of some shard channels only.
                self.home.fans.leave();
            }
        }
        match (cluster, self.shards()) {
            (Some(cluster), _) => {
                self.has_been_cluster.set(true);
                let tasks = &self.home.dialing.tasks;
                let start =
                    || Shards::start(&self.common, &self.home, self.fair.get(), self.feeds.clone(), tasks);
                self.shards.get_or_init(start).adopt(cluster);
            }
            (None, Some(shards)) => {
                self.common.timelines.leave_cluster();
                shards.leave_all();
            }
            (None, None) => {}
        }
    }
}

/// Returns the newest value, if it is news.
fn take_newest<T: Clone>(seen: &mut watch::Receiver<T>) -> Option<T> {
    seen.has_changed().unwrap_or(false).then(|| seen.borrow_and_update().clone())
}

/// Completes with the next news; never once nobody publishes any more.
async fn news<T>(seen: &mut watch::Receiver<T>) {
    // `changed` would take the news as seen, and a select may drop it.
    match seen.changed().await {
        Ok(()) => seen.mark_changed(),
        Err(_) => std::future::pending().await,
    }
}
