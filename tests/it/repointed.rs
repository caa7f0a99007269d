//! A fixed address that leads to another node than before, and a node that is demoted while its connections stay open.

use std::time::Duration;

use crate::support::client::Client;
use crate::support::forwarder::Forwarder;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

const SUBSCRIBED: &str = "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n";
const MESSAGE: &str = "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n";
const WRITE: &str = "redis.call('INCR', KEYS[1]); return 'done'";

/// Two nodes, an address that leads to the first, and respgate in front of it.
struct Pair {
    proxy: Proxy,
    forwarder: Forwarder,
    a: Server,
    b: Server,
}

impl Pair {
    fn start(flavor: Flavor, workers: usize) -> Self {
        Self::start_with(flavor, workers, &[], "dedicated")
    }

    fn start_with(flavor: Flavor, workers: usize, setup: &[&str], pubsub: &str) -> Self {
        let (a, b) = (Server::start(flavor), Server::start(flavor));
        for node in [&a, &b] {
            if !setup.is_empty() {
                assert_eq!(node.run_text(setup), "+OK\r\n");
            }
        }
        let forwarder = Forwarder::start(a.address());
        let toml = format!(
            "[upstreams.main]\nurl = \"{}\"\nping-interval = \"1s\"\n[tenants.all]\ndefault = true\npubsub = \"{pubsub}\"\n",
            forwarder.url()
        );
        let mut proxy = Proxy::start_file(workers, &toml);
        proxy.allow_log("\"WARN\"");
        Self { proxy, forwarder, a, b }
    }

    /// The address leads to B, and A becomes its replica; connections to A stay open.
    fn repoint_and_demote(&self) {
        self.forwarder.point_at(&[self.b.address()]);
        self.a.run(&["REPLICAOF", "127.0.0.1", &self.b.port.to_string()]);
    }

    fn generation(&self) -> f64 {
        self.proxy.metric("respgate_primary_generation", &[])
    }

    fn wait_for_generation(&self, generation: f64) {
        wait::until("the generation to rise", || self.generation() >= generation);
        assert_eq!(self.generation(), generation);
    }

    fn failovers(&self) -> usize {
        self.proxy.http("/failovers").matches("began_unix_ms").count()
    }

    fn wait_for_failovers(&self, count: usize) {
        wait::until("the timelines", || self.failovers() >= count);
        assert_eq!(self.failovers(), count, "{}", self.proxy.http("/failovers"));
        let counted = |lossless| self.proxy.metric("respgate_failovers_total", &[lossless]);
        assert_eq!(counted("true") + counted("false"), count as f64);
    }

    /// Publishes at B until the subscriber hears it.
    fn expect_message(&self, subscriber: &mut Client) {
        wait::until("the subscription at B", || self.b.run_text(&["PUBLISH", "news", "hello"]) == ":1\r\n");
        subscriber.expect_reply(MESSAGE);
    }
}

on_both_servers!(every_lane_moves_when_the_address_leads_elsewhere, workers: [1, 2]);

fn every_lane_moves_when_the_address_leads_elsewhere(flavor: Flavor, workers: usize) {
    let pair = Pair::start(flavor, workers);
    let (mut writer, mut script, mut reader) =
        (pair.proxy.client(), pair.proxy.client(), pair.proxy.client());
    let (mut subscriber, mut popper) = (pair.proxy.client(), pair.proxy.client());
    pair.b.run(&["SET", "where", "b"]);
    writer.expect(&["SET", "where", "a"], "+OK\r\n");
    script.expect(&["EVAL", WRITE, "1", "k"], "$4\r\ndone\r\n");
    reader.expect(&["EVAL_RO", "return redis.call('GET', KEYS[1])", "1", "where"], "$1\r\na\r\n");
    subscriber.expect(&["SUBSCRIBE", "news"], SUBSCRIBED);
    popper.send_command(&["BLPOP", "queue", "0"]);
    wait::until("the pop to block", || pair.a.info("clients", "blocked_clients") == 1);
    pair.forwarder.point_at(&[pair.b.address()]);
    pair.wait_for_generation(2.0);
    reader.expect(&["GET", "where"], "$1\r\nb\r\n");
    reader.expect(&["EVAL_RO", "return redis.call('GET', KEYS[1])", "1", "where"], "$1\r\nb\r\n");
    script.expect(&["EVAL", WRITE, "1", "k"], "$4\r\ndone\r\n");
    assert_eq!(pair.b.run_text(&["GET", "k"]), "$1\r\n1\r\n");
    writer.expect(&["SET", "k2", "v"], "+OK\r\n");
    assert_eq!(pair.b.run_text(&["GET", "k2"]), "$1\r\nv\r\n");
    pair.expect_message(&mut subscriber);
    pair.b.run(&["RPUSH", "queue", "job"]);
    popper.expect_reply("*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n");
    pair.wait_for_failovers(1);
}

on_both_servers!(a_demoted_node_is_left_though_no_run_id_can_be_asked);

/// Where INFO is forbidden, no node is told from another; but that the old one is a replica by now, it says itself.
fn a_demoted_node_is_left_though_no_run_id_can_be_asked(flavor: Flavor) {
    for pubsub in ["dedicated", "fan-in"] {
        let pair = Pair::start_with(flavor, 1, &["ACL", "SETUSER", "default", "-info"], pubsub);
        let mut subscriber = pair.proxy.client();
        subscriber.expect(&["SUBSCRIBE", "news"], SUBSCRIBED);
        pair.repoint_and_demote();
        pair.wait_for_generation(2.0);
        pair.expect_message(&mut subscriber);
        pair.wait_for_failovers(1);
    }
}

on_both_servers!(subscribers_alone_move);

fn subscribers_alone_move(flavor: Flavor) {
    for (pubsub, workers) in [("dedicated", 1), ("dedicated", 2), ("fan-in", 1), ("fan-in", 2)] {
        let pair = Pair::start_with(flavor, workers, &[], pubsub);
        let mut subscriber = pair.proxy.client();
        subscriber.expect(&["SUBSCRIBE", "news"], SUBSCRIBED);
        pair.forwarder.point_at(&[pair.b.address()]);
        pair.expect_message(&mut subscriber);
        pair.wait_for_failovers(1);
    }
}

on_both_servers!(an_idle_upstream_moves);

/// Nobody sends anything at all.
fn an_idle_upstream_moves(flavor: Flavor) {
    let pair = Pair::start(flavor, 2);
    pair.repoint_and_demote();
    pair.wait_for_generation(2.0);
    pair.wait_for_failovers(1);
}

on_both_servers!(a_script_that_meets_a_demoted_node_is_not_refused_for_ever);

/// A node is demoted by hand and no connection is closed; the script's lease does not go back to the pool.
fn a_script_that_meets_a_demoted_node_is_not_refused_for_ever(flavor: Flavor) {
    let pair = Pair::start(flavor, 1);
    let mut script = pair.proxy.client();
    script.expect(&["EVAL", WRITE, "1", "k"], "$4\r\ndone\r\n");
    pair.repoint_and_demote();
    wait::until("a script to write", || {
        let reply = script.call(&["EVAL", WRITE, "1", "k"]);
        let text = String::from_utf8_lossy(&reply).into_owned();
        assert!(!text.contains("REDIRECT"), "{text}");
        assert!(text.contains("READONLY") || text == "$4\r\ndone\r\n", "{text}");
        text == "$4\r\ndone\r\n"
    });
    assert_eq!(pair.b.run_text(&["GET", "k"]), "$1\r\n1\r\n");
}

/// A demoted valkey answers EVAL_RO with -REDIRECT to those who asked for it. Clients of respgate have not.
#[test]
fn clients_are_never_redirected() {
    let pair = Pair::start(Flavor::Valkey, 1);
    let mut reader = pair.proxy.client();
    for demoted in [false, true] {
        if demoted {
            pair.repoint_and_demote();
        }
        for _ in 0..200 {
            let reply = reader.call(&["EVAL_RO", "return 'x'", "0"]);
            assert_eq!(String::from_utf8_lossy(&reply), "$1\r\nx\r\n");
        }
    }
}

on_both_servers!(a_forged_refusal_holds_nobody);

/// A script may say READONLY as it likes: the node is asked, and nobody waits.
fn a_forged_refusal_holds_nobody(flavor: Flavor) {
    let pair = Pair::start(flavor, 1);
    let (mut forger, mut other) = (pair.proxy.client(), pair.proxy.client());
    let holds = pair.proxy.metric("respgate_holds_total", &[]);
    for script in
        ["return redis.error_reply('READONLY forged')", "return {1, redis.error_reply('READONLY forged')}"]
    {
        for _ in 0..50 {
            let reply = forger.call(&["EVAL", script, "0"]);
            assert!(String::from_utf8_lossy(&reply).contains("-READONLY forged"));
            other.expect(&["SET", "k", "v"], "+OK\r\n");
        }
    }
    assert_eq!(pair.proxy.metric("respgate_holds_total", &[]), holds);
    assert_eq!(pair.generation(), 1.0);
    assert_eq!(pair.failovers(), 0);
}

on_both_servers!(an_address_that_alternates_is_reported_and_cut_once);

/// A name or a balancer in front of two primaries: one switch, one report, and clients are served. The switch cuts the
/// connection to the first node; if it meets a write that the node has not answered yet, the client hears so, once.
fn an_address_that_alternates_is_reported_and_cut_once(flavor: Flavor) {
    let pair = Pair::start(flavor, 1);
    let mut client = pair.proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    pair.forwarder.point_at(&[pair.a.address(), pair.b.address()]);
    let mut cut = 0;
    wait::until("a report", || {
        match String::from_utf8_lossy(&client.call(&["SET", "k", "v"])).as_ref() {
            "+OK\r\n" => {}
            reply if reply.starts_with("-OUTCOMEUNKNOWN") => cut += 1,
            reply => panic!("{reply}"),
        }
        pair.proxy.log().contains("leads to several nodes in turn")
    });
    assert!(cut <= 1, "{cut} writes cut off");
    let generation = pair.generation();
    assert!(generation <= 2.0, "{generation}");
    let reads = std::time::Instant::now();
    while reads.elapsed() < Duration::from_secs(4) {
        client.expect(&["SET", "k", "v"], "+OK\r\n");
        client.expect(&["EVAL", WRITE, "1", "n"], "$4\r\ndone\r\n");
    }
    assert_eq!(pair.generation(), generation);
    assert_eq!(pair.proxy.log().matches("leads to several nodes in turn").count(), 1);
}

on_both_servers!(a_restart_is_one_entry_at_most);

/// The restarted server has another run_id.
fn a_restart_is_one_entry_at_most(flavor: Flavor) {
    let mut pair = Pair::start(flavor, 2);
    let mut client = pair.proxy.client();
    for _ in 0..2 {
        client.expect(&["SET", "k", "v"], "+OK\r\n");
        pair.a.restart(&[]);
        client.expect(&["SET", "k", "v"], "+OK\r\n");
    }
    wait::until("the timelines", || pair.failovers() == 2);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(pair.failovers(), 2, "{}", pair.proxy.http("/failovers"));
}
