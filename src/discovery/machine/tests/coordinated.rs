//! Coordinated failovers.

use super::*;
use crate::discovery::handover::{CLOSING_LIMIT, DRAIN};

impl Bench {
    /// All Sentinels name `a`, and `s1` shows a failover with these flags.
    fn leader_shows(&mut self, flags: &str) -> &mut Self {
        let claim = Claim { flags: flags.into(), ..claim("a", 1) };
        let view = View { claim: Some(claim), others: vec![], total: 3 };
        self.event(Event::Answered { sentinel: at("s1"), view })
    }

    /// The primary `a` is about to hand over to `b`.
    fn handing_over() -> Self {
        let mut bench = Self::settled();
        bench.hears("s1", START).leader_shows("master,failover_in_progress,coordinated_failover");
        assert_eq!(bench.sign(), None, "nothing is wrong with the primary yet");
        bench.chooses("s1", "b");
        assert_eq!(bench.sign(), Some(Sign::Promotion));
        let parties = Parties { leader: at("s1"), former: at("a"), successor: at("b") };
        assert_eq!(bench.watch.as_ref().map(|(_, watched)| watched), Some(&parties));
        bench
    }

    fn handed_over(&mut self, closing: Duration) -> &mut Self {
        let (ticket, _) = self.watch.as_ref().expect("nobody is watched");
        self.event(Event::HandedOver { ticket: *ticket, closing: self.now + closing })
    }

    fn watch_ended(&mut self) -> &mut Self {
        let (ticket, _) = self.watch.take().expect("nobody is watched");
        self.event(Event::HandoverWatchEnded { ticket })
    }

    fn is_primary(&mut self) -> &mut Self {
        self.found(Finding::Primary(Description::default()))
    }
}

const CLOSING: Duration = Duration::from_millis(800);

#[test]
fn the_successor_is_followed_at_once_and_again_when_its_connections_are_closed() {
    let mut bench = Bench::handing_over();
    bench.handed_over(CLOSING).is_primary();
    assert_eq!((bench.known(), bench.sign()), (Some(("b:1".into(), 2)), None));
    // The Sentinels still name `a`, and the leader's events are about `a`.
    bench.leader_shows("master,failover_in_progress,coordinated_failover");
    bench.pass(CLOSING - DRAIN - Duration::from_millis(1));
    assert_eq!(bench.sign(), None);
    bench.pass(Duration::from_millis(1));
    assert_eq!((bench.known(), bench.sign()), (Some(("b:1".into(), 2)), Some(Sign::Closing)));
    bench.pass(DRAIN).watch_ended();
    assert_eq!((bench.known(), bench.sign()), (Some(("b:1".into(), 2)), None));
    bench.all_claim("b", 2).pass(Duration::from_secs(20));
    assert_eq!((bench.known(), bench.sign()), (Some(("b:1".into(), 2)), None));
    assert_eq!(bench.topology.primary().unwrap().config_epoch, Some(2));
    assert_eq!(bench.warnings(), 0);
}

#[test]
fn a_majority_that_is_faster_does_not_end_the_wait_for_the_closing() {
    let mut bench = Bench::handing_over();
    bench.handed_over(CLOSING).is_primary().pass(CLOSING);
    bench.all_claim("b", 2);
    assert_eq!(bench.sign(), Some(Sign::Closing));
    bench.pass(CLOSING_LIMIT);
    assert_eq!((bench.known(), bench.sign()), (Some(("b:1".into(), 2)), None));
    assert_eq!(bench.watch, None, "the watch is stopped");
}

#[test]
fn commands_go_on_waiting_for_connections_that_are_closed_soon() {
    let mut bench = Bench::handing_over();
    bench.handed_over(Duration::ZERO).is_primary();
    assert_eq!((bench.known(), bench.sign()), (Some(("b:1".into(), 2)), Some(Sign::Closing)));
    bench.watch_ended();
    assert_eq!((bench.known(), bench.sign()), (Some(("b:1".into(), 2)), None));
}

#[test]
fn without_the_nodes_word_the_majority_decides() {
    let mut bench = Bench::handing_over();
    bench.watch_ended().pass(Duration::from_secs(1));
    assert_eq!((bench.known(), bench.sign()), (Some(("a:1".into(), 1)), Some(Sign::Promotion)));
    bench.all_claim("b", 2).is_primary();
    assert_eq!((bench.known(), bench.sign()), (Some(("b:1".into(), 2)), None));
}

#[test]
fn a_hand_over_that_is_given_up_leaves_everything_as_it_was() {
    let mut bench = Bench::handing_over();
    let (ticket, _) = bench.watch.clone().unwrap();
    bench.hears("s1", ABORT);
    assert_eq!((bench.known(), bench.sign()), (Some(("a:1".into(), 1)), None));
    assert_eq!(bench.watch, None, "the watch is stopped");
    // Its last word comes too late.
    let closing = bench.now + CLOSING;
    bench.event(Event::HandedOver { ticket, closing }).pass(Duration::from_secs(20));
    assert_eq!((bench.known(), bench.sign()), (Some(("a:1".into(), 1)), None));
}

#[test]
fn only_failovers_that_are_all_coordinated_leave_the_primary_alone() {
    let mut bench = Bench::settled();
    bench.hears("s1", START);
    assert_eq!(bench.sign(), Some(Sign::Election), "nobody knows yet which kind it is");
    bench.leader_shows("master,failover_in_progress,coordinated_failover");
    assert_eq!(bench.sign(), None);
    bench.hears("s2", START);
    assert_eq!(bench.sign(), Some(Sign::Election));
    bench.chooses("s2", "b");
    assert_eq!(bench.watch, None, "s2 leads an ordinary failover");
}

#[test]
fn the_leaders_word_alone_is_not_enough_in_a_coordinated_failover() {
    let mut bench = Bench::following_the_leader();
    bench.hears("s1", START).leader_shows("master,failover_in_progress,coordinated_failover");
    bench.chooses("s1", "b").pass(Duration::from_secs(1));
    assert_eq!((bench.candidate_probes, bench.watch.is_some()), (0, true));
    bench.handed_over(CLOSING).is_primary();
    assert_eq!(bench.known(), Some(("b:1".into(), 2)));
}
