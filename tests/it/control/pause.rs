//! Pausing an upstream, and ending the pause.

use std::thread;
use std::time::{Duration, Instant};

use super::load::{Load, increments, is_blocked};
use super::{Controlled, expect};
use crate::failover::checker::Verdict;
use crate::failover::timeline::Timeline;
use crate::failover::writers::Writers;
use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::servers::{Flavor, Server};
use crate::support::tls::Target;
use crate::support::wait;

with_one_and_two_workers!(commands_wait_until_the_upstream_is_resumed);

fn commands_wait_until_the_upstream_is_resumed(workers: usize) {
    let controlled = Controlled::start(workers);
    let mut client = controlled.proxy.client();
    client.expect(&["SET", "k", "1"], "+OK\r\n");
    expect(&controlled.on_socket(&["pause", "main"]), 0, "state: paused\n");
    client.send_command(&["INCR", "k"]);
    // A client that comes in the pause is served from respgate's own state, and waits for the rest.
    let mut late = controlled.proxy.client();
    late.send_command(&["INCR", "k"]);
    client.expect_silence(Duration::from_millis(200));
    assert_eq!(controlled.server.run_text(&["GET", "k"]), "$1\r\n1\r\n");
    let ready = controlled.proxy.http("/readyz");
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("paused by an operator"), "{ready}");
    assert_eq!(controlled.proxy.metric("respgate_upstream_paused", &[]), 1.0);
    wait::until("both to be held", || controlled.proxy.metric("respgate_clients_held", &[]) == 2.0);
    expect(&controlled.on_socket(&["resume", "main"]), 0, "state: resumed\n");
    let mut replies = [client.reply(), late.reply()];
    replies.sort();
    assert_eq!(replies, [b":2\r\n".to_vec(), b":3\r\n".to_vec()]);
    assert_eq!(controlled.proxy.metric("respgate_upstream_paused", &[]), 0.0);
    assert!(!controlled.proxy.http("/readyz").contains("paused"));
    let log = controlled.proxy.log();
    assert_eq!(log.matches("control: done").count(), 2, "one line for each action: {log}");
}

#[test]
fn a_deadline_ends_the_pause() {
    let mut controlled = Controlled::start(1);
    controlled.proxy.allow_log("the deadline of the pause has passed");
    let mut client = controlled.proxy.client();
    let began = Instant::now();
    expect(&controlled.on_socket(&["pause", "main", "--deadline", "600ms"]), 0, "ends-after-seconds: 0.6\n");
    client.expect(&["SET", "k", "1"], "+OK\r\n");
    assert!(began.elapsed() >= Duration::from_millis(600));
    expect_refused(&mut controlled, &["resume", "main"], "is not paused");
}

/// By default the pause ends before commands that wait fail; a longer one is possible, and its answer says what happens.
#[test]
fn commands_wait_no_longer_than_the_hold_timeout() {
    let server = Server::start(Flavor::Valkey);
    let mut controlled = Controlled::in_front_of(server, 2, "hold-timeout = \"1s\"");
    controlled.proxy.allow_log("the deadline of the pause has passed");
    let mut client = controlled.proxy.client();
    expect(&controlled.on_socket(&["pause", "main"]), 0, "ends-after-seconds: 0.9\n");
    client.expect(&["SET", "k", "1"], "+OK\r\n");
    let output = controlled.on_socket(&["pause", "main", "--deadline", "1m"]);
    expect(&output, 0, "warning: 1 s after its begin (hold-timeout)");
    let reply = String::from_utf8(client.call(&["SET", "k", "2"])).expect("text");
    assert!(reply.starts_with("-ERR respgate: no primary to send to for 1 s"), "{reply}");
    assert!(reply.contains("an operator has paused the upstream"), "{reply}");
    expect(&controlled.on_socket(&["resume", "main"]), 0, "resumed");
    client.expect(&["GET", "k"], "$1\r\n1\r\n");
}

#[test]
fn wrong_orders_are_explained() {
    let mut controlled = Controlled::start(1);
    expect_refused(&mut controlled, &["pause", "other"], "no upstream is named \"other\"; there are main");
    expect_refused(&mut controlled, &["resume", "main"], "upstream 'main' is not paused");
    expect(&controlled.on_socket(&["pause", "main", "--deadline", "soon"]), 64, "--deadline");
    expect(&controlled.on_socket(&["pause", "main", "--deadline", "0s"]), 64, "a number above 0");
    expect(&controlled.on_socket(&["pause", "main", "--at-once", "--drain"]), 64, "--drain");
    expect(&controlled.on_socket(&["pause"]), 64, "<UPSTREAM>");
    expect_refused(&mut controlled, &["reconnect", "other"], "no upstream is named \"other\"");
    expect_refused(&mut controlled, &["switch", "other", "redis://h"], "no upstream is named \"other\"");
    expect(&controlled.on_socket(&["switch", "main"]), 64, "<URL>");
    for (options, why) in [
        (["redis://h", "--password-file", "/nonexistent"], "/nonexistent"),
        (["rediss://h", "--ca", "/nonexistent"], "/nonexistent"),
        (["redis+sentinel://h", "--data-copied", "--server-name=x"], "url"),
    ] {
        expect_refused(&mut controlled, &[&["switch", "main"][..], &options].concat(), why);
    }
}

/// Has an action refused, and shows why.
fn expect_refused(controlled: &mut Controlled, action: &[&str], why: &str) {
    controlled.proxy.allow_log("control: refused");
    expect(&controlled.on_socket(action), 1, why);
}

#[test]
fn the_newest_deadline_counts_when_an_upstream_is_paused_twice() {
    let controlled = Controlled::start(1);
    let mut client = controlled.proxy.client();
    expect(&controlled.on_socket(&["pause", "main", "--deadline", "1s"]), 0, "state: paused\n");
    expect(&controlled.on_socket(&["pause", "main", "--deadline", "30s"]), 0, "note: it was paused already");
    client.send_command(&["SET", "k", "1"]);
    client.expect_silence(Duration::from_millis(1200));
    expect(&controlled.on_socket(&["resume", "main"]), 0, "resumed");
    client.expect_reply("+OK\r\n");
}

with_one_and_two_workers!(a_drained_pause_under_load);

/// Nothing new reaches the server, and what blocks or listens goes on.
fn a_drained_pause_under_load(workers: usize) {
    let controlled = Controlled::start(workers);
    let mut load = Load::start(&controlled);
    expect(&controlled.on_socket(&["pause", "main"]), 0, "commands-under-way: 0\n");
    let before = increments(&controlled.server);
    load.expect_pushed_to(&controlled.server);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(increments(&controlled.server), before, "a command was sent in the pause");
    expect(&controlled.on_socket(&["resume", "main"]), 0, "resumed");
    load.transaction.expect(&["EXEC"], "*1\r\n:1\r\n");
    load.watching.expect(&["MULTI"], "+OK\r\n");
    load.watching.expect(&["INCR", "watched"], "+QUEUED\r\n");
    load.watching.expect(&["EXEC"], "*1\r\n:1\r\n");
    load.finish(&controlled.server, "a drained pause");
}

with_one_and_two_workers!(a_pause_at_once_under_load);

/// Every connection is closed, and sessions get others after the pause.
fn a_pause_at_once_under_load(workers: usize) {
    let controlled = Controlled::start(workers);
    let mut load = Load::start(&controlled);
    expect(&controlled.on_socket(&["pause", "main", "--at-once"]), 0, "commands-under-way: 0\n");
    let before = increments(&controlled.server);
    wait::until("no leased connection", || {
        let list = controlled.server.run_text(&["CLIENT", "LIST"]);
        !["cmd=blpop", "cmd=subscribe", "cmd=watch", "multi=1"].iter().any(|state| list.contains(state))
    });
    expect_no_connection(&controlled);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(increments(&controlled.server), before, "a command was sent in the pause");
    expect(&controlled.on_socket(&["resume", "main"]), 0, "resumed");
    load.expect_served_by(&controlled.server);
    // The watched key may have changed unseen, so the transaction does not run.
    load.watching.expect(&["MULTI"], "+OK\r\n");
    load.watching.expect(&["INCR", "watched"], "+QUEUED\r\n");
    load.watching.expect(&["EXEC"], "*-1\r\n");
    load.finish(&controlled.server, "a pause at once");
}

/// No connection of clients is left at the server: only those on which respgate asks for the role.
#[track_caller]
fn expect_no_connection(controlled: &Controlled) {
    let list = controlled.server.run_text(&["CLIENT", "LIST"]);
    let left: Vec<&str> = list
        .lines()
        .filter(|line| {
            line.contains("lib-name=respgate")
                && !["cmd=role", "cmd=info"].iter().any(|own| line.contains(own))
        })
        .collect();
    assert!(left.is_empty(), "{left:#?}");
    let open = ["shared", "leased", "fan-in"]
        .map(|lane| controlled.proxy.metric("respgate_upstream_connections", &[&format!("lane=\"{lane}\"")]));
    assert_eq!(open, [0.0; 3]);
}

with_one_and_two_workers!(what_is_under_way_is_settled_at_once);

/// A server that does not answer within a second loses its connections: a read is sent again after the pause, the fate of a write is
/// unknown, and a fan-in subscriber stays.
fn what_is_under_way_is_settled_at_once(workers: usize) {
    let fan_in = "[tenants.everybody]\ndefault = true\npubsub = \"fan-in\"";
    let mut controlled = Controlled::in_front_of(Server::start(Flavor::Valkey), workers, fan_in);
    controlled.proxy.allow_log("\"WARN\"");
    let client = || {
        let mut client = controlled.proxy.client();
        client.expect(&["SET", "k", "1"], "+OK\r\n");
        client
    };
    let (mut reader, mut writer, mut queued) = (client(), client(), client());
    let mut subscriber = controlled.proxy.client();
    subscriber.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    controlled.server.signal("STOP");
    let sent = |count| {
        wait::until("the command to be sent", || {
            controlled.proxy.metric("respgate_commands_total", &["lane=\"shared\""]) >= count
        });
    };
    writer.send_command(&["INCR", "k"]);
    sent(4.0);
    reader.send_command(&["GET", "k"]);
    sent(5.0);
    let answer = controlled.on_socket(&["pause", "main", "--at-once"]);
    expect(&answer, 0, "state: paused\n");
    expect(&answer, 0, "open-connections: 0\n");
    let reply = String::from_utf8(writer.reply()).expect("text");
    assert!(reply.starts_with("-OUTCOMEUNKNOWN"), "{reply}");
    queued.send_command(&["INCR", "other"]);
    controlled.server.signal("CONT");
    reader.expect_silence(Duration::from_millis(300));
    expect_no_connection(&controlled);
    expect(&controlled.on_socket(&["resume", "main"]), 0, "resumed");
    assert!(matches!(&*reader.reply(), b"$1\r\n1\r\n" | b"$1\r\n2\r\n"));
    queued.expect_reply(":1\r\n");
    wait::until("the subscription", || {
        controlled.server.run_text(&["PUBSUB", "NUMSUB", "news"]).ends_with(":1\r\n")
    });
    controlled.server.run(&["PUBLISH", "news", "hello"]);
    subscriber.expect_reply("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
    assert_eq!(controlled.proxy.metric("respgate_outcome_unknown_total", &[]), 1.0);
}

/// The server may be stopped in a pause, and clients notice nothing but the pause.
#[test]
fn the_server_restarts_in_a_pause() {
    let mut controlled = Controlled::start(2);
    controlled.proxy.allow_log("\"WARN\"");
    let mut client = controlled.proxy.client();
    client.expect(&["SET", "k", "1"], "+OK\r\n");
    let mut blocked = controlled.proxy.client();
    blocked.send_command(&["BLPOP", "queue", "0"]);
    is_blocked(&controlled.server);
    expect(&controlled.on_socket(&["pause", "main", "--at-once"]), 0, "state: paused\n");
    wait::until("no blocked client", || {
        !controlled.server.run_text(&["CLIENT", "LIST"]).contains("cmd=blpop")
    });
    client.send_command(&["SET", "k", "2"]);
    controlled.server.restart(&[]);
    wait::until("the restarted server to be found", || {
        controlled.proxy.metric("respgate_primary_generation", &[]) >= 2.0
    });
    client.expect_silence(Duration::from_millis(200));
    expect(&controlled.on_socket(&["resume", "main"]), 0, "resumed");
    client.expect_reply("+OK\r\n");
    controlled.server.run(&["RPUSH", "queue", "x"]);
    blocked.expect_reply("*2\r\n$5\r\nqueue\r\n$1\r\nx\r\n");
}

#[test]
fn a_failover_in_a_pause() {
    pause_and_failover(true);
}

#[test]
fn a_pause_in_a_failover() {
    pause_and_failover(false);
}

/// A failover in a pause is followed, and the pause goes on; a pause in a failover begins when the failover is over.
fn pause_and_failover(pause_first: bool) {
    let plan =
        Plan { replicas: 2, down_after_ms: 1000, failover_timeout_ms: 6000, ..Plan::new(Flavor::Valkey) };
    let deployment = Deployment::start(&plan);
    deployment.wait_until_redundant();
    let spare = Server::start(Flavor::Valkey);
    let mut controlled = Controlled::with_upstream(spare, 2, &format!("url = \"{}\"", deployment.url()));
    controlled.proxy.allow_log("\"WARN\"");
    let target = Target { port: controlled.proxy.port, tls: None };
    let writers = Writers::start(4, &target, &Timeline::start());
    thread::sleep(Duration::from_millis(300));
    if pause_first {
        expect(&controlled.on_socket(&["pause", "main"]), 0, "state: paused\n");
    }
    assert_eq!(deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]), "+OK\r\n");
    if !pause_first {
        wait::until("the failover to begin", || {
            controlled.proxy.http("/readyz").contains("is about to change")
        });
        expect(&controlled.on_socket(&["pause", "main"]), 0, "upstream: main\n");
    }
    wait::until("the failover to end", || {
        let ready = controlled.proxy.http("/readyz");
        controlled.proxy.metric("respgate_primary_generation", &[]) >= 2.0
            && ready.contains(": an operator has paused the upstream\n")
    });
    let survivor = deployment.replicas.iter().find(|node| node.run_text(&["ROLE"]).contains("master"));
    let survivor = survivor.expect("a new primary");
    let before = increments(survivor);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(increments(survivor), before, "a command was sent in the pause");
    expect(&controlled.on_socket(&["resume", "main"]), 0, "resumed");
    thread::sleep(Duration::from_millis(300));
    let verdict = Verdict::of(&writers.finish(), survivor);
    eprintln!("a pause and a failover: {verdict}");
    assert!(verdict.refused.is_empty(), "{verdict}: {:?}", verdict.refused);
    assert_eq!((verdict.lost, verdict.doubled, verdict.unknown, verdict.dropped), (0, 0, 0, 0), "{verdict}");
    let timelines = controlled.proxy.http("/failovers");
    assert_eq!(timelines.contains("an operator has paused the upstream"), pause_first, "{timelines}");
}
