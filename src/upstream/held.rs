//! Counts the bytes of the commands that clients hold back while there is no primary.

use std::cell::Cell;
use std::rc::Rc;

use crate::metrics::Gauged;

/// The bytes of the held commands of one worker for one upstream.
#[derive(Clone, Default)]
pub(super) struct HeldBytes(Rc<Cell<usize>>);

impl HeldBytes {
    /// Returns the number of bytes held now.
    pub(super) fn count(&self) -> usize {
        self.0.get()
    }
}

/// Counts one client whose commands wait for a primary. Dropping it ends the count.
pub struct Held {
    all: HeldBytes,
    bytes: usize,
    _gauge: Gauged,
}

impl Held {
    pub(super) fn new(all: &HeldBytes, gauge: Gauged) -> Self {
        Self { all: all.clone(), bytes: 0, _gauge: gauge }
    }

    /// Sets the number of bytes that the client's commands take.
    pub fn set(&mut self, bytes: usize) {
        self.all.0.set(self.all.0.get().saturating_sub(self.bytes).saturating_add(bytes));
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}
