//! A token bucket in one atomic: the generic cell rate algorithm.

use std::sync::atomic::{AtomicU64, Ordering};

const SECOND: u64 = 1_000_000_000;

/// A rate of events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Events per second in the long run.
    pub per_second: u64,
    /// Events that may happen at once after a pause.
    pub burst: u64,
}

/// Holds the moment at which the bucket is full again, in ns.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

impl Bucket {
    /// Takes a token at `now`, in ns. Returns false if the bucket is empty.
    pub(super) fn take(&self, rate: Rate, now: u64) -> bool {
        let interval = SECOND / rate.per_second.max(1);
        // GCRA: `full` is the moment at which the bucket is full again. Each token moves it by
        // `interval`. The bucket has a token while `full` is at most `burst - 1` intervals ahead of
        // `now`.
        let tolerance = interval.saturating_mul(rate.burst.saturating_sub(1));
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full| {
            let full = full.max(now);
            (full - now <= tolerance).then(|| full.saturating_add(interval))
        });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let (bucket, rate) = (Bucket::default(), Rate { per_second: 10, burst: 20 });
        let taken = |at: u64| (0..1000).filter(|_| bucket.take(rate, at)).count();
        assert_eq!(taken(5), 20);
        assert_eq!(taken(5 + SECOND), 10);
        assert_eq!(taken(5 + 10 * SECOND), 20);
        assert_eq!(taken(0), 0, "a clock that another thread read earlier");
    }
}
