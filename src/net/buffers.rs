//! A worker's byte budget and its pool of buffers, so that an idle session holds none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A pooled buffer's capacity, in bytes. Larger ones are freed when they are given back.
const POOLED: usize = 16 * 1024;
/// Free buffers kept by one worker.
const KEPT: usize = 64;
/// What one socket read takes at most, in bytes.
pub const READ: usize = 64 * 1024;

/// Buffers and the count of buffered bytes of one worker.
pub struct Buffers {
    free: RefCell<Vec<Vec<u8>>>,
    scratch: RefCell<Vec<u8>>,
    held: Cell<usize>,
    limit: usize,
}

impl Buffers {
    /// `limit`: bytes that this worker's sessions and lanes may hold together.
    pub fn new(limit: usize) -> Self {
        Self { free: RefCell::default(), scratch: RefCell::new(vec![0; READ]), held: Cell::new(0), limit }
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

    /// Counts bytes that are now held.
    pub fn charge(&self, bytes: usize) {
        self.held.set(self.held.get().saturating_add(bytes));
    }

    /// Counts bytes that are no longer held.
    pub fn discharge(&self, bytes: usize) {
        self.held.set(self.held.get().saturating_sub(bytes));
    }

    /// Bytes that may be held.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// Whether the budget is spent: who holds more than a fair share must go.
    pub fn exhausted(&self) -> bool {
        self.held.get() > self.limit
    }
}

/// A share of the budget that changes, and ends with its owner.
pub struct Charge {
    buffers: Rc<Buffers>,
    bytes: usize,
}

impl Charge {
    /// Nothing yet.
    pub fn new(buffers: &Rc<Buffers>) -> Self {
        Self { buffers: buffers.clone(), bytes: 0 }
    }

    /// Its owner holds so many bytes now.
    pub fn set(&mut self, bytes: usize) {
        self.buffers.discharge(self.bytes);
        self.buffers.charge(bytes);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_reused_unless_they_grew() {
        let buffers = Buffers::new(100);
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

    #[test]
    fn a_charge_ends_with_its_owner() {
        let buffers = Rc::new(Buffers::new(100));
        let mut charge = Charge::new(&buffers);
        charge.set(70);
        charge.set(30);
        assert_eq!(buffers.held(), 30);
        drop(charge);
        assert_eq!(buffers.held(), 0);
    }

    #[test]
    fn the_budget_counts_both_ways() {
        let buffers = Buffers::new(100);
        buffers.charge(101);
        assert!(buffers.exhausted());
        buffers.discharge(1);
        assert!(!buffers.exhausted());
        assert_eq!(buffers.held(), 100);
    }
}
