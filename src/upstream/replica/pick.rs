//! Picks the replica for a session. Pure.

use std::cmp::Reverse;

use tokio::time::Instant;

use crate::replica::Applied;

/// One replica to choose from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// What it has applied; `None` if it may not serve.
    pub(super) applied: Option<Applied>,
    /// True if its connection is open.
    pub(super) open: bool,
    /// True if the session has read from it last.
    pub(super) kept: bool,
    /// True if it is in respgate's own availability zone.
    pub(super) near: bool,
    /// The number of requests that wait there.
    pub(super) outstanding: usize,
    /// The number of sessions that read from it.
    pub(super) sessions: usize,
}

/// The result for one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Picked {
    /// The replica of this index serves the session.
    Replica(usize),
    /// A replica may serve, and will serve the session as soon as it has applied more, or its connection is open.
    Soon,
    /// No replica may serve.
    Nobody,
}

/// Picks a replica that may serve and has applied everything that was answered before `floor`: the one that the session has read from
/// last, or else one in respgate's own zone, or else any. Among several, it is the one with the fewest outstanding requests, and then
/// the one with the fewest sessions: sessions that begin together find no request anywhere.
pub(super) fn pick(candidates: &[Candidate], floor: Option<Instant>) -> Picked {
    let serves = |candidate: &Candidate| {
        let reached = |applied: Applied| floor.is_none_or(|floor| applied.covers(floor));
        candidate.open && candidate.applied.is_some_and(reached)
    };
    let serving = candidates.iter().enumerate().filter(|(_, candidate)| serves(candidate));
    let best = serving.min_by_key(|(_, candidate)| {
        let preferred = (Reverse(candidate.kept), Reverse(candidate.near));
        (preferred, candidate.outstanding, candidate.sessions)
    });
    match best {
        Some((index, _)) => Picked::Replica(index),
        None if candidates.iter().any(|candidate| candidate.applied.is_some()) => Picked::Soon,
        None => Picked::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn candidate(applied: Option<Instant>) -> Candidate {
        let applied = applied.map(|until| Applied { until, lag_bytes: 0 });
        Candidate { applied, open: true, kept: false, near: false, outstanding: 0, sessions: 0 }
    }

    #[test]
    fn the_kept_one_then_the_near_one_then_the_least_busy() {
        let usual = Candidate { outstanding: 3, sessions: 3, ..candidate(Some(Instant::now())) };
        let kept = Candidate { kept: true, outstanding: 9, sessions: 9, ..usual };
        let near = Candidate { near: true, outstanding: 8, sessions: 8, ..usual };
        let idle = Candidate { outstanding: 2, sessions: 7, ..usual };
        let few = Candidate { sessions: 2, ..usual };
        let order = [kept, near, idle, few, usual];
        for (better, first) in order.iter().enumerate() {
            for second in order.iter().skip(better + 1) {
                assert_eq!(pick(&[*first, *second], None), Picked::Replica(0));
                assert_eq!(pick(&[*second, *first], None), Picked::Replica(1));
            }
        }
        assert_eq!(pick(&[Candidate { open: false, ..kept }], None), Picked::Soon);
        assert_eq!(pick(&[Candidate { applied: None, ..kept }], None), Picked::Nobody);
        assert_eq!(pick(&[], None), Picked::Nobody);
    }

    /// Sessions that begin together, before any of them has sent anything, spread over the replicas.
    #[test]
    fn sessions_that_begin_together_spread() {
        let mut candidates = vec![candidate(Some(Instant::now())); 3];
        for _ in 0..30 {
            let Picked::Replica(index) = pick(&candidates, None) else { panic!("all of them serve") };
            candidates[index].sessions += 1;
        }
        assert!(candidates.iter().all(|candidate| candidate.sessions == 10));
    }

    /// Whatever the candidates are, nobody reads behind the floor, nobody leaves a zone or a replica without need, and nobody waits
    /// without need.
    #[test]
    fn the_floor_and_the_preferences_hold() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut random = fastrand::Rng::with_seed(16);
        for _ in 0..20_000 {
            let moment = |millis: u64| start + Duration::from_millis(millis);
            let floor = random.bool().then(|| moment(random.u64(..2100)));
            let candidates: Vec<Candidate> = (0..random.usize(..4))
                .map(|_| Candidate {
                    open: random.u8(..4) > 0,
                    kept: random.u8(..4) == 0,
                    near: random.bool(),
                    outstanding: random.usize(..3),
                    sessions: random.usize(..3),
                    ..candidate((random.u8(..5) > 0).then(|| moment(random.u64(..2000))))
                })
                .collect();
            let reached = |applied: Applied| floor.is_none_or(|floor| applied.until >= floor);
            let serves = |candidate: &Candidate| candidate.open && candidate.applied.is_some_and(reached);
            let serving: Vec<&Candidate> = candidates.iter().filter(|candidate| serves(candidate)).collect();
            match pick(&candidates, floor) {
                Picked::Replica(index) => {
                    let picked = &candidates[index];
                    assert!(serves(picked));
                    let any = |has: fn(&Candidate) -> bool| serving.iter().any(|candidate| has(candidate));
                    assert!(picked.kept || !any(|candidate| candidate.kept));
                    assert!(picked.kept || picked.near || !any(|candidate| candidate.near));
                    let alike =
                        serving.iter().filter(|other| (other.kept, other.near) == (picked.kept, picked.near));
                    assert!(alike.into_iter().all(|other| other.outstanding >= picked.outstanding));
                }
                Picked::Soon => {
                    assert!(
                        serving.is_empty() && candidates.iter().any(|candidate| candidate.applied.is_some())
                    );
                }
                Picked::Nobody => assert!(candidates.iter().all(|candidate| candidate.applied.is_none())),
            }
        }
    }
}
