//! Decides when the nodes are asked again: at intervals, and soon after a hint, however many hints arrive. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::net::backoff::Backoff;

/// The shortest and the longest time between two rounds while hints continue.
const ROUND_MIN: Duration = Duration::from_millis(50);
const ROUND_MAX: Duration = Duration::from_secs(1);

/// The longest delay of a round after the first hint: many processes see a failover at the same moment.
const JITTER: Duration = Duration::from_millis(10);

/// The time without a hint after which the next one causes a round at once.
const CALM: Duration = Duration::from_secs(3);

/// The longest time between two rounds while a shard that serves slots has no primary.
const UNSETTLED: Duration = Duration::from_millis(150);

/// Decides when the next round of questions begins.
#[derive(Debug)]
pub(super) struct RoundPace {
    interval: Duration,
    /// The delay between rounds, which grows while hints continue.
    delays: Backoff,
    /// When the next round is due.
    due: Instant,
    /// No round starts before this time because of a hint.
    earliest: Option<Instant>,
    /// The time of the last hint.
    hinted: Option<Instant>,
    /// True if the next round follows a hint.
    is_hinted: bool,
}

impl RoundPace {
    /// Creates a pace with a first round at once and one every `interval`.
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        let delays = Backoff::new(ROUND_MIN, ROUND_MAX);
        Self { interval, delays, due: now, earliest: None, hinted: None, is_hinted: false }
    }

    /// Has a round begin soon.
    pub(super) fn hint(&mut self, now: Instant) {
        let soon = now + JITTER.mul_f64(fastrand::f64());
        let last = self.hinted.replace(now);
        if last.is_none_or(|last| now > last + CALM) {
            self.delays.reset();
            self.earliest = None;
        }
        self.is_hinted = true;
        self.due = self.due.min(self.earliest.map_or(soon, |earliest| earliest.max(soon)));
    }

    /// Returns true if a round is due, and takes note that it begins. `is_settled` is false while a shard that serves slots has no
    /// primary.
    pub(super) fn start(&mut self, is_settled: bool, now: Instant) -> bool {
        let due = self.due <= now;
        if due {
            if std::mem::take(&mut self.is_hinted) {
                self.earliest = Some(now + self.delays.next_delay());
            }
            // Many processes must not ask at the same moment.
            self.due = now + self.interval.mul_f64(0.9 + 0.1 * fastrand::f64());
        }
        if !is_settled {
            self.due = self.due.min(now + UNSETTLED.min(self.interval).mul_f64(0.8 + 0.2 * fastrand::f64()));
        }
        due
    }

    /// Returns when the next round is due.
    pub(super) fn wake_at(&self) -> Instant {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_without_end_cause_few_rounds() {
        let start = Instant::now();
        let mut pace = RoundPace::new(Duration::from_secs(1), start);
        assert!(pace.start(true, start));
        let mut rounds = 0;
        for millisecond in 0..60_000 {
            let now = start + CALM * 3 + Duration::from_millis(millisecond);
            pace.hint(now);
            rounds += u64::from(pace.start(true, now));
        }
        assert!((60..=140).contains(&rounds), "{rounds} rounds in a minute");
    }

    #[test]
    fn a_hint_after_a_calm_time_causes_a_round_at_once() {
        let start = Instant::now();
        let mut pace = RoundPace::new(Duration::from_secs(10), start);
        assert!(pace.start(true, start));
        let now = start + Duration::from_secs(5);
        pace.hint(now);
        assert!(pace.wake_at() <= now + JITTER);
        assert!(!pace.start(true, now - Duration::from_millis(1)));
    }

    /// Rounds that follow no hint leave the next hint its round.
    #[test]
    fn a_hint_counts_however_often_the_nodes_are_asked_anyway() {
        let start = Instant::now();
        let mut pace = RoundPace::new(Duration::from_secs(1), start);
        let mut now = start;
        for _ in 0..20 {
            now = pace.wake_at();
            assert!(pace.start(true, now));
        }
        let now = now + Duration::from_millis(100);
        pace.hint(now);
        assert!(pace.wake_at() <= now + JITTER);
    }

    #[test]
    fn rounds_follow_each_other_quickly_while_a_shard_has_no_primary() {
        let start = Instant::now();
        let mut pace = RoundPace::new(Duration::from_secs(10), start);
        assert!(pace.start(false, start));
        assert!(pace.wake_at() <= start + UNSETTLED);
    }
}
