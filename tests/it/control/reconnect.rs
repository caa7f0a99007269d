//! Replacing the connections to an upstream.

use std::collections::HashSet;
use std::time::Duration;

use super::load::Load;
use super::{Controlled, expect};
use crate::support::servers::Server;

/// The ids of respgate's connections at the server, with what each ran last.
fn connections(server: &Server) -> HashSet<String> {
    let list = server.run_text(&["CLIENT", "LIST"]);
    let of_respgate = list.lines().filter(|line| line.contains("lib-name=respgate"));
    of_respgate
        .filter_map(|line| line.split(' ').find(|word| word.contains("id=")))
        .map(str::to_owned)
        .collect()
}

with_one_and_two_workers!(connections_are_replaced_under_load);

/// Nobody sees an error. Only the connections of the open transaction and of the watched key stay.
fn connections_are_replaced_under_load(workers: usize) {
    let controlled = Controlled::start(workers);
    let mut load = Load::start(&controlled);
    let before = connections(&controlled.server);
    assert!(before.len() > workers + 3, "{before:?}");
    expect(&controlled.on_socket(&["reconnect", "main"]), 0, "former-connections-in-use: 2\n");
    let after = connections(&controlled.server);
    let kept: Vec<&String> = before.intersection(&after).collect();
    // Discovery keeps a connection of its own.
    assert!(kept.len() <= 4, "{kept:?} of {before:?}");
    load.expect_served_by(&controlled.server);
    load.watching.expect(&["MULTI"], "+OK\r\n");
    load.watching.expect(&["INCR", "watched"], "+QUEUED\r\n");
    load.watching.expect(&["EXEC"], "*1\r\n:1\r\n");
    let verdict = load.finish(&controlled.server, "a reconnect");
    assert!(verdict.longest_pause < Duration::from_secs(1), "{verdict}");
}

#[test]
fn a_paused_upstream_is_not_reconnected() {
    let mut controlled = Controlled::start(1);
    controlled.proxy.allow_log("control: refused");
    expect(&controlled.on_socket(&["pause", "main"]), 0, "state: paused\n");
    expect(&controlled.on_socket(&["reconnect", "main"]), 1, "has no primary that commands go to");
    expect(&controlled.on_socket(&["resume", "main"]), 0, "resumed");
    expect(&controlled.on_socket(&["reconnect", "main"]), 0, "state: reconnected\n");
}
