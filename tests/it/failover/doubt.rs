//! The Sentinels are right, or away; a node that says something else changes nothing.

use super::*;

on_both_servers!(a_second_master_is_not_written_to, second_master);

on_both_servers!(all_sentinels_gone_is_not_noticed, sentinels_gone);

on_both_servers!(stalled_sentinels_are_not_noticed, sentinels_stall);

/// A replica believes that it is a primary; the Sentinels do not (they will turn it back after some 10 s).
fn second_master(flavor: Flavor) {
    let mut drill = Drill::start(flavor);
    let rogue = &drill.deployment.replicas[1];
    drill.note("a second master");
    rogue.run(&["REPLICAOF", "NO", "ONE"]);
    let before = calls(rogue, "incr");
    // Connections to the true one are lost too: where do the new ones go?
    drill.deployment.primary.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(calls(&drill.deployment.replicas[1], "incr"), before, "writes reached the second master");
    let (verdict, _) = drill.finish(drill.deployment.primary.port);
    drill.report("two masters", &verdict);
    assert_eq!((verdict.lost, verdict.doubled, verdict.dropped), (0, 0, 0), "{verdict}");
    assert!(verdict.refused.is_empty(), "{verdict}: {:?}", verdict.refused);
    assert!(verdict.unknown <= WRITERS as u64, "{verdict}");
}

/// The primary that was verified goes on serving.
fn sentinels_gone(flavor: Flavor) {
    let mut drill = Drill::start(flavor);
    drill.note("every Sentinel is killed");
    drill.deployment.sentinels.clear();
    thread::sleep(Duration::from_secs(3));
    assert!(drill.proxy.http("/readyz").starts_with("HTTP/1.1 200"));
    let (verdict, _) = drill.finish(drill.deployment.primary.port);
    drill.report("no Sentinels", &verdict);
    assert_eq!((verdict.lost, verdict.doubled, verdict.unknown), (0, 0, 0), "{verdict}");
    assert_eq!((verdict.refused.len(), verdict.dropped), (0, 0), "{verdict}: {:?}", verdict.refused);
    drill.turn.expect_within(Duration::from_millis(500), verdict.longest_pause, "the longest pause");
}

/// They stand still, all at once, for longer than they may be silent, and go on: in their tilt mode.
fn sentinels_stall(flavor: Flavor) {
    let mut drill = Drill::start(flavor);
    drill.note("every Sentinel stalls");
    drill.deployment.sentinels.iter().for_each(|sentinel| sentinel.signal("STOP"));
    thread::sleep(Duration::from_secs(3));
    assert!(drill.proxy.http("/readyz").starts_with("HTTP/1.1 200"));
    drill.deployment.sentinels.iter().for_each(|sentinel| sentinel.signal("CONT"));
    drill.note("they go on");
    thread::sleep(Duration::from_secs(1));
    let (verdict, _) = drill.finish(drill.deployment.primary.port);
    drill.report("stalled Sentinels", &verdict);
    assert_eq!((verdict.lost, verdict.doubled, verdict.unknown), (0, 0, 0), "{verdict}");
    assert_eq!((verdict.refused.len(), verdict.dropped), (0, 0), "{verdict}: {:?}", verdict.refused);
    drill.turn.expect_within(Duration::from_millis(500), verdict.longest_pause, "the longest pause");
}
