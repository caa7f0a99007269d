//! What drives a lane: opens its connection when one is wanted, pumps requests out and replies in, and settles
//! what is left when the connection ends.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::metrics::Gauged;
use crate::net::backoff::Backoff;
use crate::topology::{Generation, Hint};
use crate::upstream::connection::open::{
    ConnectError, Connection, ConnectionKey, NeedlessPassword, Purpose, open,
};
use crate::upstream::shared::lane::{Lane, Phase};
use crate::upstream::shared::pump::{Pump, PumpEnd};
use crate::upstream::shared::queue::{LossCause, Queue, Settled};
use crate::upstream::shared::replace::Replacement;
use crate::upstream::{SharedPermit, Upstream};

/// How often it is looked whether a connection that is to make room has been closed.
const ROOM_CHECK: Duration = Duration::from_millis(5);

/// A connection that serves a lane already.
pub(in crate::upstream) struct Served {
    pub(in crate::upstream) pump: Pump,
    pub(in crate::upstream) permit: SharedPermit,
}

/// Has `requests` answered on a side lane, at first by the connection that `served` is, if there is one.
pub(in crate::upstream) fn drive_aside(
    key: ConnectionKey,
    requests: Queue,
    upstream: &Rc<Upstream>,
    served: Option<Served>,
) {
    let (lane, upstream) = (Lane::side(key, requests), upstream.clone());
    // Before the task runs for the first time, a newer primary may cut all lanes.
    upstream.side_lanes.borrow_mut().push(lane.clone());
    let meter = upstream.meter.clone();
    meter.spawn_local(async move {
        drive(lane.clone(), upstream.clone(), served).await;
        upstream.side_lanes.borrow_mut().retain(|other| !Rc::ptr_eq(other, &lane));
    });
}

/// Serves `lane`, at first by the connection that `served` is, if there is one, until nobody uses it any more.
pub(in crate::upstream) async fn drive(lane: Rc<Lane>, upstream: Rc<Upstream>, mut served: Option<Served>) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    let mut refused = false;
    let mut last = None;
    loop {
        let Some(Served { pump, permit }) = (match served.take() {
            None if !wanted(&lane, &upstream).await => return,
            None => connect(&lane, &upstream, refused, &mut backoff).await,
            served => served,
        }) else {
            continue;
        };
        // What made another node close its connections says nothing about this one.
        let generation = pump.link().generation;
        if last.replace(generation).is_some_and(|before| before != generation) {
            lane.queue.borrow_mut().end_probation();
        }
        refused = serve(&lane, &upstream, pump).await;
        drop(permit);
        if refused && upstream.generation() == Some(generation) {
            // It may say that it is the primary and yet refuse: then it is not asked without a pause.
            let pause = tokio::time::timeout(backoff.next_delay(), upstream.changed());
            wait_or_fail(&lane, &upstream, async { drop(pause.await) }).await;
        }
    }
}

/// Makes one attempt to connect to the primary. Returns nothing if it failed, after a pause and after telling those who wait
/// for it what they must know. `refused`: the last connection ended because the node refused a command.
async fn connect(
    lane: &Rc<Lane>,
    upstream: &Rc<Upstream>,
    refused: bool,
    backoff: &mut Backoff,
) -> Option<Served> {
    let Some(primary) = upstream.primary() else {
        wait_or_fail(lane, upstream, upstream.changed()).await;
        return None;
    };
    let Some(permit) = upstream.shared_permit() else {
        if upstream.spare_unused() {
            tokio::time::sleep(ROOM_CHECK).await;
            return None;
        }
        let line = upstream.at_limit();
        lane.fail_all(&line);
        lane.enter(Phase::refused(line));
        return None;
    };
    lane.reset_orders();
    match open(upstream, &primary, lane.key(), NeedlessPassword::Accepted, Purpose::Shared).await {
        Ok(_) if upstream.generation() != Some(primary.generation) => {}
        Ok(link) => {
            if !refused {
                backoff.reset();
                upstream.end_hold();
            }
            return Some(Served { pump: Pump::new(link, refused), permit });
        }
        Err(ConnectError::Refused(line)) => refuse(lane, line),
        Err(ConnectError::AuthRejected(refused)) => {
            match upstream.on_auth_rejected(&lane.key().identity, &refused) {
                Some(line) => refuse(lane, line),
                None => {
                    drop(permit);
                    let pause = tokio::time::timeout(backoff.next_delay(), upstream.changed());
                    wait_or_fail(lane, upstream, async { drop(pause.await) }).await;
                }
            }
        }
        Err(ConnectError::AuthRequired(line)) => {
            upstream.note_auth_required(lane.key());
            refuse(lane, line);
        }
        Err(ConnectError::Unavailable(why)) => {
            upstream.note_fault(why);
            upstream.begin_hold();
            drop(permit);
            // News of another primary ends the pause.
            let pause = tokio::time::timeout(backoff.next_delay(), upstream.changed());
            wait_or_fail(lane, upstream, async { drop(pause.await) }).await;
        }
    }
    None
}

/// Waits until a connection is wanted; false when no session uses the lane any more.
async fn wanted(lane: &Rc<Lane>, upstream: &Upstream) -> bool {
    poll_fn(|cx| {
        lane.watch(cx.waker());
        if lane.wanted() {
            Poll::Ready(true)
        } else if lane.is_side() || upstream.forget_unused(lane) {
            Poll::Ready(false)
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Waits for `event`, but fails what is queued when the hold ends first.
async fn wait_or_fail(lane: &Lane, upstream: &Upstream, event: impl Future<Output = ()>) {
    let Ok(deadline) = upstream.hold_deadline() else {
        return fail_held(lane, upstream, event).await;
    };
    tokio::select! {
        () = event => {}
        () = tokio::time::sleep_until(deadline) => {}
    }
}

async fn fail_held(lane: &Lane, upstream: &Upstream, event: impl Future<Output = ()>) {
    let line = upstream.hold_expired();
    let failed = lane.fail_all(&line);
    upstream.counters.hold_expired.add(failed as u64);
    lane.enter(Phase::Opening);
    event.await;
}

fn refuse(lane: &Lane, line: Vec<u8>) {
    let line: Rc<[u8]> = line.into();
    match lane.key().identity.is_dead() {
        true => lane.fail_and_disconnect(&line),
        false => drop(lane.fail_all(&line)),
    }
    lane.enter(Phase::refused(line));
}

/// True if it ended because the node refused a command as only a non-primary does.
async fn serve(lane: &Rc<Lane>, upstream: &Rc<Upstream>, mut pump: Pump) -> bool {
    let &Connection { generation, round_trip, retires, .. } = pump.link();
    let gauge = Gauged::new(&upstream.counters, |counters| &counters.shared_open);
    lane.answer_decided();
    lane.enter(Phase::Open);
    lane.reopened(round_trip);
    lane.replaced(retires);
    let mut renewal = Replacement::default();
    let end = poll_fn(|cx| {
        let polled = pump.poll(cx, lane, upstream);
        if polled.is_pending() && !lane.is_side() {
            renewal.poll(cx, lane, upstream, &mut pump);
        }
        polled
    })
    .await;
    lane.close_gate(upstream.holding());
    let loss = match end {
        PumpEnd::Silent => LossCause::Silent,
        PumpEnd::Lost(_) | PumpEnd::Framing(_) if !pump.is_demoted() => LossCause::Broken,
        _ => LossCause::Superseded,
    };
    drop((pump, renewal, gauge));
    let settled = lane.queue.borrow_mut().settle(loss);
    upstream.note_settled(settled.resent, settled.unknown, 0);
    serve_apart(lane, upstream);
    lane.answer_decided();
    lane.enter(if lane.queue.borrow().is_empty() { Phase::Idle } else { Phase::Opening });
    report(upstream, generation, &end, settled);
    matches!(end, PumpEnd::NotPrimary)
}

/// Moves the client whose read made the server close the connection to a side lane.
fn serve_apart(lane: &Rc<Lane>, upstream: &Rc<Upstream>) {
    let Some(requests) = lane.queue.borrow_mut().take_culprit(&upstream.nobody()) else { return };
    drive_aside(lane.key().clone(), requests, upstream, None);
}

fn report(upstream: &Upstream, generation: Generation, end: &PumpEnd, settled: Settled) {
    let name = &upstream.config.name;
    let Settled { unknown, resent } = settled;
    let why = match end {
        PumpEnd::Superseded | PumpEnd::Unused => return,
        PumpEnd::Expired => return upstream.counters.replaced.inc(),
        PumpEnd::NotPrimary => "the node is not the primary any more",
        PumpEnd::Silent => "no reply within response-timeout",
        PumpEnd::Lost(why) | PumpEnd::Framing(why) => why,
    };
    upstream.counters.lost.inc();
    upstream.scripts.mark_unsure();
    upstream.timelines.sign(generation, "a connection to the primary was lost", false);
    upstream.hint(match end {
        PumpEnd::NotPrimary => Hint::NotPrimary(generation),
        _ => Hint::Lost(generation),
    });
    match end {
        PumpEnd::Framing(_) => tracing::error!(
            upstream = name,
            why,
            unknown,
            resent,
            "respgate closed a shared upstream connection: the server violated the protocol"
        ),
        _ if unknown + resent == 0 => tracing::debug!(upstream = name, why, "an unused connection ended"),
        _ => tracing::warn!(
            upstream = name,
            why,
            unknown,
            resent,
            "respgate lost a shared upstream connection"
        ),
    }
}
