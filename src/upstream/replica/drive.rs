//! Drives a lane of a replica: opens its connection, serves it while the replica may serve, and leaves its reads to the primary.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::lane::ReplicaLane;
use crate::metrics::Gauged;
use crate::upstream::connection::open::Connection;
use crate::upstream::room::SharedPermit;
use crate::upstream::shared::drive as primary;
use crate::upstream::shared::lane::{Order, Phase};
use crate::upstream::shared::lanes::Lanes;
use crate::upstream::shared::pump::Pump;
use crate::upstream::shared::queue::LossCause;

/// The time between two looks for an unused, silent or old connection.
const INSPECTION: Duration = Duration::from_secs(1);

/// Serves a new lane until its connection ends. `primary_lanes` take over what it owes.
pub(super) async fn drive(lane: &Rc<ReplicaLane>, primary_lanes: &Rc<Lanes>) {
    lane.lane.enter(Phase::Opening);
    // The replica belongs to the present primary, and is reached as that one is.
    let dialer = primary_lanes.dialing.dialer.borrow().clone();
    lane.server.dialing().dialer.replace(dialer);
    match connect(lane).await {
        Ok((link, permit)) => {
            serve(lane, link).await;
            drop(permit);
            leave_to_primary(lane, primary_lanes);
        }
        Err(why) => {
            let server = &lane.server;
            tracing::debug!(upstream = server.dialing().config.name, address = %server.address, why, "respgate cannot read from this replica");
            server.serving.reports.counters.connect_errors.inc();
        }
    }
    lane.note_ended();
    lane.lane.enter(Phase::Idle);
}

async fn connect(lane: &ReplicaLane) -> Result<(Connection, SharedPermit), String> {
    let server = &lane.server;
    let Some(permit) = server.room.take() else {
        server.room.close_unused();
        return Err("all shared connections of this worker to the replica are open".into());
    };
    let key = lane.lane.key();
    let link =
        server.dialing().open_replica(&server.address, server.id.as_ref(), server.generation, key).await?;
    Ok((link, permit))
}

/// Serves the connection until it ends, or the replica may not serve any more.
async fn serve(lane: &Rc<ReplicaLane>, link: Connection) {
    let server = &lane.server;
    let _gauge = Gauged::new(&server.serving.reports.counters, |counters| &counters.shared_open);
    lane.lane.reopened(link.round_trip);
    lane.lane.replaced(link.retires);
    let mut pump = Pump::new(link, false);
    lane.note_opened();
    lane.lane.enter(Phase::Open);
    let mut inspections = interval(INSPECTION);
    inspections.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unfit = pin!(sleep_until(Instant::now()));
    let mut proven = false;
    poll_fn(|cx| {
        let now = Instant::now();
        // Replies are read below only, so none reaches a client that the replica gave when it had fallen behind. The reply of which a
        // client has a part already was given before.
        let fit = lane.is_fit(now);
        proven |= fit;
        let partial = lane.lane.queue.borrow().front().is_some_and(|slot| slot.replies.is_partial());
        if (proven && !fit || lane.is_retired()) && !partial {
            return Poll::Ready(());
        }
        if proven && unfit.deadline() <= now {
            unfit.as_mut().reset(lane.fit_until(now));
        }
        let _ = unfit.as_mut().poll(cx);
        while inspections.poll_tick(cx).is_ready() {
            let config = server.dialing().config.get();
            lane.lane.inspect(Rc::strong_count(lane), config.response_timeout, config.lease_idle_timeout);
        }
        // The next connection is that of another lane.
        if lane.lane.ordered() == Some(Order::Replace) {
            return Poll::Ready(());
        }
        pump.poll(cx, &lane.lane, &server.serving).map(drop)
    })
    .await;
}

/// Moves the reads that the replica owes to the primary's lane. No session has sent anything there while these were due.
fn leave_to_primary(lane: &ReplicaLane, primary_lanes: &Rc<Lanes>) {
    let mut queue = lane.lane.queue.borrow_mut();
    let settled = queue.settle(LossCause::Superseded);
    if queue.is_empty() {
        return;
    }
    let counters = &lane.server.serving.reports.counters;
    counters.resent.add(settled.resent as u64);
    counters.replica_reads_returned.add(queue.len() as u64);
    let primary = primary::lane(primary_lanes, lane.lane.key());
    queue.move_to(&mut primary.queue.borrow_mut());
    primary.wake_driver();
}
