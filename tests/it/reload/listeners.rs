//! Listeners come, go and change while clients are served.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{fs, thread};

use super::Live;
use tokio_rustls::rustls::version::TLS13;

use crate::support::certificates::Certificates;
use crate::support::client::Client;
use crate::support::place::Place;
use crate::support::port::free_port;
use crate::support::servers::{Flavor, Server};
use crate::support::tls::Tls;
use crate::support::wait;

fn listener(name: &str, port: u16, keys: &str) -> String {
    format!("[listeners.{name}]\naddress = \"127.0.0.1:{port}\"\n{keys}\n")
}

fn refused(port: u16) -> bool {
    Client::try_connect(Place::LOOPBACK.address(port)).is_err()
}

with_one_and_two_workers!(a_removed_listener_s_clients_stay);

/// Idle, blocked, subscribed and in a transaction: all go on, by the settings that the listener had.
fn a_removed_listener_s_clients_stay(workers: usize) {
    let [a, b] = [(); 2].map(|()| free_port());
    let mut live = Live::start(workers, &listener("a", a, "admin-commands = \"deny\""));
    let [mut idle, mut blocked, mut subscribed, mut transaction] = [(); 4].map(|()| Client::connect(a));
    idle.expect(&["SET", "k", "v"], "+OK\r\n");
    blocked.send_command(&["BLPOP", "list", "0"]);
    subscribed.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    transaction.expect(&["MULTI"], "+OK\r\n");
    wait::until("a client to be blocked", || live.server.info("clients", "blocked_clients") == 1);
    assert!(live.proxy.http("/metrics").contains("listener=\"a\""));

    live.reload(&listener("b", b, "admin-commands = \"allow\""));
    wait::until("the address to be free", || refused(a));
    assert!(!live.proxy.http("/metrics").contains("listener=\"a\""));
    assert!(live.proxy.http("/metrics").contains("listener=\"b\""));
    idle.expect(&["GET", "k"], "$1\r\nv\r\n");
    assert!(idle.call(&["CONFIG", "RESETSTAT"]).starts_with(b"-NOPERM "));
    transaction.expect(&["SET", "k", "w"], "+QUEUED\r\n");
    transaction.expect(&["EXEC"], "*1\r\n+OK\r\n");
    let mut other = Client::connect(b);
    other.expect(&["CONFIG", "RESETSTAT"], "+OK\r\n");
    other.expect(&["RPUSH", "list", "x"], ":1\r\n");
    blocked.expect_reply("*2\r\n$4\r\nlist\r\n$1\r\nx\r\n");
    other.expect(&["PUBLISH", "news", "x"], ":1\r\n");
    subscribed.expect_reply("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\nx\r\n");
    live.says_once("listener a removed; listener b added");
    // The clients still follow what is not the listener's.
    live.reload(&format!("{}[tenants.all]\ndefault = true\nread-only = true\n", listener("b", b, "")));
    assert!(idle.call(&["SET", "k", "denied"]).starts_with(b"-NOPERM "));
    assert_eq!(live.proxy.metric("respgate_clients_closed_total", &[]), 0.0);
}

#[test]
fn a_port_in_use_changes_nothing_until_it_is_free() {
    let [a, b, taken] = [(); 3].map(|()| free_port());
    let mut live = Live::start(1, &listener("a", a, ""));
    live.proxy.allow_log("respgate cannot use the new version");
    let other = TcpListener::bind(Place::LOOPBACK.address(taken)).expect("a free port");
    let mut client = Client::connect(a);
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    // Everything else in this file is right, and has no effect.
    live.replace(&format!(
        "{}{}[limits]\nmax-args = 20\n[tenants.all]\ndefault = true\nread-only = true\n",
        listener("b", b, ""),
        listener("c", taken, "")
    ));
    live.proxy.signal("HUP");
    let failed = |live: &Live| live.proxy.metric("respgate_reload_failed", &["kind=\"configuration\""]);
    wait::until("the reload to fail", || failed(&live) == 1.0);
    let why = format!("listener 'c' cannot listen on 127.0.0.1:{taken}: ");
    assert!(live.proxy.http("/readyz").contains(&why), "{}", live.proxy.http("/readyz"));
    assert!(refused(b), "a listener of a refused file");
    client.expect(&["SET", "k", "w"], "+OK\r\n");
    Client::connect(a).expect(&["GET", "k"], "$1\r\nw\r\n");
    assert_eq!(live.counted("ok"), 0.0);

    drop(other);
    wait::until("the reload to succeed without a prompt", || live.counted("ok") == 1.0);
    assert_eq!(failed(&live), 0.0);
    wait::until("the former address to be free", || refused(a));
    for port in [b, taken] {
        Client::connect(port).expect(&["GET", "k"], "$1\r\nw\r\n");
    }
    assert!(client.call(&["SET", "k", "denied"]).starts_with(b"-NOPERM "));
    live.says_once("respgate cannot use the new version");
}

with_one_and_two_workers!(a_socket_that_changes_hands_refuses_nobody);

/// Listeners get other names and exchange their addresses while clients connect all the time.
fn a_socket_that_changes_hands_refuses_nobody(workers: usize) {
    let [a, b] = [(); 2].map(|()| free_port());
    let mut live = Live::start(workers, &[listener("one", a, ""), listener("two", b, "")].concat());
    let (over, connected) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = [a, b]
            .into_iter()
            .map(|port| {
                let (over, connected) = (&over, &connected);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        Client::connect(port).expect(&["PING"], "+PONG\r\n");
                        connected.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for round in 0..8 {
            let before = connected.load(Ordering::Relaxed);
            live.reload(&match round % 4 {
                0 => [listener("one", b, ""), listener("two", a, "")].concat(),
                1 => [listener("three", a, ""), listener("four", b, "")].concat(),
                2 => [listener("three", a, "max-clients = 50"), listener("four", b, "idle-timeout = \"1m\"")]
                    .concat(),
                _ => [listener("one", a, ""), listener("two", b, "")].concat(),
            });
            wait::until("clients to connect", || connected.load(Ordering::Relaxed) > before + 5);
        }
        over.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().expect("no connection is refused"));
    });
    assert_eq!(live.counted("ok"), 8.0);
}

with_one_and_two_workers!(settings_change_for_new_and_established_clients);

fn settings_change_for_new_and_established_clients(workers: usize) {
    let (port, folder) = (free_port(), tempfile::tempdir().expect("a folder"));
    let socket = folder.path().join("respgate.sock");
    let unix = |mode: &str| {
        format!("[listeners.unix]\naddress = \"unix:{}\"\nmode = \"{mode}\"\n", socket.display())
    };
    let with = |keys: &str, mode: &str| [listener("a", port, keys), unix(mode)].concat();
    let mut live = Live::start(workers, &with("admin-commands = \"allow\"", "0700"));
    let mut client = Client::connect(port);
    client.expect(&["CONFIG", "RESETSTAT"], "+OK\r\n");
    let mut local = Client::connect_unix(&socket);
    local.expect(&["PING"], "+PONG\r\n");

    // The next command of an established client, and a limit on requests.
    live.reload(&with("admin-commands = \"deny\"\nmax-args = 16\nmax-clients = 1", "0770"));
    assert!(client.call(&["CONFIG", "RESETSTAT"]).starts_with(b"-NOPERM "));
    let mode = fs::metadata(&socket).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o770);
    local.expect(&["PING"], "+PONG\r\n");
    live.proxy.allow_log("max");
    assert_eq!(Client::connect(port).rest(), b"-ERR max number of clients reached\r\n");
    let many = ["DEL"; 17];
    client.send_command(&many);
    assert_eq!(client.rest(), b"-ERR Protocol error: invalid multibulk length\r\n");

    // The timeout of a client that was idle before.
    let mut idle = wait::until_some("a place for a client", wait::PATIENCE, || {
        let mut client = Client::connect(port);
        client.send("PING\r\n");
        client.try_reply().is_ok_and(|reply| reply == b"+PONG\r\n").then_some(client)
    });
    live.reload(&with("idle-timeout = \"1s\"", "0700"));
    assert_eq!(idle.rest(), b"", "idle for longer than the new timeout");
    local.expect(&["PING"], "+PONG\r\n");
    // Forth and back.
    let text = "listener a: admin-commands, limits; listener unix: mode";
    wait::until("two changes", || live.logged(text) == 2);
}

#[test]
fn an_upstream_of_a_listener_changes_for_new_clients() {
    let (one, two) = (Server::start(Flavor::Valkey), Server::start(Flavor::Redis));
    let port = free_port();
    let other = format!("[upstreams.other]\nurl = \"redis://127.0.0.1:{}\"\n", two.port);
    let tables = format!("{}{other}", listener("a", port, "upstream = \"main\""));
    let mut live = Live::start_in_front(one, 2, "", &tables);
    let mut before = Client::connect(port);
    before.expect(&["SET", "k", "one"], "+OK\r\n");
    live.reload(&format!("{}{other}", listener("a", port, "upstream = \"other\"\nmax-clients = 2")));
    let mut after = Client::connect(port);
    after.expect(&["SET", "k", "two"], "+OK\r\n");
    before.expect(&["GET", "k"], "$3\r\none\r\n");
    assert_eq!(live.server.run(&["GET", "k"]), b"$3\r\none\r\n");
    assert_eq!(two.run(&["GET", "k"]), b"$3\r\ntwo\r\n");
    // Both count.
    live.proxy.allow_log("max");
    assert_eq!(Client::connect(port).rest(), b"-ERR max number of clients reached\r\n");
}

#[test]
fn tls_changes_for_new_handshakes() {
    let (certificates, port) = (Certificates::new(), free_port());
    let mut live = Live::start(2, &listener("a", port, ""));
    live.proxy.allow_log("TLS: ");
    let mut plain = Client::connect(port);
    plain.expect(&["SET", "k", "v"], "+OK\r\n");

    live.reload(&listener("a", port, &certificates.pair("server")));
    let (anonymous, named) = (Tls::only(&certificates, &TLS13), Tls::named(&certificates, "client"));
    let mut encrypted = anonymous.client(port);
    encrypted.expect(&["GET", "k"], "$1\r\nv\r\n");
    plain.expect(&["GET", "k"], "$1\r\nv\r\n");
    assert!(Client::connect(port).call(&["PING"]).starts_with(b"-ERR respgate: this port speaks TLS"));

    // A session of the time before may not be resumed without a certificate.
    let ca = format!("{}tls-client-ca = \"{}\"", certificates.pair("server"), certificates.path("ca.pem"));
    live.reload(&listener("a", port, &ca));
    let mut refused = anonymous.client(port);
    refused.send_command(&["PING"]);
    assert!(refused.try_reply().is_err(), "no certificate was shown");
    named.client(port).expect(&["GET", "k"], "$1\r\nv\r\n");
    encrypted.expect(&["GET", "k"], "$1\r\nv\r\n");
    let expiries = live.proxy.metric("respgate_tls_certificate_expiry_timestamp_seconds", &["name=\"a\""]);
    assert!(expiries > 0.0, "{}", live.proxy.http("/metrics"));

    live.reload(&listener("a", port, ""));
    Client::connect(port).expect(&["GET", "k"], "$1\r\nv\r\n");
    encrypted.expect(&["GET", "k"], "$1\r\nv\r\n");
    assert!(!live.proxy.http("/metrics").contains("leg=\"listener\""));
    wait::until("three changes", || live.logged("listener a: TLS") == 3);
}

#[test]
fn clients_of_a_removed_listener_keep_its_tenant() {
    let [a, b] = [(); 2].map(|()| free_port());
    let tenants = "[tenants.shop]\n[tenants.other]\nread-only = true\n";
    let mut live = Live::start(1, &format!("{tenants}{}", listener("a", a, "tenant = \"shop\"")));
    let mut client = Client::connect(a);
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    live.reload(&format!("{tenants}{}", listener("b", b, "tenant = \"other\"")));
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    assert!(Client::connect(b).call(&["SET", "k", "v"]).starts_with(b"-NOPERM "));
    assert_eq!(live.proxy.metric("respgate_tenant_clients", &["shop"]), 1.0);
}
