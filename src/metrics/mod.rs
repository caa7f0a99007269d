//! Declares the metrics of respgate, and what a worker counts.
//!
//! [`declared`] names every metric. A worker counts in plain cells ([`Counters`]). When the metrics
//! endpoint is read, the admin listener asks each worker for a [`Snapshot`] and publishes the sums
//! through the `metrics` crate. The data path touches no atomic.

pub mod counters;
pub mod declared;

use std::cell::Cell;
use std::rc::Rc;

pub use counters::{Counters, Snapshot};

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

/// Adds one to a gauge while it lives, and subtracts it again when it is dropped.
pub struct Gauged {
    counters: Rc<Counters>,
    which: fn(&Counters) -> &LocalCounter,
}

impl Gauged {
    /// Adds one to the gauge that `which` selects.
    pub fn new(counters: &Rc<Counters>, which: fn(&Counters) -> &LocalCounter) -> Self {
        which(counters).inc();
        Self { counters: counters.clone(), which }
    }
}

impl Drop for Gauged {
    fn drop(&mut self) {
        (self.which)(&self.counters).dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_falls_when_its_guard_is_dropped() {
        let counters = Rc::new(Counters::default());
        let guard = Gauged::new(&counters, |c| &c.clients);
        assert_eq!(counters.clients.get(), 1);
        drop(guard);
        assert_eq!(counters.clients.get(), 0);
    }
}
