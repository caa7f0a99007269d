//! Moving an upstream to another address.

use std::fs;
use std::time::Duration;

use super::load::{Load, increments};
use super::{Controlled, expect};
use crate::support::certificates::{By, Certificates};
use crate::support::port::free_port;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// A replica of `primary` that has everything.
pub fn replica_of(primary: &Server, options: &[&str]) -> Server {
    let port = primary.port.to_string();
    let replica =
        Server::start_with(primary.flavor, &[&["--replicaof", "127.0.0.1", &port], options].concat());
    wait_for_link(&replica);
    replica
}

pub fn wait_for_link(replica: &Server) {
    wait::until("the replica's link", || {
        replica.run_text(&["INFO", "replication"]).contains("master_link_status:up")
    });
}

/// Promotes a replica once it has everything that `primary` has written.
pub fn promote(replica: &Server, primary: &Server) {
    wait::until("the replica to have everything", || {
        let offset = |server: &Server| server.info("replication", "master_repl_offset");
        offset(replica) == offset(primary)
    });
    assert_eq!(replica.run_text(&["REPLICAOF", "NO", "ONE"]), "+OK\r\n");
}

pub fn url(server: &Server) -> String {
    format!("redis://127.0.0.1:{}", server.port)
}

/// Has a switch refused; the exit code is 1.
fn expect_refused(controlled: &mut Controlled, words: &[&str], why: &str) {
    controlled.proxy.allow_log("control: refused");
    expect(&controlled.on_socket(&[&["switch", "main"], words].concat()), 1, why);
}

pub fn may_warn(controlled: &mut Controlled) {
    controlled.proxy.allow_log("an operator has switched the upstream");
}

on_both_servers!(a_promoted_replica_takes_over_under_load, workers: [1, 2]);

/// The recommended way: pause, promote, switch. The clients notice a pause.
fn a_promoted_replica_takes_over_under_load(flavor: Flavor, workers: usize) {
    let mut controlled = Controlled::in_front_of(Server::start(flavor), workers, "");
    may_warn(&mut controlled);
    let replica = replica_of(&controlled.server, &[]);
    let mut load = Load::start(&controlled);
    expect(&controlled.on_socket(&["pause", "main"]), 0, "commands-under-way: 0\n");
    promote(&replica, &controlled.server);
    let before = increments(&controlled.server);
    let answer = controlled.on_socket(&["switch", "main", &url(&replica)]);
    expect(&answer, 0, &format!("to: 127.0.0.1:{}\n", replica.port));
    load.expect_served_by(&replica);
    assert_eq!(controlled.proxy.metric("respgate_upstream_paused", &[]), 0.0, "the switch ends the pause");
    load.finish(&replica, "a switch to a promoted replica");
    assert_eq!(increments(&controlled.server), before, "a command was sent to the former server");
    let ready = controlled.proxy.http("/readyz");
    let hint = format!("an operator has switched it to 127.0.0.1:{} until the next start", replica.port);
    assert!(ready.contains(&hint), "{ready}");
    wait::until("the timeline", || {
        let timelines = controlled.proxy.http("/failovers");
        timelines.contains("\"lossless\": true") && timelines.contains("an operator has paused the upstream")
    });
    assert_eq!(controlled.proxy.metric("respgate_upstream_switches_total", &[]), 1.0);
    assert!(
        !controlled.server.run_text(&["CLIENT", "LIST"]).contains("lib-name=respgate"),
        "connections are left"
    );
}

with_one_and_two_workers!(a_move_to_tls_and_a_password);

/// From a development server to one with TLS and a password: clients wait for less than a second.
fn a_move_to_tls_and_a_password(workers: usize) {
    let certificates = Certificates::new();
    certificates.server("managed", By::Intermediate, &["127.0.0.1", "localhost"]);
    let mut controlled = Controlled::start(workers);
    may_warn(&mut controlled);
    let managed =
        Server::start_tls(Flavor::Valkey, &certificates, "managed", &["--requirepass", "s3cret-managed"]);
    let mut load = Load::start(&controlled);
    // The operator has copied the data: here there is none that matters but the counters, which begin again.
    let password = controlled.file("password").display().to_string();
    fs::write(&password, "s3cret-managed\n").expect("the password");
    let to = format!("rediss://127.0.0.1:{}", managed.tls_port.expect("TLS"));
    let ca = certificates.path("ca.pem");
    let words = ["switch", "main", &to, "--password-file", &password, "--ca", &ca, "--data-copied"];
    let answer = controlled.on_socket(&words);
    expect(&answer, 0, "commands-waited-ms: ");
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let waited: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("commands-waited-ms: ")?.parse().ok())
        .expect("the time");
    eprintln!("a move to TLS and a password: commands waited {waited} ms");
    assert!(waited < 1000, "{text}");
    load.transaction.expect(&["EXEC"], "*1\r\n:1\r\n");
    load.expect_pushed_to(&managed);
    wait::until("the writers at the new server", || increments(&managed) > 20);
    assert!(
        !controlled.server.run_text(&["CLIENT", "LIST"]).contains("lib-name=respgate"),
        "connections are left"
    );
    load.stop();
    let log = controlled.proxy.log();
    assert!(!log.contains("s3cret"), "a password in the log");
}

with_one_and_two_workers!(a_move_from_redis_to_valkey_with_tls_and_users);

/// From a plain Redis to a Valkey with TLS, a password and users, with replication in between: clients wait for less than a second.
fn a_move_from_redis_to_valkey_with_tls_and_users(workers: usize) {
    let certificates = Certificates::new();
    certificates.server("managed", By::Intermediate, &["127.0.0.1", "localhost"]);
    let mut controlled = Controlled::in_front_of(Server::start(Flavor::Redis), workers, "");
    may_warn(&mut controlled);
    let user = ["ACL", "SETUSER", "app", "on", ">app-password", "~*", "&*", "+@all"];
    controlled.server.run(&user);
    let source = controlled.server.port.to_string();
    let options = ["--requirepass", "s3cret-managed", "--replicaof", "127.0.0.1", &source];
    let managed = Server::start_tls(Flavor::Valkey, &certificates, "managed", &options);
    managed.run(&user);
    wait_for_link(&managed);
    let mut app = controlled.proxy.client();
    app.expect(&["AUTH", "app", "app-password"], "+OK\r\n");
    app.expect(&["SET", "by-app", "1"], "+OK\r\n");
    let mut load = Load::start(&controlled);
    let password = controlled.file("password").display().to_string();
    fs::write(&password, "s3cret-managed\n").expect("the password");
    let to = format!("rediss://127.0.0.1:{}", managed.tls_port.expect("TLS"));
    let ca = certificates.path("ca.pem");
    expect(&controlled.on_socket(&["pause", "main"]), 0, "commands-under-way: 0\n");
    promote(&managed, &controlled.server);
    let words = ["switch", "main", &to, "--password-file", &password, "--ca", &ca];
    expect(&controlled.on_socket(&words), 0, "commands-waited-ms: ");
    load.expect_served_by(&managed);
    app.expect(&["INCR", "by-app"], ":2\r\n");
    assert!(managed.run_text(&["CLIENT", "LIST"]).contains("user=app"));
    let verdict = load.finish(&managed, "a move from Redis to Valkey with TLS");
    // A second is usual; this machine may be busy with other tests.
    assert!(verdict.longest_pause < Duration::from_secs(4), "{verdict}");
}

/// Whatever is wrong with the target, clients notice nothing.
#[test]
fn a_target_that_cannot_take_over_is_refused() {
    let server = Server::start(Flavor::Valkey);
    let mut controlled = Controlled::in_front_of(server, 2, "");
    // Discovery logs what is wrong with a target.
    controlled.proxy.allow_log("\"upstream\":\"main (");
    let mut elsewhere = controlled.proxy.client();
    elsewhere.expect(&["SELECT", "9"], "+OK\r\n");
    elsewhere.expect(&["SET", "k", "v"], "+OK\r\n");
    let load = Load::start(&controlled);

    let unrelated = Server::start(Flavor::Valkey);
    expect_refused(&mut controlled, &[&url(&unrelated)], "its data is not that of the present server");
    let replica = replica_of(&controlled.server, &[]);
    expect_refused(&mut controlled, &[&url(&replica)], "says that it is a replica");
    replica.run(&["REPLICAOF", "NO", "ONE"]);
    wait::until("the present server to write on", || {
        controlled.server.info("replication", "master_repl_offset")
            > replica.info("replication", "master_repl_offset")
    });
    expect_refused(&mut controlled, &[&url(&replica)], "bytes of replication since the target was promoted");
    let small = Server::start_with(Flavor::Valkey, &["--databases", "4"]);
    expect_refused(
        &mut controlled,
        &[&url(&small), "--data-copied"],
        "clients use database 9, which it refuses",
    );
    let locked = Server::start_with(Flavor::Valkey, &["--requirepass", "right"]);
    expect_refused(&mut controlled, &[&url(&locked), "--data-copied"], "NOAUTH");
    let wrong = format!("redis://:wrong@127.0.0.1:{}", locked.port);
    expect_refused(&mut controlled, &[&wrong, "--data-copied"], "WRONGPASS");
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    expect_refused(&mut controlled, &[&nobody, "--data-copied"], "nothing has changed");
    let plain = format!("rediss://127.0.0.1:{}", unrelated.port);
    expect_refused(&mut controlled, &[&plain, "--data-copied"], "TLS");
    let present = url(&controlled.server);
    expect_refused(&mut controlled, &[&present], "already");
    expect_refused(&mut controlled, &["http://127.0.0.1:1"], "url");

    let verdict = load.finish(&controlled.server, "refused switches");
    assert!(verdict.longest_pause < Duration::from_secs(1), "{verdict}");
    elsewhere.expect(&["GET", "k"], "$1\r\nv\r\n");
    assert!(controlled.proxy.http("/failovers").ends_with("[]\n"));
}

/// Users that authenticate themselves must exist at the target, with the same password.
#[test]
fn the_target_must_know_every_user() {
    let user = ["ACL", "SETUSER", "app", "on", ">app-password", "~*", "&*", "+@all"];
    let mut controlled = Controlled::start(2);
    may_warn(&mut controlled);
    controlled.server.run(&user);
    let mut client = controlled.proxy.client();
    client.expect(&["AUTH", "app", "app-password"], "+OK\r\n");
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    let target = Server::start(Flavor::Valkey);
    expect_refused(&mut controlled, &[&url(&target), "--data-copied"], "user \"app\"");
    client.expect(&["GET", "k"], "$1\r\nv\r\n");
    target.run(&user);
    expect(&controlled.on_socket(&["switch", "main", &url(&target), "--data-copied"]), 0, "to: ");
    client.expect(&["GET", "k"], "$-1\r\n");
}

/// There and back, and a restart of the server afterwards: generations rise, and discovery follows the new address.
#[test]
fn a_switch_back() {
    let mut controlled = Controlled::start(2);
    may_warn(&mut controlled);
    let mut other = Server::start(Flavor::Valkey);
    let mut client = controlled.proxy.client();
    client.expect(&["SET", "k", "here"], "+OK\r\n");
    let (here, there) = (url(&controlled.server), url(&other));
    expect(&controlled.on_socket(&["switch", "main", &there, "--data-copied"]), 0, "to: ");
    client.expect(&["SET", "k", "there"], "+OK\r\n");
    expect(&controlled.on_socket(&["switch", "main", &here, "--data-copied"]), 0, "to: ");
    client.expect(&["GET", "k"], "$4\r\nhere\r\n");
    let ready = controlled.proxy.http("/readyz");
    assert!(!ready.contains("has switched it"), "it is where the configuration says: {ready}");
    expect(&controlled.on_socket(&["switch", "main", &there, "--data-copied"]), 0, "to: ");
    client.expect(&["GET", "k"], "$5\r\nthere\r\n");
    assert_eq!(controlled.proxy.metric("respgate_primary_generation", &[]), 4.0);
    controlled.proxy.allow_log("\"WARN\"");
    other.restart(&[]);
    wait::until("the restarted server to be followed", || client.call(&["GET", "k"]) == b"$-1\r\n");
    assert!(controlled.proxy.metric("respgate_primary_generation", &[]) >= 5.0);
}

/// A dead server can be left, if the operator states that the data was copied.
#[test]
fn a_dead_server_is_left() {
    let mut controlled = Controlled::start(2);
    controlled.proxy.allow_log("\"WARN\"");
    let other = Server::start(Flavor::Valkey);
    let mut client = controlled.proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    controlled.server.crash();
    client.send_command(&["SET", "k", "w"]);
    wait::until("the loss to be noticed", || controlled.proxy.http("/readyz").starts_with("HTTP/1.1 503"));
    expect_refused(&mut controlled, &[&url(&other)], "state --data-copied");
    expect(&controlled.on_socket(&["switch", "main", &url(&other), "--data-copied"]), 0, "to: ");
    client.expect_reply("+OK\r\n");
    assert_eq!(other.run_text(&["GET", "k"]), "$1\r\nw\r\n");
}

/// A command that does not end keeps the upstream where it is.
#[test]
fn a_command_that_does_not_end_stops_the_switch() {
    let mut controlled = Controlled::in_front_of(Server::start(Flavor::Valkey), 1, "hold-timeout = \"2s\"");
    let other = Server::start(Flavor::Valkey);
    let mut client = controlled.proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    let mut waiting = controlled.proxy.client();
    waiting.send_command(&["WAIT", "1", "0"]);
    wait::until("the WAIT", || controlled.server.run_text(&["CLIENT", "LIST"]).contains("cmd=wait"));
    expect_refused(
        &mut controlled,
        &[&url(&other), "--data-copied"],
        "go to the present server again: 1 commands",
    );
    client.expect(&["GET", "k"], "$1\r\nv\r\n");
}
