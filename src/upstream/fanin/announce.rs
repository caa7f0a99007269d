//! Wakes the sessions that have messages, a few at a time and in the order of their messages. So the writes of thousands of
//! subscribers do not keep other clients waiting.

use std::collections::VecDeque;
use std::rc::Rc;

use super::sink::SubscriberSink;

/// The number of sessions that are woken before other tasks have their turn. Each then writes to its socket for about 6 us.
const WAKES: usize = 128;

/// The sessions that have messages and have not been woken for them. Dropping it wakes all of them.
#[derive(Default)]
pub(super) struct Announcements {
    due: VecDeque<Rc<SubscriberSink>>,
    /// The size of the messages for which no session has been woken, in bytes.
    bytes: usize,
}

impl Announcements {
    /// Takes note that `sink` got a message of `bytes` bytes.
    pub(super) fn add(&mut self, sink: &Rc<SubscriberSink>, bytes: usize) {
        self.bytes += bytes;
        if sink.announce_later(bytes) {
            self.due.push_back(sink.clone());
        }
    }

    /// Returns the size of the messages for which no session has been woken, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns true if every session has been woken.
    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Wakes the next sessions.
    pub(super) fn wake_some(&mut self) {
        for sink in self.due.drain(..self.due.len().min(WAKES)) {
            self.bytes = self.bytes.saturating_sub(sink.announce());
        }
    }
}

impl Drop for Announcements {
    fn drop(&mut self) {
        self.due.drain(..).for_each(|sink| {
            sink.announce();
        });
    }
}
