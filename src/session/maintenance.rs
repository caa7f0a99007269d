//! Tells clients about maintenance: `CLIENT MAINT_NOTIFICATIONS` of Redis Enterprise, and the pushes that follow.
//!
//! redis-py, node-redis, go-redis and lettuce ask for them when they connect with RESP3. They wait longer for
//! replies between `FAILING_OVER` and `FAILED_OVER`, and connect again when `MOVING` arrives.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use super::activity::Activity;
use super::{Session, refusal};
use crate::command::option_is_whole as is;
use crate::resp::request::Request;
use crate::resp::{Resp, write};
use crate::upstream::Upstream;

/// The error line for a client that asks for notifications in RESP2, which has no pushes.
const NEEDS_RESP3: &[u8] = b"-ERR respgate: CLIENT MAINT_NOTIFICATIONS needs RESP3 (HELLO 3)";
/// The types of endpoints that a client can ask MOVING to name.
const NAMED_TYPES: [&str; 4] = ["internal-ip", "internal-fqdn", "external-ip", "external-fqdn"];

/// Describes the drain to the clients that are asked to move.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// The sequence number of the notification, the same on all workers.
    pub sequence: u64,
    /// How long an idle client that was asked to move stays connected.
    pub within: Duration,
}

impl Move {
    /// Plans a move that leaves a third of the drain's time to clients that are still busy afterwards.
    pub fn during(drain: Duration) -> Self {
        Self { sequence: clock(), within: drain * 2 / 3 }
    }
}

/// Says what the endpoint in MOVING is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndpointType {
    /// Null: the client connects to the address that it has.
    None,
    /// The listener's `moving-endpoint`.
    Named,
}

/// One client that asked for notifications.
struct Subscriber {
    session: Rc<Activity>,
    endpoint: EndpointType,
    /// True from MOVING until the time that it named has passed.
    moving: bool,
}

/// Keeps the clients of one listener on one worker that asked for notifications.
pub struct Maintenance {
    /// The `host:port` that MOVING names to clients that ask for an endpoint. Without it, they get no MOVING.
    endpoint: RefCell<Option<String>>,
    subscribers: RefCell<HashMap<u64, Subscriber>>,
    /// The sequence number of the last notification.
    sequence: Cell<u64>,
    /// Notified when the list is dropped.
    ended: Rc<Notify>,
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.ended.notify_one();
    }
}

impl Maintenance {
    /// Creates the list of a listener. `endpoint`: its `moving-endpoint`.
    pub fn new(endpoint: Option<String>) -> Rc<Self> {
        Rc::new(Self {
            endpoint: RefCell::new(endpoint),
            subscribers: RefCell::default(),
            sequence: Cell::new(0),
            ended: Rc::default(),
        })
    }

    /// Sends FAILING_OVER when commands begin to wait for a primary, and FAILED_OVER when they no longer do.
    /// Ends when the list is dropped.
    pub async fn follow_holds(list: Weak<Self>, ended: Rc<Notify>, upstream: Rc<Upstream>) {
        let mut hold = true;
        loop {
            tokio::select! {
                () = ended.notified() => return,
                () = upstream.hold_is(hold) => {}
            }
            let Some(list) = list.upgrade() else { return };
            let sequence = list.next_sequence();
            list.send_to_all(&match hold {
                true => failing_over(sequence, upstream.hold_left()),
                false => failed_over(sequence),
            });
            hold = !hold;
        }
    }

    /// Returns what is notified when the list is dropped.
    pub fn ended(&self) -> Rc<Notify> {
        self.ended.clone()
    }

    /// Replaces the `host:port` that MOVING names.
    pub fn set_endpoint(&self, endpoint: Option<String>) {
        *self.endpoint.borrow_mut() = endpoint;
    }

    /// Asks the clients to connect elsewhere. They stay connected while they are idle, until
    /// [`Self::end_move`].
    pub fn begin_move(&self, plan: Move) {
        let own = self.endpoint.borrow();
        for subscriber in self.subscribers.borrow_mut().values_mut() {
            let endpoint = match (subscriber.endpoint, &*own) {
                (EndpointType::None, _) => None,
                (EndpointType::Named, Some(endpoint)) => Some(endpoint.as_str()),
                // node-redis crashes on a null that it did not ask for.
                (EndpointType::Named, None) => continue,
            };
            subscriber.moving = true;
            subscriber.session.push(&moving(plan, endpoint));
        }
    }

    /// Lets the drain end the clients that did not move.
    pub fn end_move(&self) {
        for subscriber in self.subscribers.borrow_mut().values_mut() {
            subscriber.moving = false;
            subscriber.session.wake();
        }
    }

    /// Returns true if a client was asked to move and still has time for it.
    pub(super) fn is_moving(&self, client: u64) -> bool {
        self.subscribers.borrow().get(&client).is_some_and(|subscriber| subscriber.moving)
    }

    /// Sends no more notifications to a client.
    pub(super) fn leave(&self, client: u64) {
        self.subscribers.borrow_mut().remove(&client);
    }

    fn join(&self, client: u64, session: Rc<Activity>, endpoint: EndpointType) {
        self.subscribers.borrow_mut().insert(client, Subscriber { session, endpoint, moving: false });
    }

    fn send_to_all(&self, frame: &[u8]) {
        for subscriber in self.subscribers.borrow().values() {
            subscriber.session.push(frame);
        }
    }

    /// Returns a number that is larger than the last one, also after a restart.
    fn next_sequence(&self) -> u64 {
        self.sequence.set(clock().max(self.sequence.get() + 1));
        self.sequence.get()
    }
}

impl Session {
    /// Answers CLIENT MAINT_NOTIFICATIONS.
    pub(super) fn set_maintenance(&mut self, request: &Request<'_>) {
        let endpoint = match parse(request) {
            Ok(endpoint) => endpoint,
            Err(line) => return self.refuse(line),
        };
        let maintenance = self.ctx.maintenance.clone();
        match endpoint {
            None => maintenance.leave(self.client.id),
            Some(_) if self.client.resp == Resp::V2 => return self.refuse(NEEDS_RESP3),
            Some(endpoint) => maintenance.join(self.client.id, self.activity.clone(), endpoint),
        }
        self.answer(write::ok);
        // A client that connects during a failover learns of it, too.
        let upstream = &self.ctx.upstream;
        if endpoint.is_some() && upstream.in_hold() {
            self.activity.push(&failing_over(maintenance.next_sequence(), upstream.hold_left()));
        }
    }
}

/// Returns the type of endpoint that the request asks for, or `None` if it ends the notifications.
///
/// # Errors
/// Returns the error line if the request is malformed.
fn parse(request: &Request<'_>) -> Result<Option<EndpointType>, &'static [u8]> {
    let mode = request.arg(2).unwrap_or_default();
    if is(mode, "OFF") && request.argc() == 3 {
        return Ok(None);
    }
    if !is(mode, "ON") {
        return Err(refusal::SYNTAX);
    }
    match (request.arg(3), request.arg(4), request.argc()) {
        (None, ..) => Ok(Some(EndpointType::None)),
        (Some(option), Some(kind), 5) if is(option, "MOVING-ENDPOINT-TYPE") => {
            let named = || NAMED_TYPES.iter().any(|name| kind.eq_ignore_ascii_case(name.as_bytes()));
            match kind.eq_ignore_ascii_case(b"none") {
                true => Ok(Some(EndpointType::None)),
                false if named() => Ok(Some(EndpointType::Named)),
                false => Err(refusal::SYNTAX),
            }
        }
        _ => Err(refusal::SYNTAX),
    }
}

/// Returns the time in milliseconds, from which sequence numbers are made.
fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}

/// Returns a time in whole seconds, 1 at least.
fn seconds(time: Duration) -> u64 {
    time.as_secs().max(1)
}

fn push(kind: &str, numbers: &[u64], more: usize) -> Vec<u8> {
    let mut out = Vec::new();
    write::push(&mut out, Resp::V3, 1 + numbers.len() + more);
    write::bulk(&mut out, kind.as_bytes());
    for number in numbers {
        write::integer(&mut out, i64::try_from(*number).unwrap_or(i64::MAX));
    }
    out
}

fn failing_over(sequence: u64, left: Duration) -> Vec<u8> {
    push("FAILING_OVER", &[sequence, seconds(left)], 0)
}

fn failed_over(sequence: u64) -> Vec<u8> {
    push("FAILED_OVER", &[sequence], 0)
}

fn moving(plan: Move, endpoint: Option<&str>) -> Vec<u8> {
    let mut out = push("MOVING", &[plan.sequence, seconds(plan.within)], 1);
    match endpoint {
        Some(endpoint) => write::bulk(&mut out, endpoint.as_bytes()),
        None => write::null(&mut out, Resp::V3),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Option<EndpointType>, &'static [u8]> {
        let mut frame = format!("*{}\r\n", words.len() + 2);
        for word in ["CLIENT", "MAINT_NOTIFICATIONS"].iter().chain(words) {
            frame.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        parse(&Request::parse(frame.as_bytes()).unwrap())
    }

    #[test]
    fn the_client_says_what_the_endpoint_is() {
        assert_eq!(parsed(&["off"]), Ok(None));
        assert_eq!(parsed(&["ON"]), Ok(Some(EndpointType::None)));
        assert_eq!(parsed(&["on", "moving-endpoint-type", "none"]), Ok(Some(EndpointType::None)));
        for kind in NAMED_TYPES {
            assert_eq!(parsed(&["ON", "moving-endpoint-type", kind]), Ok(Some(EndpointType::Named)));
        }
        for words in [
            &["maybe"][..],
            &["OFF", "moving-endpoint-type", "none"],
            &["ON", "moving-endpoint-type"],
            &["ON", "moving-endpoint-type", "ip"],
            &["ON", "endpoint", "none"],
            &["ON", "moving-endpoint-type", "none", "more"],
        ] {
            assert_eq!(parsed(words), Err(refusal::SYNTAX), "{words:?}");
        }
    }

    #[test]
    fn the_pushes_have_the_form_that_clients_parse() {
        let plan = Move { sequence: 7, within: Duration::from_secs(20) };
        let shown = |frame: Vec<u8>| String::from_utf8(frame).unwrap();
        assert_eq!(shown(moving(plan, None)), ">4\r\n$6\r\nMOVING\r\n:7\r\n:20\r\n_\r\n");
        assert_eq!(shown(moving(plan, Some("h:1"))), ">4\r\n$6\r\nMOVING\r\n:7\r\n:20\r\n$3\r\nh:1\r\n");
        let brief = Duration::from_millis(10);
        assert_eq!(shown(failing_over(8, brief)), ">3\r\n$12\r\nFAILING_OVER\r\n:8\r\n:1\r\n");
        assert_eq!(shown(failed_over(9)), ">2\r\n$11\r\nFAILED_OVER\r\n:9\r\n");
    }

    #[test]
    fn sequence_numbers_only_rise() {
        let maintenance = Maintenance::new(None);
        let first = maintenance.next_sequence();
        assert!(maintenance.next_sequence() > first);
    }
}
