//! The primary is gone at once, alone or not.

use super::*;

on_both_servers!(crash, |flavor| (0..REPEATS).for_each(|_| crash(flavor, false)));

on_both_servers!(crash_along_with_a_sentinel, |flavor| (0..REPEATS).for_each(|_| crash(flavor, true)));

/// Only what was in flight is uncertain, and service is back as soon as the Sentinels agree. Then the old primary is
/// started again, empty and believing in itself: nobody writes to it.
fn crash(flavor: Flavor, with_sentinel: bool) {
    let mut drill = Drill::start(flavor);
    drill.note("SIGKILL");
    let gone = drill.timeline.now();
    if with_sentinel {
        drill.deployment.sentinels[0].crash();
    }
    drill.deployment.primary.crash();
    let (named, survivor) = drill.wait_for_switch();
    drill.deployment.primary.restart(&[]);
    drill.note("the old primary is back");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(calls(&drill.deployment.primary, "incr"), 0, "writes reached the old primary");
    let (verdict, records) = drill.finish(survivor);
    drill.expect_crash_like(&verdict, &records, gone, named, "crash");
    drill.expect_timeline("\"lossless\": false");
}
