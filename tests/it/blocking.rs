//! Blocking commands: they wait on a connection of their own, and hold nobody up.

use std::time::Duration;

use crate::support::compare::Pair;
use crate::support::servers::Flavor;
use crate::support::wait;

/// Waits until the server counts this many blocked clients.
fn blocked(pair: &Pair, count: u64) {
    wait::until("clients to block", || pair.server.info("clients", "blocked_clients") == count);
}

on_both_servers!(pops_wait_for_an_element);

fn pops_wait_for_an_element(flavor: Flavor) {
    let pair = Pair::start(flavor);
    let waits: [(&[&str], &[&str]); 6] = [
        (&["BLPOP", "a", "b", "0"], &["RPUSH", "b", "x"]),
        (&["BRPOP", "a", "20"], &["RPUSH", "a", "x", "y"]),
        (&["BLMOVE", "a", "c", "LEFT", "RIGHT", "20"], &["RPUSH", "a", "x"]),
        (&["BLMPOP", "20", "2", "a", "b", "LEFT", "COUNT", "2"], &["RPUSH", "b", "x", "y"]),
        (&["BZPOPMIN", "z", "20"], &["ZADD", "z", "1.5", "m"]),
        (&["XREAD", "BLOCK", "20000", "STREAMS", "s", "$"], &["XADD", "s", "1-1", "f", "v"]),
    ];
    for version in ["2", "3"] {
        for (wait, give) in waits {
            pair.compare(|client| {
                let other = client.another();
                client.call(&["HELLO", version, "SETNAME", "x"]);
                client.at(0).send_command(wait);
                blocked(&pair, 1);
                client.call_on(other, give);
                client.replies(1);
                client.call(&["PING"]);
            });
        }
    }
}

#[test]
fn waits_end_by_themselves() {
    let pair = Pair::start(Flavor::Valkey);
    for version in ["2", "3"] {
        pair.compare(|client| {
            client.call(&["HELLO", version, "SETNAME", "x"]);
            client.call(&["BLPOP", "a", "0.05"]);
            client.call(&["BLMOVE", "a", "b", "LEFT", "LEFT", "0.05"]);
            client.call(&["BZPOPMIN", "a", "0.05"]);
            client.call(&["XREAD", "BLOCK", "50", "STREAMS", "s", "0"]);
            client.call(&["BLPOP", "a", "-1"]);
            client.call(&["BLPOP", "a", "x"]);
            client.call(&["BLPOP", "a"]);
        });
    }
}

/// What follows in the pipeline waits its turn; other clients do not.
#[test]
fn a_pipeline_behind_a_wait_keeps_its_order() {
    let pair = Pair::start(Flavor::Valkey);
    let mut other = pair.proxy.client();
    let mut client = pair.proxy.client();
    client.send("SET k 1\r\nBLPOP a 0\r\nINCR k\r\nECHO after\r\n");
    client.expect_reply("+OK\r\n");
    blocked(&pair, 1);
    other.expect(&["GET", "k"], "$1\r\n1\r\n");
    client.expect_silence(Duration::from_millis(100));
    other.expect(&["RPUSH", "a", "x"], ":1\r\n");
    for reply in ["*2\r\n$1\r\na\r\n$1\r\nx\r\n", ":2\r\n", "$5\r\nafter\r\n"] {
        client.expect_reply(reply);
    }
}

/// A waiting client that leaves must not take an element with it.
#[test]
fn a_departed_client_pops_nothing() {
    let pair = Pair::start(Flavor::Valkey);
    for _ in 0..10 {
        let mut client = pair.proxy.client();
        client.send("BLPOP a 0\r\n");
        blocked(&pair, 1);
        drop(client);
        blocked(&pair, 0);
        pair.server.run(&["RPUSH", "a", "x"]);
        assert_eq!(pair.server.run(&["LPOP", "a"]), b"$1\r\nx\r\n");
    }
}

#[test]
fn many_wait_at_once() {
    let pair = Pair::start(Flavor::Valkey);
    let mut clients: Vec<_> = (0..100).map(|_| pair.proxy.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send_command(&["BLPOP", &format!("q{number}"), "0"]);
    }
    blocked(&pair, 100);
    for (number, client) in clients.iter_mut().enumerate() {
        pair.server.run(&["RPUSH", &format!("q{number}"), "x"]);
        let reply = client.reply();
        assert!(reply.starts_with(b"*2\r\n"), "{}", reply.escape_ascii());
    }
}

/// WAIT counts the replicas that have this client's writes: with none it must not say otherwise.
#[test]
fn wait_tells_the_truth() {
    use crate::support::deployment::{Deployment, Plan};
    use crate::support::proxy::Proxy;
    let deployment = Deployment::start(&Plan { replicas: 1, sentinels: 0, ..Plan::new(Flavor::Valkey) });
    deployment.wait_until_redundant();
    let proxy = Proxy::start(&format!("redis://127.0.0.1:{}", deployment.primary.port));
    let mut client = proxy.client();
    client.expect(&["SET", "k", "1"], "+OK\r\n");
    client.expect(&["WAIT", "1", "10000"], ":1\r\n");
    deployment.replicas[0].signal("STOP");
    client.expect(&["SET", "k", "2"], "+OK\r\n");
    client.expect(&["WAIT", "1", "200"], ":0\r\n");
    client.send("SET k 3\r\nWAIT 1 200\r\nGET k\r\n");
    client.replies_are(&["+OK\r\n", ":0\r\n", "$1\r\n3\r\n"]);
    deployment.replicas[0].signal("CONT");
    client.expect(&["WAIT", "1", "10000"], ":1\r\n");
}
