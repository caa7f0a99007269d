//! Leaves a shared connection to the one client whose replies have outgrown it.
//!
//! Other clients would wait until the server has sent all replies of this client, although the client may have left. So
//! respgate opens another connection, and all other clients go on there; [`Queue::divide`] decides which requests move. The old
//! connection becomes a side lane. respgate reads it no faster than the client takes its replies, and closes it as soon as no
//! client waits for a reply on it.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Isolation, Pump, Served};
use crate::upstream::replies::Replies;
use crate::upstream::shared::batch::WriteBatcher;
use crate::upstream::shared::lane::{Lane, Order};
use crate::upstream::shared::lanes::Lanes;
use crate::upstream::shared::next::NextConnection;
use crate::upstream::shared::queue::Queue;

/// The pause after a failed attempt to isolate a client.
const PAUSE: Duration = Duration::from_secs(1);

/// A connection that was left to one client, and the requests that it still carries.
pub(in crate::upstream) struct LeftConnection {
    pub(in crate::upstream) requests: Queue,
    pub(in crate::upstream) served: Served,
}

impl Pump {
    /// Has the connection left to `client`, whose replies have outgrown it, unless that is needless or impossible.
    pub(super) fn outgrown_by(&mut self, client: &Rc<Replies>, lane: &Lane, lanes: &Lanes) {
        client.sizes().use_own();
        let ordered = !matches!(lane.ordered(), None | Some(Order::Replace));
        let impossible =
            lane.is_side() || lanes.is_of_replica() || ordered || self.demoted || self.fence.is_some();
        if self.is_isolating() || impossible || lanes.hold.is_failing_over() {
            return;
        }
        if self.isolation.retry_at.is_none_or(|at| at <= Instant::now()) {
            self.isolation = Isolation { client: Some(client.clone()), retry_at: None };
            lane.order(Order::Isolate);
        }
    }

    /// Gives the isolation up if it has become needless or impossible.
    pub(super) fn review_isolation(&mut self, lane: &Lane, lanes: &Lanes) {
        let Some(client) = &self.isolation.client else { return };
        let ordered = lane.ordered() == Some(Order::Isolate);
        if client.awaited() == 0 || !ordered || self.demoted || lanes.hold.is_failing_over() {
            self.isolation.client = None;
            lane.cancel_isolation();
        }
    }

    /// Takes note that no other connection could be opened. The next attempt is after [`PAUSE`].
    pub(in crate::upstream) fn cannot_isolate(&mut self, lane: &Lane) {
        self.isolation = Isolation { client: None, retry_at: Some(Instant::now() + PAUSE) };
        lane.cancel_isolation();
    }

    /// Goes on with the next connection, and returns the present one with the requests of the client whose replies have outgrown
    /// it. Returns `None` if there is no next connection, or no such client.
    pub(in crate::upstream) fn isolate(&mut self, lane: &Lane, lanes: &Lanes) -> Option<Box<LeftConnection>> {
        let client = self.isolation.client.clone()?;
        let next = self.next.take_if(|next| next.link.is_some())?;
        let NextConnection { link: Some(link), permit: Some(permit) } = next else { return None };
        let requests = lane.queue.borrow_mut().divide(&client, &lanes.nobody());
        tracing::debug!(
            upstream = lanes.dialing.config.name,
            requests = requests.len(),
            "respgate left a shared upstream connection to one client with large replies"
        );
        lanes.reports.counters.isolated.inc();
        lane.replaced(link.retires);
        lane.reopened(link.round_trip);
        let next = Self { unproven: self.unproven, ..Self::new(link, false) };
        let old = std::mem::replace(self, next);
        let batcher = WriteBatcher::new(old.link.round_trip);
        let pump = Self { batcher, isolation: Isolation::default(), closing: false, ..old };
        lane.answer_decided();
        Some(Box::new(LeftConnection { requests, served: Served { pump, permit } }))
    }
}
