//! Upgrades that fail: the running process goes on as if nothing had happened.

use std::fs;
use std::process::Output;

use super::site::Site;
use crate::support::client::Client;
use crate::support::port::free_port;
use crate::support::servers::{Flavor, Server};
use crate::support::{signal, wait};

fn start(keys: &str) -> (Server, Site) {
    let server = Server::start(Flavor::Valkey);
    let mut site = Site::start(keys, &format!("redis://127.0.0.1:{}", server.port), "");
    site.proxy.allow_log("the upgrade failed");
    site.proxy.allow_log("control: refused");
    (server, site)
}

/// The upgrade has failed with this text, and the old process serves.
#[track_caller]
fn expect_failure(site: &Site, output: &Output, text: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains(text), "{text:?} is not in {errors}");
    assert!(errors.contains("the running process goes on as before"), "{errors}");
    site.proxy.client().expect(&["PING"], "+PONG\r\n");
    assert!(site.proxy.http("/readyz").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_new_process_that_does_not_start_changes_nothing() {
    let (_server, mut site) = start("");
    let mut client = site.proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");

    site.install_script("#!/bin/sh\nexit 3\n");
    expect_failure(&site, &site.run_upgrade(), "ended before it was ready (exit status: 3)");
    site.install_script("not a program");
    expect_failure(&site, &site.run_upgrade(), "cannot be run: ");
    fs::remove_file(site.binary()).expect("the binary");
    expect_failure(&site, &site.run_upgrade(), "cannot be run: ");

    client.expect(&["GET", "k"], "$1\r\nv\r\n");
    site.install_binary();
    site.upgrade();
    client.expect(&["GET", "k"], "$1\r\nv\r\n");
    site.proxy.client().expect(&["GET", "k"], "$1\r\nv\r\n");
}

#[test]
fn a_new_process_that_never_gets_ready_is_ended() {
    let (_server, site) = start("upgrade-timeout = \"1s\"");
    let note = tempfile::NamedTempFile::new().expect("a file");
    let script = format!("#!/bin/sh\necho $$ > {}\nexec sleep 1000\n", note.path().display());
    site.install_script(&script);
    expect_failure(&site, &site.run_upgrade(), "was not ready within upgrade-timeout (1 s)");
    let pid = fs::read_to_string(note.path()).expect("a process id").trim().parse().expect("a number");
    wait::until("the new process to be gone", || !super::site::runs(pid));
}

#[test]
fn a_new_configuration_that_is_broken_changes_nothing() {
    let (_server, mut site) = start("upgrade-timeout = \"2s\"");
    for text in ["cannot use", "cannot listen on", "restart", "no primary", "\"configuration\""] {
        site.proxy.allow_log(text);
    }
    let file = site.proxy.configuration();
    let good = fs::read_to_string(&file).expect("the configuration");

    fs::write(&file, format!("bogus = 1\n{good}")).expect("a broken file");
    expect_failure(&site, &site.run_upgrade(), "the configuration is wrong");
    // An address that another process has.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    fs::write(&file, format!("{good}\n[listeners.more]\naddress = \"{address}\"\n")).expect("a file");
    expect_failure(&site, &site.run_upgrade(), "ended before it was ready (exit status: 71)");
    // A server that does not answer.
    let other = free_port();
    let moved = good.lines().map(|line| match line.starts_with("url = ") {
        true => format!("url = \"redis://127.0.0.1:{other}\"\n"),
        false => format!("{line}\n"),
    });
    fs::write(&file, moved.collect::<String>()).expect("a file");
    expect_failure(&site, &site.run_upgrade(), "it waited for upstream main: ");

    fs::write(&file, good).expect("the former file");
    site.upgrade();
    site.proxy.client().expect(&["PING"], "+PONG\r\n");
}

/// The old process accepts clients again, and can be upgraded again.
#[test]
fn a_new_process_that_dies_later_is_replaced_by_the_old_one() {
    let server = Server::start(Flavor::Valkey);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("clients.sock");
    let more = format!("[listeners.local]\naddress = \"unix:{}\"\n", path.display());
    let mut site = Site::start("", &format!("redis://127.0.0.1:{}", server.port), &more);
    site.proxy.allow_log("the new process has ended during the upgrade");
    let mut before = site.proxy.client();
    before.expect(&["SET", "k", "v"], "+OK\r\n");
    let old = site.newest();
    for _ in 0..2 {
        let new = site.upgrade();
        let mut its_own = site.proxy.client();
        its_own.expect(&["GET", "k"], "$1\r\nv\r\n");
        site.kill(new);
        assert_eq!(its_own.rest(), b"");
        // Connections wait in the queue of the socket meanwhile: none is refused.
        site.proxy.client().expect(&["GET", "k"], "$1\r\nv\r\n");
        Client::connect_unix(&path).expect(&["GET", "k"], "$1\r\nv\r\n");
        assert_eq!(site.newest(), old);
        assert!(site.proxy.http("/readyz").starts_with("HTTP/1.1 200"));
        before.expect(&["GET", "k"], "$1\r\nv\r\n");
    }
    assert_eq!(site.proxy.log().matches("this process accepts the clients again").count(), 2);
    // This one is not killed: the old process ends as after any upgrade.
    site.upgrade();
    drop(before);
    site.wait_for_end(old);
    site.proxy.client().expect(&["GET", "k"], "$1\r\nv\r\n");
    Client::connect_unix(&path).expect(&["GET", "k"], "$1\r\nv\r\n");
}

/// A process that drains itself is not replaced: the one after it accepts.
#[test]
fn only_the_process_that_accepts_is_replaced() {
    let (_server, mut site) = start("");
    let mut first_client = site.proxy.client();
    first_client.expect(&["SET", "k", "v"], "+OK\r\n");
    let second = site.upgrade();
    let mut second_client = site.proxy.client();
    second_client.expect(&["GET", "k"], "$1\r\nv\r\n");
    let third = site.upgrade();
    site.kill(second);
    assert_eq!(second_client.rest(), b"");
    wait::until("the first process to notice", || site.proxy.log().contains("the new process has ended"));
    site.proxy.client().expect(&["GET", "k"], "$1\r\nv\r\n");
    // Nobody replaces the third process: its predecessor is gone, and the first one has given the sockets up.
    site.kill(third);
    wait::until("no process to accept", || Client::try_connect(site.proxy.address()).is_err());
    first_client.expect(&["GET", "k"], "$1\r\nv\r\n");
    assert!(!site.proxy.log().contains("accepts the clients again"));
}

/// The old process still has the sockets, but only in case: what the new one closes is closed.
#[test]
fn a_listener_that_the_new_process_removes_is_closed() {
    let server = Server::start(Flavor::Valkey);
    let [address, gone] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let more = format!("[listeners.more]\naddress = \"{address}\"\n");
    let not_for_long = format!("[listeners.gone]\naddress = \"{gone}\"\n");
    let keys = "reload-interval = \"1h\"";
    let url = format!("redis://127.0.0.1:{}", server.port);
    let mut site = Site::start(keys, &url, &format!("{more}{not_for_long}"));
    site.proxy.allow_log("the new process has ended during the upgrade");
    let [address, gone] = [address, gone].map(|address| address.parse().expect("an address"));
    let mut before = site.proxy.client();
    before.expect(&["PING"], "+PONG\r\n");
    let old = site.newest();
    let file = site.proxy.configuration();
    let text = fs::read_to_string(&file).expect("the configuration").replace(&not_for_long, "");
    fs::write(&file, &text).expect("a file");
    Client::connect_to(gone).expect(&["PING"], "+PONG\r\n");
    let new = site.upgrade();
    wait::until("the listener that is not in the new file to be closed", || {
        Client::try_connect(gone).is_err()
    });
    Client::connect_to(address).expect(&["PING"], "+PONG\r\n");
    fs::write(&file, text.replace(&more, "")).expect("a file");
    signal::send("HUP", new);
    wait::until("the listener to be closed", || Client::try_connect(address).is_err());
    fs::write(&file, &text).expect("the former file");
    signal::send("HUP", new);
    wait::until("the listener to be back", || Client::try_connect(address).is_ok());
    Client::connect_to(address).expect(&["PING"], "+PONG\r\n");
    // The old process accepts again, but not on sockets that were closed.
    site.kill(new);
    site.proxy.client().expect(&["PING"], "+PONG\r\n");
    wait::until("the old process to find the closed sockets", || {
        site.proxy.log().matches("no longer listening: the process that has died").count() == 2
    });
    assert!([address, gone].iter().all(|address| Client::try_connect(*address).is_err()));
    // A shutdown of the new process closes the others too, while the old one still drains.
    let new = site.upgrade();
    signal::send("TERM", new);
    wait::until("all listeners to be closed", || Client::try_connect(site.proxy.address()).is_err());
    before.expect(&["PING"], "+PONG\r\n");
    assert!(super::site::runs(old));
}
