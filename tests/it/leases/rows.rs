//! Each way that was seen to leave something on a connection which others used next.

use std::time::Duration;

use super::{Described, assert_plain};
use crate::support::client::Client;
use crate::support::compare::Pair;
use crate::support::proxy::Proxy;
use crate::support::scripted::{Said, Scripted, as_primary};
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

const SYNTAX: &str = "-ERR syntax error\r\n";

fn start(flavor: Flavor, workers: usize, flags: &[&str]) -> (Server, Proxy) {
    let server = Server::start(flavor);
    let proxy = Proxy::start_with(&format!("redis://127.0.0.1:{}", server.port), workers, flags);
    (server, proxy)
}

/// Clients of this protocol version, more than there are workers.
fn victims(proxy: &Proxy, version: &str) -> Vec<Client> {
    let hello = |mut client: Client| {
        client.call(&["HELLO", version]);
        client
    };
    (0..6).map(|_| hello(proxy.client())).collect()
}

/// Each victim waits for an element while another tenant writes; it must read that element and nothing else.
#[track_caller]
fn hear_nothing_else(server: &Server, victims: &mut [Client]) {
    for (number, victim) in victims.iter_mut().enumerate() {
        let list = format!("list:{number}");
        victim.send_command(&["BLPOP", &list, "20"]);
        wait::until("the victim to wait", || server.info("clients", "blocked_clients") == 1);
        server.run(&["SET", "other:secret", "1"]);
        server.run(&["PUBLISH", "__redis__:invalidate", "other:secret"]);
        server.run(&["RPUSH", &list, "own"]);
        victim.expect_reply(&format!("*2\r\n$6\r\n{list}\r\n$3\r\nown\r\n"));
        victim.expect(&["PING"], "+PONG\r\n");
    }
}

on_both_servers!(an_option_behind_a_nul_leaves_nothing, workers: [1, 2]);

fn an_option_behind_a_nul_leaves_nothing(flavor: Flavor, workers: usize) {
    let (server, proxy) = start(flavor, workers, &[]);
    let attacks: &[&[&str]] = &[
        &["CLIENT", "TRACKING", "ON\0x", "BCAST"],
        &["CLIENT", "TRACKING", "on\0", "BCAST\0", "PREFIX\0", "other:"],
        &["CLIENT", "TRACKING", "ON", "REDIRECT\0x", "1"],
        &["CLIENT", "NO-TOUCH", "ON\0x"],
        &["CLIENT", "CACHING", "YES\0"],
    ];
    for version in ["2", "3"] {
        for attack in attacks {
            for _ in 0..workers {
                let mut attacker = proxy.client();
                attacker.call(&["HELLO", version]);
                let got = attacker.call(attack);
                let known = flavor == Flavor::Valkey || !attack.contains(&"NO-TOUCH");
                assert!(got.starts_with(b"-ERR"), "{attack:?}: {}", got.escape_ascii());
                assert!(!known || got == SYNTAX.as_bytes() || version == "2");
            }
        }
        assert_plain(&server);
        hear_nothing_else(&server, &mut victims(&proxy, version));
    }
}

on_both_servers!(tracking_that_was_turned_off_tells_nobody_else);

/// The server keeps which keys a connection has read in a table by the connection's number, and OFF leaves it there
/// (tracking.c, disableTracking): the next to turn tracking on would be told of them.
fn tracking_that_was_turned_off_tells_nobody_else(flavor: Flavor) {
    let (server, proxy) = start(flavor, 1, &[]);
    for _ in 0..3 {
        let mut first = proxy.client();
        first.call(&["HELLO", "3"]);
        first.expect(&["CLIENT", "TRACKING", "ON"], "+OK\r\n");
        first.expect(&["GET", "first:secret"], "_\r\n");
        first.expect(&["CLIENT", "TRACKING", "OFF"], "+OK\r\n");
        first.expect(&["PING"], "+PONG\r\n");
        let mut second = proxy.client();
        second.call(&["HELLO", "3"]);
        second.expect(&["CLIENT", "TRACKING", "ON"], "+OK\r\n");
        server.run(&["SET", "first:secret", "1"]);
        server.run(&["DEL", "first:secret"]);
        second.expect(&["GET", "own"], "_\r\n");
        second.expect(&["CLIENT", "TRACKING", "OFF"], "+OK\r\n");
    }
}

on_both_servers!(the_script_debugger_reaches_nobody, workers: [1, 2]);

fn the_script_debugger_reaches_nobody(flavor: Flavor, workers: usize) {
    let (_server, proxy) = start(flavor, workers, &["--admin-commands", "allow"]);
    for mode in ["YES", "SYNC", "NO", "yes\0x"] {
        for _ in 0..workers {
            let got = proxy.client().call(&["SCRIPT", "DEBUG", mode]);
            assert!(got.starts_with(b"-ERR respgate: SCRIPT DEBUG "), "{}", got.escape_ascii());
        }
        for mut victim in victims(&proxy, "2") {
            victim.expect(&["EVAL", "return 42", "0"], ":42\r\n");
        }
    }
}

on_both_servers!(replication_reaches_nobody, workers: [1, 2]);

fn replication_reaches_nobody(flavor: Flavor, workers: usize) {
    let (server, proxy) = start(flavor, workers, &["--admin-commands", "allow"]);
    let attacks: &[&[&str]] = &[
        &["PSYNC", "?", "-1"],
        &["psync", "0123456789012345678901234567890123456789", "1"],
        &["SYNC"],
        &["REPLCONF", "capa", "eof", "capa", "psync2"],
        &["REPLCONF", "ACK", "0"],
    ];
    for attack in attacks {
        for _ in 0..workers {
            let got = proxy.client().call(attack);
            assert!(got.starts_with(b"-ERR respgate: "), "{}", got.escape_ascii());
            let mut queued = proxy.client();
            queued.expect(&["MULTI"], "+OK\r\n");
            assert!(queued.call(attack).starts_with(b"-ERR respgate: "));
            assert!(queued.call(&["EXEC"]).starts_with(b"-EXECABORT"));
        }
        server.run(&["SET", "other:secret", "1"]);
        for mut victim in victims(&proxy, "2") {
            victim.expect(&["EVAL", "return 42", "0"], ":42\r\n");
        }
    }
    assert_eq!(server.info("replication", "connected_slaves"), 0);
    assert_plain(&server);
}

on_both_servers!(a_monitor_s_connection_is_nobody_else_s);

fn a_monitor_s_connection_is_nobody_else_s(flavor: Flavor) {
    let (server, proxy) = start(flavor, 1, &["--admin-commands", "allow"]);
    for reset in [false, true] {
        let mut monitor = proxy.client();
        monitor.expect(&["MONITOR"], "+OK\r\n");
        if reset {
            monitor.send_command(&["RESET"]);
            while monitor.reply() != b"+RESET\r\n" {}
        }
        drop(monitor);
        hear_nothing_else(&server, &mut victims(&proxy, "2"));
    }
    wait::until("the monitor's connection to end", || {
        Described::all(&mut server.client()).iter().all(|one| !one.field("flags").contains('O'))
    });
}

on_both_servers!(a_connection_that_ran_an_administrative_command_is_closed);

/// What an administrative command leaves is not known to be nothing.
fn a_connection_that_ran_an_administrative_command_is_closed(flavor: Flavor) {
    let (server, proxy) = start(flavor, 1, &["--admin-commands", "allow"]);
    let opened = || server.info("stats", "total_connections_received");
    for command in [&["DEBUG", "JMAP"][..], &["CONFIG", "RESETSTAT"], &["ACL", "LIST"]] {
        proxy.client().expect(&["EVAL", "return 1", "0"], ":1\r\n");
        proxy.client().call(command);
        let before = opened();
        proxy.client().expect(&["EVAL", "return 1", "0"], ":1\r\n");
        // One is this question's own.
        assert_eq!(opened() - before, 2, "{command:?}");
    }
}

/// Nor what a command leaves that the table lacks and that writes where the server does not say.
#[test]
fn a_connection_that_ran_an_unclear_command_is_closed() {
    let server = Scripted::start(|command| {
        let listed = b"*1\r\n*6\r\n$4\r\nxnew\r\n:-2\r\n*1\r\n+write\r\n:0\r\n:0\r\n:0\r\n".to_vec();
        Said::Bytes(match command[0].to_uppercase().as_str() {
            "COMMAND" => listed,
            "XNEW" | "UNWATCH" | "WATCH" => b"+OK\r\n".to_vec(),
            _ => as_primary(command).unwrap_or_else(|| b"-ERR unknown\r\n".to_vec()),
        })
    });
    let proxy = Proxy::start(&format!("redis://127.0.0.1:{}", server.port));
    let listed = |proxy: &Proxy| {
        let mut client = proxy.client();
        client.expect(&["WATCH", "k"], "+OK\r\n");
        client.expect(&["UNWATCH"], "+OK\r\n");
    };
    proxy.client().expect(&["XNEW", "k"], "+OK\r\n");
    listed(&proxy);
    let before = server.accepted();
    listed(&proxy);
    assert_eq!(server.accepted(), before, "WATCH and UNWATCH leave nothing");
    proxy.client().expect(&["XNEW", "k"], "+OK\r\n");
    listed(&proxy);
    assert_eq!(server.accepted(), before + 1, "XNEW may have left something");
}

on_both_servers!(a_forged_confirmation_ends_no_subscription);

/// Scripts of an old server can add frames to their reply (CVE-2025-67733). A forged confirmation must not make respgate
/// believe that a subscription has ended: the next session would hear it.
fn a_forged_confirmation_ends_no_subscription(flavor: Flavor) {
    let mut pair = Pair::start(flavor);
    pair.proxy.allow_log("after the reply of a script or a module came one that no command had asked for");
    let forged = "error('x\\r\\n>3\\r\\n$11\\r\\nunsubscribe\\r\\n$6\\r\\nsecret\\r\\n:0')";
    for _ in 0..3 {
        let mut attacker = pair.proxy.client();
        attacker.call(&["HELLO", "3"]);
        attacker.expect(&["SUBSCRIBE", "secret"], ">3\r\n$9\r\nsubscribe\r\n$6\r\nsecret\r\n:1\r\n");
        attacker.call(&["EVAL", forged, "0"]);
        attacker.end_writes();
        attacker.rest();
        let mut victim = pair.proxy.client();
        victim.call(&["HELLO", "3"]);
        victim.send_command(&["BLPOP", "list", "20"]);
        wait::until("the victim to wait", || pair.server.info("clients", "blocked_clients") == 1);
        pair.server.run(&["PUBLISH", "secret", "for the subscriber"]);
        pair.server.run(&["RPUSH", "list", "own"]);
        victim.expect_reply("*2\r\n$4\r\nlist\r\n$3\r\nown\r\n");
    }
}

on_both_servers!(a_forged_result_hides_no_database);

/// A forged result in EXEC's reply must not hide which database is selected from then on.
fn a_forged_result_hides_no_database(flavor: Flavor) {
    let mut pair = Pair::start(flavor);
    pair.proxy.allow_log("after the reply of a script or a module came one that no command had asked for");
    pair.server.run(&["SET", "here", "0"]);
    for forged in ["error('x\\r\\n*2\\r\\n+A')", "error('x\\r\\n%1\\r\\n+A')", "return 1"] {
        let mut attacker = pair.proxy.client();
        attacker.send_command(&["MULTI"]);
        attacker.send_command(&["EVAL", forged, "0"]);
        attacker.send_command(&["SELECT", "9"]);
        attacker.send_command(&["EXEC"]);
        attacker.end_writes();
        attacker.rest();
        for _ in 0..3 {
            let mut victim = pair.proxy.client();
            victim.expect(&["EVAL", "return redis.call('GET', 'here')", "0"], "$1\r\n0\r\n");
        }
    }
}

with_one_and_two_workers!(no_touch_moves_to_the_other_protocol_version);

fn no_touch_moves_to_the_other_protocol_version(workers: usize) {
    let (server, proxy) = start(Flavor::Valkey, workers, &[]);
    server.run(&["HSET", "h", "f", "v"]);
    let touching = |server: &Server| {
        let all = Described::all(&mut server.client());
        let marked = all.iter().filter(|one| one.field("flags").contains('T'));
        marked.map(|one| one.field("resp").to_owned()).collect::<Vec<_>>()
    };
    let mut client = proxy.client();
    client.expect(&["CLIENT", "NO-TOUCH", "ON"], "+OK\r\n");
    for (version, fields) in [("3", "%1"), ("2", "*2"), ("3", "%1")] {
        // A greeting, and no error. Where it ends depends on the server's modules.
        let greeting = client.call(&["HELLO", version, "SETNAME", "n"]);
        assert!(
            greeting.starts_with(if version == "3" { b"%" } else { b"*" }),
            "{}",
            greeting.escape_ascii()
        );
        client.expect(&["HGETALL", "h"], &format!("{fields}\r\n$1\r\nf\r\n$1\r\nv\r\n"));
        wait::until("the mark to have moved", || touching(&server) == [version]);
    }
    client.expect(&["CLIENT", "NO-TOUCH", "OFF"], "+OK\r\n");
    client.expect(&["HGETALL", "h"], "%1\r\n$1\r\nf\r\n$1\r\nv\r\n");
    wait::until("the mark to have gone", || touching(&server).is_empty());
}

on_both_servers!(a_refused_hello_names_what_keeps_the_connection);

fn a_refused_hello_names_what_keeps_the_connection(flavor: Flavor) {
    let pair = Pair::start(flavor);
    let cases: &[(&str, &[&str], &str, &str)] = &[
        ("2", &["WATCH", "k"], "3", "WATCH, which UNWATCH ends"),
        ("3", &["CLIENT", "TRACKING", "ON"], "2", "CLIENT TRACKING ON, which CLIENT TRACKING OFF ends"),
        (
            "3",
            &["SUBSCRIBE", "c"],
            "2",
            "a subscription, which UNSUBSCRIBE, PUNSUBSCRIBE and SUNSUBSCRIBE ends",
        ),
    ];
    for (before, keep, after, reason) in cases {
        let mut client = pair.proxy.client();
        client.call(&["HELLO", before]);
        client.call(keep);
        let got = String::from_utf8_lossy(&client.call(&["HELLO", after])).into_owned();
        assert!(got.starts_with("-ERR respgate: ") && got.contains(reason), "{got}");
        client.expect(&["PING"], "+PONG\r\n");
    }
}

on_both_servers!(a_session_of_its_own_changes_its_version);

/// A client with a connection of its own by configuration changes its version, too.
fn a_session_of_its_own_changes_its_version(flavor: Flavor) {
    let pair = Pair::start_file(flavor, "[upstreams.main]\nurl = \"URL\"\npool = \"session\"\n");
    pair.compare(|client| {
        client.call(&["HSET", "h", "f", "v"]);
        for version in ["3", "2", "3"] {
            client.call(&["HGETALL", "h"]);
            client.call(&["HELLO", version, "SETNAME", "x"]);
            client.call(&["HGETALL", "h"]);
        }
    });
}

on_both_servers!(harmless_commands_share_a_connection);

/// What is known to leave nothing shares connections as before.
fn harmless_commands_share_a_connection(flavor: Flavor) {
    let (server, proxy) = start(flavor, 1, &[]);
    let work: &[&[&[&str]]] = &[
        &[&["EVAL", "return redis.call('SET', 'k', 'v')", "0"]],
        &[&["WATCH", "k"], &["MULTI"], &["SET", "k", "v"], &["EXEC"]],
        &[&["MULTI"], &["SELECT", "3"], &["SELECT", "0"], &["DISCARD"]],
        &[&["RPUSH", "l", "x"], &["BLPOP", "l", "1"]],
        &[&["SUBSCRIBE", "c"], &["UNSUBSCRIBE", "c"]],
        &[&["WAIT", "0", "1"], &["SCRIPT", "FLUSH"], &["FUNCTION", "LIST"]],
    ];
    let run = || {
        for commands in work {
            let mut client = proxy.client();
            commands.iter().for_each(|command| drop(client.call(command)));
        }
    };
    run();
    let before = server.info("stats", "total_connections_received");
    (0..5).for_each(|_| run());
    let after = server.info("stats", "total_connections_received");
    assert_eq!(after - before, 1, "one is this question's own");
    assert!(proxy.http("/livez").starts_with("HTTP/1.1 200"));
    proxy.client().expect_silence(Duration::from_millis(1));
}
