//! Drives a lane: opens its connection when a session wants one, serves it, and settles the unanswered requests when it ends.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::Gauged;
use crate::net::backoff::Backoff;
use crate::resp::error_line::ErrorLine;
use crate::topology::Generation;
use crate::upstream::connection::open::{Connection, ConnectionKey, NeedlessPassword, Purpose};
use crate::upstream::room::SharedPermit;
use crate::upstream::shared::lane::{Lane, Phase};
use crate::upstream::shared::lanes::Lanes;
use crate::upstream::shared::pump::{Pump, PumpEnd, Served};
use crate::upstream::shared::queue::settle::Settled;
use crate::upstream::shared::queue::{LossCause, Queue};
use crate::upstream::shared::replace::Replacement;

/// The pause before the next look whether a connection that must make room has been closed.
const ROOM_CHECK: Duration = Duration::from_millis(5);

/// Returns the lane for this key. Starts one if there is none.
pub(in crate::upstream) fn lane(lanes: &Rc<Lanes>, key: &ConnectionKey) -> Rc<Lane> {
    lanes.get(key).unwrap_or_else(|| {
        let lane = lanes.add(key);
        lanes.dialing.tasks.spawn(drive(lane.clone(), lanes.clone(), None));
        lane
    })
}

/// Has `requests` answered on a side lane: first by the connection `served`, if it is given, then by new ones.
fn drive_aside(key: ConnectionKey, requests: Queue, lanes: &Rc<Lanes>, served: Option<Served>) {
    let (lane, lanes) = (Lane::side(key, requests), lanes.clone());
    // Before the task runs for the first time, a newer primary may cut all lanes.
    lanes.add_side(&lane);
    let dialing = lanes.dialing.clone();
    dialing.tasks.spawn(async move {
        drive(lane.clone(), lanes.clone(), served).await;
        lanes.remove_side(&lane);
    });
}

/// Serves `lane` until no session uses it any more: first by the connection `served`, if it is given, then by new ones.
async fn drive(lane: Rc<Lane>, lanes: Rc<Lanes>, mut served: Option<Served>) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    // True if the last connection ended because the node refused a command as only a non-primary does.
    let mut refused = false;
    let mut last = None;
    loop {
        let Some(Served { pump, permit }) = (match served.take() {
            None if !wanted(&lane, &lanes).await => return,
            None => connect(&lane, &lanes, refused, &mut backoff).await,
            served => served,
        }) else {
            continue;
        };
        // A read that made another node close its connections says nothing about this node.
        let generation = pump.link().generation;
        if last.replace(generation).is_some_and(|before| before != generation) {
            lane.queue.borrow_mut().end_probation();
        }
        refused = serve(&lane, &lanes, pump).await;
        drop(permit);
        if refused && lanes.hold.generation() == Some(generation) {
            // A node may say that it is the primary and yet refuse commands, so the next attempt waits.
            pause(&lane, &lanes, backoff.next_delay()).await;
        }
    }
}

/// Makes one attempt to connect to the primary. If it fails, tells the clients that must know, pauses, and returns `None`.
/// `refused`: the last connection ended because the node refused a command.
async fn connect(lane: &Rc<Lane>, lanes: &Rc<Lanes>, refused: bool, backoff: &mut Backoff) -> Option<Served> {
    let (dialing, hold) = (&lanes.dialing, &lanes.hold);
    let Some(primary) = hold.primary().filter(|_| !hold.is_disconnecting()) else {
        lanes.hand_over(lane);
        wait_or_fail(lane, lanes, hold.changed()).await;
        return None;
    };
    let permit = match take_room(lanes).await {
        Ok(permit) => permit,
        Err(line) => {
            lane.fail_all(&line);
            lane.enter(Phase::refused(line));
            return None;
        }
    };
    // That may have taken a while.
    if hold.generation() != Some(primary.generation) || hold.is_disconnecting() {
        return None;
    }
    lane.reset_orders();
    match dialing.open(&primary, lane.key(), NeedlessPassword::Accepted, Purpose::Shared).await {
        // The outcome of an attempt to reach a former primary says nothing about the new one.
        _ if hold.generation() != Some(primary.generation) || hold.is_disconnecting() => {}
        Ok(link) => {
            // After a refusal, only a reply shows that the node is the primary.
            if !refused {
                backoff.reset();
                hold.reached();
            }
            return Some(Served { pump: Pump::new(link, refused), permit });
        }
        Err(error) => match dialing.on_connect_error(&lane.key().identity, error) {
            Some(line) => refuse(lane, line),
            None => {
                drop(permit);
                pause(lane, lanes, backoff.next_delay()).await;
            }
        },
    }
    None
}

/// Takes room for a connection. Waits while others make room, and for `lease-timeout` at most while those to other nodes of a cluster are
/// all in use.
///
/// # Errors
/// Returns the error line for the clients.
async fn take_room(lanes: &Lanes) -> Result<SharedPermit, ErrorLine> {
    let mut patience: Option<Instant> = None;
    let mut checks = Backoff::new(ROOM_CHECK, ROOM_CHECK * 8);
    loop {
        if let Some(permit) = lanes.room.take() {
            return Ok(permit);
        }
        let timeout = lanes.dialing.config.get().lease_timeout;
        let until = *patience.get_or_insert_with(|| Instant::now() + timeout);
        if !lanes.room.make_room(Instant::now() < until) {
            return Err(lanes.room.limit_error());
        }
        tokio::time::sleep(checks.next_delay()).await;
    }
}

/// Waits until a connection is wanted. Returns false when no session uses the lane any more.
async fn wanted(lane: &Rc<Lane>, lanes: &Lanes) -> bool {
    poll_fn(|cx| {
        lane.watch(cx.waker());
        if lane.wanted() {
            Poll::Ready(true)
        } else if lane.is_side() || lanes.forget_unused(lane) {
            Poll::Ready(false)
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Waits for `delay` before the next attempt. News from discovery end the pause.
async fn pause(lane: &Lane, lanes: &Lanes, delay: Duration) {
    let pause = tokio::time::timeout(delay, lanes.hold.changed());
    wait_or_fail(lane, lanes, async { drop(pause.await) }).await;
}

/// Waits for `event`. Fails the queued requests if the hold expires first.
async fn wait_or_fail(lane: &Lane, lanes: &Lanes, event: impl Future<Output = ()>) {
    let Ok(deadline) = lanes.hold.deadline() else {
        return fail_held(lane, lanes, event).await;
    };
    tokio::select! {
        () = event => {}
        () = tokio::time::sleep_until(deadline) => {}
    }
}

async fn fail_held(lane: &Lane, lanes: &Lanes, event: impl Future<Output = ()>) {
    let line = lanes.hold.expired_error();
    let failed = lane.fail_all(&line);
    lanes.reports.counters.hold_expired.add(failed as u64);
    lane.enter(Phase::Opening);
    event.await;
}

fn refuse(lane: &Lane, line: ErrorLine) {
    match lane.key().identity.is_dead() {
        true => lane.fail_and_disconnect(&line),
        false => drop(lane.fail_all(&line)),
    }
    lane.enter(Phase::refused(line));
}

/// Serves the lane with one connection until it ends. Returns true if it ended because the node refused a command as only a
/// non-primary does.
async fn serve(lane: &Rc<Lane>, lanes: &Rc<Lanes>, mut pump: Pump) -> bool {
    let &Connection { generation, round_trip, retires, .. } = pump.link();
    let gauge = Gauged::new(&lanes.reports.counters, |counters| &counters.shared_open);
    lane.answer_decided();
    lane.enter(Phase::Open);
    lane.reopened(round_trip);
    lane.replaced(retires);
    let mut replacement = Replacement::default();
    let end = poll_fn(|cx| {
        let polled = pump.poll(cx, lane, lanes);
        if polled.is_pending()
            && !lane.is_side()
            && let Some(left) = replacement.poll(cx, lane, lanes, &mut pump)
        {
            drive_aside(lane.key().clone(), left.requests, lanes, Some(left.served));
        }
        polled
    })
    .await;
    lane.close_gate(lanes.hold.is_failing_over());
    let loss = match end {
        PumpEnd::Silent => LossCause::Silent,
        PumpEnd::Lost(_) | PumpEnd::Framing(_) if !pump.is_demoted() => LossCause::Broken,
        _ => LossCause::Superseded,
    };
    drop((pump, replacement, gauge));
    let settled = lane.queue.borrow_mut().settle(loss);
    lanes.reports.note_settled(settled.resent, settled.unknown, 0);
    if let Some(redirects) = lanes.redirects() {
        redirects.keep_order(lane, generation);
    }
    serve_culprit_aside(lane, lanes);
    lane.answer_decided();
    lane.enter(if lane.queue.borrow().is_empty() { Phase::Idle } else { Phase::Opening });
    report(lanes, generation, &end, settled);
    matches!(end, PumpEnd::NotPrimary)
}

/// Moves the client whose read made the server close the connection to a side lane.
fn serve_culprit_aside(lane: &Rc<Lane>, lanes: &Rc<Lanes>) {
    let Some(requests) = lane.queue.borrow_mut().take_culprit(&lanes.nobody()) else { return };
    drive_aside(lane.key().clone(), requests, lanes, None);
}

fn report(lanes: &Lanes, generation: Generation, end: &PumpEnd, settled: Settled) {
    let name = &lanes.dialing.config.name;
    let Settled { unknown, resent } = settled;
    let why = match end {
        PumpEnd::Superseded | PumpEnd::Unused => return,
        PumpEnd::Expired => return lanes.reports.counters.replaced.inc(),
        PumpEnd::NotPrimary => "the node is not the primary any more",
        PumpEnd::Silent => "no reply within response-timeout",
        PumpEnd::Lost(why) | PumpEnd::Framing(why) => why,
    };
    lanes.dialing.scripts.mark_unsure();
    lanes.reports.note_lost(generation, matches!(end, PumpEnd::NotPrimary));
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
