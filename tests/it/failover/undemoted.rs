//! The Sentinels cannot or do not demote the old primary: it stays a primary that takes writes, and nobody closes its
//! connections. Only respgate keeps its clients from it.

use super::*;

/// Sentinel's own demotion ends with CLIENT KILL; where its user may not run that, the whole of it fails.
#[test]
fn a_primary_that_sentinel_may_not_demote_is_left() {
    left(Flavor::Valkey, |drill| {
        let reply = drill.deployment.primary.run_text(&["ACL", "SETUSER", "default", "-client|kill"]);
        assert_eq!(reply, "+OK\r\n");
    });
}

/// The Sentinels forget the old primary before they come to demote it.
#[test]
fn a_primary_that_the_sentinels_forget_is_left() {
    left(Flavor::Redis, |drill| {
        for sentinel in &drill.deployment.sentinels {
            // What they know of the replicas is lost, and comes back.
            assert_eq!(sentinel.run_text(&["SENTINEL", "RESET", NAME]), ":1\r\n");
        }
        drill.deployment.wait_until_redundant();
    });
}

fn left(flavor: Flavor, prepare: fn(&Drill)) {
    let mut drill = Drill::start(flavor);
    prepare(&drill);
    let mut transaction = drill.proxy.client();
    transaction.expect(&["MULTI"], "+OK\r\n");
    transaction.expect(&["INCR", "counter"], "+QUEUED\r\n");
    let (mut popper, mut subscriber) = (drill.proxy.client(), drill.proxy.client());
    popper.send_command(&["BLPOP", "queue", "0"]);
    subscriber.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    wait::until("the pop to block", || drill.deployment.primary.info("clients", "blocked_clients") == 1);
    drill.note("SENTINEL FAILOVER");
    wait::until("a Sentinel to begin a failover", || {
        drill.deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]) == "+OK\r\n"
    });
    let (_, survivor) = drill.wait_for_switch();
    for sentinel in &drill.deployment.sentinels {
        // The leader names the new primary while it still reconfigures replicas; a RESET then would undo its failover.
        let line = format!("\r\n{survivor}\r\n");
        wait::until("a Sentinel's failover to end", || {
            sentinel.run_text(&["SENTINEL", "MASTER", NAME]).contains(&line)
        });
        sentinel.run(&["SENTINEL", "RESET", NAME]);
    }
    thread::sleep(Duration::from_millis(200));
    let old = &drill.deployment.primary;
    let ours = |node: &Server| {
        let clients = node.run_text(&["CLIENT", "LIST"]);
        clients.lines().filter(|line| line.contains("cmd=") && !line.contains("flags=S")).count()
    };
    let before = calls(old, "incr");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(calls(old, "incr"), before, "writes reached the old primary");
    assert!(old.run_text(&["ROLE"]).contains("master"), "it was to be left as it is");
    assert_eq!(old.info("clients", "blocked_clients"), 0, "the pop still waits there");
    assert!(ours(old) < ours(drill.node(survivor)), "connections stayed behind");
    let new = drill.node(survivor);
    transaction.expect(&["EXEC"], "*1\r\n:1\r\n");
    assert_eq!(new.run_text(&["GET", "counter"]), "$1\r\n1\r\n");
    new.run(&["RPUSH", "queue", "job"]);
    popper.expect_reply("*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n");
    new.run(&["PUBLISH", "news", "hello"]);
    subscriber.expect_reply("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
    let (verdict, _) = drill.finish(survivor);
    drill.report("not demoted", &verdict);
    assert_eq!((verdict.lost, verdict.doubled, verdict.unknown), (0, 0, 0), "{verdict}");
    assert_eq!((verdict.refused.len(), verdict.dropped), (0, 0), "{verdict}: {:?}", verdict.refused);
}
