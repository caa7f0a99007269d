//! A worker's pool of buffers, so that an idle session holds none.

use std::cell::RefCell;
use std::rc::Rc;

use super::budget::Share;

/// A pooled buffer's capacity, in bytes. Larger ones are freed when they are given back.
const POOLED: usize = 16 * 1024;
/// Free buffers kept by one worker.
const KEPT: usize = 64;
/// What one socket read takes at most, in bytes.
pub const READ: usize = 64 * 1024;

/// The buffers of one worker, and its share of the byte budget.
pub struct Buffers {
    free: RefCell<Vec<Vec<u8>>>,
    scratch: RefCell<Vec<u8>>,
    share: Rc<Share>,
}

impl Buffers {
    /// `share`: what counts the bytes that the worker's clients hold.
    pub fn new(share: Rc<Share>) -> Self {
        Self { free: RefCell::default(), scratch: RefCell::new(vec![0; READ]), share }
    }

    /// Those of the only worker, for tests.
    #[cfg(test)]
    pub(crate) fn alone(limit: usize) -> Self {
        Self::new(Rc::new(Share::new(super::budget::Budget::new(limit, 1), 0)))
    }

    /// An empty buffer.
    pub fn take(&self) -> Vec<u8> {
        self.free.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(POOLED))
    }

    /// Takes a buffer back for reuse; its content is dropped.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let mut free = self.free.borrow_mut();
        if (1..=POOLED).contains(&buffer.capacity()) && free.len() < KEPT {
            buffer.clear();
            free.push(buffer);
        }
    }

    /// Where a socket is read into before its bytes are scanned, [`READ`] bytes long. Borrow it for one turn
    /// only.
    pub fn scratch(&self) -> &RefCell<Vec<u8>> {
        &self.scratch
    }

    /// The worker's share of the byte budget.
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
