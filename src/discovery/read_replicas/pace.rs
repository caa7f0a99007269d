//! How often replicas are sampled. The samplers of a cluster's shards share one pace, so that many of them do not take the processor from
//! everything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The time between two rounds.
const INTERVAL: Duration = Duration::from_millis(100);
/// The shortest time between two rounds, when workers demand them.
const SHORTEST: Duration = Duration::from_millis(2);
/// The number of samplers that keep [`INTERVAL`]. With more, each has fewer rounds.
const AT_INTERVAL: usize = 32;
/// The number of samplers that keep [`SHORTEST`].
const AT_SHORTEST: usize = 4;
/// How many times longer than [`INTERVAL`] the time between two rounds is at most. It must stay well below any useful `max-lag`.
const SLOWEST: u32 = 3;

/// The pace of samplers that share a processor. Clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct SamplingPace {
    at_work: Arc<AtomicUsize>,
}

/// Counts one sampler as long as it lives.
#[derive(Debug)]
pub(super) struct SamplerAtWork(SamplingPace);

impl SamplingPace {
    /// Counts one more sampler that works.
    pub(super) fn begin(&self) -> SamplerAtWork {
        self.at_work.fetch_add(1, Ordering::Relaxed);
        SamplerAtWork(self.clone())
    }

    /// Returns the time between two rounds of one sampler.
    pub(super) fn interval(&self) -> Duration {
        INTERVAL * self.times(AT_INTERVAL).min(SLOWEST)
    }

    /// Returns the shortest time between two rounds of one sampler.
    pub(super) fn shortest(&self) -> Duration {
        self.interval().min(SHORTEST * self.times(AT_SHORTEST))
    }

    /// Returns by how many times there are more samplers than `usual`, 1 at least.
    fn times(&self, usual: usize) -> u32 {
        let times = self.at_work.load(Ordering::Relaxed).div_ceil(usual).max(1);
        u32::try_from(times).unwrap_or(u32::MAX)
    }
}

impl Drop for SamplerAtWork {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_samplers_have_fewer_rounds_each() {
        let pace = SamplingPace::default();
        let millis = |count: usize| {
            let at_work: Vec<_> = (0..count).map(|_| pace.begin()).collect();
            let found = (pace.interval().as_millis(), pace.shortest().as_millis());
            drop(at_work);
            found
        };
        assert_eq!([millis(0), millis(1), millis(4)], [(100, 2); 3]);
        assert_eq!([millis(5), millis(32), millis(33)], [(100, 4), (100, 16), (200, 18)]);
        assert_eq!([millis(512), millis(2000)], [(300, 256), (300, 300)]);
        assert_eq!(millis(1), (100, 2), "those that have ended do not count");
    }
}
