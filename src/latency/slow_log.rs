//! The newest slow commands of one worker.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use super::entry::Entry;

/// Holds the newest slow commands, up to a number.
#[derive(Debug)]
pub(super) struct SlowLog {
    entries: RefCell<VecDeque<Entry>>,
    length: Cell<usize>,
}

impl SlowLog {
    pub(super) fn new(length: usize) -> Self {
        Self { entries: RefCell::default(), length: Cell::new(length) }
    }

    /// Changes the greatest number of entries. Drops the oldest ones if there are more.
    pub(super) fn set_length(&self, length: usize) {
        self.length.set(length);
        let mut entries = self.entries.borrow_mut();
        let excess = entries.len().saturating_sub(length);
        entries.drain(..excess);
    }

    /// Adds an entry. Drops the oldest one if the log is full.
    pub(super) fn push(&self, entry: Entry) {
        let mut entries = self.entries.borrow_mut();
        if entries.len() >= self.length.get() {
            entries.pop_front();
        }
        if self.length.get() > 0 {
            entries.push_back(entry);
        }
    }

    /// Returns the entries, the oldest first.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.entries.borrow().iter().cloned().collect()
    }
}
