//! What a client holds back while there is no primary.

use std::cell::Cell;
use std::rc::Rc;

use crate::metrics::Gauged;

/// Bytes that the held commands of one worker take for one upstream.
#[derive(Clone, Default)]
pub(super) struct HeldBytes(Rc<Cell<usize>>);

impl HeldBytes {
    /// Bytes held now.
    pub(super) fn count(&self) -> usize {
        self.0.get()
    }
}

/// One client whose commands wait, for as long as they do.
pub struct Held {
    all: HeldBytes,
    bytes: usize,
    _gauge: Gauged,
}

impl Held {
    pub(super) fn new(all: &HeldBytes, gauge: Gauged) -> Self {
        Self { all: all.clone(), bytes: 0, _gauge: gauge }
    }

    /// Its commands take so many bytes now.
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
