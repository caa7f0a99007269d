//! Signs of a failover.

use super::*;

#[test]
fn a_failover_is_announced_then_switched() {
    let mut bench = Bench::settled();
    bench.hears("s1", START);
    assert_eq!((bench.sign(), bench.known()), (Some(Sign::Election), Some(("a:1".into(), 1))));
    let published = bench.published;
    bench.hears("s1", START);
    assert_eq!(bench.published, published, "nothing new, nothing said");
    bench.hears("s1", Notice::Failover(FailoverStep::Promoting));
    assert_eq!(bench.sign(), Some(Sign::Promotion));
    bench.claims("s1", "b", 2).claims("s2", "b", 2);
    assert!(matches!(bench.outage(), Outage::Verifying(_)));
    bench.found(Finding::Primary(Description::default()));
    assert_eq!((bench.sign(), bench.known()), (None, Some(("b:1".into(), 2))));
    // The leader still publishes events about the former primary.
    bench
        .hears("s1", Notice::Failover(FailoverStep::Reconfiguring))
        .hears("s2", Notice::ObjectivelyDown(true));
    assert_eq!(bench.sign(), None);
}

#[test]
fn an_aborted_failover_gives_the_same_primary_back() {
    let mut bench = Bench::settled();
    bench.hears("s1", START).hears("s1", ABORT);
    assert!(matches!(&bench.topology, Topology::Known(primary) if primary.generation == Generation(1)));
    bench.hears("s1", Notice::ObjectivelyDown(true));
    assert_eq!(bench.sign(), Some(Sign::Down));
    bench.hears("s1", Notice::ObjectivelyDown(false));
    assert_eq!((bench.sign(), bench.known()), (None, Some(("a:1".into(), 1))));
    bench.hears("s1", START).pass(FAILOVER_LIMIT);
    assert_eq!((bench.sign(), bench.known()), (None, Some(("a:1".into(), 1))));
}

#[test]
fn the_sentinels_are_asked_often_while_a_failover_lasts() {
    let mut bench = Bench::settled();
    bench.hears("s1", START);
    let asks = bench.asks;
    bench.pass(Duration::from_secs(1));
    assert!((9..=11).contains(&(bench.asks - asks)), "{}", bench.asks - asks);
    bench.hears("s1", ABORT);
    let asks = bench.asks;
    bench.pass(Duration::from_secs(5));
    assert!((4..=6).contains(&(bench.asks - asks)), "{}", bench.asks - asks);
}

#[test]
fn a_primary_that_is_down_by_all_accounts_is_held_for_long() {
    let mut bench = Bench::settled();
    bench.hears("s1", Notice::ObjectivelyDown(true));
    for sentinel in ["s1", "s2"] {
        let down = Claim { flags: "master,s_down,o_down".into(), ..claim("a", 1) };
        let view = View { claim: Some(down), others: vec![], total: 3 };
        bench.event(Event::Answered { sentinel: at(sentinel), view });
    }
    bench.pass(DOWN_LIMIT * 3);
    assert_eq!(bench.sign(), Some(Sign::Down));
    bench.all_claim("a", 1);
    assert_eq!(bench.sign(), None);
}

#[test]
fn a_sign_outlives_the_primary_it_is_about() {
    let mut bench = Bench::settled();
    bench.pass(Duration::from_secs(1)).event(Event::Hinted(Hint::Lost(Generation(1))));
    bench.found(Finding::Unreachable("refused".into()));
    bench.pass(Duration::from_secs(1)).found(Finding::Unreachable("refused".into()));
    assert_eq!(bench.outage(), Outage::Unverified("refused".into()));
    bench.hears("s1", START);
    assert_eq!(bench.outage(), Outage::Unverified("refused".into()));
    // The primary restarts within the limit: it gets no commands, since another node is about to take over.
    bench.pass(Duration::from_secs(1)).found(Finding::Primary(Description::default()));
    assert_eq!((bench.sign(), bench.known()), (Some(Sign::Election), Some(("a:1".into(), 1))));
    bench.hears("s1", ABORT);
    assert_eq!(bench.sign(), None);
}

#[test]
fn events_about_other_nodes_and_former_primaries_are_no_signs() {
    let mut bench = Bench::settled();
    for primary in [None, Some(at("b"))] {
        let event = SentinelEvent { notice: START, primary, replica: None };
        bench.event(Event::Noticed { sentinel: at("s1"), event });
        assert_eq!(bench.sign(), None);
    }
    // One Sentinel knows the primary by another name.
    let run_id = Some("f".repeat(40));
    for (sentinel, host) in [("s1", "a"), ("s2", "a"), ("s3", "alias")] {
        let view = View {
            claim: Some(Claim { run_id: run_id.clone(), ..claim(host, 1) }),
            others: vec![],
            total: 3,
        };
        bench.event(Event::Answered { sentinel: at(sentinel), view });
    }
    let event = SentinelEvent { notice: START, primary: Some(at("alias")), replica: None };
    bench.event(Event::Noticed { sentinel: at("s3"), event });
    assert_eq!(bench.sign(), Some(Sign::Election));
}
