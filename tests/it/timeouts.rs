//! Timeouts that know what a client is at. They are looked at once a second, so each test takes a few.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::compare::Pair;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// A tenant whose subscriptions share a connection.
const FAN_IN: &str = "[tenants.fan]\nclient-names = [\"fan-\"]\npubsub = \"fan-in\"\n";
const UPSTREAM: &str = "[upstreams.main]\nurl = \"URL\"\n";

fn start(limits: &str) -> Pair {
    Pair::start_file(Flavor::Valkey, &format!("{UPSTREAM}[limits]\n{limits}"))
}

fn expired(proxy: &Proxy) -> f64 {
    proxy.metric("respgate_clients_closed_total", &["timeout"])
}

/// Idle clients go; those that wait for others stay ten times as long.
#[test]
fn only_the_idle_are_idle() {
    let pair = start(&format!("idle-timeout = \"1s\"\n{FAN_IN}"));
    let mut fanned = pair.proxy.client();
    fanned.expect(&["CLIENT", "SETNAME", "fan-1"], "+OK\r\n");
    fanned.expect(&["SUBSCRIBE", "c"], "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    let mut blocked = pair.proxy.client();
    blocked.send("BLPOP q 0\r\n");
    let mut subscribed = pair.proxy.client();
    subscribed.expect(&["SUBSCRIBE", "c"], "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    let mut open = pair.proxy.client();
    open.expect(&["MULTI"], "+OK\r\n");
    let mut reading = pair.proxy.client();
    reading.send("XREAD BLOCK 0 STREAMS s $\r\n");
    let mut idle = pair.proxy.client();
    let mut partial = pair.proxy.client();
    partial.send("*2\r\n$3\r\nGET\r\n");
    idle.expect(&["PING"], "+PONG\r\n");
    let began = Instant::now();
    assert_eq!(idle.rest(), b"");
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1000), "{took:?}");
    assert_eq!(partial.rest(), b"");
    let mut busy = pair.proxy.client();
    while began.elapsed() < Duration::from_secs(11) {
        busy.expect(&["PING"], "+PONG\r\n");
        thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(expired(&pair.proxy), 2.0);
    pair.server.run(&["RPUSH", "q", "x"]);
    blocked.expect_reply("*2\r\n$1\r\nq\r\n$1\r\nx\r\n");
    pair.server.run(&["PUBLISH", "c", "m"]);
    subscribed.expect_reply("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n");
    fanned.expect_reply("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n");
    fanned.send("UNSUBSCRIBE\r\n");
    open.expect(&["EXEC"], "*0\r\n");
    pair.server.run(&["XADD", "s", "1-1", "f", "v"]);
    assert!(reading.reply().starts_with(b"*1\r\n"));
    // Once nothing is waited for any more, they are idle like others.
    wait::until("all of them to go", || pair.proxy.metric("respgate_clients", &[]) <= 1.0);
    assert_eq!(subscribed.call(&["PING"]), b"*2\r\n$4\r\npong\r\n$0\r\n\r\n");
}

/// A transaction that stays open holds a connection; the next one gets it.
#[test]
fn transactions_end() {
    let pair = start("transaction-timeout = \"1s\"\n");
    for command in [&["MULTI"][..], &["WATCH", "k"]] {
        let mut open = pair.proxy.client();
        open.expect(command, "+OK\r\n");
        let mut working = pair.proxy.client();
        let began = Instant::now();
        while pair.proxy.metric("respgate_clients_pinned", &[]) > 0.0 {
            working.expect(&["MULTI"], "+OK\r\n");
            working.expect(&["EXEC"], "*0\r\n");
            thread::sleep(Duration::from_millis(20));
            assert!(began.elapsed() < Duration::from_secs(10));
        }
        assert!(began.elapsed() > Duration::from_millis(1000));
        assert_eq!(open.rest(), b"");
        working.expect(&["PING"], "+PONG\r\n");
    }
    assert_eq!(expired(&pair.proxy), 2.0);
}

/// Whoever never says anything goes, and whoever never authenticates.
#[test]
fn the_first_command_has_a_deadline() {
    let server = Server::start_with(Flavor::Valkey, &["--requirepass", "secret"]);
    let text = format!(
        "[limits]\nfirst-command-timeout = \"1s\"\n[upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\nclient-auth = \"required\"\n",
        server.port
    );
    let proxy = Proxy::start_file(1, &text);
    let mut silent = proxy.client();
    let mut outsider = proxy.client();
    let mut good = proxy.client();
    good.expect(&["AUTH", "secret"], "+OK\r\n");
    outsider.expect(&["GET", "k"], "-NOAUTH Authentication required.\r\n");
    assert_eq!(silent.rest(), b"");
    assert_eq!(outsider.rest(), b"");
    good.expect(&["GET", "k"], "$-1\r\n");
    assert_eq!(expired(&proxy), 2.0);
}

/// A server that is late: the client is told, in order, and its connection lives. What comes late is not taken for the
/// next command's reply.
#[test]
fn a_command_has_a_deadline() {
    let pair = start(&format!("command-timeout = \"1s\"\n{FAN_IN}"));
    let mut fanned = pair.proxy.client();
    assert!(fanned.call(&["HELLO", "3", "SETNAME", "fan-1"]).starts_with(b"%"));
    fanned.expect(&["SUBSCRIBE", "c"], ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    fanned.expect(&["GET", "k"], "_\r\n");
    let mut client = pair.proxy.client();
    let mut leased = pair.proxy.client();
    let mut blocked = pair.proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");

    blocked.send("BLPOP q 0\r\n");
    wait::until("a client to block", || pair.server.info("clients", "blocked_clients") == 1);
    // It finds a connection to lease when it needs one.
    leased.expect(&["EVAL", "return 1", "0"], ":1\r\n");
    pair.server.run(&["CLIENT", "PAUSE", "4000"]);
    let began = Instant::now();
    client.send("GET k\r\nGET k\r\n");
    leased.send("EVAL 'return 1' 0\r\n");
    fanned.send("GET k\r\n");
    let late = "-OUTCOMEUNKNOWN respgate: no reply came within command-timeout; the command may or may not have run\r\n";
    client.expect_reply(late);
    client.expect_reply(late);
    assert!(began.elapsed() > Duration::from_secs(1));
    let answer = String::from_utf8_lossy(&leased.reply()).into_owned();
    assert!(answer.starts_with("-OUTCOMEUNKNOWN "), "{answer}");
    client.deadline(Duration::from_secs(15));
    client.expect(&["ECHO", "mine"], "$4\r\nmine\r\n");
    wait::until("the server to go on", || client.call(&["GET", "k"]) == b"$1\r\nv\r\n");
    client.expect(&["ECHO", "mine"], "$4\r\nmine\r\n");
    // What a subscriber gave up does not cost it its messages.
    fanned.expect_reply(late);
    pair.server.run(&["PUBLISH", "c", "m"]);
    fanned.expect_reply(">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n");
    pair.server.run(&["RPUSH", "q", "x"]);
    blocked.expect_reply("*2\r\n$1\r\nq\r\n$1\r\nx\r\n");
    assert!(pair.proxy.metric("respgate_command_timeouts_total", &[]) >= 3.0);
}

/// A subscriber that stops reading is bounded, then disconnected and counted; others get their messages.
#[test]
fn a_slow_subscriber() {
    for (limits, least) in [
        ("slow-reader-soft = \"1MiB\"\nslow-reader-soft-time = \"1s\"\nmax-reply-buffer = \"64MiB\"\n", 1000),
        ("slow-reader-soft = \"1MiB\"\nslow-reader-soft-time = \"60s\"\nmax-reply-buffer = \"4MiB\"\n", 0),
    ] {
        slow_subscriber(limits, least);
        slow_subscriber(&format!("{limits}{FAN_IN}"), least);
    }
}

fn slow_subscriber(limits: &str, least: u128) {
    let pair = start(limits);
    let confirmed = "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";
    let (mut slow, mut good) = (pair.proxy.client(), pair.proxy.client());
    for client in [&mut slow, &mut good] {
        client.expect(&["CLIENT", "SETNAME", "fan-1"], "+OK\r\n");
    }
    slow.expect(&["SUBSCRIBE", "c"], confirmed);
    good.expect(&["SUBSCRIBE", "c"], confirmed);
    let before = pair.proxy.resident_bytes();
    let message = "x".repeat(100_000);
    let began = Instant::now();
    let mut publisher = pair.proxy.client();
    for _ in 0..500 {
        assert!(publisher.call(&["PUBLISH", "c", &message]).starts_with(b":"));
        assert!(good.reply().ends_with(b"x\r\n"));
    }
    wait::until("the slow subscriber to go", || {
        pair.proxy.metric("respgate_clients_closed_total", &["slow"]) > 0.0
    });
    assert!(began.elapsed().as_millis() > least);
    let grown = pair.proxy.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "{grown} more bytes");
    publisher.expect(&["PUBLISH", "c", "last"], ":1\r\n");
}

/// An idle connection of respgate, as the kernel lists it: its timer's kind, and in how many hundredths of a second it
/// fires.
struct Listed {
    local: u16,
    remote: u16,
    timer: u32,
    fires: u32,
}

/// The established connections over IPv4 (proc_net_tcp.txt of the kernel's documentation).
fn listed() -> Vec<Listed> {
    let text = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's list");
    let hexadecimal = |text: &str| u32::from_str_radix(text, 16).ok();
    let port = |end: &str| u16::try_from(hexadecimal(end.split_once(':')?.1)?).ok();
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (timer, fires) = fields.get(5)?.split_once(':')?;
        let established = *fields.get(3)? == "01";
        let (local, remote) = (port(fields.get(1)?)?, port(fields.get(2)?)?);
        established.then_some(())?;
        Some(Listed { local, remote, timer: hexadecimal(timer)?, fires: hexadecimal(fires)? })
    };
    text.lines().filter_map(row).collect()
}

/// TCP keepalive runs on both sides: towards clients as configured, towards the server after 10 s.
#[test]
fn vanished_peers_are_probed_for() {
    const KEEPALIVE_TIMER: u32 = 2;
    let server = Server::start(Flavor::Valkey);
    let proxy = Proxy::start_file(
        1,
        &format!(
            "[limits]\nkeepalive = \"90s\"\n[upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\n",
            server.port
        ),
    );
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    client.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    // While something is unacknowledged, another timer is shown.
    let probed = |mine: &dyn Fn(&Listed) -> bool, within: u32| {
        let mine: Vec<Listed> = listed().into_iter().filter(mine).collect();
        let armed = |one: &Listed| one.timer == KEEPALIVE_TIMER && one.fires <= within * 100;
        (!mine.is_empty() && mine.iter().all(armed)).then_some(mine.len())
    };
    let patience = wait::PATIENCE;
    let clients =
        wait::until_some("keepalive to clients", patience, || probed(&|one| one.local == proxy.port, 90));
    assert_eq!(clients, 1);
    let servers = wait::until_some("keepalive to the server", patience, || {
        probed(&|one| one.remote == server.port, 10)
    });
    assert!(servers >= 2, "a shared and a leased one");
}
