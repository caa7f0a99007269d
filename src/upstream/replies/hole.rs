//! Keeps the place of a reply that comes from another connection than the replies around it, because a node of a cluster has
//! redirected the command.
//!
//! A connection finds the redirect when it reads the reply. The requests behind the redirected one are on the same connection, and
//! their replies follow. So the replies get a hole: a segment of its own for the redirected command. What the connection delivers
//! from then on is parked behind the hole until that segment has its reply. Neither the session nor the connection knows of it.
//!
//! A client with a hole sends no further commands: those of the same slot must not overtake the redirected one.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;

use super::{ClientState, Hole, HoleIn, Replies, Tries};
use crate::net::budget::Charge;
use crate::net::byte_queue::ByteQueue;

impl HoleIn {
    pub(super) fn expect(&self) {
        if let Some(within) = self.within.upgrade() {
            within.expect();
        }
    }

    pub(super) fn answered(&self, replies: u32) {
        if let Some(within) = self.within.upgrade() {
            within.answered(replies);
        }
    }

    pub(super) fn set_partial(&self, partial: bool) {
        if let Some(within) = self.within.upgrade() {
            within.set_partial_here(partial);
        }
    }

    pub(super) fn waiting_before(&self) -> usize {
        self.within.upgrade().map_or(0, |within| within.waiting_before())
    }

    pub(super) fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(within) = self.within.upgrade() {
            within.push_here(write);
        }
    }
}

impl Replies {
    /// Returns the replies for a command that is redirected, whose reply is the next one here. They keep its place in the order, and
    /// stay the same if the command is redirected again.
    pub fn redirected(self: &Rc<Self>) -> Rc<Self> {
        match &self.behind {
            Some(segment) if segment.hole.is_some() => self.clone(),
            Some(segment) => self.open_hole(&segment.client),
            None => self.open_hole(self),
        }
    }

    fn open_hole(self: &Rc<Self>, client: &Rc<Self>) -> Rc<Self> {
        let within = Rc::downgrade(self);
        let number = client.holes_opened.get();
        client.holes_opened.set(number + 1);
        let hole = HoleIn { within, since: Instant::now(), tries: Cell::default(), number };
        let replies = Self::segment_with(client, Some(hole));
        // The reply is due here already, and these replies go on to count it.
        replies.due.set(1);
        let mut holes = self.holes.borrow_mut();
        if holes.is_empty() {
            replies.stand_first();
        }
        let charge = Charge::new(&self.account);
        holes.push_back(Hole {
            replies: replies.clone(),
            after: ByteQueue::default(),
            partial: false,
            charge,
        });
        self.direct.set(false);
        client.sizes.pause();
        replies
    }

    /// Returns how often the redirected command of these replies was redirected and had to wait, and when it was first redirected.
    /// Returns `None` for other replies.
    pub fn tries(&self) -> Option<(Tries, Instant)> {
        let hole = self.behind.as_ref()?.hole.as_ref()?;
        Some((hole.tries.get(), hole.since))
    }

    /// Returns the place of the redirected command of these replies among those of its client: of two commands for one slot, the later
    /// one has the higher number.
    pub fn hole_number(&self) -> Option<u64> {
        self.behind.as_ref()?.hole.as_ref().map(|hole| hole.number)
    }

    /// Sets how often the redirected command of these replies was redirected and had to wait.
    pub fn set_tries(&self, tries: Tries) {
        if let Some(hole) = self.behind.as_ref().and_then(|segment| segment.hole.as_ref()) {
            hole.tries.set(tries);
        }
    }

    /// Returns true if a part of the next reply from the connection that delivers to these replies has come.
    pub fn is_partial(&self) -> bool {
        self.holes.borrow().back().map_or(self.partial.get(), |hole| hole.partial)
    }

    /// Returns true if any reply has come in part, on any connection.
    pub fn holds_partial(&self) -> bool {
        let holes = self.holes.borrow();
        self.partial.get() || holes.iter().any(|hole| hole.partial || hole.replies.partial.get())
    }

    /// Takes note whether what the connection has delivered ends inside a reply.
    #[inline]
    pub(super) fn set_partial(&self, partial: bool) {
        if self.direct.get() {
            return self.partial.set(partial);
        }
        match self.holes.borrow_mut().back_mut() {
            Some(hole) => hole.partial = partial,
            None => self.set_partial_here(partial),
        }
    }

    /// Adds bytes that the connection has delivered. The client takes them.
    #[inline]
    pub(super) fn push_arrived(&self, bytes: &[u8]) {
        if self.direct.get() {
            return self.push(|waiting| waiting.extend_from_slice(bytes));
        }
        let mut holes = self.holes.borrow_mut();
        let Some(hole) = holes.back_mut() else {
            return self.push_here(|waiting| waiting.extend_from_slice(bytes));
        };
        hole.after.push(bytes);
        hole.charge.set(hole.after.capacity());
        let parked = &self.client().parked.bytes;
        parked.set(parked.get() + bytes.len());
    }

    /// Takes note that a reply has come. If it was that of a redirected command, what stood behind it goes on.
    pub(super) fn filled(&self) {
        if self.due.get() == 0
            && let Some(hole) = self.behind.as_ref().and_then(|segment| segment.hole.as_ref())
            && let Some(within) = hole.within.upgrade()
        {
            within.close_filled_holes();
        }
    }

    /// Closes each hole whose reply has come, up to the first whose reply has not.
    fn close_filled_holes(&self) {
        loop {
            let mut holes = self.holes.borrow_mut();
            if holes.front().is_none_or(|first| first.replies.due.get() > 0) {
                break;
            }
            let Some(filled) = holes.pop_front() else { break };
            drop(holes);
            self.close_hole(filled);
            if let Some(next) = self.holes.borrow().front() {
                next.replies.stand_first();
            }
        }
        let whole = self.holes.borrow().is_empty();
        self.direct.set(whole && self.behind.is_none());
    }

    fn close_hole(&self, hole: Hole) {
        let client = self.client();
        let Hole { replies: _, after, partial, charge } = hole;
        client.sizes.resume();
        client.parked.bytes.set(client.parked.bytes.get() - after.len());
        drop(charge);
        self.add_here(after, partial);
    }

    /// Adds bytes in front of what stands behind a hole. `partial`: true if they end inside a reply. Drops them if the client takes no
    /// replies any more: nothing may follow a reply that was cut short.
    fn add_here(&self, bytes: ByteQueue, partial: bool) {
        if self.client_state() != ClientState::Open {
            return;
        }
        match self.behind {
            None => self.take_over(bytes),
            Some(_) => {
                bytes.pieces().for_each(|piece| self.push_here(|waiting| waiting.extend_from_slice(piece)));
            }
        }
        self.set_partial_here(partial);
    }

    /// Takes note that every reply before the redirected command's has come: its reply goes straight on.
    fn stand_first(&self) {
        let Some(segment) = &self.behind else { return };
        let Some(hole) = &segment.hole else { return };
        if segment.promoted.replace(true) {
            return;
        }
        let bytes = self.bytes.take();
        self.charge();
        let parked = &segment.client.parked.bytes;
        parked.set(parked.get() - bytes.len());
        if let Some(within) = hole.within.upgrade() {
            within.add_here(bytes, self.partial.get());
        }
    }

    /// Moves what the holes hold to `other`, with `error` in the place of each reply that is due. Returns the number of replies that
    /// were due for them.
    pub(super) fn give_up_holes(&self, other: &Self, error: &[u8]) -> u32 {
        let mut due = 0;
        for hole in self.holes.borrow().iter() {
            hole.replies.move_to(other);
            let awaited = hole.replies.due.get();
            due += awaited;
            other.answer(|out| {
                if awaited > 0 {
                    out.extend_from_slice(error);
                }
                hole.after.pieces().for_each(|piece| out.extend_from_slice(piece));
            });
        }
        due
    }

    /// Drops what the holes hold. Replies that still come are dropped.
    pub(super) fn close_holes(&self) {
        let holes = self.holes.take();
        holes.iter().for_each(|hole| hole.replies.close());
    }
}
