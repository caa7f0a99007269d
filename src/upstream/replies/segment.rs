//! The replies that must wait behind earlier ones of the same client, because those come from another connection or come later.
//!
//! A segment is delivered to like any replies, so a connection knows nothing of the order. Its bytes are parked until the session
//! [promotes](Replies::promote) it; from then on they go straight to the client's own object. Whatever concerns the client as a
//! whole (its state, its limits, its reply sizes, the number of replies due, the waker) is kept by that object.

use std::cell::Cell;
use std::ptr;
use std::rc::Rc;

use super::{HoleIn, Parked, Replies, SegmentOf};
use crate::net::budget::Charge;

/// The bytes that a segment allocates besides those of its replies: its own, and its place in the session's list.
const OVERHEAD: usize = size_of::<Replies>() + 64;

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
        let mut overhead = Charge::new(&client.account);
        overhead.set(OVERHEAD);
        let behind = SegmentOf {
            client: client.clone(),
            promoted: Cell::default(),
            answers: Cell::default(),
            hole,
            _overhead: overhead,
        };
        let replies = Self::with(client.buffers.clone(), client.account.clone(), 0);
        Rc::new(Self { behind: Some(behind), direct: Cell::new(false), ..replies })
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
        self.move_to(&segment.client);
        segment.client.partial.set(self.partial.get());
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
