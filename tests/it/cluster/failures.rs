//! Lost nodes: only the commands for their slots wait, and everything goes on at the replicas that take over.

use std::thread;
use std::time::{Duration, Instant};

use crate::status::document;
use crate::support::cluster::{Cluster, ClusterPlan, key_of};
use crate::support::proxy::Proxy;
use crate::support::servers::Flavor;
use crate::support::wait;

on_both_servers!(a_lost_primary_holds_only_its_slots);
on_both_servers!(a_lost_home_shard_leaves_respgate_ready);
on_both_servers!(state_moves_with_its_slot);
on_both_servers!(shard_channels_follow_their_slot);

fn proxy(cluster: &Cluster) -> Proxy {
    let mut proxy = Proxy::start_with(&cluster.url(), 1, &[]);
    proxy.allow_log("\"WARN\"");
    proxy
}

fn a_lost_primary_holds_only_its_slots(flavor: Flavor) {
    // Without this, all nodes refuse commands until the replica has taken over.
    let options = ["--cluster-require-full-coverage", "no"];
    let mut cluster = Cluster::start(&ClusterPlan { options: &options, ..ClusterPlan::new(flavor) });
    let proxy = proxy(&cluster);
    let (lost, alive) = (key_of("lost", 8000), key_of("alive", 1));
    let mut client = proxy.client();
    client.expect(&["SET", &lost, "1"], "+OK\r\n");
    client.expect(&["SET", &alive, "1"], "+OK\r\n");
    wait::until("the replica to have the key", || {
        cluster.server(4).run_text(&["DBSIZE"]) == cluster.server(1).run_text(&["DBSIZE"])
    });
    cluster.kill(1);
    let killed = Instant::now();
    thread::scope(|scope| {
        let held = scope.spawn(|| {
            let mut clients: Vec<_> = (0..4).map(|_| proxy.client()).collect();
            clients[0].send_command(&["GET", &lost]);
            clients[1].send_command(&["BLPOP", &key_of("queue", 8000), "0.01"]);
            clients[2].send_command(&["EVAL", "return redis.call('get', KEYS[1])", "1", &lost]);
            for command in [&["MULTI"][..], &["GET", &lost], &["EXEC"]] {
                clients[3].send_command(command);
            }
            clients[0].expect_reply("$1\r\n1\r\n");
            clients[1].expect_reply("*-1\r\n");
            clients[2].expect_reply("$1\r\n1\r\n");
            clients[3].replies_are(&["+OK\r\n", "+QUEUED\r\n", "*1\r\n$1\r\n1\r\n"]);
            killed.elapsed()
        });
        let mut slowest = Duration::ZERO;
        while !held.is_finished() {
            let began = Instant::now();
            client.expect(&["GET", &alive], "$1\r\n1\r\n");
            client.expect(&["EVAL", "return redis.call('get', KEYS[1])", "1", &alive], "$1\r\n1\r\n");
            slowest = slowest.max(began.elapsed());
        }
        let waited = held.join().expect("held clients");
        assert!(waited > Duration::from_millis(500), "nothing was held: {waited:?}");
        assert!(slowest < waited / 2, "commands for another shard waited {slowest:?} of {waited:?}");
    });
    client.expect(&["SET", &lost, "2"], "+OK\r\n");
    let failovers = || document(&proxy, "/failovers");
    wait::until("the failover's timeline", || failovers()[0]["first_success_ms"].is_u64());
    let failovers = failovers();
    assert_eq!(failovers.as_array().map(Vec::len), Some(1), "{failovers}");
    assert!(
        failovers[0]["shard"].is_u64() && failovers[0]["clients_held"].as_u64() >= Some(1),
        "{failovers}"
    );
    assert_eq!(failovers[0]["from"], cluster.server(1).address().to_string(), "{failovers}");
}

/// An orchestrator must not stop the traffic to all shards because one is lost, whichever it is.
fn a_lost_home_shard_leaves_respgate_ready(flavor: Flavor) {
    let options = ["--cluster-require-full-coverage", "no"];
    let mut cluster =
        Cluster::start(&ClusterPlan { options: &options, replicas: 0, ..ClusterPlan::new(flavor) });
    let proxy = proxy(&cluster);
    let ready = |state: &str| {
        let page = proxy.http("/readyz");
        page.starts_with(&format!("HTTP/1.1 {state}")).then_some(page)
    };
    let all = "upstream main: cluster, 3 of 3 shards have a primary, 16384 of 16384 slots served\n";
    wait::until("all shards", || ready("200").is_some_and(|page| page.ends_with(all)));
    let home = cluster.owner(0);
    cluster.kill(home);
    wait::until("the loss at /readyz", || {
        ready("200").is_some_and(|page| {
            page.contains("cluster, 2 of 3 shards have a primary")
                && page.contains("shard 1 has no primary: ")
        })
    });
    assert_eq!(document(&proxy, "/status")["process"]["ready"], true);
    let alive = key_of(
        "alive",
        cluster.slots_of(cluster.running().next().expect("a node")).remove(0).start().to_owned(),
    );
    proxy.client().expect(&["SET", &alive, "1"], "+OK\r\n");
    let others: Vec<_> = cluster.running().collect();
    others.into_iter().for_each(|node| cluster.kill(node));
    wait::until("the loss of all shards", || ready("503").is_some());
}

fn state_moves_with_its_slot(flavor: Flavor) {
    let cluster = Cluster::three(flavor);
    let proxy = proxy(&cluster);
    let (queue, key, channel) = (key_of("queue", 7), key_of("key", 7), key_of("channel", 7));
    let (mut blocked, mut transaction, mut other) = (proxy.client(), proxy.client(), proxy.client());
    blocked.send_command(&["BLPOP", &queue, "30"]);
    transaction.expect(&["MULTI"], "+OK\r\n");
    transaction.expect(&["INCR", &key], "+QUEUED\r\n");
    wait::until("the client to block", || {
        cluster.server(0).run_text(&["INFO", "clients"]).contains("blocked_clients:1")
    });
    cluster.move_slot(7, 2);
    // The node that lost the slot unblocks the client with a redirection.
    other.expect(&["RPUSH", &queue, "v"], ":1\r\n");
    blocked.expect_reply(&format!("*2\r\n${}\r\n{queue}\r\n$1\r\nv\r\n", queue.len()));
    transaction.expect(&["INCR", &key], "+QUEUED\r\n");
    transaction.expect(&["EXEC"], "*2\r\n:1\r\n:2\r\n");
    other.expect(&["EVAL", "return redis.call('incr', KEYS[1])", "1", &key], ":3\r\n");
    let mut subscriber = proxy.client();
    let length = channel.len();
    subscriber.expect(
        &["SSUBSCRIBE", &channel],
        &format!("*3\r\n$10\r\nssubscribe\r\n${length}\r\n{channel}\r\n:1\r\n"),
    );
    other.expect(&["SPUBLISH", &channel, "m"], ":1\r\n");
    subscriber.expect_reply(&format!("*3\r\n$8\r\nsmessage\r\n${length}\r\n{channel}\r\n$1\r\nm\r\n"));
}

/// The node that loses the slot ends the subscriptions unasked. No client sees that, and every reply keeps its place.
fn shard_channels_follow_their_slot(flavor: Flavor) {
    let cluster = Cluster::three(flavor);
    let proxy = proxy(&cluster);
    let (channel, elsewhere) = (key_of("channel", 7), key_of("elsewhere", 16_000));
    let (mut publisher, mut two, mut three) = (proxy.client(), proxy.client(), proxy.client());
    publisher.expect(&["SET", &elsewhere, "v"], "+OK\r\n");
    three.send_command(&["HELLO", "3"]);
    three.reply();
    let confirmation = format!("3\r\n$10\r\nssubscribe\r\n${}\r\n{channel}\r\n:1\r\n", channel.len());
    two.expect(&["SSUBSCRIBE", &channel], &format!("*{confirmation}"));
    three.expect(&["SSUBSCRIBE", &channel], &format!(">{confirmation}"));
    for to in [2, 1, 0] {
        cluster.move_slot(7, to);
        wait::until("both subscribers at the new node", || {
            publisher.call(&["SPUBLISH", &channel, "m"]) == b":2\r\n"
        });
        publisher.expect(&["SPUBLISH", &channel, "last"], ":2\r\n");
        for (client, kind) in [(&mut two, '*'), (&mut three, '>')] {
            let message = |text: &str| {
                let (length, size) = (channel.len(), text.len());
                format!("{kind}3\r\n$8\r\nsmessage\r\n${length}\r\n{channel}\r\n${size}\r\n{text}\r\n")
            };
            let mut heard = client.reply();
            while heard != message("last").as_bytes() {
                assert_eq!(String::from_utf8_lossy(&heard), message("m"));
                heard = client.reply();
            }
            client.send_command(&["PING"]);
        }
        two.expect_reply("*2\r\n$4\r\npong\r\n$0\r\n\r\n");
        three.expect_reply("+PONG\r\n");
        three.expect(&["GET", &elsewhere], "$1\r\nv\r\n");
    }
}
