use super::*;

fn at(host: &str) -> Address {
    Address::tcp(host, 1)
}

fn parties() -> Parties {
    Parties { leader: at("s1"), former: at("a"), successor: at("b") }
}

/// A hand-over that is being watched.
fn awaited() -> Handover {
    let mut handover = Handover::default();
    handover.choose(parties());
    assert_eq!(handover.start(|_| true), Some((1, parties())));
    handover
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn only_a_coordinated_failover_is_watched() {
    let mut handover = Handover::default();
    assert_eq!(handover.start(|_| true), None);
    handover.choose(parties());
    assert_eq!(handover.start(|leader| *leader == at("s2")), None);
    assert_eq!(handover.start(|leader| *leader == at("s1")), Some((1, parties())));
    assert_eq!(handover.start(|_| true), None, "once");
    // The leader's events name the same choice again.
    handover.choose(parties());
    assert_eq!(handover.start(|_| true), None);
}

#[test]
fn commands_wait_while_the_connections_are_closed() {
    let start = Instant::now();
    let mut handover = awaited();
    let closing = start + millis(900);
    assert_eq!(handover.handed_over(1, closing, start), Some(at("b")));
    let review = |handover: &mut Handover, now| handover.review(Some(&at("b")), |_| false, now);
    assert!(!review(&mut handover, start));
    assert!(!handover.holds());
    assert_eq!(handover.wake_at(), Some(closing - DRAIN));
    assert!(!review(&mut handover, closing - DRAIN));
    assert!(handover.holds());
    handover.ended(1);
    assert!(!handover.holds());
    assert_eq!(handover.wake_at(), None);
}

#[test]
fn the_wait_for_the_end_of_the_connections_is_limited() {
    let start = Instant::now();
    let mut handover = awaited();
    let closing = start + millis(900);
    handover.handed_over(1, closing, start);
    handover.review(Some(&at("b")), |_| false, closing);
    assert_eq!(handover.wake_at(), Some(closing + CLOSING_LIMIT));
    assert!(handover.review(Some(&at("b")), |_| false, closing + CLOSING_LIMIT), "the watch is stopped");
    assert!(!handover.holds());
}

#[test]
fn the_successor_is_not_used_for_a_moment_only() {
    let start = Instant::now();
    let mut handover = awaited();
    assert_eq!(handover.handed_over(1, start + DRAIN, start), Some(at("b")));
    assert!(handover.holds());
    handover.ended(1);
    assert!(!handover.holds());
    // Another answer of the leader may move the moment.
    let mut handover = awaited();
    assert_eq!(handover.handed_over(1, start, start), Some(at("b")));
    assert!(handover.holds());
    assert_eq!(handover.handed_over(1, start + millis(990), start), None, "it is followed already");
    assert!(!handover.holds());
}

#[test]
fn without_an_answer_the_majority_decides() {
    let start = Instant::now();
    let mut handover = awaited();
    handover.ended(1);
    assert_eq!(handover.handed_over(1, start + millis(900), start), None);
    // An outdated watch says nothing.
    let mut handover = awaited();
    assert_eq!(handover.handed_over(0, start + millis(900), start), None);
    handover.ended(0);
    assert_eq!(handover.handed_over(1, start + millis(900), start), Some(at("b")));
}

#[test]
fn it_ends_with_its_leader_and_with_another_primary() {
    let now = Instant::now();
    let mut handover = awaited();
    assert!(!handover.review(Some(&at("a")), |_| true, now));
    assert!(handover.review(Some(&at("a")), |_| false, now), "the failover was aborted");
    assert_eq!(handover.handed_over(1, now + millis(900), now), None);
    let mut handover = awaited();
    assert!(handover.review(Some(&at("b")), |_| true, now), "the majority was faster");
    let mut handover = awaited();
    handover.handed_over(1, now + millis(900), now);
    assert!(handover.review(Some(&at("c")), |_| true, now), "the majority names another node");
}

fn replica(link: &str, history: &str, continues: &str) -> ReplicationState {
    ReplicationState::from_info(&format!(
        "# Replication\r\nrole:slave\r\nmaster_host:10.0.0.2\r\nmaster_port:6379\r\nmaster_link_status:{link}\r\n\
         master_failover_state:no-failover\r\nmaster_replid:{history}\r\nmaster_replid2:{continues}\r\n"
    ))
    .unwrap()
}

fn primary(history: &str, continues: &str) -> ReplicationState {
    ReplicationState::from_info(&format!(
        "# Replication\r\nrole:master\r\nconnected_slaves:1\r\nmaster_replid:{history}\r\nmaster_replid2:{continues}\r\n\
         master_repl_offset:7\r\n"
    ))
    .unwrap()
}

#[test]
fn both_nodes_must_say_that_the_primary_has_handed_over() {
    let none = "0".repeat(40);
    assert_eq!(primary("old", &none).primary_history(), Some("old"));
    assert_eq!(replica("up", "old", &none).primary_history(), None);
    let over =
        |former: &ReplicationState, successor: &ReplicationState| has_handed_over("old", former, successor);
    assert!(over(&replica("up", "new", "old"), &primary("new", "old")));
    // Before, and in the middle.
    assert!(!over(&primary("old", &none), &replica("up", "old", &none)));
    assert!(!over(&primary("old", &none), &primary("new", "old")));
    assert!(!over(&replica("down", "old", &none), &primary("new", "old")));
    assert!(!over(&replica("up", "new", "old"), &replica("up", "new", "old")));
    // The former primary follows another node, or copied the data of one that was not its replica.
    assert!(!over(&replica("up", "other", "old"), &primary("new", "old")));
    assert!(!over(&replica("up", "new", &none), &primary("new", &none)));
    assert!(!over(&replica("up", "old", &none), &primary("old", "old")));
    assert_eq!(ReplicationState::from_info("role:master\r\n"), None);
}
