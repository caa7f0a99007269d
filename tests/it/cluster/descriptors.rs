//! File descriptors when there are few: the connections to all shards of a cluster share what the limit of open files leaves.

use std::time::Duration;

use crate::support::client::Client;
use crate::support::cluster::{Cluster, ClusterPlan, key_of};
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::Flavor;
use crate::support::wait;

on_both_servers!(few_descriptors_serve_many_shards, workers: [1, 2]);

const SHARDS: usize = 8;
const LIMIT: usize = 240;

/// Each shard is served although there are fewer connections than shards, and clients never take the last descriptors.
fn few_descriptors_serve_many_shards(flavor: Flavor, workers: usize) {
    let cluster = Cluster::start(&ClusterPlan { primaries: SHARDS, replicas: 0, ..ClusterPlan::new(flavor) });
    let limited = ["sh", "-c", &format!("ulimit -n {LIMIT}; exec \"$@\""), "sh"];
    let seed = format!("redis-cluster://127.0.0.1:{}", cluster.server(0).port);
    let mut proxy = Proxy::launch_under(&limited, free_port(), workers, &["--upstream", &seed]);
    proxy.allow_log("the limit of open files leaves");
    proxy.allow_log("respgate refuses clients: it keeps the remaining file descriptors");
    proxy.allow_log("the cluster is not known: the primary has not been looked up yet");
    proxy.wait_until_ready();
    wait::until("the log to name the limit", || {
        proxy.log().contains(&format!("connections to the {SHARDS} shards of the cluster"))
    });
    let status = proxy.http("/status");
    assert!(status.contains("the limit of open files leaves"), "{status}");
    // As many clients as there is room for.
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..LIMIT {
        let Ok(mut client) = Client::try_connect(proxy.address()) else { break };
        client.send("PING\r\n");
        match client.try_reply() {
            Ok(reply) if reply == b"+PONG\r\n" => clients.push(client),
            _ => break,
        }
    }
    assert!(clients.len() >= 10, "{} clients", clients.len());
    let keys: Vec<String> =
        (0..SHARDS).map(|shard| key_of("k", u16::try_from(shard * 16_384 / SHARDS + 1).unwrap())).collect();
    for round in 0..5 {
        // All at once, so that shards compete.
        for (number, client) in clients.iter_mut().enumerate() {
            let key = &keys[(number + round) % SHARDS];
            client.send(format!("SET {key} {number}\r\nMULTI\r\nSET {key} {number}\r\nEXEC\r\n"));
            client.send(format!("GET {key}\r\n"));
            client.send("MGET ".to_owned() + &keys.join(" ") + "\r\n");
        }
        for client in &mut clients {
            client.expect_reply("+OK\r\n");
            client.expect_reply("+OK\r\n");
            client.expect_reply("+QUEUED\r\n");
            client.expect_reply("*1\r\n+OK\r\n");
            assert!(client.reply().starts_with(b"$"));
            assert!(client.reply().starts_with(b"*8\r\n$"));
        }
        assert!(proxy.descriptors() < LIMIT, "{} descriptors", proxy.descriptors());
    }
    // A client that is blocked keeps its connection, and the others go on.
    let (blocked, others) = clients.split_at_mut(1);
    blocked[0].send(format!("BLPOP {{{}}}list 20\r\n", keys[7]));
    for key in &keys {
        others[0].expect(&["EVAL", "return redis.call('exists', KEYS[1])", "1", key], ":1\r\n");
        others[1].expect(&["SET", key, "x"], "+OK\r\n");
    }
    let list = format!("{{{}}}list", keys[7]);
    others[2].expect(&["RPUSH", &list, "x"], ":1\r\n");
    blocked[0].expect_reply(&format!("*2\r\n${}\r\n{list}\r\n$1\r\nx\r\n", list.len()));
    assert!(proxy.http("/livez").starts_with("HTTP/1.1 200"));
    // Discovery keeps no more connections than its share either.
    let count = wait::until_some("the descriptors to be counted", Duration::from_secs(1), || {
        Some(proxy.descriptors())
    });
    assert!(count < LIMIT, "{count} descriptors");
}
