//! A guard that holds a gauge up.

use std::rc::Rc;

use super::counters::Counters;
use super::local::LocalCounter;

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
