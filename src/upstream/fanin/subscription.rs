//! A session's side of fan-in: its requests, and its subscriptions.

use std::rc::{Rc, Weak};

use super::link::FanIn;
use super::sink::SubscriberSink;
use crate::metrics::Gauged;
use crate::resp::pubsub::Kind;
use crate::resp::request::Request;
use crate::upstream::replies::Replies;

/// A session with subscriptions, or with a request for one. Dropping it ends them.
pub struct Subscription {
    fan: Rc<FanIn>,
    /// The session's number in the table.
    session: u64,
    sink: Rc<SubscriberSink>,
    _gauge: Option<Gauged>,
}

impl Subscription {
    /// Adds the session of `sink` to a fan-in.
    pub(super) fn new(fan: Rc<FanIn>, sink: Rc<SubscriberSink>, gauge: Option<Gauged>) -> Self {
        let session = fan.table.borrow_mut().join(sink.clone());
        Self { fan, session, sink, _gauge: gauge }
    }

    /// Returns the size of the unanswered request, in bytes; `None` if there is none.
    pub fn asks(&self) -> Option<usize> {
        self.sink.request()
    }

    /// Returns true if the session has any subscription.
    pub fn is_subscribed(&self) -> bool {
        self.fan.table.borrow().subscriptions(self.session) > 0
    }

    /// Returns what counts the session's subscriptions while they exist.
    pub fn counter(&self) -> SubscriptionCounter {
        SubscriptionCounter { fan: Rc::downgrade(&self.fan), session: self.session }
    }

    /// Returns true if `matches` holds for a subscription that the session has, or asks for.
    pub fn hears(&self, matches: impl FnMut(Kind, &[u8]) -> bool) -> bool {
        self.fan.table.borrow().hears(self.session, matches)
    }

    /// Returns true if a request for more subscriptions exceeds what one session may have.
    pub fn would_exceed(&self, request: &Request<'_>) -> bool {
        let names = (request.argc() as usize).saturating_sub(1);
        self.fan.table.borrow().would_exceed(self.session, names, request.len())
    }

    /// Asks for the subscriptions that `request` names. The session gets confirmations once the server has confirmed all of them;
    /// until then it [`Self::asks`]. `mute`: the client sees confirmations, but no refusal.
    pub fn subscribe(&self, kind: Kind, request: &Request<'_>, mute: bool) {
        self.sink.set_mute(mute);
        self.begin(kind, request.len(), request.args().skip(1));
    }

    /// Asks for the subscriptions to `names`, a request of `bytes` bytes.
    pub(in crate::upstream) fn begin<'a>(
        &self,
        kind: Kind,
        bytes: usize,
        names: impl Iterator<Item = &'a [u8]>,
    ) {
        self.sink.begin_request(bytes);
        self.fan.table.borrow_mut().subscribe(self.session, kind, names);
        self.fan.wake();
        self.fan.work_off();
    }

    /// Ends the subscriptions that `request` names, or all of this kind. A few are confirmed at once; while more are left,
    /// the session [`Self::asks`].
    pub fn unsubscribe(&self, kind: Kind, request: &Request<'_>) {
        let names: Vec<&[u8]> = request.args().skip(1).collect();
        self.end(kind, request.len(), names.into_iter());
    }

    /// Ends the subscriptions to `names`, or all of this kind. The request has `bytes` bytes.
    pub(in crate::upstream) fn end<'a>(
        &self,
        kind: Kind,
        bytes: usize,
        names: impl ExactSizeIterator<Item = &'a [u8]>,
    ) {
        self.sink.begin_request(bytes);
        self.fan.table.borrow_mut().unsubscribe(self.session, kind, names);
        self.fan.wake();
        self.fan.work_off();
    }

    /// Sends the session's messages to other replies from now on.
    pub fn redirect(&self, replies: &Rc<Replies>) {
        self.sink.redirect(replies);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.fan.table.borrow_mut().leave(self.session);
        if self.fan.is_private() {
            self.fan.close();
        }
        self.fan.wake();
        self.fan.work_off();
    }
}

/// Counts the subscriptions of one session, for others.
pub struct SubscriptionCounter {
    fan: Weak<FanIn>,
    session: u64,
}

impl SubscriptionCounter {
    /// Returns the numbers of subscribed channels, patterns and shard channels.
    pub fn counts(&self) -> [usize; 3] {
        self.fan.upgrade().map_or([0; 3], |fan| fan.table.borrow().counts(self.session))
    }
}
