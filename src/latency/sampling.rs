//! Chooses the commands of shared connections whose times are counted.
//!
//! While there are few commands, each is chosen. Above [`EXACT`] a second, one of 8 is, at random, and counts as 8 commands, so that
//! the histograms stay true. The unit is a series: commands of one client that were read and answered together.

use std::cell::Cell;

/// Number of series a second up to which each is chosen.
const EXACT: u32 = 200;
/// Number of series for which a chosen one stands when there are more.
const WEIGHT: u32 = 8;
/// Length of a window, in microseconds.
const WINDOW: u32 = 1_000_000;

/// Chooses series of commands at random.
#[derive(Debug)]
pub(super) struct Sampling {
    /// Number of series up to the next one that is chosen, with that one.
    left: Cell<u32>,
    /// Number of series for which the next one stands.
    weight: Cell<u32>,
    /// When the present window began, in microseconds.
    began: Cell<u32>,
    /// Number of series for which those of the present window stand.
    seen: Cell<u32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { left: Cell::new(1), weight: Cell::new(1), began: Cell::default(), seen: Cell::default() }
    }
}

impl Sampling {
    /// Returns true if the present series is chosen. Then [`Self::choose`] must be called.
    #[inline]
    pub(super) fn is_next(&self) -> bool {
        let left = self.left.get() - 1;
        if left > 0 {
            self.left.set(left);
        }
        left == 0
    }

    /// Chooses the next series. Returns the number of series for which the present one stands.
    pub(super) fn choose(&self, now: u32) -> u32 {
        let weight = self.weight.get();
        let mut seen = self.seen.get() + weight;
        if now.wrapping_sub(self.began.get()) >= WINDOW {
            self.began.set(now);
            // A window that begins with few commands may still turn out to have many.
            self.weight.set(if seen > EXACT { WEIGHT } else { 1 });
            seen = 0;
        } else if seen > EXACT {
            self.weight.set(WEIGHT);
        }
        self.seen.set(seen);
        // The gaps are random, so that no pattern of the clients' agrees with them. Their mean is the weight.
        self.left.set(match self.weight.get() {
            1 => 1,
            weight => fastrand::u32(1..2 * weight),
        });
        weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes series at this interval, in microseconds. Returns how many were chosen, and for how many they stand.
    fn pass(sampling: &Sampling, from: u32, count: u32, interval: u32) -> (u32, u32) {
        let mut sums = (0, 0);
        for at in 0..count {
            if sampling.is_next() {
                sums.0 += 1;
                sums.1 += sampling.choose(from.wrapping_add(at * interval));
            }
        }
        sums
    }

    #[test]
    fn few_series_are_all_chosen() {
        let sampling = Sampling::default();
        assert_eq!(pass(&sampling, u32::MAX - 5_000_000, 10_000, 5500), (10_000, 10_000));
    }

    #[test]
    fn one_of_eight_stands_for_all_when_there_are_many() {
        let sampling = Sampling::default();
        let (chosen, all) = pass(&sampling, 7, 1_000_000, 10);
        assert!((120_000..132_000).contains(&chosen), "{chosen}");
        assert!((980_000..1_020_000).contains(&all), "{all}");
        // The second window with few series knows it.
        pass(&sampling, 10_000_007, 1_000, 5500);
        assert_eq!(pass(&sampling, 15_500_007, 1000, 5500), (1000, 1000));
    }
}
