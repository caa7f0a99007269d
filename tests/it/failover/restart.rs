//! The primary restarts before the Sentinels call it down: no failover.

use super::*;

#[test]
fn restart_on_valkey() {
    (0..REPEATS).for_each(|_| restart(Flavor::Valkey));
}

#[test]
fn restart_on_redis() {
    (0..REPEATS).for_each(|_| restart(Flavor::Redis));
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
