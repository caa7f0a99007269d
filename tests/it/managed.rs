//! What managed servers do to connections: cut idle ones, forbid commands, move behind a name, count connections.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server, spawn};
use crate::support::wait;

fn config(server: &Server, keys: &str) -> String {
    format!("[upstreams.main]\naddress = \"127.0.0.1:{}\"\n{keys}\n", server.port)
}

/// The addresses of respgate's connections to the server, by one field of CLIENT LIST each.
fn links(server: &Server, field: &str) -> Vec<String> {
    let list = server.run_text(&["CLIENT", "LIST"]);
    let lines = list.lines().filter(|line| line.contains("lib-name=respgate") || line.contains("lib-name= "));
    let own = |line: &&str| !line.contains("cmd=client");
    let value = |line: &str| {
        line.split(' ').find_map(|word| word.strip_prefix(field)?.strip_prefix('=').map(str::to_owned))
    };
    lines.filter(own).filter_map(value).collect()
}

/// The server closes what is idle for 5 s; respgate's pings come first, and no client gets an error.
#[test]
fn idle_connections_are_kept_alive() {
    let stages = ["shared", "session"].map(|pool| {
        let server = Server::start_with(Flavor::Valkey, &["--timeout", "5"]);
        let proxy = Proxy::start_file(1, &config(&server, &format!("pool = \"{pool}\"\n")));
        let mut subscriber = proxy.client();
        subscriber.send_command(&["SUBSCRIBE", "news"]);
        subscriber.expect_reply("*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
        let mut clients: Vec<_> = (0..10).map(|_| proxy.client()).collect();
        for client in &mut clients {
            client.expect(&["SET", "k", "v"], "+OK\r\n");
            client.expect(&["EVAL", "return 1", "0"], ":1\r\n");
        }
        let opened = proxy.metric("respgate_upstream_connects_total", &[]);
        (pool, server, proxy, subscriber, clients, opened)
    });
    thread::sleep(Duration::from_secs(7));
    for (pool, _server, proxy, mut subscriber, mut clients, opened) in stages {
        for (number, client) in clients.iter_mut().enumerate() {
            client.expect(&["INCR", "n"], &format!(":{}\r\n", number + 1));
            client.expect(&["EVAL", "return 1", "0"], ":1\r\n");
        }
        clients[0].expect(&["PUBLISH", "news", "x"], ":1\r\n");
        subscriber.expect_reply("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\nx\r\n");
        // Clients with a connection of their own get a new one instead, as rarely as their server closes it.
        if pool == "shared" {
            let again = proxy.metric("respgate_upstream_connects_total", &[]) - opened;
            assert!(again < 0.5, "{again} connections were closed by the server");
        }
    }
}

on_both_servers!(subscribers_do_not_see_pings);

/// A subscriber's connection is pinged in either protocol, and the subscriber sees nothing of it.
fn subscribers_do_not_see_pings(flavor: Flavor) {
    let server = Server::start(flavor);
    let proxy = Proxy::start_file(1, &config(&server, "ping-interval = \"50ms\"\n"));
    let mut subscribers = [proxy.client(), proxy.client()];
    for (client, version) in subscribers.iter_mut().zip(["2", "3"]) {
        client.call(&["HELLO", version]);
        client.send_command(&["SUBSCRIBE", "news"]);
        assert!(String::from_utf8_lossy(&client.reply()).contains("subscribe"));
    }
    wait::until("both to be pinged", || {
        let list = server.run_text(&["CLIENT", "LIST"]);
        list.lines().filter(|line| line.contains(" sub=1 ") && line.contains(" cmd=ping ")).count() == 2
    });
    subscribers.iter_mut().for_each(|client| client.expect_silence(Duration::from_millis(50)));
    proxy.client().expect(&["PUBLISH", "news", "x"], ":2\r\n");
    for (client, kind) in subscribers.iter_mut().zip(["*", ">"]) {
        client.expect_reply(&format!("{kind}3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\nx\r\n"));
    }
    subscribers[0].expect(&["PING"], "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    subscribers[1].expect(&["GET", "k"], "_\r\n");
}

/// Three of twenty connections are killed while nothing is under way: they are made again, and nothing else happens.
#[test]
fn killed_connections_are_made_again() {
    let server = Server::start_with(Flavor::Valkey, &["--databases", "32"]);
    let proxy = Proxy::start_with(&format!("redis://127.0.0.1:{}", server.port), 1, &[]);
    let mut clients: Vec<_> = (0..20).map(|_| proxy.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.expect(&["SELECT", &(number + 1).to_string()], "+OK\r\n");
        client.expect(&["INCR", "n"], ":1\r\n");
    }
    let ids = links(&server, "id");
    // One more watches the node.
    assert_eq!(ids.len(), 21, "{ids:?}");
    let opened = proxy.metric("respgate_upstream_connects_total", &[]);
    for id in &ids[5..8] {
        server.run(&["CLIENT", "KILL", "ID", id]);
    }
    wait::until("the loss to be seen", || {
        proxy.metric("respgate_upstream_connections_lost_total", &[]) > 2.5
    });
    for client in &mut clients {
        client.expect(&["INCR", "n"], ":2\r\n");
    }
    let again = proxy.metric("respgate_upstream_connects_total", &[]) - opened;
    assert!((again - 3.0).abs() < 0.1, "{again} connections were made");
}

/// Connections are replaced before they are older than a second, with clients at work that pipeline: no error, every
/// reply in its place. With room for one shared connection only, the old one is closed first.
#[test]
fn old_connections_are_replaced_unnoticed() {
    for (flavor, workers, keys) in
        [(Flavor::Valkey, 2, ""), (Flavor::Redis, 1, "max-connections = 2\nmax-leased = 1\n")]
    {
        let server = Server::start(flavor);
        let proxy = Proxy::start_file(workers, &config(&server, &format!("max-age = \"1s\"\n{keys}")));
        let port = proxy.port;
        let (over, began) = (AtomicBool::new(false), Instant::now());
        thread::scope(|scope| {
            for number in 0..8 {
                let over = &over;
                scope.spawn(move || {
                    let mut client = Client::connect(port);
                    let key = format!("k{number}");
                    let mut done = 0_u64;
                    while !over.load(Ordering::Relaxed) && began.elapsed() < Duration::from_secs(60) {
                        for _ in 0..16 {
                            client.send_command(&["INCR", &key]);
                        }
                        for _ in 0..16 {
                            done += 1;
                            client.expect_reply(&format!(":{done}\r\n"));
                        }
                    }
                });
            }
            wait::until("two connections to be replaced", || {
                proxy.metric("respgate_upstream_connections_replaced_total", &[]) >= 2.0
            });
            over.store(true, Ordering::Relaxed);
        });
        assert!(proxy.metric("respgate_upstream_connections_lost_total", &[]) < 0.5);
        // One more watches the node, and one samples its replication.
        wait::until("the old connections to be closed", || links(&server, "id").len() <= workers + 2);
    }
}

on_both_servers!(a_narrow_acl_is_enough);

/// Nothing that respgate asks for its own sake has to be allowed.
fn a_narrow_acl_is_enough(flavor: Flavor) {
    for forbidden in [
        &["-config", "-command", "-client", "-role"][..],
        &["-config", "-command", "-client", "-role", "-info", "-hello", "-ping"],
    ] {
        let server = Server::start(flavor);
        server.run(&[&["ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all"], forbidden].concat());
        let mut proxy = Proxy::start_file(
            1,
            &format!("[upstreams.main]\nurl = \"redis://app:pw@127.0.0.1:{}\"\n", server.port),
        );
        proxy.allow_log("holds a password");
        proxy.allow_log("allow +role");
        let mut client = proxy.client();
        client.expect(&["SET", "k", "v"], "+OK\r\n");
        client.expect(&["GET", "k"], "$1\r\nv\r\n");
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["INCR", "n"], "+QUEUED\r\n");
        client.expect(&["EXEC"], "*1\r\n:1\r\n");
        client.expect(&["CLIENT", "SETNAME", "x"], "+OK\r\n");
        assert!(client.call(&["CONFIG", "GET", "maxmemory"]).starts_with(b"-NOPERM"));
        assert!(client.call(&["COMMAND", "COUNT"]).starts_with(b"-NOPERM"));
        assert!(client.call(&["NO.SUCH", "x"]).starts_with(b"-ERR unknown command"));
        let mut subscriber = proxy.client();
        subscriber.send_command(&["SUBSCRIBE", "news"]);
        subscriber.expect_reply("*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
        client.expect(&["PUBLISH", "news", "x"], ":1\r\n");
        // No rule can forbid HELLO, which says the role, too.
        assert!(!proxy.log().contains("allow +role"), "{}", proxy.log());
    }
}

/// A server on 127.0.0.2, at the port that another one has on 127.0.0.1.
struct Elsewhere(Child);

impl Elsewhere {
    fn start(port: &str) -> Self {
        let mut command = Command::new(Flavor::Valkey.binary("server"));
        command.args(["--port", port, "--bind", "127.0.0.2", "--save", "", "--protected-mode", "no"]);
        let server = Self(spawn(command.stdout(Stdio::null()), "see tests/install"));
        wait::until("the other server", || Self::run(port, &["PING"]) == "PONG");
        server
    }

    fn run(port: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(Flavor::Valkey.binary("cli"));
        let output =
            command.args(["-h", "127.0.0.2", "-p", port]).args(arguments).output().expect("its client");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The name's address changes while the old server goes on working: connections go to the new one as they are replaced.
/// The name is in a hosts file that only this respgate sees, which takes a mount namespace of its own; where none is to
/// be had, nothing is tested.
#[test]
fn a_name_that_moves_is_followed() {
    let namespaces = Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status();
    if !namespaces.is_ok_and(|status| status.success()) {
        eprintln!("no mount namespaces here: not tested");
        return;
    }
    let first = Server::start(Flavor::Valkey);
    let port = first.port.to_string();
    let _second = Elsewhere::start(&port);
    first.run(&["SET", "who", "first"]);
    Elsewhere::run(&port, &["SET", "who", "second"]);
    let folder = tempfile::tempdir().expect("a folder");
    let hosts = folder.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 db.test\n").expect("a hosts file");
    let file = folder.path().join("respgate.toml");
    let text = format!("[upstreams.main]\naddress = \"db.test:{port}\"\nmax-age = \"1s\"\n");
    fs::write(&file, text).expect("a configuration");
    let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    let proxy = Proxy::launch_under(
        &["unshare", "-m", "sh", "-c", &script, "sh"],
        free_port(),
        1,
        &["--config", &file.to_string_lossy()],
    );
    proxy.wait_until_ready();
    let mut client = proxy.client();
    client.expect(&["GET", "who"], "$5\r\nfirst\r\n");
    // In place: what is mounted is this very file.
    fs::write(&hosts, "127.0.0.2 db.test\n").expect("a hosts file");
    wait::until("the move", || match &*client.call(&["GET", "who"]) {
        b"$5\r\nfirst\r\n" => false,
        b"$6\r\nsecond\r\n" => true,
        other => panic!("{}", String::from_utf8_lossy(other)),
    });
}

/// Three thousand clients, those who come and go included, cost the new primary no more handshakes than the pool has
/// connections.
#[test]
fn a_failover_costs_no_more_handshakes_than_the_pool_has_connections() {
    const CLIENTS: usize = 3000;
    const LEASED: usize = 16;
    let deployment = Deployment::start(&Plan { replicas: 1, sentinels: 1, ..Plan::new(Flavor::Valkey) });
    deployment.wait_until_redundant();
    let sentinel = &deployment.sentinels[0];
    let mut proxy = Proxy::start_file(
        2,
        &format!(
            "[limits]\nmax-clients = 8000\n[upstreams.main]\nsentinels = [\"127.0.0.1:{}\"]\nprimary-name = \"{NAME}\"\nmax-connections = {}\nmax-leased = {LEASED}\nlease-timeout = \"30s\"\n",
            sentinel.port,
            LEASED + 8,
        ),
    );
    proxy.allow_log("lost a shared upstream connection");
    let received = |server: &Server| server.info("stats", "total_connections_received");
    let (old, new) = (&deployment.primary, &deployment.replicas[0]);
    let before = received(old);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET k\r\n");
    }
    for client in &mut clients {
        client.expect_reply("$-1\r\n");
    }
    for _ in 0..500 {
        proxy.client().expect(&["GET", "k"], "$-1\r\n");
    }
    // Sentinel, replica and test connect to it as well, and count themselves.
    let handshakes = received(old) - before;
    assert!(handshakes <= 8, "{handshakes} handshakes for {CLIENTS} clients");

    let before = received(new);
    let started = Instant::now();
    sentinel.run(&["SENTINEL", "FAILOVER", NAME]);
    let mut waits = 0;
    while started.elapsed() < Duration::from_secs(3) {
        for (number, client) in clients.iter_mut().enumerate() {
            // A tenth of them need a connection of their own.
            if number % 10 == 0 { client.send("EVAL 'return 1' 0\r\n") } else { client.send("GET k\r\n") }
        }
        for (number, client) in clients.iter_mut().enumerate() {
            client.expect_reply(if number % 10 == 0 { ":1\r\n" } else { "$-1\r\n" });
        }
        waits += 1;
    }
    wait::until("the new primary", || proxy.http("/readyz").contains(&format!("127.0.0.1:{}", new.port)));
    clients[1].expect(&["SET", "k", "v"], "+OK\r\n");
    let handshakes = received(new) - before;
    assert!(handshakes <= (LEASED + 8 + 8) as u64, "{handshakes} handshakes in {waits} rounds");
}
