//! The primary restarts before the Sentinels call it down: no failover.

use super::*;

on_both_servers!(restart, |flavor| (0..REPEATS).for_each(|_| restart(flavor)));

// It comes back as a replica of a node that was promoted meanwhile. The Sentinels go on naming it for a while, and
// nobody is shown READONLY.
on_both_servers!(restart_as_a_replica, as_replica);

fn as_replica(flavor: Flavor) {
    let mut drill = Drill::start(flavor);
    let survivor = drill.deployment.replicas[0].port;
    let port = survivor.to_string();
    let gone = drill.timeline.now();
    drill.note("SIGKILL, and a replica is promoted by hand");
    drill.deployment.primary.crash();
    drill.deployment.replicas[0].run(&["REPLICAOF", "NO", "ONE"]);
    drill.deployment.primary.restart(&["--replicaof", "127.0.0.1", &port]);
    drill.note("it is back, as a replica");
    thread::sleep(Duration::from_millis(200));
    assert_eq!(
        drill.watch.majority_left(drill.deployment.primary.port),
        None,
        "too late: there was a failover"
    );
    drill.point_sentinels_at(survivor);
    let (named, _) = drill.wait_for_switch();
    thread::sleep(Duration::from_secs(1));
    let (verdict, records) = drill.finish(survivor);
    drill.report("restart as a replica", &verdict);
    let first = successes(&records, named..Duration::MAX).min().expect("a success after the switch");
    assert_eq!((verdict.doubled, verdict.dropped), (0, 0), "{verdict}");
    assert!(verdict.refused.is_empty(), "{verdict}: {:?}", verdict.refused);
    assert!(verdict.unknown <= WRITERS as u64, "{verdict}");
    let refused = drill.deployment.primary.run_text(&["INFO", "errorstats"]);
    assert!(!refused.contains("READONLY"), "writes reached the replica: {refused}");
    let unreplicated = successes(&records, gone.saturating_sub(REPLICATION_LAG)..named).count();
    assert!(verdict.lost <= unreplicated as i64, "more than could lack replication: {verdict}");
    drill.turn.expect_within(Duration::from_secs(1), first - named, "the first success after it was named");
}

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// It has what it had; what was in flight is uncertain, and nothing else is noticed.
fn restart(flavor: Flavor) {
    let mut drill = Drill::start_with(flavor, &DURABLE, "");
    drill.note("SIGKILL");
    drill.deployment.primary.crash();
    drill.deployment.primary.restart(&DURABLE);
    drill.note("it is back");
    thread::sleep(Duration::from_millis(1500));
    let port = drill.deployment.primary.port;
    assert_eq!(drill.watch.majority_left(port), None, "the drill took too long: there was a failover");
    let (verdict, _) = drill.finish(port);
    drill.report("restart", &verdict);
    assert_eq!((verdict.lost, verdict.doubled, verdict.dropped), (0, 0, 0), "{verdict}");
    assert!(verdict.refused.is_empty(), "{verdict}: {:?}", verdict.refused);
    assert!(verdict.unknown <= WRITERS as u64, "{verdict}");
    drill.turn.expect_within(Duration::from_millis(1500), verdict.longest_pause, "the longest pause");
}
