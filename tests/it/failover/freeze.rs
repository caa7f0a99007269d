//! The primary stops answering, is replaced, and wakes up believing in itself.

use super::*;

on_both_servers!(freeze, |flavor| (0..REPEATS).for_each(|_| freeze(flavor)));

/// As a crash; and after the thaw not one command reaches the old primary, which takes writes for some 10 s until
/// the Sentinels demote it.
fn freeze(flavor: Flavor) {
    let mut drill = Drill::start(flavor);
    drill.note("SIGSTOP");
    let gone = drill.timeline.now();
    drill.deployment.primary.signal("STOP");
    let (named, survivor) = drill.wait_for_switch();
    thread::sleep(Duration::from_millis(500));
    drill.note("SIGCONT");
    let old = &drill.deployment.primary;
    old.signal("CONT");
    assert!(old.run_text(&["ROLE"]).contains("master"), "too late: the Sentinels have demoted it");
    // What was in its sockets' buffers runs now, and was unknown to the clients.
    thread::sleep(Duration::from_millis(100));
    let before = calls(old, "incr");
    thread::sleep(Duration::from_secs(1));
    let after = calls(old, "incr");
    assert_eq!(before, after, "writes reached the old primary");
    let (verdict, records) = drill.finish(survivor);
    drill.expect_crash_like(&verdict, &records, gone, named, "freeze");
}
