//! The log level, and an upstream's limits and timeouts, change while clients are served.

use super::Live;
use crate::support::port::free_port;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

#[test]
fn the_log_level_changes_at_once() {
    let level = |level: &str| format!("[log]\nlevel = \"{level}\"\n");
    let mut live = Live::start(1, "");
    live.proxy.client().expect(&["PING"], "+PONG\r\n");
    assert_eq!(live.logged("session began"), 0);
    live.reload(&level("debug"));
    live.proxy.client().expect(&["PING"], "+PONG\r\n");
    wait::until("a session in the log", || live.logged("session began") > 0);
    live.reload("");
    let before = live.logged("session began");
    live.proxy.client().expect(&["PING"], "+PONG\r\n");
    // A later line of the log shows that the former would be there.
    live.reload("[limits]\nmax-args = 100\n");
    wait::until("a later line", || live.logged("listener main: limits") > 0);
    assert_eq!(live.logged("session began"), before);
}

#[test]
fn what_is_measured_changes_at_once() {
    let mut live = Live::start(1, "");
    live.proxy.allow_log("control: refused");
    let upstream = std::mem::take(&mut live.upstream);
    let measure = |live: &mut Live, keys: &str| live.reload(&format!("{keys}\n{upstream}"));
    let counted = |live: &Live| live.proxy.metric("respgate_command_duration_seconds_count", &["shared"]);
    let mut client = live.proxy.client();
    client.expect(&["SET", "customer:7", "x"], "+OK\r\n");
    assert!(!live.proxy.http("/metrics").contains("respgate_command_duration_seconds"));

    measure(&mut live, "latency = \"on\"\nslow-log-threshold = \"0s\"\nslow-log-length = 3");
    (0..5).for_each(|_| client.expect(&["GET", "customer:7"], "$1\r\nx\r\n"));
    assert_eq!(counted(&live), 5.0);
    let slow = live.proxy.http("/slow");
    assert!(slow.matches("\"GET\"").count() == 3 && !slow.contains("customer"), "{slow}");

    measure(&mut live, "latency = \"commands\"\nslow-log-threshold = \"0s\"\nslow-log-arguments = \"show\"");
    client.expect(&["GET", "customer:7"], "$1\r\nx\r\n");
    assert_eq!(live.proxy.metric("respgate_command_name_duration_seconds_count", &["\"GET\""]), 1.0);
    let refused = live.proxy.http("/slow");
    assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("slow-log-arguments"), "{refused}");

    // What the log has shown so far stays secret.
    measure(&mut live, "latency = \"off\"");
    client.expect(&["GET", "customer:7"], "$1\r\nx\r\n");
    assert_eq!(counted(&live), 6.0);
    assert!(live.proxy.http("/slow").starts_with("HTTP/1.1 403"));
    measure(&mut live, "slow-log-length = 0");
    assert!(live.proxy.http("/slow").starts_with("HTTP/1.1 200"));
}

/// Sets the upstream's keys from the next reload on.
fn set_upstream(live: &mut Live, keys: &str) {
    live.upstream = format!("[upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\n{keys}\n", live.server.port);
}

#[test]
fn the_number_of_leases_changes_under_those_who_have_and_want_one() {
    let keys = |leased: u32, timeout: &str| {
        format!("max-connections = 10\nmax-leased = {leased}\nlease-timeout = \"{timeout}\"")
    };
    let mut live = Live::start_in_front(Server::start(Flavor::Valkey), 1, &keys(1, "1m"), "");
    live.proxy.allow_log("lease");
    let mut clients: Vec<_> = (0..3).map(|_| live.proxy.client()).collect();
    let blocked = |live: &Live, count: u64| {
        wait::until("clients to be blocked", || live.server.info("clients", "blocked_clients") == count);
    };
    clients[0].send_command(&["BLPOP", "list0", "0"]);
    blocked(&live, 1);
    for (at, client) in clients.iter_mut().enumerate().skip(1) {
        client.send_command(&["BLPOP", &format!("list{at}"), "0"]);
    }
    wait::until("two to wait", || live.proxy.metric("respgate_lease_waits_total", &[]) == 2.0);
    // More leases serve those who wait.
    set_upstream(&mut live, &keys(2, "1m"));
    live.reload("");
    blocked(&live, 2);
    set_upstream(&mut live, &keys(5, "1m"));
    live.reload("");
    blocked(&live, 3);
    // Fewer leases take nobody's, and nobody gets one before enough have come back.
    set_upstream(&mut live, &keys(1, "200ms"));
    live.reload("");
    let mut other = live.proxy.client();
    for (at, client) in clients.iter_mut().enumerate() {
        let refused = other.call(&["BLPOP", "nothing", "0"]);
        let text =
            "-ERR respgate: no upstream connection became free within 200 ms; this worker may lease 1 of";
        assert!(refused.starts_with(text.as_bytes()), "{at}: {}", refused.escape_ascii());
        let list = format!("list{at}");
        live.server.run(&["RPUSH", &list, "x"]);
        client.expect_reply(&format!("*2\r\n$5\r\n{list}\r\n$1\r\nx\r\n"));
    }
    wait::until("a lease", || other.call(&["BLPOP", "nothing", "0.01"]) == b"*-1\r\n");
    assert_eq!(live.proxy.metric("respgate_clients_closed_total", &[]), 0.0);
}

#[test]
fn the_hold_s_time_changes_for_those_who_wait() {
    let mut live = Live::start(1, "");
    live.proxy.allow_log("");
    let [mut waits, mut later] = [(); 2].map(|()| live.proxy.client());
    for client in [&mut waits, &mut later] {
        client.expect(&["SET", "k", "v"], "+OK\r\n");
    }
    live.server.crash();
    waits.send_command(&["GET", "k"]);
    wait::until("a command to wait", || live.proxy.metric("respgate_clients_held", &[]) == 1.0);
    set_upstream(&mut live, "hold-timeout = \"1s\"");
    live.reload("");
    later.send_command(&["GET", "k"]);
    for client in [&mut waits, &mut later] {
        let reply = client.reply();
        assert!(reply.starts_with(b"-ERR respgate: no primary to send to for "), "{}", reply.escape_ascii());
    }
    live.says_once("upstream main: hold-timeout");
}

/// An address that nobody serves is refused with all that stands beside it.
#[test]
fn an_address_that_cannot_take_over_changes_nothing() {
    let mut live = Live::start(2, "");
    live.proxy.allow_log("\"upstream\":\"main (");
    live.proxy.allow_log("respgate cannot use the new version");
    let former = live.upstream.clone();
    live.upstream =
        format!("[upstreams.main]\nurl = \"redis://127.0.0.1:{}/3\"\nmax-leased = 7\n", free_port());
    live.replace("");
    live.proxy.signal("HUP");
    wait::until("the refusal", || live.counted("failed") > 0.0);
    live.says_once("upstream 'main' stays where it is");
    let mut client = live.proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    assert_eq!(live.server.run(&["GET", "k"]), b"$1\r\nv\r\n", "the former database");
    assert_eq!(live.proxy.metric("respgate_upstream_max_leased", &[]), 1024.0);
    live.upstream = former;
    live.replace("");
    wait::until("the end of the refusal", || {
        !live.proxy.http("/readyz").contains("cannot use the newest configuration")
    });
}
