//! Commands of modules, which respgate's table lacks: the server describes them. The module is `module.c`, built when a test
//! needs it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use crate::support::client::Client;
use crate::support::compare::Pair;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// The module as a library that servers load.
fn module() -> &'static str {
    static MODULE: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    let (_, path) = MODULE.get_or_init(|| {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let path = folder.path().join("module.so");
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/modules/module.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&path, &source])
            .status()
            .unwrap_or_else(|error| panic!("cannot run cc: {error}; tests/install gets it"));
        assert!(built.success(), "the module was not built");
        (folder, path.into_os_string().into_string().expect("a path of text"))
    });
    path
}

fn server(flavor: Flavor) -> Server {
    Server::start_with(flavor, &["--loadmodule", module()])
}

fn url(server: &Server) -> String {
    format!("redis://127.0.0.1:{}", server.port)
}

fn of(server: Server) -> Pair {
    let proxy = Proxy::start(&url(&server));
    Pair { proxy, server }
}

on_both_servers!(every_kind_of_command_is_answered_as_by_the_server);

fn every_kind_of_command_is_answered_as_by_the_server(flavor: Flavor) {
    let server = server(flavor);
    let proxy = Proxy::start(&url(&server));
    let (mut direct, mut client) = (server.client(), proxy.client());
    for request in [
        &["T.GET", "none"][..],
        &["t.set", "k", "v"],
        &["T.GET", "k"],
        &["T.GET"],
        &["T.MSET", "2", "a", "1", "b", "2"],
        &["T.MSET", "3", "a"],
        &["T.WAIT", "k", "50"],
        &["T.STATE"],
        &["T.NONE", "k"],
        &["GET", "b"],
    ] {
        let told = String::from_utf8_lossy(&direct.call(request)).into_owned();
        client.expect(request, &told);
    }
    // All of it inside a transaction, too.
    let mut client = proxy.client();
    client.expect(&["MULTI"], "+OK\r\n");
    client.expect(&["T.SET", "in", "side"], "+QUEUED\r\n");
    client.expect(&["T.GET", "in"], "+QUEUED\r\n");
    client.expect(&["EXEC"], "*2\r\n+OK\r\n$4\r\nside\r\n");
}

on_both_servers!(what_a_command_may_leave_decides_about_its_connection);

/// Reads and writes give their connection back, a command whose keys the server does not tell costs it, and one without keys
/// that neither reads nor writes keeps it.
fn what_a_command_may_leave_decides_about_its_connection(flavor: Flavor) {
    let server = server(flavor);
    let proxy = Proxy::start_with(&url(&server), 1, &[]);
    let opened = || server.info("stats", "total_connections_received");
    proxy.client().expect(&["T.SET", "k", "v"], "+OK\r\n");
    let before = opened();
    for _ in 0..20 {
        proxy.client().expect(&["T.SET", "k", "v"], "+OK\r\n");
        proxy.client().expect(&["T.GET", "k"], "$1\r\nv\r\n");
    }
    // The question is a connection of its own; and a lease may come back only after the next one has been asked for.
    let reused = opened() - before;
    assert!(reused <= 5, "{reused} new connections for 40 commands");
    let before = opened();
    for _ in 0..10 {
        proxy.client().expect(&["T.MSET", "1", "k", "w"], ":1\r\n");
    }
    let closed = opened() - before;
    assert!(closed >= 10, "{closed} new connections: some of T.MSET's were used again");

    let (mut keeper, mut other) = (proxy.client(), proxy.client());
    keeper.expect(&["T.STATE", "7"], ":7\r\n");
    other.expect(&["T.STATE"], ":0\r\n");
    keeper.expect(&["T.STATE"], ":7\r\n");
    let refusal = String::from_utf8_lossy(&keeper.call(&["HELLO", "3"])).into_owned();
    assert!(refusal.contains("what T.STATE left") && refusal.contains("RESET"), "{refusal}");
    keeper.expect(&["RESET"], "+RESET\r\n");
    keeper.expect(&["T.STATE"], ":0\r\n");
}

on_both_servers!(a_split_reply_costs_its_author_the_connection);

/// A module can put a line break into a simple string, which some servers pass on. What follows it is for nobody else.
fn a_split_reply_costs_its_author_the_connection(flavor: Flavor) {
    let mut pair = of(server(flavor));
    pair.proxy.allow_log("after the reply of a script or a module came one that no command had asked for");
    let told = pair.server.run_text(&["T.SPLIT", "k"]);
    let mut victims: Vec<Client> = (0..4).map(|_| pair.proxy.client()).collect();
    for round in 0..20 {
        let mut attacker = pair.proxy.client();
        attacker.send_command(&["T.SPLIT", "k"]);
        for (number, victim) in victims.iter_mut().enumerate() {
            let text = format!("{round:02}/{number}");
            victim.expect(&["T.SET", &text, &text], "+OK\r\n");
            victim.expect(&["T.GET", &text], &format!("$4\r\n{text}\r\n"));
        }
        attacker.expect_reply(&told);
        if told == "+one\r\n" {
            assert!(attacker.rest().is_empty());
        }
    }
}

on_both_servers!(many_clients_with_module_commands_exhaust_no_leases);

/// Far more clients than leases.
fn many_clients_with_module_commands_exhaust_no_leases(flavor: Flavor) {
    let server = server(flavor);
    let proxy = Proxy::start(&url(&server));
    let threads: Vec<_> = (0..100)
        .map(|number| {
            let mut client = proxy.client();
            thread::spawn(move || {
                let key = format!("k{number}");
                for round in 0..10 {
                    let value = format!("v{round}");
                    client.expect(&["T.SET", &key, &value], "+OK\r\n");
                    client.expect(&["T.GET", &key], &format!("$2\r\n{value}\r\n"));
                }
            })
        })
        .collect();
    let mut other = proxy.client();
    for _ in 0..10 {
        other.expect(&["MULTI"], "+OK\r\n");
        other.expect(&["EXEC"], "*0\r\n");
    }
    threads.into_iter().for_each(|thread| thread.join().expect("every command was answered"));
}

on_both_servers!(policies_look_at_keys_and_flags);

/// The rules of a tenant hold for what the server describes: keys, reading, categories and names.
fn policies_look_at_keys_and_flags(flavor: Flavor) {
    let server = server(flavor);
    let with = |tenant: &str| {
        let url = url(&server);
        Proxy::start_file(
            1,
            &format!("[upstreams.main]\nurl = \"{url}\"\n[tenants.t]\ndefault = true\n{tenant}\n"),
        )
    };
    let proxy = with("key-prefixes = [\"own:\"]");
    let mut client = proxy.client();
    client.expect(&["T.SET", "own:k", "v"], "+OK\r\n");
    client.expect(&["T.GET", "own:k"], "$1\r\nv\r\n");
    let refused = |client: &mut Client, request: &[&str]| {
        let line = String::from_utf8_lossy(&client.call(request)).into_owned();
        assert!(line.starts_with("-NOPERM "), "{request:?}: {line}");
    };
    for request in [
        &["T.GET", "k"][..],
        &["T.SET", "k", "v"],
        &["T.MSET", "1", "own:k", "v"],
        &["T.STATE"],
        &["T.SPLIT", "k"],
    ] {
        refused(&mut client, request);
    }
    let proxy = with("read-only = true");
    let mut client = proxy.client();
    client.expect(&["T.GET", "own:k"], "$1\r\nv\r\n");
    for request in [&["T.SET", "k", "v"][..], &["T.MSET", "1", "k", "v"], &["T.STATE"]] {
        refused(&mut client, request);
    }
    let proxy = with("commands = [\"+t.get\", \"+@json\"]");
    let mut client = proxy.client();
    client.expect(&["T.GET", "own:k"], "$1\r\nv\r\n");
    refused(&mut client, &["T.SET", "k", "v"]);
    wait::until("the refusal to be counted", || {
        proxy.metric("respgate_tenant_denied_total", &["tenant=\"t\""]) >= 1.0
    });
}
