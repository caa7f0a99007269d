//! Counts the reasons for which sessions keep a lease.

use std::rc::Rc;

use crate::metrics::{Counters, LocalCounter};

/// The bit of a session that waits in a blocking command.
pub(super) const BLOCKING: u16 = 1 << 9;
/// The bit of a session that keeps its lease until it ends (`pool = "session"`).
pub(super) const SESSION: u16 = 1 << 10;

/// The gauge of each reason. The first nine are in the order of [`super::pins::Pins::kinds`].
pub(super) const GAUGES: [fn(&Counters) -> &LocalCounter; 11] = [
    |counters| &counters.pinned_transaction,
    |counters| &counters.pinned_watch,
    |counters| &counters.pinned_subscription,
    |counters| &counters.pinned_monitor,
    |counters| &counters.pinned_tracking,
    |counters| &counters.pinned_no_touch,
    |counters| &counters.pinned_import_source,
    |counters| &counters.pinned_fieldsets,
    |counters| &counters.pinned_unknown_command,
    |counters| &counters.pinned_blocking,
    |counters| &counters.pinned_session,
];

/// Counts one session under each of its reasons until it is dropped.
pub(super) struct PinCounts {
    counters: Rc<Counters>,
    /// The reasons under which the session is counted, as bits.
    counted: u16,
}

impl PinCounts {
    pub(super) fn new(counters: &Rc<Counters>) -> Self {
        Self { counters: counters.clone(), counted: 0 }
    }

    /// Counts the session under these reasons from now on.
    pub(super) fn set(&mut self, reasons: u16) {
        let changed = self.counted ^ reasons;
        if changed == 0 {
            return;
        }
        for (bit, gauge) in GAUGES.iter().enumerate().filter(|(bit, _)| changed >> bit & 1 == 1) {
            let gauge = gauge(&self.counters);
            if reasons >> bit & 1 == 1 { gauge.inc() } else { gauge.dec() }
        }
        self.counted = reasons;
    }
}

impl Drop for PinCounts {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pins::Pins;
    use super::*;

    #[test]
    fn a_session_counts_under_its_present_reasons() {
        let counters = Rc::new(Counters::default());
        let mut counts = PinCounts::new(&counters);
        let mut pins = Pins::default();
        (pins.watching, pins.fieldsets) = (true, true);
        counts.set(pins.kinds() | BLOCKING);
        let counted = || {
            [&counters.pinned_watch, &counters.pinned_fieldsets, &counters.pinned_blocking]
                .map(LocalCounter::get)
        };
        assert_eq!(counted(), [1, 1, 1]);
        counts.set(pins.kinds());
        assert_eq!(counted(), [1, 1, 0]);
        drop(counts);
        assert_eq!(counted(), [0, 0, 0]);
    }
}
