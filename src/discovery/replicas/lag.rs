//! Computes how far a replica is behind, from the primary's offsets over time. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The number of samples that are kept: ten minutes.
const KEPT: usize = 600;

/// The primary's replication offsets, one for each sample, the newest last.
#[derive(Debug, Default)]
pub(super) struct OffsetHistory(VecDeque<(Instant, u64)>);

impl OffsetHistory {
    /// Adds the primary's present offset.
    pub(super) fn add(&mut self, at: Instant, offset: u64) {
        // A lower offset belongs to another history, to which older samples do not compare.
        if self.0.back().is_some_and(|(_, newest)| offset < *newest) {
            self.0.clear();
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((at, offset));
    }

    /// Returns the bytes that a replica with this offset lacks, and the age of the oldest write that it lacks. Returns
    /// `None` if there is no sample of the primary.
    pub(super) fn lag(&self, offset: u64, now: Instant) -> Option<(u64, Duration)> {
        let (_, newest) = self.0.back()?;
        let bytes = newest.saturating_sub(offset);
        // The first sample in which the primary was ahead of the replica.
        let behind_since = self.0.get(self.0.partition_point(|(_, known)| *known <= offset));
        let time = behind_since.map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at));
        Some((bytes, time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_counts_from_the_first_write_that_is_missing() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut history = OffsetHistory::default();
        assert_eq!(history.lag(0, start), None);
        for (second, offset) in [(0, 100), (1, 200), (2, 200), (3, 500)] {
            history.add(at(second), offset);
        }
        let lag = |offset| history.lag(offset, at(4)).expect("a lag");
        assert_eq!(lag(500), (0, Duration::ZERO));
        assert_eq!(lag(600), (0, Duration::ZERO), "the replica was asked later");
        assert_eq!(lag(200), (300, Duration::from_secs(1)));
        assert_eq!(lag(150), (350, Duration::from_secs(3)));
        assert_eq!(lag(0), (500, Duration::from_secs(4)), "older than all samples");
    }

    #[test]
    fn another_history_and_the_bound() {
        let start = Instant::now();
        let mut history = OffsetHistory::default();
        for second in 0..700 {
            history.add(start + Duration::from_secs(second), 1000 + second);
        }
        assert_eq!(history.0.len(), KEPT);
        history.add(start + Duration::from_secs(700), 5);
        assert_eq!(history.lag(5, start + Duration::from_secs(700)), Some((0, Duration::ZERO)));
    }
}
