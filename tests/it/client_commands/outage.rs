//! The commands during a pause of the server, and without a server.

use std::time::{Duration, Instant};

use super::{Site, names, start_proxy};
use crate::support::client::Client;
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

on_both_servers!(a_pause_suspends_the_response_timeout, workers: [1, 2]);

/// The server is silent for longer than `response-timeout`, because a client wants it so: nothing is given up.
fn a_pause_suspends_the_response_timeout(flavor: Flavor, workers: usize) {
    let server = Server::start(flavor);
    let port = free_port();
    let proxy = Proxy::start_file(
        workers,
        &format!(
            "[listeners.app]\naddress = \"127.0.0.1:{port}\"\nadmin-commands = \"allow\"\n\
             [upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\nresponse-timeout = \"1s\"\n",
            server.port
        ),
    );
    let mut client = Client::connect(port);
    client.deadline(Duration::from_secs(30));
    client.expect(&["CLIENT", "PAUSE", "4000", "WRITE"], "+OK\r\n");
    let begun = Instant::now();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    assert!(begun.elapsed() > Duration::from_secs(3), "{:?}", begun.elapsed());
    client.expect(&["CLIENT", "PAUSE", "60000", "WRITE"], "+OK\r\n");
    client.expect(&["CLIENT", "UNPAUSE"], "+OK\r\n");
    client.expect(&["SET", "k", "w"], "+OK\r\n");
    assert_eq!(proxy.metric("respgate_upstream_connections_lost_total", &[]), 0.0);
    assert_eq!(proxy.metric("respgate_outcome_unknown_total", &[]), 0.0);
}

on_both_servers!(clients_are_listed_and_killed_without_a_server);

fn clients_are_listed_and_killed_without_a_server(flavor: Flavor) {
    let mut site = Site::start(flavor, 2);
    site.proxy.allow_log("no primary");
    let mut asker = site.named("asker");
    let mut held = site.named("held");
    held.expect(&["SET", "k", "v"], "+OK\r\n");
    site.server.crash();
    held.send_command(&["SET", "k", "w"]);
    wait::until("the hold", || site.proxy.metric("respgate_clients_held", &[]) > 0.0);
    let begun = Instant::now();
    assert_eq!(names(&mut asker, &[]), ["asker", "held"]);
    asker.expect(&["CLIENT", "KILL", "NAME", "held"], ":1\r\n");
    assert!(held.rest().is_empty());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// A lease that moved to a new server has the client's name there, and is unblocked there.
#[test]
fn a_moved_lease_keeps_its_name() {
    let server = Server::start(Flavor::Valkey);
    let mut proxy = start_proxy(&server, 2, "allow");
    proxy.allow_log("lost");
    let mut worker = super::named(&proxy, "worker");
    let mut server = server;
    worker.send_command(&["XREAD", "BLOCK", "0", "STREAMS", "s", "$"]);
    wait::until("the worker to be blocked", || server.info("clients", "blocked_clients") == 1);
    server.restart(&[]);
    let mut asker = proxy.client();
    worker.deadline(Duration::from_secs(60));
    wait::until_some("the worker on the new server", Duration::from_secs(40), || {
        (names(&mut server.client(), &[]) == ["worker"]).then_some(())
    });
    let id = super::id_of(&mut asker, "worker");
    wait::until("the worker to be unblocked", || asker.call(&["CLIENT", "UNBLOCK", &id]) == b":1\r\n");
    worker.expect_reply("*-1\r\n");
}
