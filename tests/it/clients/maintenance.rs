//! Libraries that ask for notifications of maintenance, in a failover and in a drain.

use std::process::Command;

use crate::support::client::Client;
use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

use super::With;
use super::program::{Program, node, python};

/// What the programs print when they are told of something.
struct Told {
    failing_over: &'static str,
    failed_over: &'static str,
    moving: &'static str,
}

const PYTHON: Told = Told {
    failing_over: "told NodeFailingOverNotification",
    failed_over: "told NodeFailedOverNotification",
    moving: "told NodeMovingNotification",
};
const NODE: Told =
    Told { failing_over: "told FAILING_OVER", failed_over: "told FAILED_OVER", moving: "told MOVING" };

/// Waits until the program has written twenty times more.
#[track_caller]
fn goes_on(client: &mut Client) {
    let mut written = || -> u64 {
        let reply = String::from_utf8(client.call(&["GET", "written"])).expect("text");
        reply.split("\r\n").nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    let before = written();
    wait::until("the program to write", || written() >= before + 20);
}

/// Ends the program. It has been told of `events`, in this order, and has seen no error.
#[track_caller]
fn finish(program: Program, client: &mut Client, events: &[&str]) {
    client.expect(&["SET", "stop", "1"], "+OK\r\n");
    let transcript = program.finish();
    let told: Vec<&str> = transcript.lines().filter(|line| line.starts_with("told ")).collect();
    assert_eq!(told, events, "{transcript}");
    assert!(!transcript.contains("error"), "{transcript}");
}

#[track_caller]
fn failover(flavor: Flavor, workers: usize, program: Command, told: &Told) {
    let deployment = Deployment::start(&Plan { replicas: 1, ..Plan::new(flavor) });
    deployment.wait_until_redundant();
    let mut proxy = Proxy::start_with(&deployment.url(), workers, &[]);
    proxy.allow_log("\"WARN\"");
    let program = Program::start(program, proxy.port);
    let mut client = proxy.client();
    goes_on(&mut client);
    let primary = || deployment.sentinels[0].run_text(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
    let before = primary();
    assert_eq!(deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]), "+OK\r\n");
    wait::until("another primary", || primary() != before);
    goes_on(&mut client);
    finish(program, &mut client, &[told.failing_over, told.failed_over]);
}

/// Another respgate takes the port over, and clients without an endpoint in MOVING connect to it.
#[track_caller]
fn drain(program: Command, told: &Told) {
    let server = Server::start(Flavor::Valkey);
    let url = format!("redis://127.0.0.1:{}", server.port);
    let port = free_port();
    let flags = ["--upstream", &*url, "--drain-timeout", "12s"];
    let mut old = Proxy::launch(port, 1, &flags);
    old.wait_until_ready();
    let program = Program::start(program, port);
    let mut client = server.client();
    goes_on(&mut client);
    old.signal("TERM");
    wait::until("the listener to close", || Client::try_connect(old.address()).is_err());
    let new = Proxy::launch(port, 2, &flags);
    new.wait_until_ready();
    goes_on(&mut client);
    assert!(old.wait_for_exit().success());
    goes_on(&mut client);
    finish(program, &mut client, &[told.moving]);
}

/// MOVING names another respgate.
#[track_caller]
fn drain_to_an_endpoint(program: Command, told: &Told) {
    let server = Server::start(Flavor::Redis);
    let new = Proxy::start_with(&format!("redis://127.0.0.1:{}", server.port), 1, &[]);
    let port = free_port();
    let mut old = Proxy::start_file(
        2,
        &format!(
            "drain-timeout = \"12s\"\n[listeners.app]\naddress = \"127.0.0.1:{port}\"\nmoving-endpoint = \"127.0.0.1:{}\"\n\
             [upstreams.main]\naddress = \"127.0.0.1:{}\"\n",
            new.port, server.port
        ),
    );
    let program = Program::start(program, port);
    let mut client = server.client();
    goes_on(&mut client);
    old.signal("TERM");
    assert!(old.wait_for_exit().success());
    goes_on(&mut client);
    finish(program, &mut client, &[told.moving]);
}

#[test]
fn redis_py_in_a_failover() {
    failover(Flavor::Valkey, 1, python("maintenance.py").with("internal-ip"), &PYTHON);
}

#[test]
fn node_redis_in_a_failover() {
    failover(Flavor::Redis, 2, node("node_redis_maintenance.mjs").with("auto"), &NODE);
}

#[test]
fn redis_py_in_a_drain() {
    drain(python("maintenance.py").with("none"), &PYTHON);
}

#[test]
fn node_redis_in_a_drain() {
    drain(node("node_redis_maintenance.mjs").with("none"), &NODE);
}

#[test]
fn node_redis_in_a_drain_with_an_endpoint() {
    drain_to_an_endpoint(node("node_redis_maintenance.mjs").with("auto"), &NODE);
}
