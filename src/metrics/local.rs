//! A counter for one thread.

use std::cell::Cell;

/// A counter that only one thread uses.
#[derive(Debug, Default)]
pub struct LocalCounter(Cell<u64>);

impl LocalCounter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.set(self.0.get().wrapping_add(count));
    }

    /// Subtracts one (gauges only).
    pub fn dec(&self) {
        self.0.set(self.0.get().saturating_sub(1));
    }

    /// Sets the value (gauges only).
    pub fn set(&self, value: u64) {
        self.0.set(value);
    }

    /// Returns the present value.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}
