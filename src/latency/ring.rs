//! A bounded queue of entries that drops what does not fit, and counts it.

use std::collections::VecDeque;

use super::entry::Entry;

/// Number of entries that wait for the reader of a tap.
const ROOM: usize = 1024;

/// The entries of one tap that its reader has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Ring {
    entries: VecDeque<Entry>,
    dropped: u64,
}

impl Ring {
    /// Returns true if there is room for another entry; else counts the entry as dropped.
    pub(super) fn has_room(&mut self) -> bool {
        let room = self.entries.len() < ROOM;
        self.dropped += u64::from(!room);
        room
    }

    /// Adds an entry, or counts it as dropped.
    pub(super) fn push(&mut self, entry: Entry) {
        if self.has_room() {
            self.entries.push_back(entry);
        }
    }

    /// Takes note that an entry was dropped.
    pub(super) fn note_dropped(&mut self) {
        self.dropped += 1;
    }

    /// Takes out all entries, and the number of those that were dropped since the last call.
    pub(super) fn take(&mut self) -> (Vec<Entry>, u64) {
        (self.entries.drain(..).collect(), std::mem::take(&mut self.dropped))
    }

    /// Returns true if there is nothing to take.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.dropped == 0
    }
}
