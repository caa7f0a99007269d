//! Says whether, and until when, a replica may serve reads. Pure.

use tokio::time::Instant;

use crate::replica::{Applied, LagBound, ReplicaState};

/// The conditions for all replicas of one primary at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The greatest lag.
    pub(super) bound: LagBound,
    /// True if this primary is in use, and no failover is under way.
    pub(super) is_current: bool,
    /// True if `reads-in-hold` lets replicas serve without their primary.
    pub(super) serves_alone: bool,
    /// While commands wait for a primary, and replicas may serve meanwhile: the end of `hold-timeout`.
    pub(super) hold_ends: Option<Instant>,
    /// When respgate sent the newest question that the primary has answered.
    pub(super) primary_answered: Option<Instant>,
}

impl Terms {
    /// Returns until when the replica may serve, unless it is sampled again before; `None` if it may not serve at `now`.
    ///
    /// Without a hold, the lag is bounded at `now`. In a hold, nobody knows what the primary has done since its last answer, so the lag
    /// is bounded at that moment: replicas that were in sync then may serve until the hold ends.
    pub(super) fn serves_until(&self, state: &ReplicaState, now: Instant) -> Option<Instant> {
        // A link that is down says nothing about the lag. It takes the replica out of use at once, before the bound does, unless it may
        // be the primary that is lost.
        let usual = self.is_current && (state.linked || self.serves_alone);
        let within = |moment| state.applied.is_within(self.bound, moment);
        let usual = (usual && within(now)).then(|| state.applied.until + self.bound.time);
        let held = self.hold_ends.filter(|ends| now < *ends && self.primary_answered.is_some_and(within));
        usual.max(held)
    }

    /// Returns what the replica has applied, if it may serve at `now`.
    pub(super) fn applied(&self, state: &ReplicaState, now: Instant) -> Option<Applied> {
        self.serves_until(state, now).map(|_| state.applied)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::topology::Address;

    const BOUND: LagBound = LagBound { time: Duration::from_secs(1), bytes: 1000 };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn state(asked: Instant, until: Instant, lag_bytes: u64, linked: bool) -> ReplicaState {
        let applied = Applied { until, lag_bytes };
        let address = Address::tcp("replica.example", 6379);
        ReplicaState { address, node: None, zone: None, linked, asked, applied }
    }

    fn terms(primary_answered: Option<Instant>) -> Terms {
        Terms { bound: BOUND, is_current: true, serves_alone: false, hold_ends: None, primary_answered }
    }

    #[test]
    fn the_link_counts_unless_the_primary_may_be_lost() {
        let start = Instant::now();
        let usual = terms(Some(start));
        let (linked, lost) = (state(start, start, 0, true), state(start, start, 0, false));
        assert_eq!(usual.serves_until(&linked, start + at(999)), Some(start + BOUND.time));
        assert_eq!(usual.serves_until(&linked, start + at(1000)), None);
        assert_eq!(usual.serves_until(&lost, start), None);
        let alone = Terms { serves_alone: true, ..usual };
        assert_eq!(alone.serves_until(&lost, start + at(999)), Some(start + BOUND.time));
        assert_eq!(
            alone.serves_until(&lost, start + at(1000)),
            None,
            "the bound holds until the hold begins"
        );
    }

    #[test]
    fn in_a_hold_serves_who_was_in_sync_when_the_primary_answered_last() {
        let start = Instant::now();
        let answered = start + at(5000);
        let ends = start + at(45_000);
        let hold = Terms { is_current: false, hold_ends: Some(ends), ..terms(Some(answered)) };
        let late = start + at(40_000);
        let serves = |until, lag_bytes| hold.serves_until(&state(start, until, lag_bytes, false), late);
        assert_eq!(serves(start + at(4001), 1000), Some(ends));
        assert_eq!(serves(start + at(4000), 1000), None, "it lagged before");
        assert_eq!(serves(start + at(4001), 1001), None, "it lacked too much before");
        assert_eq!(hold.serves_until(&state(start, answered, 0, true), ends), None, "the hold has ended");
        let unknown = Terms { primary_answered: None, ..hold };
        assert_eq!(unknown.serves_until(&state(start, answered, 0, true), late), None);
    }

    /// Whatever happens, a replica serves only within the bound, at `now` or at the primary's last answer in a hold.
    #[test]
    fn nobody_serves_without_a_proof() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut random = fastrand::Rng::with_seed(17);
        for _ in 0..20_000 {
            let mut moment = || start + at(random.u64(..4000));
            let (until, now, answered, ends) = (moment(), moment(), moment(), moment());
            let state = state(until, until, random.u64(..1500), random.bool());
            let terms = Terms {
                bound: BOUND,
                is_current: random.bool(),
                serves_alone: random.bool(),
                hold_ends: random.bool().then_some(ends),
                primary_answered: random.bool().then_some(answered),
            };
            let proof = |moment: Instant| {
                moment.saturating_duration_since(until) < BOUND.time && state.applied.lag_bytes <= BOUND.bytes
            };
            let usual = terms.is_current && (state.linked || terms.serves_alone) && proof(now);
            let held =
                terms.hold_ends.is_some_and(|ends| now < ends) && terms.primary_answered.is_some_and(proof);
            let found = terms.serves_until(&state, now);
            assert_eq!(found.is_some(), usual || held);
            assert!(found.is_none_or(|found| found > now), "a moment that has not passed");
        }
    }
}
