//! The replies that must wait behind earlier ones of the same client, because those come from another connection or come later.
//!
//! A segment is delivered to like any replies, so a connection knows nothing of the order. Its bytes are parked until the session
//! [promotes](Replies::promote) it; from then on they go straight to the client's own object. Whatever concerns the client as a
//! whole (its state, its limits, its reply sizes, the number of replies due, the waker) is kept by that object.

use std::cell::Cell;
use std::ptr;
use std::rc::Rc;

use super::{ClientState, HoleIn, Parked, Replies, SegmentOf, WORTH_MOVING};
use crate::net::budget::Charge;

/// The bytes that a segment allocates besides those of its replies: its own, and its place in the session's list.
const OVERHEAD: usize = size_of::<Replies>() + 64;
/// The number of allocated bytes for replies that a finished segment keeps at most.
const KEPT: usize = 512;

/// A finished segment that belongs to no client. The next segment of any client uses its allocations.
pub struct SpareSegment(Rc<Replies>);

impl SpareSegment {
    /// Takes a segment from its client. Returns `None` if it is not finished, or if anything else refers to it: a connection may
    /// still deliver to it then. It then keeps no bytes.
    pub fn of(mut segment: Rc<Replies>) -> Option<Self> {
        if Rc::get_mut(&mut segment).is_some_and(Replies::leave_client) {
            return Some(Self(segment));
        }
        segment.release_bytes();
        None
    }

    /// Returns a segment that stands behind all replies of `client` that exist, or are due, now.
    pub fn begin(self, client: &Rc<Replies>) -> Rc<Replies> {
        let Self(mut segment) = self;
        match Rc::get_mut(&mut segment) {
            Some(spare) => spare.join_client(client),
            // Nothing else refers to a spare segment.
            None => return Replies::segment(client),
        }
        segment
    }
}

impl Parked {
    /// Returns the number of replies that are due to segments.
    #[inline]
    pub(super) fn awaited(&self) -> u32 {
        self.awaited.get()
    }

    /// Returns the number of bytes that wait behind other replies.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Returns how many of them are bytes of replies of servers.
    #[inline]
    pub(super) fn replied(&self) -> usize {
        self.bytes.get() - self.answers.get()
    }
}

impl SegmentOf {
    fn new(client: &Rc<Replies>, hole: Option<HoleIn>) -> Self {
        let mut overhead = Charge::new(&client.account);
        overhead.set(OVERHEAD);
        let client = client.clone();
        Self { client, promoted: Cell::default(), answers: Cell::default(), hole, _overhead: overhead }
    }

    /// Takes note that one more reply is due to the segment.
    pub(super) fn expect(&self) {
        if let Some(hole) = &self.hole {
            return hole.expect();
        }
        let awaited = &self.client.parked.awaited;
        awaited.set(awaited.get() + 1);
    }

    /// Takes note that `replies` of them have come.
    pub(super) fn answered(&self, replies: u32) {
        if let Some(hole) = &self.hole {
            return hole.answered(replies);
        }
        let awaited = &self.client.parked.awaited;
        awaited.set(awaited.get().saturating_sub(replies));
    }

    /// Takes note that `parked` bytes of respgate's own were parked.
    pub(super) fn note_answer(&self, parked: usize) {
        self.answers.set(self.answers.get() + parked);
        let all = &self.client.parked.answers;
        all.set(all.get() + parked);
    }

    /// Takes note whether the bytes of this segment end inside a reply, if it is promoted: they are then others' bytes too.
    pub(super) fn set_partial(&self, partial: bool) {
        match &self.hole {
            _ if !self.promoted.get() => {}
            None => self.client.partial.set(partial),
            Some(hole) => hole.set_partial(partial),
        }
    }
}

impl Replies {
    /// Creates replies that stand behind all those of `client` that exist, or are due, now.
    pub fn segment(client: &Rc<Self>) -> Rc<Self> {
        Self::segment_with(client, None)
    }

    /// Creates a segment of `client`. `hole`: where the segment stands, if it fills a hole.
    pub(super) fn segment_with(client: &Rc<Self>, hole: Option<HoleIn>) -> Rc<Self> {
        let replies = Self::with(client.buffers.clone(), client.account.clone(), 0);
        let behind = Some(SegmentOf::new(client, hole));
        Rc::new(Self { behind, direct: Cell::new(false), ..replies })
    }

    /// Leaves the client of a segment, and whatever belongs to that client. Returns false if the segment is not finished.
    fn leave_client(&mut self) -> bool {
        let is_finished = self.due.get() == 0
            && self.state.get() == ClientState::Open
            && self.behind.as_ref().is_some_and(|segment| segment.promoted.get() && segment.hole.is_none());
        let is_empty = self.bytes.get_mut().is_empty()
            && self.messages.get_mut().capacity() == 0
            && self.holes.get_mut().capacity() == 0;
        if !is_finished || !is_empty || self.bytes.get_mut().capacity() > KEPT {
            return false;
        }
        self.account.change(self.charged.take(), 0);
        self.behind = None;
        self.partial.set(false);
        true
    }

    fn release_bytes(&self) {
        drop(self.bytes.borrow_mut().release());
        self.charge();
    }

    /// Makes a spare segment one of `client`.
    fn join_client(&mut self, client: &Rc<Self>) {
        if !Rc::ptr_eq(&self.account, &client.account) {
            self.account = client.account.clone();
        }
        if !Rc::ptr_eq(&self.buffers, &client.buffers) {
            self.buffers = client.buffers.clone();
        }
        self.behind = Some(SegmentOf::new(client, None));
        self.charge();
    }

    /// Returns the object that writes to the client.
    #[inline]
    pub(super) fn client(&self) -> &Self {
        match &self.behind {
            None => self,
            Some(segment) => &segment.client,
        }
    }

    /// Returns a value that is the same for all replies of one client, and differs from those of other clients.
    pub fn owner(&self) -> *const Self {
        ptr::from_ref(self.client())
    }

    /// Moves the bytes of a segment to the client, because every earlier reply has come. Later ones follow at once.
    pub fn promote(&self) {
        let Some(segment) = &self.behind else { return };
        if segment.promoted.replace(true) {
            return;
        }
        let parked = &segment.client.parked;
        parked.bytes.set(parked.bytes.get() - self.bytes.borrow().len());
        parked.answers.set(parked.answers.get() - segment.answers.take());
        self.empty_to(&segment.client);
        segment.client.partial.set(self.partial.get());
    }

    /// Moves the bytes that wait here to the client. Few are copied: the segment keeps what it has allocated for the next ones.
    fn empty_to(&self, client: &Self) {
        let mut bytes = self.bytes.borrow_mut();
        if bytes.is_empty() {
            return;
        }
        if bytes.len() >= WORTH_MOVING {
            drop(bytes);
            return self.move_to(client);
        }
        bytes.pieces().for_each(|piece| client.push(|waiting| waiting.extend_from_slice(piece)));
        bytes.clear();
    }

    /// Returns the number of bytes that the client must take before it can take further ones of these replies. Bytes of later
    /// segments do not count: they cannot leave before these replies have come.
    pub fn waiting_before(&self) -> usize {
        match &self.behind {
            _ if self.client().collects => 0,
            Some(segment) if !segment.promoted.get() => self.waiting(),
            Some(SegmentOf { hole: Some(hole), .. }) => hole.waiting_before(),
            _ => self.ready(),
        }
    }

    /// Returns the number of bytes that count against the client's limit. Parked answers do not: they wait for a server and not for
    /// the client, and the session bounds them.
    #[inline]
    pub(super) fn limited(&self) -> usize {
        self.bytes.borrow().len() + self.parked.replied()
    }

    /// Delivers to a segment, or to replies with holes. See [`Self::deliver`].
    #[cold]
    pub(super) fn deliver_in_order(&self, bytes: &[u8], replies: u32, largest: usize) {
        let client = self.client();
        self.set_partial(false);
        self.answered(replies);
        if client.takes(bytes.len()) {
            self.push_arrived(bytes);
        }
        self.filled();
        client.replied(replies, bytes.len(), largest);
    }

    /// Takes note whether the bytes of these replies, without those that stand behind a hole, end inside a reply.
    pub(super) fn set_partial_here(&self, partial: bool) {
        self.partial.set(partial);
        if let Some(segment) = &self.behind {
            segment.set_partial(partial);
        }
    }

    /// Adds bytes in front of what stands behind a hole.
    pub(super) fn push_here(&self, write: impl FnOnce(&mut Vec<u8>)) {
        match &self.behind {
            None => self.push(write),
            Some(segment) => {
                self.push_in_order(segment, write);
            }
        }
    }

    /// Adds bytes to a segment: to the client if the segment is promoted. Returns the number of bytes that were parked.
    #[cold]
    pub(super) fn push_in_order(&self, segment: &SegmentOf, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        if segment.promoted.get() {
            match &segment.hole {
                None => segment.client.push(write),
                Some(hole) => hole.push(write),
            }
            return 0;
        }
        // A segment takes no pooled buffer: it holds a few short replies in most cases, and there may be many segments.
        let mut bytes = self.bytes.borrow_mut();
        let before = bytes.len();
        bytes.push_with(write);
        let added = bytes.len() - before;
        let parked = &segment.client.parked.bytes;
        parked.set(parked.get() + added);
        drop(bytes);
        self.charge();
        added
    }
}
