//! SIGTERM: no new clients, running commands finish, and there is a deadline.

use std::time::Duration;

use crate::support::client::Client;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

#[test]
fn idle_clients_are_closed() {
    let server = Server::start(Flavor::Valkey);
    let mut proxy = Proxy::start_with(&format!("redis://127.0.0.1:{}", server.port), 2, &[]);
    let mut clients: Vec<_> = (0..10).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.expect(&["PING"], "+PONG\r\n"));
    proxy.signal("TERM");
    for client in &mut clients {
        assert_eq!(client.rest(), b"");
    }
    assert!(proxy.wait_for_exit().success());
}

#[test]
fn running_commands_finish() {
    let server = Server::start(Flavor::Valkey);
    let mut proxy = Proxy::start(&format!("redis://127.0.0.1:{}", server.port));
    let mut running = proxy.client();
    running.send("BLPOP a 20\r\n");
    wait::until("a blocked client", || server.info("clients", "blocked_clients") == 1);
    proxy.signal("TERM");
    wait::until("the listener to close", || Client::try_connect(proxy.address()).is_err());
    running.expect_silence(Duration::from_millis(100));
    server.run(&["RPUSH", "a", "x"]);
    running.expect_reply("*2\r\n$1\r\na\r\n$1\r\nx\r\n");
    assert_eq!(running.rest(), b"");
    assert!(proxy.wait_for_exit().success());
}

#[test]
fn the_deadline_ends_what_does_not() {
    let server = Server::start(Flavor::Valkey);
    let url = format!("redis://127.0.0.1:{}", server.port);
    let mut proxy = Proxy::start_with(&url, 1, &["--drain-timeout", "300ms"]);
    proxy.allow_log("drain");
    let mut blocked = proxy.client();
    blocked.send("BLPOP a 0\r\n");
    let mut subscribed = proxy.client();
    subscribed.expect(&["SUBSCRIBE", "a"], "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    wait::until("a blocked client", || server.info("clients", "blocked_clients") == 1);
    proxy.signal("TERM");
    blocked.rest();
    subscribed.rest();
    assert!(proxy.wait_for_exit().success());
}
