//! Decides up to which moment a replica has applied its primary's writes. Pure.
//!
//! The primary is asked for its offset at a moment `t` and answers `o`. Every write that it had run before `t` ends at or before `o`.
//! A replica of the same history that has applied `o` bytes has therefore applied every write that was answered before `t`.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::health::Obstacle;
use crate::replica::Applied;

/// The number of samples of the primary that are kept.
const KEPT: usize = 1024;

/// The primary's replication offsets over time, the newest last.
#[derive(Debug, Default)]
pub(super) struct OffsetHistory {
    /// The replication id of the history that the offsets count.
    id: Option<Arc<str>>,
    samples: VecDeque<(Instant, u64)>,
}

impl OffsetHistory {
    /// Takes note that the primary was asked at `asked`, and has answered `offset` in the history `id`.
    pub(super) fn add(&mut self, asked: Instant, id: &Arc<str>, offset: u64) {
        let same = self.id.as_ref() == Some(id);
        if !same || self.samples.back().is_some_and(|(_, newest)| offset < *newest) {
            self.samples.clear();
            self.id = Some(id.clone());
        }
        match self.samples.back_mut() {
            // Without a write in between, the later question proves more.
            Some((at, newest)) if *newest == offset => *at = (*at).max(asked),
            _ => self.samples.push_back((asked, offset)),
        }
        if self.samples.len() > KEPT {
            self.thin();
        }
    }

    /// Drops every second sample of the older half. What is left still proves what it proved.
    fn thin(&mut self) {
        let mut index = 0;
        self.samples.retain(|_| {
            index += 1;
            index > KEPT / 2 || index % 2 == 0
        });
    }

    /// Returns what a replica has applied that stands at `offset` of the history `id`; `None` if no sample proves anything.
    pub(super) fn applied(&self, id: &Arc<str>, offset: u64) -> Option<Applied> {
        if self.id.as_ref() != Some(id) {
            return None;
        }
        let (_, newest) = self.samples.back()?;
        let behind = self.samples.partition_point(|(_, known)| *known <= offset);
        let (until, _) = self.samples.get(behind.checked_sub(1)?)?;
        Some(Applied { until: *until, lag_bytes: newest.saturating_sub(offset) })
    }

    /// Returns why [`Self::applied`] returns nothing for a replica that stands at `offset` of the history `id`.
    pub(super) fn obstacle(&self, id: &Arc<str>, offset: u64) -> Obstacle {
        match (&self.id, self.samples.back()) {
            (Some(known), _) if known != id => Obstacle::OtherHistory,
            (Some(_), Some((_, newest))) => Obstacle::LagBytes(newest.saturating_sub(offset)),
            _ => Obstacle::PrimarySilent,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(text: &str) -> Arc<str> {
        text.into()
    }

    #[test]
    fn a_replica_covers_the_last_question_whose_answer_it_has_applied() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut history = OffsetHistory::default();
        assert_eq!(history.applied(&id("a"), 5), None);
        for (millis, offset) in [(0, 100), (10, 200), (20, 200), (30, 500)] {
            history.add(at(millis), &id("a"), offset);
        }
        let applied = |offset| history.applied(&id("a"), offset).map(|a| (a.until, a.lag_bytes));
        assert_eq!(applied(99), None, "older than every sample");
        assert_eq!(applied(100), Some((at(0), 400)));
        assert_eq!(applied(499), Some((at(20), 1)));
        assert_eq!(applied(500), Some((at(30), 0)));
        assert_eq!(applied(600), Some((at(30), 0)), "the replica was asked later");
        assert_eq!(history.applied(&id("b"), 500), None, "another history");
        assert_eq!(history.obstacle(&id("b"), 500), Obstacle::OtherHistory);
        assert_eq!(history.obstacle(&id("a"), 99), Obstacle::LagBytes(401));
        assert_eq!(OffsetHistory::default().obstacle(&id("a"), 99), Obstacle::PrimarySilent);
    }

    #[test]
    fn another_history_voids_the_samples() {
        let start = Instant::now();
        let mut history = OffsetHistory::default();
        history.add(start, &id("a"), 900);
        history.add(start, &id("b"), 950);
        assert_eq!(history.applied(&id("a"), 900), None);
        history.add(start, &id("b"), 10);
        assert_eq!(history.applied(&id("b"), 9), None, "the offset went back");
    }

    /// Simulates a primary and a replica at random. What `applied` says never exceeds what the replica has applied.
    #[test]
    fn nothing_is_covered_that_was_not_applied() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let start = Instant::now();
            let (mut history, mut offset, mut applied) = (OffsetHistory::default(), 0_u64, 0_u64);
            // The primary's offset at each millisecond, and the questions under way.
            let (mut offsets, mut asked): (Vec<u64>, Option<(u64, u64)>) = (Vec::new(), None);
            for millis in 0..4000_u64 {
                offsets.push(offset);
                let now = start + Duration::from_millis(millis);
                if random.u8(..4) == 0 {
                    offset += random.u64(..100);
                }
                if random.u8(..3) == 0 {
                    applied = (applied + random.u64(..120)).min(offset);
                }
                match asked {
                    // The primary answers at some moment after the question.
                    Some((since, _)) if random.bool() => {
                        history.add(start + Duration::from_millis(since), &id("a"), offset);
                        asked = None;
                    }
                    None if random.u8(..3) == 0 => asked = Some((millis, offset)),
                    _ => {}
                }
                if let Some(proof) = history.applied(&id("a"), applied) {
                    let until = proof.until.duration_since(start).as_millis() as usize;
                    assert!(proof.until <= now && offsets[until] <= applied, "seed {seed} at {millis} ms");
                }
            }
            assert!(history.samples.len() <= KEPT);
        }
    }
}
