//! A histogram of times, for one thread.

use std::cell::Cell;
use std::time::Duration;

/// Number of buckets of each octave, as a power of two: 16. A bucket is at most 1/16 as wide as its values.
const STEPS: u32 = 4;
/// The longest time that is told apart, in microseconds: 67 s.
pub(super) const LONGEST: u32 = (1 << 26) - 1;
/// Number of buckets.
const BUCKETS: usize = index(LONGEST) + 1;

/// Returns the bucket of a time of at most [`LONGEST`]. The buckets below 16 µs have a width of 1 µs, and each octave above has
/// 16 buckets.
const fn index(micros: u32) -> usize {
    // 0 for all times below 32 µs, which are their own index.
    let shift = (u32::BITS - 1 - STEPS) - (micros | 1 << STEPS).leading_zeros();
    ((shift as usize) << STEPS) + (micros >> shift) as usize
}

/// Returns the shortest time that the bucket counts, in microseconds.
fn lower_bound(index: usize) -> u64 {
    let octave = index >> STEPS;
    if octave < 2 { index as u64 } else { ((index & 0xf) as u64 + 16) << (octave - 1) }
}

/// Counts times by their length.
#[derive(Debug)]
pub struct Histogram {
    counts: [Cell<u64>; BUCKETS],
    /// The sum of all times, in microseconds.
    sum: Cell<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [const { Cell::new(0) }; BUCKETS], sum: Cell::new(0) }
    }
}

impl Histogram {
    /// Counts `count` commands that took `micros` microseconds each. A time above [`LONGEST`] is not counted.
    #[inline]
    pub fn record(&self, micros: u32, count: u32) {
        if let Some(bucket) = self.counts.get(index(micros)) {
            bucket.set(bucket.get() + u64::from(count));
        }
        self.sum.set(self.sum.get() + u64::from(micros) * u64::from(count));
    }

    /// Returns the present counts.
    pub fn snapshot(&self) -> Distribution {
        Distribution { counts: self.counts.iter().map(Cell::get).collect(), sum: self.sum.get() }
    }
}

/// The counts of one or several histograms at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// The counts of the buckets; empty if nothing was counted.
    counts: Vec<u64>,
    /// The sum of all times, in microseconds.
    sum: u64,
}

impl Distribution {
    /// Adds the counts of another histogram.
    pub fn add(&mut self, other: &Self) {
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
        self.sum += other.sum;
    }

    /// Returns the counts that were added since `before`, an earlier state of the same histograms.
    pub fn since(&self, before: &Self) -> Self {
        let former = before.counts.iter().copied().chain(std::iter::repeat(0));
        let counts = self.counts.iter().zip(former).map(|(now, before)| now.saturating_sub(before));
        Self { counts: counts.collect(), sum: self.sum.saturating_sub(before.sum) }
    }

    /// Counts further commands that took no time, up to `count` commands in all.
    pub fn fill_up_to(&mut self, count: u64) {
        let missing = count.saturating_sub(self.count());
        if missing > 0 {
            self.counts.resize(BUCKETS, 0);
            if let Some(shortest) = self.counts.first_mut() {
                *shortest += missing;
            }
        }
    }

    /// Returns the number of commands.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the sum of all times.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum)
    }

    /// Returns the number of commands that took at most `limit`. It may be 1/16 of the commands near the limit off.
    pub fn at_most(&self, limit: Duration) -> u64 {
        let limit = u32::try_from(limit.as_micros()).unwrap_or(LONGEST).min(LONGEST);
        self.counts.iter().take(index(limit)).sum()
    }

    /// Returns the time within which this part of the commands was answered, from 0 to 1. `None` if there was no command.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let count = self.count();
        let wanted = (count as f64 * part.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0;
        let at = self.counts.iter().position(|bucket| {
            seen += bucket;
            seen >= wanted
        })?;
        Some(Duration::from_micros(lower_bound(at + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_a_bucket_that_is_at_most_a_sixteenth_wide() {
        for micros in
            (0..5000).chain((1..26).flat_map(|octave| [(1 << octave) - 1, 1 << octave, 3 << (octave - 1)]))
        {
            let at = index(micros);
            let (from, to) = (lower_bound(at), lower_bound(at + 1));
            assert!((from..to).contains(&u64::from(micros)), "{micros}: {from}..{to}");
            assert!(to - from <= (from / 16).max(1), "{micros}: {from}..{to}");
        }
        assert_eq!(index(LONGEST), BUCKETS - 1);
    }

    #[test]
    fn counts_sums_and_quantiles_agree() {
        let histogram = Histogram::default();
        histogram.record(100, 98);
        histogram.record(20_000, 2);
        let mut sum = histogram.snapshot();
        assert_eq!((sum.count(), sum.sum()), (100, Duration::from_micros(49_800)));
        assert_eq!(sum.at_most(Duration::from_micros(90)), 0);
        assert_eq!(sum.at_most(Duration::from_millis(1)), 98);
        assert_eq!(sum.at_most(Duration::from_secs(10)), 100);
        assert!(sum.quantile(0.5).expect("a median") <= Duration::from_micros(107));
        assert!(sum.quantile(0.99).expect("a p99") >= Duration::from_millis(19));
        sum.add(&histogram.snapshot());
        sum.fill_up_to(300);
        assert_eq!((sum.count(), sum.at_most(Duration::from_micros(90))), (300, 100));
        assert_eq!(Distribution::default().quantile(0.5), None);
        let before = histogram.snapshot();
        histogram.record(500, 3);
        let since = histogram.snapshot().since(&before);
        assert_eq!((since.count(), since.sum()), (3, Duration::from_micros(1500)));
        assert_eq!(before.since(&Distribution::default()), before);
        assert_eq!(Distribution::default().since(&before).count(), 0);
    }
}
