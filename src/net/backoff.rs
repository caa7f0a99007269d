//! Growing, randomised delays between attempts.

use std::time::Duration;

/// Draws delays evenly between `min` and a ceiling. The ceiling doubles with every draw, up to
/// `max`. The spread keeps many processes that lost the same peer from returning at the same
/// moment. The floor `min` keeps one process from retrying without pause.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Creates a sequence that starts at `min`. A `max` below `min` counts as `min`.
    pub fn new(min: Duration, max: Duration) -> Self {
        let max = max.max(min);
        Self { min, max, ceiling: min.saturating_mul(2).min(max) }
    }

    /// Returns the delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let spread = self.ceiling.saturating_sub(self.min);
        let delay = self.min + spread.mul_f64(fastrand::f64());
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        delay
    }

    /// Restarts the sequence at `min`. Call it after a success.
    pub fn reset(&mut self) {
        *self = Self::new(self.min, self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_between_the_floor_and_a_doubling_ceiling() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(2));
        for _ in 0..200 {
            let mut backoff = Backoff::new(min, max);
            for doublings in 1..12 {
                let ceiling = min.saturating_mul(1 << doublings).min(max);
                let delay = backoff.next_delay();
                assert!((min..=ceiling).contains(&delay), "{delay:?} after {doublings} draws");
            }
            backoff.reset();
            assert!(backoff.next_delay() <= min * 2);
        }
    }

    #[test]
    fn extreme_bounds_do_not_overflow() {
        let mut fixed = Backoff::new(Duration::from_secs(1), Duration::ZERO);
        assert_eq!(fixed.next_delay(), Duration::from_secs(1));
        let mut huge = Backoff::new(Duration::MAX / 4, Duration::MAX / 2);
        for _ in 0..5 {
            assert!(huge.next_delay() >= Duration::MAX / 4);
        }
    }
}
