//! Measures a rate of the whole process, or of several processes, on many threads.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ledger::Ledger;
use super::rate::{Meter, Rate};

/// A worker takes a batch of this fraction of a second's units at a time.
const BATCHES_PER_SECOND: u64 = 1000;

/// Measures a rate of the whole process.
#[derive(Debug)]
pub struct Shared {
    rate: Rate,
    /// The theoretical arrival time of the next unit.
    arrival: AtomicU64,
    /// Measures instead of `arrival` while it is live.
    ledger: Option<Arc<Ledger>>,
}

impl Shared {
    /// Creates a meter of which nothing has been used.
    pub fn new(rate: Rate) -> Self {
        Self { rate, arrival: AtomicU64::new(0), ledger: None }
    }

    /// Creates a meter of a rate that `processes` processes share. While they cannot share it, this process keeps
    /// to its part.
    pub fn among(rate: Rate, processes: u64) -> Self {
        Self { ledger: Some(Arc::new(Ledger::new(rate, processes))), ..Self::new(rate.part(processes)) }
    }

    /// Continues at `now` where `before` was.
    pub fn following(mut self, before: &Self, now: u64) -> Self {
        let arrival = self.rate.take_over(before.arrival.load(Ordering::Relaxed), before.rate, now);
        self.arrival = AtomicU64::new(arrival);
        self
    }

    /// Returns the ledger, if the rate is shared with other respgates.
    pub fn ledger(&self) -> Option<&Arc<Ledger>> {
        self.ledger.as_ref()
    }

    fn live(&self) -> Option<&Ledger> {
        self.ledger.as_deref().filter(|ledger| ledger.live())
    }
}

impl Meter for Shared {
    fn charge(&self, now: u64, units: u64, max_wait: u64) -> Result<u64, u64> {
        if let Some(ledger) = self.live() {
            return ledger.charge(units, max_wait);
        }
        let cost = self.rate.cost(units);
        let mut arrival = self.arrival.load(Ordering::Relaxed);
        loop {
            let wait = self.rate.wait(arrival, now);
            if wait > max_wait {
                return Err(wait);
            }
            let next = arrival.max(now).saturating_add(cost);
            match self.arrival.compare_exchange_weak(arrival, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(wait),
                Err(other) => arrival = other,
            }
        }
    }

    fn refund(&self, units: u64) {
        if let Some(ledger) = self.live() {
            return ledger.refund(units);
        }
        let cost = self.rate.cost(units);
        let _ = self
            .arrival
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |arrival| Some(arrival.saturating_sub(cost)));
    }

    fn wait(&self, now: u64) -> u64 {
        match self.live() {
            Some(ledger) => ledger.wait(),
            None => self.rate.wait(self.arrival.load(Ordering::Relaxed), now),
        }
    }

    fn rate(&self) -> Rate {
        self.live().map_or(self.rate, Ledger::whole)
    }
}

/// Gives one worker access to a shared rate. It takes about a millisecond's units in advance, so that most
/// charges touch no memory of other threads. When its clients stop, it keeps at most that many unused units.
#[derive(Debug)]
pub struct Batched {
    shared: Arc<Shared>,
    /// Units taken in advance and unused.
    in_hand: Cell<u64>,
    /// Units to take in advance.
    batch: u64,
}

impl Batched {
    /// Creates a worker's access, with no units taken.
    pub fn new(shared: Arc<Shared>) -> Self {
        let Rate { per_second, burst } = shared.rate;
        // At most a quarter of the burst, so that one worker's batch leaves most of it to the others.
        let batch = (per_second / BATCHES_PER_SECOND).min(burst / 4);
        Self { shared, in_hand: Cell::new(0), batch }
    }
}

impl Meter for Batched {
    fn charge(&self, now: u64, units: u64, max_wait: u64) -> Result<u64, u64> {
        let in_hand = self.in_hand.get();
        if let Some(left) = in_hand.checked_sub(units) {
            self.in_hand.set(left);
            return Ok(0);
        }
        let units = units - in_hand;
        // Take a batch only with a small amount. A large amount can leave a debt, and units in hand would hide
        // it.
        if units <= self.batch && self.shared.charge(now, units.saturating_add(self.batch), 0).is_ok() {
            self.in_hand.set(self.batch);
            return Ok(0);
        }
        let wait = self.shared.charge(now, units, max_wait)?;
        self.in_hand.set(0);
        Ok(wait)
    }

    fn refund(&self, units: u64) {
        self.shared.refund(units);
    }

    fn wait(&self, now: u64) -> u64 {
        if self.in_hand.get() > 0 { 0 } else { self.shared.wait(now) }
    }

    fn rate(&self) -> Rate {
        self.shared.rate()
    }
}

#[cfg(test)]
mod tests {
    use super::super::rate::passing;
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn workers_together_keep_the_rate_within_a_twentieth() {
        for (per_second, burst) in [(100, 10), (5000, 500), (200_000, 20_000), (1_000_000, 1000)] {
            let shared = Arc::new(Shared::new(Rate { per_second, burst }));
            let workers: Vec<_> = (0..4).map(|_| Batched::new(shared.clone())).collect();
            let mut passed = 0_u64;
            for tick in 0..20_000 {
                let now = tick * MS / 10;
                for worker in &workers {
                    while worker.charge(now, 1, 0).is_ok() {
                        passed += 1;
                    }
                }
            }
            let expected = 2 * per_second + burst;
            assert!(passed.abs_diff(expected) * 20 <= expected, "{passed} of {expected}");
        }
    }

    #[test]
    fn a_batch_in_hand_hides_no_debt() {
        let worker = Batched::new(Arc::new(Shared::new(Rate { per_second: 100_000, burst: 10_000 })));
        for _ in 0..20 {
            assert!(worker.charge(0, 1010, u64::MAX).is_ok());
        }
        assert!(worker.wait(0) > 90 * MS, "{}", worker.wait(0));
    }

    #[test]
    fn threads_together_keep_the_rate() {
        let shared = Arc::new(Shared::new(Rate { per_second: 1000, burst: 100_000 }));
        let passed: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let worker = Batched::new(shared.clone());
                        (0..50_000).filter(|_| worker.charge(1, 1, 0).is_ok()).count() as u64
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!((100_000..=100_004).contains(&passed), "{passed}");
    }

    #[test]
    fn a_part_of_a_rate_holds_while_it_cannot_be_shared() {
        let shared = Shared::among(Rate { per_second: 1000, burst: 100 }, 4);
        let ledger = shared.ledger().unwrap();
        assert_eq!(shared.rate(), Rate { per_second: 250, burst: 25 });
        assert_eq!(passing(&shared, 0, 1000 * MS, MS, 1), 25 + 249);
        ledger.open(10);
        assert_eq!(shared.rate(), Rate { per_second: 1000, burst: 100 });
        assert_eq!(passing(&shared, 1000 * MS, 2000 * MS, MS, 1), 10);
        ledger.close();
        assert_eq!(passing(&shared, 2000 * MS, 3000 * MS, MS, 1), 25 + 249);
    }

    #[test]
    fn another_shared_rate_goes_on_where_the_last_one_was() {
        let (before, rate) =
            (Shared::new(Rate { per_second: 10, burst: 1 }), Rate { per_second: 1000, burst: 10 });
        assert!(before.charge(0, 11, 0).is_ok());
        assert_eq!(Shared::new(rate).following(&before, 0).wait(0), 11 * MS - 9 * MS);
    }
}
