//! Sessions that have messages and have not been woken for them. They are woken a few at a time, so that what thousands
//! of subscribers write does not come between other clients and their turns, and in the order in which they became due.

use std::collections::VecDeque;
use std::rc::Rc;

use super::subscription::SubscriberSink;

/// Sessions woken before other tasks have their turn. Each writes to its socket then, which takes about 6 us.
const WAKES: usize = 128;

/// See the module. Dropping it wakes everybody.
#[derive(Default)]
pub(super) struct Announcements {
    due: VecDeque<Rc<SubscriberSink>>,
    bytes: usize,
}

impl Announcements {
    /// A message of `bytes` bytes was passed to `outlet`.
    pub(super) fn add(&mut self, outlet: &Rc<SubscriberSink>, bytes: usize) {
        self.bytes += bytes;
        if outlet.announce_later(bytes) {
            self.due.push_back(outlet.clone());
        }
    }

    /// Bytes of messages that no session has been woken for.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether all sessions have been woken.
    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Wakes the next sessions.
    pub(super) fn wake_some(&mut self) {
        for outlet in self.due.drain(..self.due.len().min(WAKES)) {
            self.bytes = self.bytes.saturating_sub(outlet.announce());
        }
    }
}

impl Drop for Announcements {
    fn drop(&mut self) {
        self.due.drain(..).for_each(|outlet| {
            outlet.announce();
        });
    }
}
