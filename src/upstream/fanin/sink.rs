//! Passes messages and confirmations to one session.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::table::Subscriber;
use crate::net::budget::Charge;
use crate::resp::pubsub::Kind;
use crate::resp::{Resp, write};
use crate::upstream::replies::Replies;

/// The receiver of one session's messages.
pub(super) struct SubscriberSink {
    replies: RefCell<Rc<Replies>>,
    resp: Resp,
    /// The size of the session's unanswered request, in bytes.
    request: Cell<Option<usize>>,
    /// True if the client does not want to see that the request is refused.
    mute: Cell<bool>,
    /// The estimated size of the session's subscriptions, in bytes.
    size: Cell<usize>,
    /// Charges the session's account for its subscriptions and its request.
    charge: RefCell<Charge>,
    /// The size of the messages for which the session has not been woken, in bytes; `None` if it waits for no wake.
    unannounced: Cell<Option<usize>>,
}

impl SubscriberSink {
    /// Creates the sink of a session that speaks `resp` and gets its messages by `replies`.
    pub(super) fn new(resp: Resp, replies: &Rc<Replies>) -> Rc<Self> {
        Rc::new(Self {
            replies: RefCell::new(replies.clone()),
            resp,
            request: Cell::default(),
            mute: Cell::default(),
            size: Cell::default(),
            charge: RefCell::new(Charge::new(replies.account())),
            unannounced: Cell::default(),
        })
    }

    /// Returns the size of the session's unanswered request, in bytes; `None` if there is none.
    pub(super) fn request(&self) -> Option<usize> {
        self.request.get()
    }

    /// Takes note of a request of `bytes` bytes, and charges the session for it.
    pub(super) fn begin_request(&self, bytes: usize) {
        self.request.set(Some(bytes));
        self.charge.borrow_mut().set(self.size.get() + bytes);
    }

    /// Sets whether the client sees that the request is refused.
    pub(super) fn set_mute(&self, mute: bool) {
        self.mute.set(mute);
    }

    /// Sends messages to other replies from now on.
    pub(super) fn redirect(&self, replies: &Rc<Replies>) {
        *self.replies.borrow_mut() = replies.clone();
    }

    /// Adds a message of `bytes` bytes for which the session must be woken. Returns true if the session did not wait for a wake yet.
    pub(super) fn announce_later(&self, bytes: usize) -> bool {
        let waiting = self.unannounced.get();
        self.unannounced.set(Some(waiting.unwrap_or(0) + bytes));
        waiting.is_none()
    }

    /// Wakes the session for its messages. Returns their size in bytes.
    pub(super) fn announce(&self) -> usize {
        self.replies.borrow().wake();
        self.unannounced.take().unwrap_or(0)
    }

    /// Passes on a message in the session's RESP version, without waking the session.
    pub(super) fn publish(&self, frame: &[u8]) {
        let first = match self.resp {
            Resp::V2 => b'*',
            Resp::V3 => b'>',
        };
        self.replies.borrow().publish(first, frame.get(1..).unwrap_or_default());
    }

    /// Disconnects the session, because a message is too large for it.
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

    fn decided(&self, refusal: Option<&[u8]>, size: usize) {
        self.request.set(None);
        self.size.set(size);
        self.charge.borrow_mut().set(size);
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
