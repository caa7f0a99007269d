//! Keeps one respgate's account of a rate that several respgates share: the units that were granted and not used,
//! or used in advance.
//!
//! The store of the grants ([`crate::tenant::store`]) hands units out as they become due, to all respgates
//! together, so that in the long run no more passes than it granted. A task asks it in advance for as many units
//! as pass within [`AHEAD`]. A charge that finds no units in hand waits for about as long as recent grants took,
//! and is paid by the next grants. No I/O; time is passed in.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::rate::Rate;

/// Time for which units of the whole rate are kept in hand.
const AHEAD: Duration = Duration::from_millis(50);
/// The store's burst is at least what becomes due in this time, because it is not asked all the time.
const LEAST_BURST: Duration = Duration::from_millis(100);
/// The fixed-point factor of paces: units per second times this, so that slow paces can be averaged.
const PACE: u64 = 1024;
/// Weight of the past in the average pace: one grant counts 1/16.
const SMOOTHING: u64 = 16;
/// The slowest pace that waits are estimated by is the whole rate divided by this.
const SLOWEST: u64 = 256;

/// Keeps the account. All workers charge it; one task adds the grants.
#[derive(Debug)]
pub struct Ledger {
    whole: Rate,
    /// Units to keep in hand.
    target: u64,
    /// Units granted and unused. Negative if units were used in advance.
    balance: AtomicI64,
    /// Units per second granted recently, times [`PACE`].
    pace: AtomicU64,
    /// True while the store answers.
    live: AtomicBool,
}

impl Ledger {
    /// Creates a ledger of a rate `whole` that `processes` processes share. Each process keeps its part of the
    /// burst in hand, so that the burst passes at once. Nothing is granted yet, and the ledger is not live.
    pub fn new(whole: Rate, processes: u64) -> Self {
        let burst = whole.burst.max(units_in(whole.per_second, LEAST_BURST));
        Self {
            whole: Rate { burst, ..whole },
            target: units_in(whole.per_second, AHEAD).max(whole.part(processes).burst),
            balance: AtomicI64::new(0),
            pace: AtomicU64::new(whole.per_second.saturating_mul(PACE)),
            live: AtomicBool::new(false),
        }
    }

    /// Returns the rate that the store enforces.
    pub fn whole(&self) -> Rate {
        self.whole
    }

    /// Returns true if the ledger counts, because the store answers.
    pub fn live(&self) -> bool {
        self.live.load(Ordering::Relaxed)
    }

    /// Makes the ledger live with a first grant. Forgets earlier debts, because the process has kept to its local
    /// part since.
    pub fn open(&self, granted: u64) {
        self.balance.store(signed(granted), Ordering::Relaxed);
        self.pace.store(self.whole.per_second.saturating_mul(PACE), Ordering::Relaxed);
        self.live.store(true, Ordering::Relaxed);
    }

    /// Ends the live phase, because the store does not answer.
    pub fn close(&self) {
        self.live.store(false, Ordering::Relaxed);
    }

    /// Returns how many units to ask for: none while more than half of the units to keep in hand are there, and
    /// at most one second's units beyond those, whatever is owed.
    pub fn wanted(&self) -> u64 {
        if !self.live() {
            return self.target;
        }
        let balance = self.balance.load(Ordering::Relaxed);
        if balance.saturating_mul(2) > signed(self.target) {
            return 0;
        }
        let wanted = signed(self.target).saturating_sub(balance).max(0).unsigned_abs();
        wanted.min(self.target.saturating_add(self.whole.per_second))
    }

    /// Adds a grant of `granted` of the `wanted` units, `elapsed` after the last grant.
    pub fn grant(&self, granted: u64, wanted: u64, elapsed: Duration) {
        let granted = granted.min(wanted);
        self.add(signed(granted));
        let whole = self.whole.per_second.saturating_mul(PACE);
        // A grant that falls short shows the pace at which other respgates leave units over.
        let pace = if granted < wanted {
            let nanos = elapsed.as_nanos().max(1);
            let seen = u128::from(granted).saturating_mul(1_000_000_000 * u128::from(PACE)) / nanos;
            let seen = u64::try_from(seen).unwrap_or(u64::MAX).min(whole);
            let before = self.pace.load(Ordering::Relaxed);
            (before - before / SMOOTHING).saturating_add(seen / SMOOTHING)
        } else {
            whole
        };
        self.pace.store(pace.clamp((whole / SLOWEST).max(1), whole), Ordering::Relaxed);
    }

    /// Charges as [`super::rate::Meter::charge`] does.
    ///
    /// # Errors
    /// Returns the wait that would be needed, in nanoseconds. Nothing is charged then.
    pub fn charge(&self, units: u64, max_wait: u64) -> Result<u64, u64> {
        let mut balance = self.balance.load(Ordering::Relaxed);
        loop {
            let wait = self.wait_at(balance);
            if wait > max_wait {
                return Err(wait);
            }
            let next = balance.saturating_sub(signed(units));
            match self.balance.compare_exchange_weak(balance, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(wait),
                Err(other) => balance = other,
            }
        }
    }

    /// Refunds as [`super::rate::Meter::refund`] does.
    pub fn refund(&self, units: u64) {
        self.add(signed(units));
    }

    /// Returns the estimated wait of the next unit, in nanoseconds.
    pub fn wait(&self) -> u64 {
        self.wait_at(self.balance.load(Ordering::Relaxed))
    }

    fn wait_at(&self, balance: i64) -> u64 {
        if balance > 0 {
            return 0;
        }
        let pace = u128::from(self.pace.load(Ordering::Relaxed).max(1));
        let units = u128::from(balance.unsigned_abs()) + 1;
        u64::try_from(units * 1_000_000_000 * u128::from(PACE) / pace).unwrap_or(u64::MAX)
    }

    fn add(&self, units: i64) {
        let _ = self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |balance| {
            Some(balance.saturating_add(units))
        });
    }
}

fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}

/// Returns the units that pass in `time`.
fn units_in(per_second: u64, time: Duration) -> u64 {
    let units = u128::from(per_second).saturating_mul(time.as_millis()) / 1000;
    u64::try_from(units).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const TICK: Duration = Duration::from_millis(25);

    /// Does what the script in the store does.
    struct Store {
        rate: Rate,
        arrival: u64,
    }

    impl Store {
        fn grant(&mut self, now: u64, wanted: u64) -> u64 {
            let burst = self.rate.cost(self.rate.burst);
            let arrival = self.arrival.min(now).max(now.saturating_sub(burst));
            let there = u128::from(now - arrival) * u128::from(self.rate.per_second) / 1_000_000_000;
            let granted = wanted.min(there as u64);
            self.arrival = arrival + self.rate.cost(granted);
            granted
        }
    }

    fn open(per_second: u64) -> Ledger {
        let ledger = Ledger::new(Rate::with_usual_burst(per_second), 2);
        ledger.open(0);
        ledger
    }

    #[test]
    fn granted_units_pass_and_then_none() {
        let ledger = open(1000);
        assert_eq!(ledger.charge(1, 0), Err(MS));
        assert_eq!(ledger.wanted(), 50);
        ledger.grant(50, 50, TICK);
        assert_eq!((0..100).filter(|_| ledger.charge(1, 0).is_ok()).count(), 50);
        ledger.refund(1);
        assert_eq!(ledger.charge(1, 0), Ok(0));
    }

    #[test]
    fn nothing_is_asked_for_that_is_not_used() {
        let ledger = open(1000);
        ledger.grant(50, 50, TICK);
        assert_eq!(ledger.wanted(), 0);
        assert!(ledger.charge(24, 0).is_ok());
        assert_eq!(ledger.wanted(), 0);
        assert!(ledger.charge(1, 0).is_ok());
        assert_eq!(ledger.wanted(), 25);
        // A slow rate holds a unit, and a large burst its part.
        assert_eq!(open(2).wanted(), 1);
        assert_eq!(Ledger::new(Rate { per_second: 5, burst: 12 }, 3).wanted(), 4);
    }

    #[test]
    fn waits_are_by_the_pace_of_the_grants() {
        let ledger = open(1000);
        assert_eq!(ledger.charge(1, 10 * MS), Ok(MS));
        assert_eq!(ledger.charge(1, 10 * MS), Ok(2 * MS));
        for _ in 0..200 {
            // Half of the rate goes elsewhere.
            assert!(ledger.charge(13, u64::MAX).is_ok());
            ledger.grant(12, 1000, TICK);
        }
        let wait = ledger.charge(1, 0).unwrap_err();
        let owed = 200 + 3;
        assert!((owed * 2 * MS..owed * 11 * MS / 5).contains(&wait), "{wait}");
        ledger.grant(5, 5, TICK);
        assert!(ledger.wait() < wait);
    }

    #[test]
    fn a_store_that_grants_too_much_is_not_believed() {
        let ledger = open(1000);
        ledger.grant(u64::MAX, 50, TICK);
        assert_eq!(ledger.charge(51, 0), Ok(0));
        assert!(ledger.charge(1, 0).is_err());
    }

    #[test]
    fn debts_are_paid_back_and_bounded_in_what_is_asked() {
        let ledger = open(1000);
        ledger.grant(1, 1, TICK);
        assert!(ledger.charge(u64::MAX, 0).is_ok());
        assert!(ledger.charge(u64::MAX, u64::MAX).is_ok());
        assert_eq!(ledger.wanted(), 1050);
        ledger.close();
        ledger.open(7);
        assert_eq!(ledger.charge(7, 0), Ok(0));
    }

    /// Clients that come again as soon as their command has passed, at several respgates: all passes and none twice.
    #[test]
    fn several_respgates_keep_the_rate_within_a_twentieth() {
        for (per_second, clients) in
            [(100, [1, 1, 1]), (1000, [50, 1, 0]), (5000, [10, 10, 10]), (200_000, [400, 90, 9])]
        {
            let ledgers: Vec<_> = clients.iter().map(|_| open(per_second)).collect();
            let mut store = Store { rate: ledgers.first().unwrap().whole(), arrival: 0 };
            let mut clients: Vec<_> = clients.iter().map(|count| vec![0_u64; *count]).collect();
            let (mut settled, mut passed) = (0_u64, 0_u64);
            let tenth = MS / 10;
            let (warm, end) = (20_000, 70_000);
            for step in 0..end {
                let now = 3_600_000 * MS + step * tenth;
                for (at, ledger) in ledgers.iter().enumerate() {
                    // Each asks at its own moment.
                    if step % 250 == 83 * at as u64 {
                        let wanted = ledger.wanted();
                        if wanted > 0 {
                            ledger.grant(store.grant(now, wanted), wanted, TICK);
                        }
                    }
                    for free_at in &mut clients[at] {
                        for _ in 0..500 {
                            if *free_at > now {
                                break;
                            }
                            if let Ok(wait) = ledger.charge(1, 5000 * MS) {
                                passed += 1;
                                *free_at = if wait == 0 { 0 } else { now + wait };
                            }
                        }
                    }
                }
                if step == warm {
                    settled = passed;
                }
            }
            let (passed, expected) = (passed - settled, per_second * (end - warm) / 10_000);
            assert!(passed.abs_diff(expected) * 20 <= expected, "{passed} of {expected} at {per_second}");
        }
    }

    #[test]
    fn nothing_overflows() {
        let ledger = Ledger::new(Rate { per_second: u64::MAX, burst: u64::MAX }, 0);
        ledger.open(u64::MAX);
        ledger.grant(u64::MAX, u64::MAX, Duration::ZERO);
        ledger.refund(u64::MAX);
        assert_eq!(ledger.charge(1, 0), Ok(0));
        assert!(ledger.wanted() <= 1);
        for _ in 0..3 {
            assert!(ledger.charge(u64::MAX, u64::MAX).is_ok());
        }
        assert!(ledger.wanted() > 0);
        ledger.grant(0, u64::MAX, Duration::MAX);
    }
}
