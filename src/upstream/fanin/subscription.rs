//! A session's side of fan-in: what it asks for, and what it hears.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::table::Subscriber;
use super::{FanIn, Upstream};
use crate::metrics::Gauged;
use crate::net::budget::Charge;
use crate::resp::pubsub::Kind;
use crate::resp::request::Request;
use crate::resp::{Resp, write};
use crate::upstream::connection::identity::Identity;
use crate::upstream::replies::Replies;

/// A session with subscriptions, or with a request for one. Dropping it ends them.
pub struct Subscription {
    fan: Rc<FanIn>,
    number: u64,
    outlet: Rc<SubscriberSink>,
    _gauge: Gauged,
}

/// Where a session's messages go.
pub(super) struct SubscriberSink {
    replies: RefCell<Rc<Replies>>,
    resp: Resp,
    /// Bytes of what it has asked for and has no answer to.
    asks: Cell<Option<usize>>,
    /// The client does not want to see that this is refused.
    mute: Cell<bool>,
    /// What its subscriptions take, about, in bytes.
    held: Cell<usize>,
    /// What they and its request take.
    charge: RefCell<Charge>,
    /// Bytes of messages that the session has not been woken for; `None`: it waits for no wake.
    unannounced: Cell<Option<usize>>,
}

impl Subscription {
    /// For a session that acts as `identity`, speaks `resp`, and hears by `replies`.
    pub fn take(upstream: &Rc<Upstream>, identity: &Rc<Identity>, resp: Resp, replies: &Rc<Replies>) -> Self {
        let fan = upstream.fan_in(identity);
        let outlet = Rc::new(SubscriberSink {
            replies: RefCell::new(replies.clone()),
            resp,
            asks: Cell::default(),
            mute: Cell::default(),
            held: Cell::default(),
            charge: RefCell::new(Charge::new(replies.account())),
            unannounced: Cell::default(),
        });
        let number = fan.table.borrow_mut().join(outlet.clone());
        Self { fan, number, outlet, _gauge: Gauged::new(&upstream.counters, |c| &c.fanin_subscribers) }
    }

    /// Whether a request has not been answered; its bytes.
    pub fn asks(&self) -> Option<usize> {
        self.outlet.asks.get()
    }

    /// Whether it is subscribed to anything.
    pub fn is_subscribed(&self) -> bool {
        self.fan.table.borrow().subscriptions(self.number) > 0
    }

    /// Whether a subscription that it has, or asks for, is `such`.
    pub fn hears(&self, such: impl FnMut(Kind, &[u8]) -> bool) -> bool {
        self.fan.table.borrow().hears(self.number, such)
    }

    /// Whether a request for more subscriptions is for too many.
    pub fn would_exceed(&self, request: &Request<'_>) -> bool {
        let names = (request.argc() as usize).saturating_sub(1);
        self.fan.table.borrow().would_exceed(self.number, names, request.len())
    }

    /// Asks for the subscriptions that `request` names. Confirmed once the server has; until then it [`Self::asks`].
    /// `mute`: the client sees confirmations, but no refusal.
    pub fn subscribe(&self, kind: Kind, request: &Request<'_>, mute: bool) {
        self.outlet.asks.set(Some(request.len()));
        self.outlet.mute.set(mute);
        self.outlet.charge.borrow_mut().set(self.outlet.held.get() + request.len());
        self.fan.table.borrow_mut().subscribe(self.number, kind, request.args().skip(1));
        self.fan.wake();
        self.fan.work_off();
    }

    /// Ends the subscriptions that `request` names, or all of this kind. Few are confirmed at once; while there are more,
    /// the session [`Self::asks`].
    pub fn unsubscribe(&self, kind: Kind, request: &Request<'_>) {
        self.outlet.asks.set(Some(request.len()));
        self.outlet.charge.borrow_mut().set(self.outlet.held.get() + request.len());
        let names: Vec<&[u8]> = request.args().skip(1).collect();
        self.fan.table.borrow_mut().unsubscribe(self.number, kind, names.into_iter());
        self.fan.wake();
        self.fan.work_off();
    }

    /// The session's replies go elsewhere from now on.
    pub fn redirect(&self, replies: &Rc<Replies>) {
        *self.outlet.replies.borrow_mut() = replies.clone();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.fan.table.borrow_mut().leave(self.number);
        self.fan.wake();
        self.fan.work_off();
    }
}

impl SubscriberSink {
    /// Adds a message of `bytes` bytes that the session is to be woken for. Returns true if it waits for no wake yet.
    pub(super) fn announce_later(&self, bytes: usize) -> bool {
        let waiting = self.unannounced.get();
        self.unannounced.set(Some(waiting.unwrap_or(0) + bytes));
        waiting.is_none()
    }

    /// Wakes the session for its messages. Returns their bytes.
    pub(super) fn announce(&self) -> usize {
        self.replies.borrow().wake();
        self.unannounced.take().unwrap_or(0)
    }

    /// Passes on a message, in the session's version, without waking the session.
    pub(super) fn publish(&self, frame: &[u8]) {
        let first = match self.resp {
            Resp::V2 => b'*',
            Resp::V3 => b'>',
        };
        self.replies.borrow().publish(first, frame.get(1..).unwrap_or_default());
    }

    /// It is sent more than it could be expected to take.
    pub(super) fn overflow(&self) {
        self.replies.borrow().overflow();
    }
}

impl Subscriber for Rc<SubscriberSink> {
    fn confirmed(&self, kind: Kind, begins: bool, name: Option<&[u8]>, count: usize) {
        let mut frame = Vec::new();
        write::push(&mut frame, self.resp, 3);
        let command = if begins { kind.begin() } else { kind.end() };
        write::bulk(&mut frame, &command.to_ascii_lowercase());
        match name {
            Some(name) => write::bulk(&mut frame, name),
            None => write::null(&mut frame, self.resp),
        }
        write::integer(&mut frame, i64::try_from(count).unwrap_or(i64::MAX));
        self.publish(&frame);
        self.replies.borrow().wake();
    }

    fn decided(&self, refusal: Option<&[u8]>, held: usize) {
        self.asks.set(None);
        self.held.set(held);
        self.charge.borrow_mut().set(held);
        let replies = self.replies.borrow();
        if let Some(line) = refusal.filter(|_| !self.mute.get()) {
            replies.answer(|out| {
                out.extend_from_slice(line);
                out.extend_from_slice(b"\r\n");
            });
        }
        replies.wake();
    }

    fn lost(&self) {
        self.replies.borrow().cut();
    }
}
