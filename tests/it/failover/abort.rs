//! A failover that begins and leads nowhere.

use super::*;

/// The replicas die before one is chosen: `-failover-abort-no-good-slave`.
#[test]
fn no_replica_is_good_enough() {
    aborted(Flavor::Valkey, false);
}

// The replica that was chosen dies before it is promoted: `-failover-abort-slave-timeout`.
on_both_servers!(the_chosen_replica_is_not_promoted, |flavor| aborted(flavor, true));

/// Commands have been held, and go to the primary that there was; nothing is lost, and nobody is told anything.
fn aborted(flavor: Flavor, chosen: bool) {
    let mut drill = Drill::start(flavor);
    for sentinel in &drill.deployment.sentinels {
        assert_eq!(sentinel.run_text(&["SENTINEL", "SET", NAME, "failover-timeout", "1500"]), "+OK\r\n");
    }
    let says = |drill: &Drill, event: &str| drill.deployment.sentinels[0].log().contains(event);
    // Frozen, so that none can be promoted before it dies.
    drill.deployment.replicas.iter().for_each(|replica| replica.signal("STOP"));
    drill.note("SENTINEL FAILOVER");
    let reply = drill.deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]);
    assert_eq!(reply, "+OK\r\n");
    if chosen {
        wait::until("the replica to be chosen", || says(&drill, "+failover-state-wait-promotion"));
        let held = || drill.proxy.metric("respgate_clients_held", &[]);
        wait::until("every client to be held", || held() == WRITERS as f64);
    }
    drill.deployment.replicas.iter_mut().for_each(Server::crash);
    drill.note("the replicas are gone");
    wait::until("the failover to be aborted", || says(&drill, "-failover-abort-"));
    let aborted = drill.timeline.now();
    drill.note("aborted");
    thread::sleep(Duration::from_millis(500));
    assert_eq!(drill.proxy.metric("respgate_clients_held", &[]), 0.0);
    assert_eq!(drill.proxy.metric("respgate_failovers_total", &[]), 0.0);
    let (verdict, records) = drill.finish(drill.deployment.primary.port);
    drill.report("aborted", &verdict);
    assert_eq!((verdict.lost, verdict.doubled, verdict.unknown), (0, 0, 0), "{verdict}");
    assert_eq!((verdict.refused.len(), verdict.dropped), (0, 0), "{verdict}: {:?}", verdict.refused);
    let held = Duration::from_millis(if chosen { 1000 } else { 50 });
    assert!(verdict.longest_pause >= held, "they were not held: {verdict}");
    let first = successes(&records, aborted..Duration::MAX).min().expect("a success after the abort");
    drill.turn.expect_within(
        Duration::from_millis(300),
        first - aborted,
        "the first success after the abort",
    );
}

/// Whether a command waits on a shared connection or in a session with its own, it waits for `hold-timeout` at most; and
/// the session stays what it was.
#[test]
fn a_hold_that_runs_out_is_told_to_pinned_sessions_too() {
    let mut drill = Drill::start_with(Flavor::Valkey, &[], "hold-timeout = \"500ms\"");
    drill.writers.take().expect("writers").finish();
    let mut clients = (0..4).map(|_| drill.proxy.client());
    let mut next = || clients.next().expect("a client");
    let (mut plain, mut transaction, mut watcher, mut ending) = (next(), next(), next(), next());
    transaction.expect(&["MULTI"], "+OK\r\n");
    ending.expect(&["MULTI"], "+OK\r\n");
    ending.expect(&["INCR", "counter"], "+QUEUED\r\n");
    watcher.expect(&["WATCH", "k"], "+OK\r\n");
    for sentinel in &drill.deployment.sentinels {
        assert_eq!(sentinel.run_text(&["SENTINEL", "SET", NAME, "failover-timeout", "2500"]), "+OK\r\n");
    }
    // Only now: after a second of silence none of them would be chosen.
    drill.deployment.replicas.iter().for_each(|replica| replica.signal("STOP"));
    let holds = || drill.proxy.metric("respgate_holds_total", &[]);
    let before = holds();
    let reply = drill.deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]);
    assert_eq!(reply, "+OK\r\n");
    // Each worker hears of it by itself: what reaches one before that is not held.
    wait::until("both workers to hold commands", || holds() == before + 2.0);
    plain.send_command(&["INCR", "counter"]);
    transaction.send_command(&["INCR", "counter"]);
    watcher.send_command(&["GET", "k"]);
    ending.send_command(&["EXEC"]);
    for client in [&mut plain, &mut transaction, &mut watcher] {
        let reply = String::from_utf8_lossy(&client.reply()).into_owned();
        assert!(reply.starts_with("-ERR respgate: no primary to send to for "), "{reply}");
    }
    let reply = String::from_utf8_lossy(&ending.reply()).into_owned();
    assert!(reply.starts_with("-EXECABORT Transaction discarded because of: ERR respgate: no "), "{reply}");
    assert_eq!(drill.proxy.metric("respgate_hold_expired_total", &[]), 4.0);
    drill.deployment.replicas.iter_mut().for_each(Server::crash);
    wait::until("commands to go on", || plain.call(&["INCR", "counter"]) == b":1\r\n");
    ending.expect(&["GET", "counter"], "$1\r\n1\r\n");
    let aborted = transaction.call(&["EXEC"]);
    assert!(aborted.starts_with(b"-EXECABORT "), "{}", aborted.escape_ascii());
    watcher.expect(&["MULTI"], "+OK\r\n");
    watcher.expect(&["GET", "k"], "+QUEUED\r\n");
    watcher.expect(&["EXEC"], "*1\r\n$-1\r\n");
}
