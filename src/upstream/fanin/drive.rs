//! Drives a fan-in: opens its connection when a session wants a subscription, and another one when it is lost.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::fans::FanIns;
use super::link::{FanIn, shown};
use super::pump::{LinkEnd, Pump};
use super::sink::{Owned, SubscriberSink};
use super::subscription::Subscription;
use crate::metrics::Gauged;
use crate::net::backoff::Backoff;
use crate::resp::Resp;
use crate::topology::Generation;
use crate::upstream::connection::identity::Identity;
use crate::upstream::connection::open::{Connection, ConnectionKey, NeedlessPassword, Purpose};
use crate::upstream::connection::reauth::refresh_of;
use crate::upstream::leased::pool::LeaseRoom;
use crate::upstream::replies::Replies;
use crate::upstream::room::SharedPermit;
use crate::upstream::shared::fair::fair_queue::Share;

/// The bounds of the pause between two attempts to open the connection.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// The time after which a connection counts as a success, so that the next pause is short again.
const STEADY: Duration = Duration::from_secs(5);

/// Returns the subscription of a session that acts as `identity`, speaks `resp`, and gets its messages by `replies`. Starts the
/// fan-in of this user if there is none.
pub(in crate::upstream) fn subscription(
    fans: &Rc<FanIns>,
    identity: &Rc<Identity>,
    resp: Resp,
    replies: &Rc<Replies>,
) -> Subscription {
    let fan = fans.get(identity).unwrap_or_else(|| {
        let fan = fans.add(identity);
        fans.dialing.tasks.spawn(drive(fan.clone(), fans.clone()));
        fan
    });
    let gauge = Gauged::new(&fans.dialing.reports.counters, |c| &c.fanin_subscribers);
    Subscription::new(fan, SubscriberSink::new(resp, replies, None), Some(gauge))
}

/// Returns one of several subscriptions of a client, which acts as `identity`, speaks `resp`, and gets its messages by `replies`. With
/// `private`, it has a connection to itself, and waits as that share for the room; otherwise it shares that of the user's fan-in.
pub(in crate::upstream) fn owned_subscription(
    fans: &Rc<FanIns>,
    identity: &Rc<Identity>,
    (resp, replies): (Resp, &Rc<Replies>),
    private: Option<Share>,
    owned: Owned,
) -> Subscription {
    let known = if private.is_some() { None } else { fans.get(identity) };
    let fan = known.unwrap_or_else(|| {
        let fan = match private {
            Some(share) => fans.add_private(identity, share),
            None => fans.add(identity),
        };
        fans.dialing.tasks.spawn(drive(fan.clone(), fans.clone()));
        fan
    });
    Subscription::new(fan, SubscriberSink::new(resp, replies, Some(owned)), None)
}

/// Room for the connection.
enum LinkPermit {
    /// Among the shared connections.
    Shared { _permit: SharedPermit },
    /// Among those that one session has to itself.
    Leased { _room: Box<LeaseRoom> },
}

/// Serves `fan` until no session uses it any more.
async fn drive(fan: Rc<FanIn>, fans: Rc<FanIns>) {
    let (dialing, hold) = (&fans.dialing, &fans.dialing.hold);
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    // The permit is kept between two connections, so that no other connection takes the room.
    let mut permit: Option<LinkPermit> = None;
    // Subscriptions are the same in all databases, and the user may lack the permission to SELECT.
    let key = ConnectionKey::new(fan.identity.clone(), 0, Resp::V3);
    while wanted(&fan, &fans, &mut permit).await {
        let Some(primary) = hold.primary().filter(|_| !hold.is_failing_over()) else {
            pause(&fan, &fans, None).await;
            continue;
        };
        if permit.is_none() && fan.is_private() {
            permit = take_room(&fan, &fans, &key).await;
            continue;
        }
        if permit.is_none() {
            permit = fans.room.take().map(|permit| LinkPermit::Shared { _permit: permit });
        }
        if permit.is_none() {
            if fans.room.make_room(false) {
                tokio::time::sleep(RETRY_MIN).await;
                continue;
            }
            fan.table.borrow_mut().refuse_unsent(&fans.room.limit_error());
            tokio::time::sleep(RETRY_MAX).await;
            continue;
        }
        match dialing.open(&primary, &key, NeedlessPassword::Accepted, Purpose::Shared).await {
            // The outcome of an attempt to reach a former primary says nothing about the new one.
            _ if hold.generation() != Some(primary.generation) || hold.is_disconnecting() => {}
            Ok(link) => {
                hold.reached();
                let opened = Instant::now();
                serve(&fan, &fans, link).await;
                if opened.elapsed() >= STEADY {
                    backoff.reset();
                }
                if hold.generation() == Some(primary.generation) && !fan.is_closed() {
                    pause(&fan, &fans, Some(backoff.next_delay())).await;
                }
            }
            Err(error) => match dialing.on_connect_error(&key.identity, error) {
                Some(line) => refuse(&fan, &fans, &line).await,
                None => pause(&fan, &fans, Some(backoff.next_delay())).await,
            },
        }
    }
}

/// Waits for room for a connection that one session has to itself. If there is none, refuses the requests that wait.
async fn take_room(fan: &Rc<FanIn>, fans: &FanIns, key: &ConnectionKey) -> Option<LinkPermit> {
    let closed = poll_fn(|cx| {
        fan.watch(cx.waker());
        if fan.is_closed() { Poll::Ready(()) } else { Poll::Pending }
    });
    let room = tokio::select! {
        room = fans.pool.room(key, fan.share) => room,
        () = closed => return None,
    };
    match room {
        Ok(room) => Some(LinkPermit::Leased { _room: Box::new(room) }),
        Err(line) => {
            fan.table.borrow_mut().refuse_unsent(&line);
            tokio::time::sleep(RETRY_MIN).await;
            None
        }
    }
}

/// Waits until a connection is wanted. Returns false when no session uses the fan-in any more.
async fn wanted(fan: &Rc<FanIn>, fans: &FanIns, permit: &mut Option<LinkPermit>) -> bool {
    poll_fn(|cx| {
        fan.watch(cx.waker());
        if fan.names() > 0 && !fan.is_closed() {
            return Poll::Ready(true);
        }
        permit.take();
        if fans.forget_unused(fan) { Poll::Ready(false) } else { Poll::Pending }
    })
    .await
}

/// Waits for news from discovery, for `delay` at most. If the hold has expired, refuses the requests that wait, and disconnects the
/// subscribers.
async fn pause(fan: &FanIn, fans: &FanIns, delay: Option<Duration>) {
    let hold = &fans.dialing.hold;
    let deadline = match hold.deadline() {
        Ok(deadline) => deadline,
        Err(_) => {
            fan.refuse_held(hold, &fans.dialing.reports);
            give_up(fan, fans, "there is no primary");
            Instant::now() + RETRY_MAX
        }
    };
    let until = delay.map_or(deadline, |delay| deadline.min(Instant::now() + delay));
    let _ = tokio::time::timeout_at(until, hold.changed()).await;
}

/// Refuses the requests that wait with the error line `line`, because the server refuses respgate as this user.
async fn refuse(fan: &FanIn, fans: &FanIns, line: &[u8]) {
    match fan.identity.is_dead() {
        true => fan.table.borrow_mut().disconnect_unsent(line),
        false => drop(fan.table.borrow_mut().refuse_unsent(line)),
    }
    give_up(fan, fans, &shown(line));
    let _ = tokio::time::timeout(RETRY_MAX, fans.dialing.hold.changed()).await;
}

/// Disconnects all subscribers: they get no messages any more, and the disconnection tells their clients.
fn give_up(fan: &FanIn, fans: &FanIns, why: &str) {
    let lost = fan.table.borrow_mut().lose_all();
    if lost > 0 {
        let upstream = &fans.dialing.config.name;
        tracing::warn!(
            upstream,
            lost,
            why,
            "respgate disconnects subscribers: it cannot open their fan-in connection again"
        );
    }
}

/// Serves the fan-in with one connection until it ends.
async fn serve(fan: &Rc<FanIn>, fans: &Rc<FanIns>, link: Connection) {
    let dialing = &fans.dialing;
    let generation = link.generation;
    let gauge = match fan.is_private() {
        true => Gauged::new(&dialing.reports.counters, |c| &c.leased_open),
        false => Gauged::new(&dialing.reports.counters, |c| &c.fanin_open),
    };
    fan.order.set(None);
    fan.ping.set(false);
    fan.auth.take();
    fan.refresh.set(refresh_of(&dialing.config, &dialing.identities, &fan.identity, link.began));
    fan.generation.set(Some(generation));
    let migrated = fan.table.borrow_mut().connected();
    dialing.reports.note_settled(0, 0, migrated);
    let mut pump = Pump::new(link, &dialing.buffers);
    let end = poll_fn(|cx| pump.poll(cx, fan, dialing)).await;
    drop((pump, gauge));
    fan.generation.set(None);
    fan.table.borrow_mut().disconnected();
    report(fan, fans, generation, end);
}

fn report(fan: &FanIn, fans: &FanIns, generation: Generation, end: LinkEnd) {
    let name = &fans.dialing.config.name;
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
    fans.dialing.reports.note_lost(generation, matches!(end, LinkEnd::NotPrimary));
    // There may be as many private ones as subscribers.
    if !matches!(end, LinkEnd::Framing(_)) && !fan.is_private() {
        tracing::warn!(upstream = name, why, subscribers, "respgate lost a fan-in connection");
    }
}
