//! Tenants: whose a client is, and how much it may use.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::compare::Pair;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// respgate with so many workers in front of a server, and more tables in its configuration.
struct Limited {
    proxy: Proxy,
    server: Server,
}

impl Limited {
    /// Limits are respgate's own and no server's: each number of workers has a server of another kind.
    fn start(workers: usize, tables: &str) -> Self {
        let server = Server::start(if workers == 1 { Flavor::Redis } else { Flavor::Valkey });
        let upstream = format!("[upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\n", server.port);
        Self { proxy: Proxy::start_file(workers, &format!("{upstream}{tables}")), server }
    }
}

fn text(reply: &[u8]) -> String {
    String::from_utf8_lossy(reply).into_owned()
}

/// Repeats a command until it is refused: on a busy machine, one more may pass meanwhile.
fn first_refusal(client: &mut Client, command: &[&str]) -> String {
    let refused = (0..50).map(|_| client.call(command)).find(|reply| reply.starts_with(b"-"));
    text(&refused.expect("a refusal"))
}

/// Sends `count` commands from each of four clients and returns how long it took to answer them all.
fn flood(proxy: &Proxy, count: usize, command: &[&str], expected: &[u8]) -> Duration {
    let mut clients: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    let began = Instant::now();
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(move || {
                client.deadline(Duration::from_secs(20));
                (0..count).for_each(|_| client.send_command(command));
                (0..count).for_each(|_| assert_eq!(client.reply(), expected));
            });
        }
    });
    began.elapsed()
}

/// What takes this long by its rate alone takes no less than a twentieth less. On a busy machine it may take longer.
fn paced(took: Duration, seconds: f64) {
    let took = took.as_secs_f64();
    assert!(took > seconds * 0.95 - 0.02 && took < seconds * 2.0 + 10.0, "{took} s instead of {seconds} s");
}

with_one_and_two_workers!(commands_are_delayed_and_none_is_lost);

fn commands_are_delayed_and_none_is_lost(workers: usize) {
    let limited = Limited::start(
        workers,
        "[tenants.shop]\ndefault = true\ncommands-per-second = 400\ncommands-burst = 40\n",
    );
    // 440 commands: 40 at once, and a second for the others.
    paced(flood(&limited.proxy, 110, &["GET", "k"], b"$-1\r\n"), 1.0);
    assert_eq!(limited.proxy.metric("respgate_tenant_commands_total", &["tenant=\"shop\""]), 440.0);
    assert!(limited.proxy.metric("respgate_tenant_delayed_total", &["commands-per-second"]) > 20.0);
    assert_eq!(limited.proxy.metric("respgate_tenant_refused_total", &[]), 0.0);
}

#[test]
fn fast_rates_hold_across_workers() {
    let limited = Limited::start(
        2,
        "[tenants.shop]\ndefault = true\ncommands-per-second = 10000\ncommands-burst = 1000\n",
    );
    paced(flood(&limited.proxy, 2750, &["PING"], b"+PONG\r\n"), 1.0);
}

#[test]
fn bytes_are_delayed_both_ways() {
    let limited = Limited::start(
        2,
        "[tenants.shop]\ndefault = true\nbytes-in-per-second = \"100KiB\"\nbytes-in-burst = \"10KiB\"\n",
    );
    let value = "x".repeat(1000);
    let request = crate::support::client::encode(&["SET", "k", &value]).len() as f64;
    let seconds = (4.0 * 26.0 * request - 10.0 * 1024.0) / (100.0 * 1024.0);
    paced(flood(&limited.proxy, 26, &["SET", "k", &value], b"+OK\r\n"), seconds);

    let limited = Limited::start(
        2,
        "[tenants.shop]\ndefault = true\nbytes-out-per-second = \"100KiB\"\nbytes-out-burst = \"10KiB\"\n",
    );
    limited.server.run(&["SET", "k", &value]);
    let mut reply = format!("$1000\r\n{value}\r\n").into_bytes();
    let mut client = limited.proxy.client();
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(client.call(&["GET", "k"]), reply);
    }
    paced(began.elapsed(), (99.0 * reply.len() as f64 - 10.0 * 1024.0) / (100.0 * 1024.0));
    reply.clear();
}

#[test]
fn each_client_has_its_own_rate() {
    let limited = Limited::start(
        1,
        "[tenants.shop]\ndefault = true\nclient-commands-per-second = 100\nclient-commands-burst = 10\n",
    );
    paced(flood(&limited.proxy, 110, &["GET", "k"], b"$-1\r\n"), 1.0);
}

with_one_and_two_workers!(a_rejected_client_is_told_and_lives);

fn a_rejected_client_is_told_and_lives(workers: usize) {
    let limited = Limited::start(
        workers,
        "[tenants.shop]\ndefault = true\nover-limit = \"reject\"\ncommands-per-second = 5\ncommands-burst = 2\n",
    );
    let mut client = limited.proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    client.expect(&["GET", "k"], "$1\r\nv\r\n");
    let refused = first_refusal(&mut client, &["GET", "k"]);
    let wait = refused
        .strip_prefix("-ERR respgate: tenant 'shop' is over its commands-per-second limit of 5; retry in ")
        .and_then(|rest| rest.strip_suffix(" ms\r\n"))
        .and_then(|wait| wait.parse().ok())
        .unwrap_or_else(|| panic!("{refused}"));
    assert!((1..=400).contains(&wait), "{wait}");
    thread::sleep(Duration::from_millis(wait));
    client.expect(&["GET", "k"], "$1\r\nv\r\n");
    assert!(limited.proxy.metric("respgate_tenant_refused_total", &["commands-per-second"]) >= 1.0);
}

with_one_and_two_workers!(a_rejected_pipeline_stays_in_order);

/// A pipeline is answered in order, each command once, whatever was refused.
fn a_rejected_pipeline_stays_in_order(workers: usize) {
    let limited = Limited::start(
        workers,
        "[tenants.shop]\ndefault = true\nover-limit = \"reject\"\nclient-commands-per-second = 1\nclient-commands-burst = 3\n",
    );
    let mut client = limited.proxy.client();
    // In one piece, so that no time passes between them.
    client.send((0..8).map(|number| format!("ECHO {number}\r\n")).collect::<String>());
    for number in 0..3 {
        client.expect_reply(&format!("$1\r\n{number}\r\n"));
    }
    for _ in 3..8 {
        let refused = text(&client.reply());
        assert!(
            refused.starts_with("-ERR respgate: this client of tenant 'shop' is over its client-c"),
            "{refused}"
        );
    }
    client.expect_silence(Duration::from_millis(50));
}

with_one_and_two_workers!(a_refused_command_spoils_its_transaction);

fn a_refused_command_spoils_its_transaction(workers: usize) {
    let limited = Limited::start(
        workers,
        "[tenants.shop]\ndefault = true\nover-limit = \"reject\"\ncommands-per-second = 1\ncommands-burst = 2\n",
    );
    let mut client = limited.proxy.client();
    client.expect(&["MULTI"], "+OK\r\n");
    client.expect(&["SET", "k", "v"], "+QUEUED\r\n");
    assert!(first_refusal(&mut client, &["SET", "k", "w"]).starts_with("-ERR respgate: tenant 'shop'"));
    client.expect(&["EXEC"], "-EXECABORT Transaction discarded because of previous errors.\r\n");
    assert_eq!(limited.server.run(&["EXISTS", "k"]), b":0\r\n");
}

with_one_and_two_workers!(delays_are_bounded);

fn delays_are_bounded(workers: usize) {
    let limited = Limited::start(
        workers,
        "[tenants.shop]\ndefault = true\ncommands-per-second = 1\ncommands-burst = 1\nmax-delay = \"100ms\"\n",
    );
    let mut client = limited.proxy.client();
    client.expect(&["PING"], "+PONG\r\n");
    let refused = first_refusal(&mut client, &["PING"]);
    assert!(
        refused.starts_with("-ERR respgate: tenant 'shop' is over its commands-per-second limit of 1;"),
        "{refused}"
    );
}

with_one_and_two_workers!(connections_of_a_tenant);

fn connections_of_a_tenant(workers: usize) {
    let mut limited = Limited::start(workers, "[tenants.shop]\ndefault = true\nconnections = 3\n");
    limited.proxy.allow_log("max");
    let mut clients: Vec<_> = (0..3).map(|_| limited.proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.expect(&["PING"], "+PONG\r\n"));
    let refused = text(&limited.proxy.client().rest());
    assert_eq!(
        refused,
        "-ERR max number of clients reached for tenant 'shop', whose connections limit is 3\r\n"
    );
    drop(clients.pop());
    wait::until("a place to become free", || {
        let mut client = limited.proxy.client();
        client.send("PING\r\n");
        client.try_reply().is_ok_and(|reply| reply == b"+PONG\r\n")
    });
    assert!(limited.proxy.metric("respgate_clients_closed_total", &["tenant_full"]) >= 1.0);
}

with_one_and_two_workers!(leases_are_counted_apart);

fn leases_are_counted_apart(workers: usize) {
    let limited = Limited::start(
        workers,
        "[tenants.shop]\ndefault = true\nblocked = 1\nsubscribed = 1\ntransactions = 1\n",
    );
    let mut others: Vec<_> = (0..3).map(|_| limited.proxy.client()).collect();
    others[0].send("BLPOP q 0\r\n");
    others[1].expect(&["SUBSCRIBE", "c"], "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    others[2].expect(&["MULTI"], "+OK\r\n");
    let leases = |kind: &str| limited.proxy.metric("respgate_tenant_leases", &[&format!("kind=\"{kind}\"")]);
    wait::until("three leases", || leases("leased") == 3.0 && leases("blocked") == 1.0);
    let mut client = limited.proxy.client();
    for (command, kind) in [
        (&["BLPOP", "q", "0"][..], "blocked"),
        (&["SUBSCRIBE", "d"], "subscribed"),
        (&["PSUBSCRIBE", "d"], "subscribed"),
        (&["MULTI"], "transactions"),
        (&["WATCH", "k"], "transactions"),
    ] {
        let refused = text(&client.call(command));
        let expected = format!(
            "-ERR respgate: tenant 'shop' is at its {kind} limit of 1; retry when some have ended\r\n"
        );
        assert_eq!(refused, expected);
    }
    client.expect(&["GET", "k"], "$-1\r\n");
    limited.server.run(&["RPUSH", "q", "x"]);
    others[0].expect_reply("*2\r\n$1\r\nq\r\n$1\r\nx\r\n");
    others[2].expect(&["DISCARD"], "+OK\r\n");
    wait::until("the places to be free", || leases("leased") == 1.0);
    client.expect(&["MULTI"], "+OK\r\n");
    client.expect(&["EXEC"], "*0\r\n");
    client.send("BLPOP q 1\r\n");
    client.expect_reply("*-1\r\n");
}

with_one_and_two_workers!(leases_of_a_tenant);

fn leases_of_a_tenant(workers: usize) {
    let limited = Limited::start(workers, "[tenants.shop]\ndefault = true\nleased = 1\n");
    let mut first = limited.proxy.client();
    first.expect(&["MULTI"], "+OK\r\n");
    let mut second = limited.proxy.client();
    let refused = text(&second.call(&["BLPOP", "q", "1"]));
    assert!(refused.starts_with("-ERR respgate: tenant 'shop' is at its leased limit of 1"), "{refused}");
    first.expect(&["EXEC"], "*0\r\n");
    wait::until("the lease to be free", || second.call(&["MULTI"]) == b"+OK\r\n");
}

with_one_and_two_workers!(requests_of_a_tenant);

fn requests_of_a_tenant(workers: usize) {
    let limited = Limited::start(workers, "[tenants.shop]\ndefault = true\nmax-request = \"1KiB\"\n");
    let mut client = limited.proxy.client();
    let refused = text(&client.call(&["SET", "k", &"x".repeat(2000)]));
    assert!(refused.contains("is over the max-request limit of tenant 'shop', 1024 bytes"), "{refused}");
    client.expect(&["SET", "k", "x"], "+OK\r\n");
}

#[test]
fn commands_in_flight() {
    for (workers, over_limit) in [(1, "delay"), (2, "delay"), (1, "reject"), (2, "reject")] {
        let limited = Limited::start(
            workers,
            &format!("[tenants.shop]\ndefault = true\nin-flight = 2\nover-limit = \"{over_limit}\"\n"),
        );
        let mut clients: Vec<_> = (0..3).map(|_| limited.proxy.client()).collect();
        clients.iter_mut().for_each(|client| client.expect(&["GET", "a"], "$-1\r\n"));
        limited.server.signal("STOP");
        clients[0].send("GET a\r\n");
        clients[1].send("GET a\r\n");
        wait::until("two commands in flight", || {
            limited.proxy.metric("respgate_tenant_commands_in_flight", &[]) == 2.0
        });
        clients[2].send("GET a\r\n");
        if over_limit == "reject" {
            clients[2].expect_reply(
                "-ERR respgate: tenant 'shop' is at its in-flight limit of 2; retry when some have ended\r\n",
            );
        } else {
            clients[2].expect_silence(Duration::from_millis(50));
            assert_eq!(limited.proxy.metric("respgate_tenant_commands_in_flight", &[]), 2.0);
        }
        limited.server.signal("CONT");
        if over_limit == "delay" {
            clients[2].expect_reply("$-1\r\n");
        }
        clients[..2].iter_mut().for_each(|client| client.expect_reply("$-1\r\n"));
    }
}

with_one_and_two_workers!(buffers_of_a_tenant);

/// A tenant whose clients do not read loses those that hold most; others go on.
fn buffers_of_a_tenant(workers: usize) {
    let mut limited = Limited::start(workers, "[tenants.shop]\ndefault = true\nmax-buffered = \"1MiB\"\n");
    limited.proxy.allow_log("");
    let mut other = limited.proxy.client();
    other.expect(&["SET", "large", &"x".repeat(512 * 1024)], "+OK\r\n");
    let mut slow = limited.proxy.client();
    for _ in 0..100 {
        slow.send("GET large\r\n");
    }
    wait::until("the slow client to be disconnected", || {
        limited.proxy.metric("respgate_clients_closed_total", &["memory"]) >= 1.0
    });
    other.expect(&["PING"], "+PONG\r\n");
    assert_eq!(limited.proxy.metric("respgate_tenant_refused_total", &["max-buffered"]), 1.0);
}

#[test]
fn whose_a_client_is() {
    let server = Server::start(Flavor::Valkey);
    server.run(&["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all"]);
    let upstream = format!("[upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\n", server.port);
    let tenants = "[tenants.users]\nusers = [\"app\"]\nconnections = 1\n\
                   [tenants.named]\nclient-names = [\"job-\"]\nconnections = 1\n\
                   [tenants.elsewhere]\nnetworks = [\"192.0.2.0/24\"]\n\
                   [tenants.rest]\ndefault = true\n";
    let proxy = Proxy::start_file(2, &format!("{upstream}{tenants}"));
    let clients = |tenant: &str| proxy.metric("respgate_tenant_clients", &[&format!("tenant=\"{tenant}\"")]);
    let mut first = proxy.client();
    first.expect(&["PING"], "+PONG\r\n");
    assert_eq!((clients("rest"), clients("users"), clients("named")), (1.0, 0.0, 0.0));
    first.expect(&["CLIENT", "SETNAME", "job-1"], "+OK\r\n");
    assert_eq!((clients("rest"), clients("named")), (0.0, 1.0));
    let mut second = proxy.client();
    let full = "-ERR max number of clients reached for tenant 'named', whose connections limit is 1\r\n";
    second.expect(&["CLIENT", "SETNAME", "job-2"], full);
    second.expect(&["CLIENT", "GETNAME"], "$-1\r\n");
    assert_eq!(text(&second.call(&["HELLO", "2", "SETNAME", "job-2"])), full);
    first.expect(&["AUTH", "app", "secret"], "+OK\r\n");
    assert_eq!((clients("named"), clients("users")), (0.0, 1.0));
    assert!(
        second
            .call(&["AUTH", "app", "secret"])
            .starts_with(b"-ERR max number of clients reached for tenant 'users'")
    );
    second.expect(&["PING"], "+PONG\r\n");
    second.expect(&["CLIENT", "SETNAME", "job-2"], "+OK\r\n");
    second.expect(&["RESET"], "+RESET\r\n");
    first.expect(&["RESET"], "+RESET\r\n");
    assert_eq!((clients("rest"), clients("users"), clients("named")), (2.0, 0.0, 0.0));
    assert_eq!(clients("elsewhere"), 0.0);
}

/// What a client may do follows whose it is.
#[test]
fn a_policy_follows_its_tenant() {
    let server = Server::start(Flavor::Valkey);
    server.run(&["ACL", "SETUSER", "reader", "on", ">secret", "~*", "&*", "+@all"]);
    let tables = "[tenants.readers]\nusers = [\"reader\"]\nread-only = true\n\
                  [tenants.rest]\ndefault = true\nconnections = 1\n";
    let upstream = format!("[upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\n", server.port);
    let mut proxy = Proxy::start_file(1, &format!("{upstream}{tables}"));
    proxy.allow_log("max");
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    client.expect(
        &["HELLO", "2", "AUTH", "reader", "wrong"],
        "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    );
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    client.expect(&["AUTH", "reader", "secret"], "+OK\r\n");
    assert!(client.call(&["SET", "k", "w"]).starts_with(b"-NOPERM"));
    client.expect(&["GET", "k"], "$1\r\nv\r\n");
    let mut other = proxy.client();
    other.expect(&["PING"], "+PONG\r\n");
    // There is no place where it would go now: it does not go on as what it was.
    client.send("RESET\r\nSET k w\r\n");
    let full = "-ERR max number of clients reached for tenant 'rest', whose connections limit is 1\r\n";
    assert_eq!(text(&client.rest()), full);
    assert_eq!(server.run(&["GET", "k"]), b"$1\r\nv\r\n");
}

with_one_and_two_workers!(the_narrowest_network_counts);

fn the_narrowest_network_counts(workers: usize) {
    let limited = Limited::start(
        workers,
        "[tenants.wide]\nnetworks = [\"127.0.0.0/8\"]\n[tenants.narrow]\nnetworks = [\"127.0.0.1\"]\n",
    );
    let mut client = limited.proxy.client();
    client.expect(&["PING"], "+PONG\r\n");
    assert_eq!(limited.proxy.metric("respgate_tenant_clients", &["narrow"]), 1.0);
    assert_eq!(limited.proxy.metric("respgate_tenant_clients", &["wide"]), 0.0);
}

/// A client that is of no use to its tenant's limits is nobody's, and is not limited.
#[test]
fn nobody_s_clients_are_not_limited() {
    let pair = Pair::start_file(
        Flavor::Valkey,
        "[upstreams.main]\nurl = \"URL\"\n[tenants.shop]\nusers = [\"app\"]\ncommands-per-second = 1\ncommands-burst = 1\n",
    );
    let mut client: Client = pair.proxy.client();
    (0..20).for_each(|_| client.expect(&["PING"], "+PONG\r\n"));
}
