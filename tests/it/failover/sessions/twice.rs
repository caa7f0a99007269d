//! Two failovers, one soon after the other, while the same sessions hold what they hold.

use super::*;

on_both_servers!(sessions_live_through_two_failovers_in_a_row, twice);

fn twice(flavor: Flavor) {
    let mut drill = Drill::without_writers(flavor, "");
    let mut transaction = connect(&drill, "multi");
    transaction.expect(&["MULTI"], "+OK\r\n");
    transaction.expect(&["INCR", "counter"], "+QUEUED\r\n");
    let mut watcher = connect(&drill, "watch");
    watcher.expect(&["WATCH", "k"], "+OK\r\n");
    let mut popper = connect(&drill, "pop");
    popper.send_command(&["BLPOP", "queue", "60"]);
    let mut reader = connect(&drill, "read");
    reader.send_command(&["XREAD", "BLOCK", "60000", "STREAMS", "stream", "$"]);
    let mut subscriber = connect(&drill, "sub");
    subscriber.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    wait_until_blocked(&drill.deployment.primary, 2);

    let first = drill.replace_primary(Way::Planned);
    wait_until_blocked(drill.node(first), 2);
    transaction.expect(&["INCR", "counter"], "+QUEUED\r\n");
    let sentinels: Vec<_> = drill.deployment.sentinels.iter().map(|sentinel| sentinel.address()).collect();
    drill.watch = Watch::start(&sentinels, &drill.timeline);
    // -INPROG until the first has ended, -NOGOODSLAVE until the other replica has been heard of lately.
    wait::until("a second failover to begin", || {
        drill.deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]) == "+OK\r\n"
    });
    drill.note("the second");
    let (_, second) = drill.watch.wait_for_majority(first);
    assert_ne!(first, second);
    drill.proxy.client().expect(&["SET", "switched", "twice"], "+OK\r\n");
    let survivor = drill.node(second);
    wait_until_blocked(survivor, 2);

    transaction.expect(&["INCR", "counter"], "+QUEUED\r\n");
    transaction.expect(&["EXEC"], "*3\r\n:1\r\n:2\r\n:3\r\n");
    assert_eq!(survivor.run_text(&["GET", "counter"]), "$1\r\n3\r\n");
    watcher.expect(&["MULTI"], "+OK\r\n");
    watcher.expect(&["SET", "k", "mine"], "+QUEUED\r\n");
    watcher.expect(&["EXEC"], "*-1\r\n");
    survivor.run(&["RPUSH", "queue", "job"]);
    popper.expect_reply("*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n");
    survivor.run(&["XADD", "stream", "7-7", "f", "v"]);
    let read = String::from_utf8_lossy(&reader.reply()).into_owned();
    assert!(read.contains("7-7"), "{read}");
    survivor.run(&["PUBLISH", "news", "hello"]);
    subscriber.expect_reply("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
    // Each was moved twice: MULTI, WATCH, BLPOP, XREAD and SUBSCRIBE.
    assert_eq!(drill.proxy.metric("respgate_sessions_migrated_total", &[]), 10.0);
    assert_eq!(drill.proxy.metric("respgate_outcome_unknown_total", &[]), 0.0);
}
