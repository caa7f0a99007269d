//! Passes messages and confirmations to one session.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use super::table::{Name, Subscriber};
use crate::net::budget::Charge;
use crate::resp::pubsub::Kind;
use crate::resp::{Resp, write};
use crate::upstream::replies::Replies;

/// The outcome of a subscriber's request, or a change of one of its subscriptions.
#[derive(Debug)]
pub(in crate::upstream) enum SubscriberEvent {
    /// The request is done, or it is refused with this error line.
    Decided(Option<Vec<u8>>),
    /// The server has confirmed the end of every subscription that was to end. Only told by a connection of one session.
    Settled,
    /// The server has ended the subscription to this shard channel, because it does not serve the channel's slot any more.
    Moved(Name),
}

/// Decides what a client sees of one of its subscribers, if the client has several.
pub(in crate::upstream) trait SubscriberOwner {
    /// Takes note of an event of the subscriber `number`. The table of its connection is borrowed meanwhile.
    fn note(&self, number: u32, event: SubscriberEvent);

    /// Returns true if the client gets this message.
    fn admits(&self, frame: &[u8]) -> bool;
}

/// One of several subscribers of a client.
pub(in crate::upstream) struct Owned {
    pub(in crate::upstream) owner: Weak<dyn SubscriberOwner>,
    pub(in crate::upstream) number: u32,
}

/// The receiver of one session's messages.
pub(super) struct SubscriberSink {
    /// Set if the client has several subscribers. The client then sees no confirmation of this one.
    owned: Option<Owned>,
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
    pub(super) fn new(resp: Resp, replies: &Rc<Replies>, owned: Option<Owned>) -> Rc<Self> {
        Rc::new(Self {
            owned,
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
        if let Some(owned) = &self.owned
            && !owned.owner.upgrade().is_some_and(|owner| owner.admits(frame))
        {
            return;
        }
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
        if self.owned.is_none() {
            confirm(&self.replies.borrow(), self.resp, (kind, begins), name, count);
        }
    }

    fn decided(&self, refusal: Option<&[u8]>, size: usize) {
        self.request.set(None);
        self.size.set(size);
        self.charge.borrow_mut().set(size);
        if let Some(owned) = &self.owned {
            if let Some(owner) = owned.owner.upgrade() {
                owner.note(owned.number, SubscriberEvent::Decided(refusal.map(<[u8]>::to_vec)));
            }
            return;
        }
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

    fn settled(&self) {
        if let Some(owned) = &self.owned
            && let Some(owner) = owned.owner.upgrade()
        {
            owner.note(owned.number, SubscriberEvent::Settled);
        }
    }

    fn moved(&self, name: &Name) {
        match self.owned.as_ref().map(|owned| (owned.owner.upgrade(), owned.number)) {
            Some((Some(owner), number)) => owner.note(number, SubscriberEvent::Moved(name.clone())),
            Some((None, _)) => {}
            None => self.lost(),
        }
    }
}

/// Confirms to a client that a subscription began (true) or ended.
pub(in crate::upstream) fn confirm(
    replies: &Replies,
    resp: Resp,
    (kind, begins): (Kind, bool),
    name: Option<&[u8]>,
    count: usize,
) {
    let mut frame = Vec::new();
    write::push(&mut frame, resp, 3);
    let command = if begins { kind.begin() } else { kind.end() };
    write::bulk(&mut frame, &command.to_ascii_lowercase());
    match name {
        Some(name) => write::bulk(&mut frame, name),
        None => write::null(&mut frame, resp),
    }
    write::integer(&mut frame, i64::try_from(count).unwrap_or(i64::MAX));
    let (first, rest) = frame.split_first().map_or((b'*', &[][..]), |(first, rest)| (*first, rest));
    replies.publish(first, rest);
    replies.wake();
}
