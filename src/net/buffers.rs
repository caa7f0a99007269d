//! A worker's pool of buffers, so that an idle session holds none.

use std::cell::RefCell;
use std::rc::Rc;

use super::budget::Share;

/// A pooled buffer's capacity, in bytes. The pool frees larger buffers when it gets them back.
const POOLED: usize = 16 * 1024;
/// Number of free buffers that one worker keeps.
const KEPT: usize = 64;
/// The most bytes that one socket read takes.
pub const READ: usize = 64 * 1024;

/// Holds the buffers of one worker, and its part of the byte budget.
pub struct Buffers {
    free: RefCell<Vec<Vec<u8>>>,
    scratch: RefCell<Vec<u8>>,
    share: Rc<Share>,
}

impl Buffers {
    /// Creates an empty pool. `share` counts the bytes that the worker's clients hold.
    pub fn new(share: Rc<Share>) -> Self {
        Self { free: RefCell::default(), scratch: RefCell::new(vec![0; READ]), share }
    }

    /// Creates the pool of a process with one worker, for tests.
    #[cfg(test)]
    pub(crate) fn alone(limit: usize) -> Self {
        Self::new(Rc::new(Share::new(super::budget::Budget::new(limit, 1), 0)))
    }

    /// Returns an empty buffer.
    pub fn take(&self) -> Vec<u8> {
        self.free.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(POOLED))
    }

    /// Takes a buffer back for reuse and drops its content.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let mut free = self.free.borrow_mut();
        if (1..=POOLED).contains(&buffer.capacity()) && free.len() < KEPT {
            buffer.clear();
            free.push(buffer);
        }
    }

    /// Returns the buffer of [`READ`] bytes that sockets are read into before the bytes are
    /// scanned. Borrow it within one poll only.
    pub fn scratch(&self) -> &RefCell<Vec<u8>> {
        &self.scratch
    }

    /// Returns the worker's part of the byte budget.
    pub fn share(&self) -> &Rc<Share> {
        &self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_reused_unless_they_grew() {
        let buffers = Buffers::alone(1 << 20);
        let mut buffer = buffers.take();
        buffer.extend_from_slice(b"old");
        let place = buffer.as_ptr();
        buffers.give(buffer);
        let again = buffers.take();
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), place);
        buffers.give(Vec::with_capacity(POOLED * 2));
        assert!(buffers.free.borrow().is_empty());
    }
}
