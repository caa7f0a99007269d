//! What clients of the old and of the new process see.

use std::fs;
use std::time::Duration;

use super::site::{Site, runs};
use super::systemd::Manager;
use crate::support::client::Client;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

fn url(server: &Server) -> String {
    format!("redis://127.0.0.1:{}", server.port)
}

/// Clients stay until the deadline. Then the old process drains, and cuts what is still busy.
#[test]
fn the_deadline_ends_the_old_process() {
    let server = Server::start(Flavor::Valkey);
    let keys = "upgrade-drain-timeout = \"3s\"\ndrain-timeout = \"1s\"";
    let mut site = Site::start(keys, &url(&server), "");
    site.proxy.allow_log("drain-timeout has passed");
    let old = site.newest();
    let mut idle = site.proxy.client();
    idle.expect(&["SET", "k", "v"], "+OK\r\n");
    let mut subscribed = site.proxy.client();
    subscribed.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    let mut transaction = site.proxy.client();
    transaction.expect(&["MULTI"], "+OK\r\n");
    let mut blocked = site.proxy.client();
    blocked.send("BLPOP jobs 0\r\n");
    let mut moving = site.proxy.client();
    assert!(moving.call(&["HELLO", "3"]).starts_with(b"%"));
    moving.expect(&["CLIENT", "MAINT_NOTIFICATIONS", "ON"], "+OK\r\n");
    wait::until("a blocked client", || server.info("clients", "blocked_clients") == 1);

    let new = site.upgrade();
    // MOVING comes at once, without an endpoint: the client connects to the same address, and reaches the new process.
    assert!(moving.reply().starts_with(b">4\r\n$6\r\nMOVING\r\n:"));
    let ready = site.proxy.http("/readyz");
    assert!(
        ready.contains(&format!("upgrade: the former process {old} still serves 5 clients\n")),
        "{ready}"
    );
    idle.expect(&["GET", "k"], "$1\r\nv\r\n");

    for client in [&mut idle, &mut subscribed] {
        assert_eq!(client.rest(), b"");
    }
    // It has not moved, so the drain asks it again.
    assert!(moving.rest().starts_with(b">4\r\n$6\r\nMOVING\r\n:"));
    // These have unanswered commands, or an open transaction, so only drain-timeout ends them.
    for client in [&mut transaction, &mut blocked] {
        client.rest();
    }
    site.wait_for_end(old);
    let log = site.proxy.log();
    let cut = log.lines().find(|line| line.contains("drain-timeout has passed")).expect("the deadline");
    assert!(cut.contains("\"clients\":2"), "{cut}");
    wait::until("the new process to notice", || !site.proxy.http("/readyz").contains("former process"));
    assert!(runs(new));
    site.proxy.client().expect(&["GET", "k"], "$1\r\nv\r\n");
}

/// The files of unix sockets stay when the old process ends, and go with the last one.
#[test]
fn unix_sockets_are_handed_over() {
    let server = Server::start(Flavor::Redis);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("clients.sock");
    let more = format!("[listeners.local]\naddress = \"unix:{}\"\n", path.display());
    let mut site = Site::start("", &url(&server), &more);
    Client::connect_unix(&path).expect(&["SET", "k", "v"], "+OK\r\n");
    for _ in 0..2 {
        let mut before = Client::connect_unix(&path);
        before.expect(&["GET", "k"], "$1\r\nv\r\n");
        let old = site.newest();
        site.upgrade();
        before.expect(&["GET", "k"], "$1\r\nv\r\n");
        drop(before);
        site.wait_for_end(old);
        Client::connect_unix(&path).expect(&["GET", "k"], "$1\r\nv\r\n");
    }
    // A listener that the new file does not have is gone with its file.
    let file = site.proxy.configuration();
    let text = fs::read_to_string(&file).expect("the configuration");
    fs::write(&file, text.replace(&more, "")).expect("a file");
    site.proxy.allow_log("need a restart");
    site.upgrade();
    wait::until("the file of the removed listener to be gone", || !path.exists());
    let control = site.control_socket();
    assert!(control.exists());
    drop(site);
    assert!(!control.exists());
}

/// max-clients holds for both processes together.
#[test]
fn the_limit_of_clients_counts_both() {
    let server = Server::start(Flavor::Valkey);
    let mut site = Site::start("", &url(&server), "[limits]\nmax-clients = 3\n");
    let mut old: Vec<_> = (0..2).map(|_| site.proxy.client()).collect();
    old.iter_mut().for_each(|client| client.expect(&["PING"], "+PONG\r\n"));
    site.upgrade();
    let mut third = site.proxy.client();
    third.expect(&["PING"], "+PONG\r\n");
    site.proxy.client().expect_reply("-ERR max number of clients reached\r\n");
    // A second upgrade: the newest process knows of the clients of both former ones.
    site.upgrade();
    site.proxy.client().expect_reply("-ERR max number of clients reached\r\n");
    old.pop();
    wait::until("room for a client", || {
        let mut client = site.proxy.client();
        client.send("PING\r\n");
        client.reply() == b"+PONG\r\n"
    });
    third.expect(&["PING"], "+PONG\r\n");
}

/// systemd learns which process is the main one, and hears of the new one only.
#[test]
fn systemd_follows_the_new_process() {
    let (manager, server) = (Manager::start(), Server::start(Flavor::Valkey));
    let environment = ["env", &manager.variable(), "WATCHDOG_USEC=1000000"];
    let mut site = Site::start_under(&environment, "", &url(&server), "");
    manager.expect("READY=1");
    manager.expect("WATCHDOG=1");
    let old = site.newest();
    let mut client = site.proxy.client();
    client.expect(&["PING"], "+PONG\r\n");
    let new = site.upgrade();
    assert_eq!(manager.expect("MAINPID="), format!("MAINPID={new}"));
    manager.expect("READY=1");
    for _ in 0..3 {
        manager.expect("WATCHDOG=1");
    }
    drop(client);
    site.wait_for_end(old);
    manager.expect_none_of("STOPPING=1", Duration::from_millis(600));
    site.proxy.allow_log("a second signal came");
    crate::support::signal::send("TERM", new);
    manager.expect("STOPPING=1");
}
