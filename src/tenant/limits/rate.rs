//! Measures rates by the generic cell rate algorithm (GCRA): one number, the theoretical arrival time of the next
//! unit, says how much may pass. Time is passed in, in nanoseconds since any fixed moment.
//!
//! A charge may exceed the burst, because a request has whatever size it has; later charges then wait until the
//! debt is paid. The cost of a charge is computed for the whole amount at once, so that rates of many units per
//! nanosecond are as exact as slow ones.

use std::cell::Cell;

/// Nanoseconds in a second.
const SECOND: u128 = 1_000_000_000;

/// Defines how much may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units per second, in the long run. At least 1.
    pub per_second: u64,
    /// Units that may pass at once after a pause. At least 1.
    pub burst: u64,
}

impl Rate {
    /// Creates a rate with a burst of a tenth of a second.
    pub fn with_usual_burst(per_second: u64) -> Self {
        Self { per_second, burst: (per_second / 10).max(1) }
    }

    /// Returns how long `units` units take, in nanoseconds.
    pub(super) fn cost(self, units: u64) -> u64 {
        let per_second = u128::from(self.per_second.max(1));
        let cost = (u128::from(units) * SECOND + per_second / 2) / per_second;
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    /// Returns how far the arrival time may be ahead of the clock for a unit that still passes, in nanoseconds.
    fn tolerance(self) -> u64 {
        self.cost(self.burst.max(1)) - self.cost(1)
    }

    /// Returns one of `of` equal parts of the rate.
    pub(super) fn part(self, of: u64) -> Self {
        let of = of.max(1);
        Self { per_second: (self.per_second / of).max(1), burst: (self.burst / of).max(1) }
    }

    /// Converts `arrival`, a time by the rate `before`, to this rate. What was used still counts. A faster
    /// rate pays the debt back sooner; a slower one does not make it longer.
    pub(super) fn take_over(self, arrival: u64, before: Self, now: u64) -> u64 {
        let owed = arrival.saturating_sub(now);
        let scaled = u128::from(owed) * u128::from(before.per_second) / u128::from(self.per_second.max(1));
        now.min(arrival).saturating_add(owed.min(u64::try_from(scaled).unwrap_or(u64::MAX)))
    }

    /// Returns how long units must wait at `now` if the theoretical arrival time is `arrival`, in nanoseconds.
    pub(super) fn wait(self, arrival: u64, now: u64) -> u64 {
        arrival.max(now).saturating_sub(now).saturating_sub(self.tolerance())
    }
}

/// Measures and charges what passes.
pub trait Meter {
    /// Charges `units`, which may wait for at most `max_wait` nanoseconds. Returns the wait in nanoseconds.
    ///
    /// # Errors
    /// Returns the wait that would be needed, if it is longer than `max_wait`. Nothing is charged then.
    fn charge(&self, now: u64, units: u64, max_wait: u64) -> Result<u64, u64>;

    /// Refunds a charge for something that did not pass.
    fn refund(&self, units: u64);

    /// Returns how long the next unit would have to wait, in nanoseconds.
    fn wait(&self, now: u64) -> u64;

    /// Returns the rate that applies now.
    fn rate(&self) -> Rate;
}

/// Measures a rate on one thread.
#[derive(Debug)]
pub struct Own {
    rate: Rate,
    /// The theoretical arrival time of the next unit.
    arrival: Cell<u64>,
}

impl Own {
    /// Creates a meter of which nothing has been used.
    pub fn new(rate: Rate) -> Self {
        Self { rate, arrival: Cell::new(0) }
    }

    /// Returns a meter with another rate from `now` on, which continues this one.
    pub fn with_rate(&self, rate: Rate, now: u64) -> Self {
        Self { rate, arrival: Cell::new(rate.take_over(self.arrival.get(), self.rate, now)) }
    }
}

impl Meter for Own {
    fn charge(&self, now: u64, units: u64, max_wait: u64) -> Result<u64, u64> {
        let wait = self.rate.wait(self.arrival.get(), now);
        if wait > max_wait {
            return Err(wait);
        }
        self.arrival.set(self.arrival.get().max(now).saturating_add(self.rate.cost(units)));
        Ok(wait)
    }

    fn refund(&self, units: u64) {
        self.arrival.set(self.arrival.get().saturating_sub(self.rate.cost(units)));
    }

    fn wait(&self, now: u64) -> u64 {
        self.rate.wait(self.arrival.get(), now)
    }

    fn rate(&self) -> Rate {
        self.rate
    }
}

/// Returns how many units pass in steps of `units`, when the clock runs from `from` to `until` in steps of `step`.
#[cfg(test)]
pub(super) fn passing(meter: &impl Meter, from: u64, until: u64, step: u64, units: u64) -> u64 {
    let mut passed = 0;
    let mut now = from;
    while now < until {
        while meter.charge(now, units, 0).is_ok() {
            passed += units;
        }
        now += step;
    }
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_burst_and_then_the_rate() {
        let meter = Own::new(Rate { per_second: 100, burst: 10 });
        let now = 5 * MS;
        assert_eq!((0..20).filter(|_| meter.charge(now, 1, 0).is_ok()).count(), 10);
        assert_eq!(meter.charge(now, 1, 0), Err(10 * MS));
        assert_eq!(meter.charge(now + 9 * MS, 1, 0), Err(MS));
        assert_eq!(meter.charge(now + 10 * MS, 1, 0), Ok(0));
        assert_eq!(passing(&meter, now + 10 * MS, now + 1010 * MS, MS, 1), 99);
    }

    #[test]
    fn a_pause_earns_no_more_than_the_burst() {
        let meter = Own::new(Rate { per_second: 1000, burst: 50 });
        assert_eq!(passing(&meter, 0, 1, 1, 1), 50);
        assert_eq!(passing(&meter, 3600 * 1000 * MS, 3600 * 1000 * MS + 1, 1, 1), 50);
    }

    #[test]
    fn waits_are_handed_out_in_order() {
        let meter = Own::new(Rate { per_second: 100, burst: 1 });
        let waits: Vec<_> = (0..4).map(|_| meter.charge(0, 1, 25 * MS)).collect();
        assert_eq!(waits, [Ok(0), Ok(10 * MS), Ok(20 * MS), Err(30 * MS)]);
        // The refused charge took no units.
        assert_eq!(meter.charge(5 * MS, 1, 25 * MS), Ok(25 * MS));
    }

    #[test]
    fn a_large_amount_passes_and_is_waited_for_afterwards() {
        let meter = Own::new(Rate { per_second: 1_000_000, burst: 1000 });
        assert_eq!(meter.charge(0, 1_000_000, 0), Ok(0));
        let wait = meter.charge(0, 1, 0).unwrap_err();
        assert!((998 * MS..=1000 * MS).contains(&wait), "{wait}");
        meter.refund(1_000_000);
        assert_eq!(meter.charge(0, 1, 0), Ok(0));
    }

    #[test]
    fn rates_beyond_a_unit_per_nanosecond_are_exact() {
        for per_second in [3_000_000_000, 700_000_007, 300_000_000] {
            let meter = Own::new(Rate { per_second, burst: per_second / 10 });
            let passed = passing(&meter, 0, 1000 * MS, MS, 65_536);
            let expected = per_second + per_second / 10;
            assert!(passed.abs_diff(expected) * 100 < expected, "{passed} of {expected}");
        }
    }

    #[test]
    fn another_rate_goes_on_where_the_last_one_was() {
        let slow = Own::new(Rate { per_second: 10, burst: 1 });
        (0..5).for_each(|_| assert!(slow.charge(0, 1, u64::MAX).is_ok()));
        let fast = slow.with_rate(Rate { per_second: 100, burst: 1 }, 100 * MS);
        assert_eq!(fast.wait(100 * MS), 40 * MS, "400 ms were owed");
        let slower = fast.with_rate(Rate { per_second: 1, burst: 1 }, 100 * MS);
        assert_eq!(slower.wait(100 * MS), 40 * MS, "a debt does not grow");
        assert_eq!(slower.with_rate(slower.rate, 500 * MS).wait(500 * MS), 0);
        // A pause before is worth the new burst and no more.
        let rested = slow.with_rate(Rate { per_second: 100, burst: 7 }, 9000 * MS);
        assert_eq!(passing(&rested, 9000 * MS, 9000 * MS + 1, 1, 1), 7);
        let rate = Rate { per_second: 1000, burst: 10 };
        let endless = Own { rate, arrival: Cell::new(u64::MAX) };
        assert!(endless.with_rate(Rate { per_second: 1, burst: 1 }, 0).wait(0) > 0);
    }

    #[test]
    fn nothing_overflows() {
        let meter = Own::new(Rate { per_second: 1, burst: u64::MAX });
        assert_eq!(meter.charge(u64::MAX, u64::MAX, 0), Ok(0));
        assert_eq!(meter.charge(0, u64::MAX, u64::MAX), Ok(u64::MAX - meter.rate.tolerance()));
        let slow = Own::new(Rate { per_second: 1, burst: 1 });
        assert_eq!(slow.charge(0, u64::MAX, 0), Ok(0));
        assert!(slow.charge(0, 1, 0).is_err());
    }
}
