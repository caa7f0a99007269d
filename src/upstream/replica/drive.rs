//! Drives a lane of a replica: opens its connection, and serves it while the replica may serve.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::lane::ReplicaLane;
use crate::upstream::connection::open::Connection;
use crate::upstream::connection::open_replica::ReplicaGreeting;
use crate::upstream::room::SharedPermit;
use crate::upstream::shared::lane::{Order, Phase};
use crate::upstream::shared::pump::Pump;

/// The time between two looks for an unused, silent or old connection.
const INSPECTION: Duration = Duration::from_secs(1);

/// Serves a new lane until its connection ends. The reads that it owes then stay in its queue.
pub(super) async fn serve(lane: &Rc<ReplicaLane>) {
    lane.lane.enter(Phase::Opening);
    match connect(lane).await {
        Ok((link, permit)) => {
            serve_connection(lane, link).await;
            drop(permit);
        }
        Err(why) => {
            let server = &lane.server;
            tracing::debug!(upstream = server.dialing().config.name, address = %server.address, why, "respgate cannot read from this replica");
            server.counters.note_connect_error(&why);
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
    let (id, generation) = (server.id.as_ref(), server.generation);
    let terms =
        ReplicaGreeting { alone: server.serves_alone(), in_cluster: server.serving.redirects().is_some() };
    let opened = server.dialing().open_replica(&server.address, id, generation, key, terms);
    let link = opened.await?;
    Ok((link, permit))
}

/// Serves the connection until it ends, or the replica may not serve any more.
async fn serve_connection(lane: &Rc<ReplicaLane>, link: Connection) {
    let server = &lane.server;
    let _open = server.counters.note_opened();
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
        let fit_until = lane.fit_until(now);
        proven |= fit_until.is_some();
        let partial = lane.lane.queue.borrow().front().is_some_and(|slot| slot.replies.is_partial());
        if (proven && fit_until.is_none() || server.is_retired(now)) && !partial {
            return Poll::Ready(());
        }
        if proven && unfit.deadline() <= now {
            unfit.as_mut().reset(fit_until.unwrap_or(now));
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
