//! The choice of the leading Sentinel.

use super::*;

impl Bench {
    /// A settled machine that follows the leading Sentinel's choice.
    pub(super) fn following_the_leader() -> Self {
        let seeds = ["s1", "s2", "s3"].map(at).to_vec();
        let mut config = SentinelConfig::new(seeds, "mymaster");
        config.switch = SwitchRule::Leader;
        let mut bench = Self::new(&DiscoveryConfig::Sentinel(config));
        bench.all_claim("a", 1);
        bench.found(Finding::Primary(Description::default()));
        bench
    }

    pub(super) fn chooses(&mut self, sentinel: &str, replica: &str) -> &mut Self {
        let notice = Notice::Failover(FailoverStep::Selecting);
        let event = SentinelEvent { notice, primary: Some(at("a")), replica: Some(at(replica)) };
        self.event(Event::Noticed { sentinel: at(sentinel), event })
    }

    fn candidate_says(&mut self, primary: bool) -> &mut Self {
        let (ticket, _) = self.candidate_probe.take().expect("no candidate is being probed");
        self.event(Event::CandidateProbed { ticket, primary })
    }
}

#[test]
fn the_leaders_choice_is_followed_once_it_is_primary() {
    let mut bench = Bench::following_the_leader();
    bench.hears("s1", START).chooses("s1", "b");
    assert_eq!(bench.candidate_probe.as_ref().unwrap().1, at("b"));
    for _ in 0..5 {
        bench.candidate_says(false);
        assert_eq!((bench.sign(), bench.known()), (Some(Sign::Promotion), Some(("a:1".into(), 1))));
        bench.pass(Duration::from_millis(50));
    }
    bench.candidate_says(true);
    assert_eq!(bench.known(), None);
    bench.found(Finding::Primary(Description::default()));
    assert_eq!(bench.known(), Some(("b:1".into(), 2)));
    // First the leader names `b`, then the others do: only the epoch changes.
    bench.hears("s1", Notice::Failover(FailoverStep::Promoted)).pass(Duration::from_secs(1));
    bench.all_claim("b", 2).pass(Duration::from_secs(20));
    assert_eq!((bench.known(), bench.sign()), (Some(("b:1".into(), 2)), None));
    assert_eq!(bench.topology.primary().unwrap().config_epoch, Some(2));
    assert_eq!((bench.candidate_probes, bench.warnings()), (6, 0));
}

#[test]
fn a_choice_that_is_never_confirmed_is_left_again() {
    let mut bench = Bench::following_the_leader();
    bench
        .hears("s1", START)
        .chooses("s1", "b")
        .candidate_says(true)
        .found(Finding::Primary(Description::default()));
    assert_eq!(bench.known(), Some(("b:1".into(), 2)));
    bench.all_claim("a", 1).pass(STALE_EPOCH_DELAY).found(Finding::Primary(Description::default()));
    assert_eq!(bench.known(), Some(("a:1".into(), 3)));
}

#[test]
fn a_choice_counts_only_while_its_leader_leads() {
    let mut bench = Bench::settled();
    bench.chooses("s1", "b");
    assert_eq!(bench.candidate_probe, None, "by default the majority decides");
    let mut bench = Bench::following_the_leader();
    bench.hears("s1", START).chooses("s1", "b").hears("s1", ABORT).candidate_says(true);
    assert_eq!((bench.sign(), bench.known()), (None, Some(("a:1".into(), 1))));
    // The replica never becomes a primary: the queries end with the sign.
    bench.hears("s1", START).chooses("s1", "b");
    for _ in 0..1000 {
        if bench.candidate_probe.is_some() {
            bench.candidate_says(false);
        }
        bench.pass(Duration::from_millis(50));
    }
    assert!((150..=201).contains(&bench.candidate_probes), "{}", bench.candidate_probes);
    assert_eq!((bench.sign(), bench.known()), (None, Some(("a:1".into(), 1))));
}
