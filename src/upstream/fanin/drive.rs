//! What drives a fan-in: opens its link when a subscription is wanted, and another one when it is lost.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::pump::{LinkEnd, Pump};
use super::{FanIn, Upstream, shown};
use crate::metrics::Gauged;
use crate::net::backoff::Backoff;
use crate::resp::Resp;
use crate::topology::{Generation, Hint};
use crate::upstream::SharedPermit;
use crate::upstream::connection::open::{
    ConnectError, Connection, ConnectionKey, NeedlessPassword, Purpose, open,
};

/// Bounds of the time between two attempts to open the link.
const AGAIN_MIN: Duration = Duration::from_millis(20);
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// A link that has lasted so long counts as a success.
const STEADY: Duration = Duration::from_secs(5);

/// Serves `fan` until no session uses it any more.
pub(super) async fn drive(fan: Rc<FanIn>, upstream: Rc<Upstream>) {
    let mut backoff = Backoff::new(AGAIN_MIN, AGAIN_MAX);
    // Kept while the link is made again, so that nobody else takes its room.
    let mut permit: Option<SharedPermit> = None;
    // Subscriptions are the same in all databases; the user may be one that must not SELECT.
    let key = ConnectionKey::new(fan.identity.clone(), 0, Resp::V3);
    while wanted(&fan, &upstream, &mut permit).await {
        let Some(primary) = upstream.primary().filter(|_| !upstream.holding()) else {
            pause(&fan, &upstream, None).await;
            continue;
        };
        if permit.is_none() {
            permit = upstream.shared_permit();
        }
        if permit.is_none() {
            if upstream.spare_unused() {
                tokio::time::sleep(AGAIN_MIN).await;
                continue;
            }
            fan.table.borrow_mut().refuse_unsent(&upstream.at_limit());
            tokio::time::sleep(AGAIN_MAX).await;
            continue;
        }
        match open(&upstream, &primary, &key, NeedlessPassword::Accepted, Purpose::Shared).await {
            Ok(link) if Some(link.generation) == upstream.generation() => {
                upstream.end_hold();
                let opened = Instant::now();
                serve(&fan, &upstream, &key, link).await;
                if opened.elapsed() >= STEADY {
                    backoff.reset();
                }
                if upstream.generation() == Some(primary.generation) {
                    pause(&fan, &upstream, Some(backoff.next_delay())).await;
                }
            }
            Ok(_) => {}
            Err(ConnectError::AuthRequired(line)) => {
                upstream.note_auth_required(&key);
                refuse(&fan, &upstream, &line).await;
            }
            Err(ConnectError::Refused(line)) => refuse(&fan, &upstream, &line).await,
            Err(ConnectError::AuthRejected(refused)) => {
                match upstream.on_auth_rejected(&key.identity, &refused) {
                    Some(line) => refuse(&fan, &upstream, &line).await,
                    None => pause(&fan, &upstream, Some(backoff.next_delay())).await,
                }
            }
            Err(ConnectError::Unavailable(why)) => {
                upstream.note_fault(why);
                upstream.begin_hold();
                pause(&fan, &upstream, Some(backoff.next_delay())).await;
            }
        }
    }
}

/// Waits until a link is wanted; false when no session uses the fan-in any more.
async fn wanted(fan: &Rc<FanIn>, upstream: &Upstream, permit: &mut Option<SharedPermit>) -> bool {
    poll_fn(|cx| {
        fan.watch(cx.waker());
        if fan.names() > 0 {
            return Poll::Ready(true);
        }
        permit.take();
        let mut fans = upstream.fans.borrow_mut();
        // One reference is the map's, one the driver's.
        if Rc::strong_count(fan) <= 2 {
            fans.remove(&fan.identity.id());
            return Poll::Ready(false);
        }
        Poll::Pending
    })
    .await
}

/// Waits for news from discovery, for `delay` at most. Who has waited for as long as a hold may last is told.
async fn pause(fan: &FanIn, upstream: &Upstream, delay: Option<Duration>) {
    let deadline = match upstream.hold_deadline() {
        Ok(deadline) => deadline,
        Err(_) => {
            fan.refuse_held(upstream);
            give_up(fan, upstream, "there is no primary");
            Instant::now() + AGAIN_MAX
        }
    };
    let until = delay.map_or(deadline, |delay| deadline.min(Instant::now() + delay));
    let _ = tokio::time::timeout_at(until, upstream.changed()).await;
}

/// The server does not let respgate in as this user.
async fn refuse(fan: &FanIn, upstream: &Upstream, line: &[u8]) {
    match fan.identity.is_dead() {
        true => fan.table.borrow_mut().disconnect_unsent(line),
        false => drop(fan.table.borrow_mut().refuse_unsent(line)),
    }
    give_up(fan, upstream, &shown(line));
    let _ = tokio::time::timeout(AGAIN_MAX, upstream.changed()).await;
}

/// Whoever is subscribed hears nothing any more, and is disconnected so that it knows.
fn give_up(fan: &FanIn, upstream: &Upstream, why: &str) {
    let lost = fan.table.borrow_mut().lose_all();
    if lost > 0 {
        let upstream = &upstream.config.name;
        tracing::warn!(
            upstream,
            lost,
            why,
            "respgate disconnects subscribers: it cannot open their fan-in connection again"
        );
    }
}

async fn serve(fan: &Rc<FanIn>, upstream: &Rc<Upstream>, key: &ConnectionKey, link: Connection) {
    let generation = link.generation;
    let gauge = Gauged::new(&upstream.counters, |c| &c.fanin_open);
    fan.order.set(None);
    fan.ping.set(false);
    fan.auth.take();
    fan.refresh.set(upstream.refresh_of(key, link.began));
    fan.generation.set(Some(generation));
    let moved = fan.table.borrow_mut().connected();
    upstream.note_settled(0, 0, moved);
    let mut pump = Pump::new(link, &upstream.buffers);
    let end = poll_fn(|cx| pump.poll(cx, fan, upstream)).await;
    drop((pump, gauge));
    fan.generation.set(None);
    fan.table.borrow_mut().disconnected();
    report(fan, upstream, generation, end);
}

fn report(fan: &FanIn, upstream: &Upstream, generation: Generation, end: LinkEnd) {
    let name = &upstream.config.name;
    let subscribers = fan.table.borrow().sessions();
    let why = match end {
        LinkEnd::Superseded | LinkEnd::Unused => return,
        LinkEnd::NotPrimary => "the node is not the primary any more",
        LinkEnd::Silent => "no reply within response-timeout",
        LinkEnd::Lost => "the server closed it",
        LinkEnd::Framing(why) => {
            tracing::error!(
                upstream = name,
                why,
                subscribers,
                "respgate closed a fan-in connection: the server violated the protocol"
            );
            why
        }
    };
    upstream.counters.lost.inc();
    upstream.timelines.sign(generation, "a connection to the primary was lost", false);
    upstream.hint(match end {
        LinkEnd::NotPrimary => Hint::NotPrimary(generation),
        _ => Hint::Lost(generation),
    });
    if !matches!(end, LinkEnd::Framing(_)) {
        tracing::warn!(upstream = name, why, subscribers, "respgate lost a fan-in connection");
    }
}
