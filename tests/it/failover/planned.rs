//! An operator asks the Sentinels for another primary.

use super::*;

/// What clients may notice of a failover that the majority must confirm.
const PAUSE: Duration = Duration::from_millis(1500);

on_both_servers!(planned, |flavor| (0..REPEATS).for_each(|_| planned(flavor, "", PAUSE)));

on_both_servers!(planned_and_followed_early);

/// The same by the leader's word: a good deal of the pause is gone, and nothing is lost either.
fn planned_and_followed_early(flavor: Flavor) {
    planned(flavor, "switch = \"leader\"", Duration::from_millis(700));
}

/// Clients notice a pause, and nothing else.
fn planned(flavor: Flavor, upstream: &str, pause: Duration) {
    let mut drill = Drill::start_with(flavor, &[], upstream);
    drill.note("SENTINEL FAILOVER");
    let reply = drill.deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]);
    assert_eq!(reply, "+OK\r\n");
    let (_, survivor) = drill.wait_for_switch();
    thread::sleep(Duration::from_secs(2));
    let (verdict, _) = drill.finish(survivor);
    drill.report("planned", &verdict);
    assert_eq!((verdict.lost, verdict.doubled), (0, 0), "{verdict}");
    assert!(verdict.refused.is_empty(), "{verdict}: {:?}", verdict.refused);
    assert_eq!((verdict.unknown, verdict.dropped), (0, 0), "{verdict}");
    drill.turn.expect_within(pause, verdict.longest_pause, "the longest pause");
    drill.expect_timeline("\"lossless\": true");
}
