use super::*;

const START: Notice = Notice::Failover(FailoverStep::Started);
const SELECT: Notice = Notice::Failover(FailoverStep::Selecting);
const ABORT: Notice = Notice::Failover(FailoverStep::Aborted);
const DOWN: Notice = Notice::ObjectivelyDown(true);
const UP: Notice = Notice::ObjectivelyDown(false);

struct Bench {
    signs: Signs,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { signs: Signs::default(), now: Instant::now() }
    }

    fn hear(&mut self, sentinel: &str, notice: Notice) -> &mut Self {
        self.signs.noticed(&Address::tcp(sentinel, 1), &notice, self.now);
        self
    }

    fn pass(&mut self, span: Duration) -> &mut Self {
        self.now += span;
        self.signs.review(self.signs.confirmed, self.now);
        self
    }

    fn confirm(&mut self, confirmed: bool) -> &mut Self {
        self.signs.review(confirmed, self.now);
        self
    }

    #[track_caller]
    fn shows(&mut self, sign: Option<Sign>) -> &mut Self {
        assert_eq!(self.signs.newest(), sign);
        self
    }
}

const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn every_step_has_its_sign_and_the_furthest_counts() {
    use FailoverStep::*;
    for (step, sign) in [
        (Started, Some(Sign::Election)),
        (Elected, Some(Sign::Election)),
        (Selecting, Some(Sign::Promotion)),
        (Promoting, Some(Sign::Promotion)),
        (Promoted, Some(Sign::Promotion)),
        (Reconfiguring, Some(Sign::Promotion)),
        (Ended, None),
        (Aborted, None),
    ] {
        Bench::new().hear("s1", Notice::Failover(step)).shows(sign);
    }
    Bench::new().hear("s1", Notice::SubjectivelyDown(true)).hear("s1", Notice::Other).shows(None);
    let orders = [[&DOWN, &START, &SELECT], [&SELECT, &START, &DOWN], [&START, &DOWN, &SELECT]];
    for (order, others) in orders.into_iter().flat_map(|order| [(order, false), (order, true)]) {
        let mut bench = Bench::new();
        for (number, notice) in order.into_iter().enumerate() {
            bench.hear(if others { ["s1", "s2", "s3"][number] } else { "s1" }, notice.clone());
        }
        bench.shows(Some(Sign::Promotion));
    }
}

#[test]
fn a_revoked_sign_no_longer_counts() {
    let mut bench = Bench::new();
    bench.hear("s1", DOWN).hear("s1", UP).shows(None);
    bench.hear("s1", START).hear("s1", UP).shows(Some(Sign::Election));
    bench.hear("s1", ABORT).shows(None).hear("s1", ABORT).hear("s2", UP).shows(None);
    bench.hear("s1", DOWN).hear("s1", START).hear("s1", ABORT).shows(Some(Sign::Down));
    // Only the Sentinel that sent the sign can revoke it.
    bench.hear("s2", START).hear("s1", ABORT).hear("s1", UP).shows(Some(Sign::Election));
    bench.hear("s2", ABORT).shows(None);
}

#[test]
fn signs_expire() {
    let mut bench = Bench::new();
    bench.hear("s1", START).pass(FAILOVER_LIMIT - MOMENT).shows(Some(Sign::Election));
    assert_eq!(bench.signs.expires_at(), Some(bench.now + MOMENT));
    // The promotion gets a full limit of its own, once.
    bench.hear("s1", SELECT).pass(FAILOVER_LIMIT - MOMENT).shows(Some(Sign::Promotion));
    bench.hear("s1", SELECT).pass(MOMENT).shows(None).hear("s1", SELECT).shows(None);
    let mut bench = Bench::new();
    bench.hear("s1", DOWN).pass(DOWN_LIMIT - MOMENT).shows(Some(Sign::Down)).pass(MOMENT).shows(None);
    // An election follows: it gets the rest of the limit.
    bench.hear("s1", START).pass(FAILOVER_LIMIT - DOWN_LIMIT - MOMENT).shows(Some(Sign::Election));
    bench.pass(MOMENT).shows(None);
}

/// Observed on a machine that stalled for two seconds: the leading Sentinel entered tilt mode after its election, and
/// promoted 20 s after its first sign had expired.
#[test]
fn signs_of_a_stalled_sentinel_that_continues_count_again() {
    let mut bench = Bench::new();
    bench.hear("s1", START).pass(FAILOVER_LIMIT).shows(None).pass(FAILOVER_LIMIT * 2);
    bench.hear("s1", SELECT).shows(Some(Sign::Promotion));
}

#[test]
fn what_most_confirm_lasts_longer() {
    let mut bench = Bench::new();
    bench.hear("s1", DOWN).confirm(true).pass(CONFIRMED_LIMIT - MOMENT).shows(Some(Sign::Down));
    bench.pass(MOMENT).shows(None);
    let mut bench = Bench::new();
    bench
        .hear("s1", DOWN)
        .confirm(true)
        .pass(DOWN_LIMIT * 2)
        .shows(Some(Sign::Down))
        .confirm(false)
        .shows(None);
}

#[test]
fn a_sentinel_that_repeats_a_sign_is_ignored() {
    let mut bench = Bench::new();
    bench.hear("s1", START).pass(FAILOVER_LIMIT).shows(None);
    for _ in 0..29 {
        bench.hear("s1", START).shows(None).hear("s1", DOWN).shows(None).pass(Duration::from_secs(1));
    }
    // The machine still heeds other Sentinels, and also this one when most agree.
    bench.hear("s2", START).shows(Some(Sign::Election)).hear("s2", ABORT).shows(None);
    bench.confirm(true).hear("s1", START).shows(Some(Sign::Election)).confirm(false).shows(None);
    bench.pass(REST).hear("s1", START).shows(Some(Sign::Election));
}

#[test]
fn revoking_and_repeating_a_sign_does_not_extend_its_limit() {
    let mut bench = Bench::new();
    let mut held = Duration::ZERO;
    let step = Duration::from_millis(100);
    for _ in 0..600 {
        bench.hear("s1", START);
        if bench.signs.newest().is_some() {
            held += step;
        }
        bench.pass(step).hear("s1", ABORT).shows(None);
    }
    assert!(held <= FAILOVER_LIMIT * 2, "{held:?} of a minute");
    let mut bench = Bench::new();
    bench.hear("s1", START).pass(FAILOVER_LIMIT).hear("s1", START).shows(None);
    bench.signs.clear();
    bench.hear("s1", START).shows(Some(Sign::Election));
}
