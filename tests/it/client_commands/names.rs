//! A lease carries its client's name, so that clients of two respgates find each other.

use super::{Site, block, list, named, names, start_proxy};
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// Returns the names on the server, without empty ones, sorted.
fn on_server(server: &Server) -> Vec<String> {
    names(&mut server.client(), &[])
}

on_both_servers!(blocked_clients_are_seen_by_another_respgate, workers: [1, 2]);

fn blocked_clients_are_seen_by_another_respgate(flavor: Flavor, workers: usize) {
    let site = Site::at_level(flavor, workers, "read-only");
    let other = start_proxy(&site.server, 1, "read-only");
    let mut here = site.named("here");
    block(&site.server, &mut here, "q1");
    let mut there = named(&other, "there");
    there.send_command(&["XREAD", "BLOCK", "0", "STREAMS", "s", "$"]);
    wait::until("both names on the server", || on_server(&site.server) == ["here", "there"]);
    let (mut asker, mut other_asker) = (site.proxy.client(), other.client());
    for asker in [&mut asker, &mut other_asker] {
        wait::until("each name once", || names(asker, &[]) == ["here", "there"]);
        assert_eq!(list(asker, &[]).len(), 3, "and the asker, and none of respgate's connections");
    }
    assert_eq!(names(&mut asker, &["NAME", "there", "FLAGS", "b"]), ["there"]);

    // Once the wait is over, the name is gone, although the connection serves others.
    site.server.run(&["RPUSH", "q1", "x"]);
    here.expect_reply("*2\r\n$2\r\nq1\r\n$1\r\nx\r\n");
    wait::until("the name to be gone", || on_server(&site.server) == ["there"]);
    assert_eq!(names(&mut other_asker, &[]), ["there"]);
    assert_eq!(names(&mut asker, &[]), ["here", "there"]);
}

on_both_servers!(a_connection_changes_hands_without_its_name);

fn a_connection_changes_hands_without_its_name(flavor: Flavor) {
    let site = Site::start(flavor, 1);
    let (mut one, mut two, mut nameless) = (site.named("one"), site.named("two"), site.proxy.client());
    for round in 0..50 {
        let key = format!("k{round}");
        one.expect(&["EVAL", "return 1", "0"], ":1\r\n");
        two.expect(&["BLPOP", &key, "0.001"], "*-1\r\n");
        nameless.expect(&["EVAL", "return 2", "0"], ":2\r\n");
        one.expect(&["MULTI"], "+OK\r\n");
        one.expect(&["INCR", &key], "+QUEUED\r\n");
        one.expect(&["EXEC"], "*1\r\n:1\r\n");
    }
    wait::until("the names to be gone", || on_server(&site.server).is_empty());
    // Connections are used again: names do not cost one each.
    let connects = site.proxy.metric("respgate_upstream_connects_total", &[]);
    assert!(connects < 12.0, "{connects} connections");
    assert_eq!(site.proxy.metric("respgate_upstream_connections_lost_total", &[]), 0.0);
}

on_both_servers!(a_new_name_reaches_a_pinned_connection);

fn a_new_name_reaches_a_pinned_connection(flavor: Flavor) {
    let site = Site::start(flavor, 1);
    let mut client = site.named("first");
    client.expect(&["WATCH", "k"], "+OK\r\n");
    assert_eq!(on_server(&site.server), ["first"]);
    client.expect(&["CLIENT", "SETNAME", "second"], "+OK\r\n");
    wait::until("the new name", || on_server(&site.server) == ["second"]);
    client.expect(&["UNWATCH"], "+OK\r\n");
    wait::until("the end of the name", || on_server(&site.server).is_empty());
}

/// A server that denies CLIENT SETNAME is asked once.
#[test]
fn a_denied_name_is_not_sent_again() {
    let server = Server::start(Flavor::Valkey);
    server.run(&["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-client|setname"]);
    let mut proxy = crate::support::proxy::Proxy::start_with(
        &format!("redis://app:secret@127.0.0.1:{}", server.port),
        1,
        &[],
    );
    proxy.allow_log("holds a password");
    let mut client = named(&proxy, "worker");
    for _ in 0..5 {
        client.expect(&["BLPOP", "q", "0.001"], "*-1\r\n");
    }
    let log = server.run_text(&["ACL", "LOG"]);
    assert!(log.starts_with("*1\r\n") && log.contains("client|setname"), "{log}");
    assert!(log.contains("$5\r\ncount\r\n:1\r\n"), "{log}");
}
