//! Picks the replica for a session. Pure.

use tokio::time::Instant;

use crate::replica::{Applied, LagBound};

/// One replica to choose from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// What it has applied; `None` if that is not known.
    pub(super) applied: Option<Applied>,
    /// True if its connection is open.
    pub(super) open: bool,
    /// True if the session has read from it last.
    pub(super) kept: bool,
    /// The number of requests that wait there.
    pub(super) outstanding: usize,
}

/// The result for one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Picked {
    /// The replica of this index serves the session.
    Replica(usize),
    /// A replica is within the bound, and will serve the session as soon as it has applied more, or its connection is open.
    Soon,
    /// No replica is within the bound.
    Nobody,
}

/// Picks a replica that is within `bound` and has applied everything that was answered before `floor`: the one that the session has
/// read from last, or else the one with the fewest outstanding requests.
pub(super) fn pick(
    candidates: &[Candidate],
    bound: LagBound,
    floor: Option<Instant>,
    now: Instant,
) -> Picked {
    let mut picked = Picked::Nobody;
    let mut best = None;
    for (index, candidate) in candidates.iter().enumerate() {
        let Some(applied) = candidate.applied.filter(|applied| applied.is_within(bound, now)) else {
            continue;
        };
        if !candidate.open || floor.is_some_and(|floor| !applied.covers(floor)) {
            if picked == Picked::Nobody {
                picked = Picked::Soon;
            }
            continue;
        }
        let rank = (!candidate.kept, candidate.outstanding);
        if best.is_none_or(|best| rank < best) {
            (best, picked) = (Some(rank), Picked::Replica(index));
        }
    }
    picked
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BOUND: LagBound = LagBound { time: Duration::from_secs(1), bytes: 1000 };

    #[test]
    fn the_kept_one_and_then_the_least_busy() {
        let now = Instant::now();
        let applied = Some(Applied { until: now, lag_bytes: 0 });
        let candidate = |kept, outstanding| Candidate { applied, open: true, kept, outstanding };
        let pick = |candidates: &[Candidate]| pick(candidates, BOUND, None, now);
        assert_eq!(pick(&[candidate(false, 5), candidate(false, 3)]), Picked::Replica(1));
        assert_eq!(pick(&[candidate(true, 5), candidate(false, 3)]), Picked::Replica(0));
        assert_eq!(pick(&[Candidate { open: false, ..candidate(true, 0) }]), Picked::Soon);
        assert_eq!(pick(&[Candidate { applied: None, ..candidate(true, 0) }]), Picked::Nobody);
        assert_eq!(pick(&[]), Picked::Nobody);
    }

    /// Whatever the candidates are, nobody reads beyond the bound or behind the floor, and nobody waits without need.
    #[test]
    fn the_bound_and_the_floor_hold() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut random = fastrand::Rng::with_seed(16);
        for _ in 0..20_000 {
            let moment = |millis: u64| start + Duration::from_millis(millis);
            let now = moment(2000);
            let floor = random.bool().then(|| moment(random.u64(..2100)));
            let candidates: Vec<Candidate> = (0..random.usize(..4))
                .map(|_| Candidate {
                    applied: (random.u8(..5) > 0).then(|| Applied {
                        until: moment(random.u64(..2000)),
                        lag_bytes: random.u64(..1500),
                    }),
                    open: random.u8(..4) > 0,
                    kept: random.bool(),
                    outstanding: random.usize(..3),
                })
                .collect();
            let within = |candidate: &Candidate| {
                candidate.applied.is_some_and(|a| now - a.until < BOUND.time && a.lag_bytes <= BOUND.bytes)
            };
            let serves = |candidate: &Candidate| {
                let reached = floor.is_none_or(|floor| candidate.applied.is_some_and(|a| a.until >= floor));
                within(candidate) && candidate.open && reached
            };
            match pick(&candidates, BOUND, floor, now) {
                Picked::Replica(index) => {
                    assert!(serves(&candidates[index]));
                    let kept = candidates.iter().any(|candidate| candidate.kept && serves(candidate));
                    assert!(candidates[index].kept || !kept);
                }
                Picked::Soon => assert!(!candidates.iter().any(serves) && candidates.iter().any(within)),
                Picked::Nobody => assert!(!candidates.iter().any(within)),
            }
        }
    }
}
