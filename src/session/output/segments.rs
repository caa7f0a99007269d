//! The segments of a client's replies, and the finished ones of all clients of a worker, which are used again.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use crate::session::order::{LaneId, UnderWay};
use crate::upstream::replies::Replies;
use crate::upstream::replies::segment::SpareSegment;

/// Number of finished segments that a worker keeps. One takes 1 kB at most.
const KEPT_SEGMENTS: usize = 1024;
/// Number of empty lists that a worker keeps.
const KEPT_LISTS: usize = 64;

/// The commands whose replies are due in one series.
#[derive(Clone, Copy, Default)]
pub(super) struct Sent {
    /// The connection that carries them.
    pub(super) place: LaneId,
    pub(super) kinds: UnderWay,
}

/// Consecutive replies that come from one connection, or are respgate's own, and stand behind earlier ones.
pub(super) struct Segment {
    pub(super) replies: Rc<Replies>,
    pub(super) sent: Sent,
}

/// Keeps what the clients of a worker used for their segments, so that their next ones allocate nothing.
#[derive(Default)]
pub(in crate::session) struct SpareSegments {
    free: RefCell<Vec<SpareSegment>>,
    lists: RefCell<Vec<VecDeque<Segment>>>,
    /// The lowest number of free segments since the last [`Self::trim`].
    unused: Cell<usize>,
}

impl SpareSegments {
    /// Returns a new segment of `client`.
    pub(super) fn begin(&self, client: &Rc<Replies>) -> Rc<Replies> {
        let mut free = self.free.borrow_mut();
        let Some(spare) = free.pop() else { return Replies::segment(client) };
        if free.len() < self.unused.get() {
            self.unused.set(free.len());
        }
        spare.begin(client)
    }

    /// Takes back a segment whose replies have all come.
    pub(super) fn finish(&self, segment: Segment) {
        let Some(spare) = SpareSegment::of(segment.replies) else { return };
        let mut free = self.free.borrow_mut();
        if free.len() < KEPT_SEGMENTS {
            free.push(spare);
        }
    }

    /// Returns an empty list.
    pub(super) fn take_list(&self) -> VecDeque<Segment> {
        self.lists.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes back an empty list.
    pub(super) fn give_list(&self, list: VecDeque<Segment>) {
        let mut lists = self.lists.borrow_mut();
        if list.capacity() > 0 && lists.len() < KEPT_LISTS {
            lists.push(list);
        }
    }

    /// Frees the segments that no client has needed since the last call. Called once per second.
    pub(in crate::session) fn trim(&self) {
        let mut free = self.free.borrow_mut();
        let left = free.len() - self.unused.get().min(free.len());
        free.truncate(left);
        if left == 0 {
            *free = Vec::new();
            self.lists.take();
        }
        self.unused.set(left);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.free.borrow().len()
    }
}
