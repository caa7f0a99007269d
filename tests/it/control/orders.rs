//! What is shown while an operator's order is in force, and orders of two operators at the same time.

use std::process::Output;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::switch::{may_warn, promote, replica_of, url};
use super::{Controlled, expect};
use crate::status::{assert_fits, document};
use crate::support::client::Client;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// Returns the state of the upstream, which fits the schema, and the first warning.
fn shown(controlled: &Controlled) -> (Value, String) {
    let status = document(&controlled.proxy, "/status");
    assert_fits(&controlled.proxy, &status);
    let warning = status["warnings"][0]["text"].as_str().unwrap_or_default().to_owned();
    (status["upstreams"][0].clone(), warning)
}

/// Returns a client whose command keeps a switch waiting, for 5 s at most.
fn late_command(controlled: &Controlled) -> Client {
    let mut client = controlled.proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    client.send_command(&["WAIT", "9", "0"]);
    wait::until("the WAIT", || controlled.server.run_text(&["CLIENT", "LIST"]).contains("cmd=wait"));
    client
}

/// Runs `inside` while a switch holds commands, and has the late command answered. Returns the answer of the switch.
fn switch_while(controlled: &Controlled, options: &[&str], inside: impl FnOnce()) -> Output {
    thread::scope(|scope| {
        let switch = scope.spawn(|| controlled.on_socket(&[&["switch", "main"], options].concat()));
        wait::until("the switch to hold commands", || !shown(controlled).0["switch"].is_null());
        inside();
        let list = controlled.server.run_text(&["CLIENT", "LIST"]);
        let late = list.lines().find(|line| line.contains("cmd=wait")).expect("the WAIT");
        let id = late.strip_prefix("id=").and_then(|rest| rest.split(' ').next()).expect("an id");
        controlled.server.run(&["CLIENT", "UNBLOCK", id]);
        switch.join().expect("the switch")
    })
}

fn start(workers: usize) -> Controlled {
    let mut controlled =
        Controlled::in_front_of(Server::start(Flavor::Valkey), workers, "hold-timeout = \"12s\"");
    controlled.proxy.allow_log("control: refused");
    may_warn(&mut controlled);
    controlled
}

with_one_and_two_workers!(orders_are_shown_while_they_are_in_force);

fn orders_are_shown_while_they_are_in_force(workers: usize) {
    let controlled = start(workers);
    let mut client = controlled.proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    let (upstream, _) = shown(&controlled);
    assert!(["pause", "switch", "switched_to"].iter().all(|key| upstream[key].is_null()), "{upstream:#}");
    expect(&controlled.on_socket(&["pause", "main", "--at-once"]), 0, "state: paused\n");
    client.send_command(&["GET", "k"]);
    let waits = |(upstream, _): &(Value, String)| upstream["hold"]["clients"] == 1;
    let (upstream, warning) =
        wait::until_some("the waiting client", wait::PATIENCE, || Some(shown(&controlled)).filter(waits));
    assert_eq!((&upstream["state"], &upstream["pause"]["at_once"]), (&"paused".into(), &true.into()));
    let by = upstream["pause"]["by"].as_str().expect("who").to_owned();
    assert!(by.starts_with("uid "), "{by}");
    assert!(upstream["pause"]["ends_in_ms"].as_u64().expect("the end") <= 10_800, "{upstream:#}");
    assert!(warning.contains(&format!("ordered by {by}, 1 clients wait")), "{warning}");
    let ready = controlled.proxy.http("/readyz");
    assert!(ready.contains("paused by an operator") && !ready.contains(&by), "{ready}");
    let socket = controlled.proxy.admin.to_string();
    let text = std::process::Command::new(crate::support::proxy::binary())
        .args(["status", "--admin", &format!("127.0.0.1:{socket}")])
        .output()
        .expect("respgate status");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("orders       paused at once for "), "{text}");
    expect(&controlled.on_socket(&["resume", "main"]), 0, "resumed");
    client.expect_reply("$1\r\nv\r\n");

    let other = Server::start(Flavor::Valkey);
    let mut late = late_command(&controlled);
    let answer = switch_while(&controlled, &[&url(&other), "--data-copied"], || {
        let (upstream, warning) = shown(&controlled);
        assert_eq!(upstream["switch"]["to"], format!("127.0.0.1:{}", other.port));
        assert_eq!(upstream["switch"]["by"], *by);
        assert!(warning.starts_with("an operator switches it to "), "{warning}");
    });
    expect(&answer, 0, "to: ");
    late.expect_reply(":0\r\n");
    let (upstream, _) = shown(&controlled);
    assert!(upstream["switch"].is_null() && upstream["pause"].is_null(), "{upstream:#}");
    assert_eq!(upstream["switched_to"], format!("127.0.0.1:{}", other.port));
    assert_eq!(controlled.proxy.metric("respgate_upstream_switched", &[]), 1.0);
}

with_one_and_two_workers!(orders_of_two_operators);

/// While a switch is under way, a second one and a reconnect are refused, and a pause waits for its end and goes on.
fn orders_of_two_operators(workers: usize) {
    let controlled = start(workers);
    let other = Server::start(Flavor::Valkey);
    let third = Server::start(Flavor::Valkey);
    let mut late = late_command(&controlled);
    let mut client = controlled.proxy.client();
    thread::scope(|scope| {
        let answer = switch_while(&controlled, &[&url(&other), "--data-copied"], || {
            let second = controlled.on_socket(&["switch", "main", &url(&third), "--data-copied"]);
            expect(&second, 1, "another switch or reconnect of upstream 'main' is under way");
            expect(&controlled.on_socket(&["reconnect", "main"]), 1, "under way");
            expect(&controlled.on_socket(&["resume", "main"]), 1, "is not paused");
            client.send_command(&["SET", "where", "other"]);
            // It is answered when the late command is.
            scope.spawn(|| {
                let pause = ["pause", "main", "--deadline", "20s"];
                expect(&controlled.on_socket(&pause), 0, "state: paused\n");
            });
            wait::until("the pause", || controlled.proxy.metric("respgate_upstream_paused", &[]) == 1.0);
        });
        expect(&answer, 0, "to: ");
    });
    late.expect_reply(":0\r\n");
    client.expect_silence(Duration::from_millis(200));
    assert_eq!(
        controlled.proxy.metric("respgate_upstream_paused", &[]),
        1.0,
        "the pause outlasts the switch"
    );
    // A switch in the pause, which it ends.
    expect(&controlled.on_socket(&["switch", "main", &url(&third), "--data-copied"]), 0, "to: ");
    client.expect_reply("+OK\r\n");
    assert_eq!(third.run_text(&["GET", "where"]), "$5\r\nother\r\n");
    assert_eq!(other.run_text(&["GET", "where"]), "$-1\r\n");
    assert_eq!(controlled.proxy.metric("respgate_upstream_paused", &[]), 0.0);
}

with_one_and_two_workers!(a_source_that_is_written_on_in_the_hold_stays);

/// Another client of the present server writes between the two checks: the second one finds it, and commands go on where they were,
/// without any error.
fn a_source_that_is_written_on_in_the_hold_stays(workers: usize) {
    let controlled = start(workers);
    let replica = replica_of(&controlled.server, &[]);
    let mut late = late_command(&controlled);
    promote(&replica, &controlled.server);
    let mut client = controlled.proxy.client();
    let answer = switch_while(&controlled, &[&url(&replica)], || {
        client.send_command(&["INCR", "counter"]);
        controlled.server.run(&["SET", "foreign", "x"]);
    });
    expect(&answer, 1, "go to the present server again: the present server has written");
    late.expect_reply(":0\r\n");
    client.expect_reply(":1\r\n");
    assert_eq!(controlled.server.run_text(&["GET", "counter"]), "$1\r\n1\r\n");
    assert_eq!(replica.run_text(&["GET", "counter"]), "$-1\r\n");
    assert_eq!(controlled.proxy.metric("respgate_upstream_switches_total", &[]), 0.0);
    assert!(shown(&controlled).0["switch"].is_null());
}

/// A target that becomes a replica of another server in the hold is not used.
#[test]
fn a_target_that_is_demoted_in_the_hold_is_not_used() {
    let mut controlled = start(1);
    controlled.proxy.allow_log("\"WARN\"");
    let (target, elsewhere) = (Server::start(Flavor::Valkey), Server::start(Flavor::Valkey));
    let mut late = late_command(&controlled);
    let answer = switch_while(&controlled, &[&url(&target), "--data-copied"], || {
        target.run(&["REPLICAOF", "127.0.0.1", &elsewhere.port.to_string()]);
    });
    expect(&answer, 1, "go to the present server again: ");
    late.expect_reply(":0\r\n");
    controlled.proxy.client().expect(&["GET", "k"], "$1\r\nv\r\n");
}
