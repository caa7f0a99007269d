//! The channels that no node takes at present, and when they are tried again. No I/O.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tokio::time::Instant;

use super::book::Name;
use crate::net::backoff::Backoff;

/// The bounds of the pause before channels are tried again that no node took.
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// The number of redirects that are followed at once. Others wait for a pause.
const MAX_HOPS: u32 = 16;

/// The channels that no node takes at present.
#[derive(Default)]
pub(super) struct Retries {
    waiting: RefCell<Vec<Name>>,
    /// The last error by which a node has refused them.
    last: RefCell<Vec<u8>>,
    /// Since when channels have been without a node.
    since: Cell<Option<Instant>>,
    next: Cell<Option<Instant>>,
    backoff: RefCell<Option<Backoff>>,
    /// The number of redirects that were followed at once.
    hops: Cell<u32>,
}

impl Retries {
    /// Returns true if every channel has a link.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Takes note that no channel is without a node.
    pub(super) fn reset(&self) {
        self.since.set(None);
        self.next.set(None);
        self.hops.set(0);
        self.backoff.replace(None);
    }

    /// Returns true if one more redirect may be followed at once, and counts it.
    pub(super) fn hops(&self) -> bool {
        self.hops.set(self.hops.get() + 1);
        self.hops.get() <= MAX_HOPS
    }

    /// Returns when the channels that wait are to be tried again; `None` if none wait.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next.get().filter(|_| !self.is_empty())
    }

    /// Returns for how long channels have been without a node, and the last error by which a node has refused them.
    pub(super) fn waited(&self) -> (Duration, Vec<u8>) {
        let time = self.since.get().map_or(Duration::ZERO, |since| since.elapsed());
        (time, self.last.borrow().clone())
    }

    /// Has channels wait that a node has refused with this error line.
    pub(super) fn wait(&self, names: Vec<Name>, line: &[u8]) {
        if names.is_empty() {
            return;
        }
        let now = Instant::now();
        self.waiting.borrow_mut().extend(names);
        self.last.replace(line.to_vec());
        self.since.set(Some(self.since.get().unwrap_or(now)));
        if self.next.get().is_none_or(|next| next <= now) {
            let mut backoff = self.backoff.borrow_mut();
            let delay = backoff.get_or_insert_with(|| Backoff::new(RETRY_MIN, RETRY_MAX)).next_delay();
            self.next.set(Some(now + delay));
        }
    }

    /// Returns the channels that are to be tried again now.
    pub(super) fn take_due(&self) -> Vec<Name> {
        match self.next.get() {
            Some(next) if next <= Instant::now() => std::mem::take(&mut *self.waiting.borrow_mut()),
            _ => Vec::new(),
        }
    }
}
