//! What respgate finds out about a cluster, as `/status` shows it.

use serde_json::Value;

use crate::support::client::{Client, encode};
use crate::support::cluster::{Cluster, ClusterPlan, key_of};
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

on_both_servers!(shows_every_shard);
on_both_servers!(follows_a_planned_failover);
on_both_servers!(follows_a_crash);
on_both_servers!(follows_slots_and_nodes);
on_both_servers!(asks_for_endpoints_only_now_and_then);

/// The cluster in `/status`.
pub fn cluster(proxy: &Proxy) -> Value {
    let answer = proxy.http("/status");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let document: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    document["upstreams"][0]["cluster"].clone()
}

/// The shard that serves this range of slots, once a primary serves it at this port.
fn shard_at(proxy: &Proxy, port: u16, slots: &str) -> Value {
    let address = format!("127.0.0.1:{port}");
    wait::until_some(&format!("{address} to serve {slots}"), wait::PATIENCE, || {
        let cluster = cluster(proxy);
        let shards = cluster["shards"].as_array()?;
        let serves = |shard: &&Value| {
            shard["primary"]["address"] == address.as_str()
                && shard["state"] == "serving"
                && shard["ranges"].as_array().is_some_and(|ranges| ranges.iter().any(|range| range == slots))
        };
        shards.iter().find(serves).cloned()
    })
}

const RANGES: [&str; 3] = ["0-5461", "5462-10923", "10924-16383"];

fn shows_every_shard(flavor: Flavor) {
    let servers = Cluster::three(flavor);
    let seed = format!("redis-cluster://127.0.0.1:{}", servers.server(4).port);
    let proxy = Proxy::start(&seed);
    for (node, range) in RANGES.iter().enumerate() {
        let shard = shard_at(&proxy, servers.server(node).port, range);
        assert_eq!(
            shard["replicas"],
            serde_json::json!([format!("127.0.0.1:{}", servers.server(node + 3).port)])
        );
        assert_eq!(shard["primary"]["config_epoch"], node + 1);
        assert!(shard["primary"]["server"].is_string(), "{shard}");
    }
    let cluster = cluster(&proxy);
    assert_eq!(
        (&cluster["slots_served"], &cluster["home"]),
        (&16_384.into(), &cluster["shards"][0]["number"])
    );
    assert_eq!(proxy.metric("respgate_cluster_shards", &["upstream=\"main\""]), 3.0);
    assert_eq!(proxy.metric("respgate_cluster_slots_served", &["upstream=\"main\""]), 16_384.0);
    assert!(proxy.metric("respgate_cluster_refreshes_total", &["upstream=\"main\""]) >= 1.0);
    // All primaries are asked, and the seed no longer.
    wait::until("three nodes to be asked", || {
        let cluster = self::cluster(&proxy);
        let nodes = cluster["nodes"].as_array().expect("nodes");
        nodes.len() == 3 && nodes.iter().all(|node| node["answers"] == true)
    });
}

fn follows_a_planned_failover(flavor: Flavor) {
    let servers = Cluster::three(flavor);
    let mut proxy = Proxy::start(&servers.url());
    proxy.allow_log("the shard has no primary");
    let before: Vec<Value> =
        (0..3).map(|node| shard_at(&proxy, servers.server(node).port, RANGES[node])).collect();
    servers.failover(4);
    let after = shard_at(&proxy, servers.server(4).port, RANGES[1]);
    assert_eq!(after["number"], before[1]["number"], "a shard keeps its number");
    let generation = |shard: &Value| shard["primary"]["generation"].as_u64().expect("a generation");
    assert!(generation(&after) > before.iter().map(generation).max().unwrap());
    for node in [0, 2] {
        let other = shard_at(&proxy, servers.server(node).port, RANGES[node]);
        assert_eq!(generation(&other), generation(&before[node]), "the other shards are left alone");
    }
}

fn follows_a_crash(flavor: Flavor) {
    let mut servers = Cluster::three(flavor);
    let mut proxy = Proxy::start(&servers.url());
    proxy.allow_log("");
    let before = shard_at(&proxy, servers.server(2).port, RANGES[2]);
    // A client of that shard makes respgate notice the crash at once; the next look could come after the replica has taken over.
    let (mut client, key) = (proxy.client(), key_of("crash", 16_000));
    assert_eq!(client.call(&["INCR", &key]), b":1\r\n");
    servers.kill(2);
    client.send(encode(&["INCR", &key]));
    wait::until("the slots of the lost primary to be missed", || cluster(&proxy)["slots_served"] == 10_924);
    assert_eq!(shard_at(&proxy, servers.server(0).port, RANGES[0])["state"], "serving");
    let after = shard_at(&proxy, servers.server(5).port, RANGES[2]);
    assert_eq!(after["number"], before["number"]);
    assert_eq!(cluster(&proxy)["slots_served"], 16_384);
    assert!(client.reply().starts_with(b":"), "the command has waited for the new primary");
}

fn follows_slots_and_nodes(flavor: Flavor) {
    let plan = ClusterPlan { replicas: 0, ..ClusterPlan::new(flavor) };
    let mut servers = Cluster::start(&plan);
    let proxy = Proxy::start(&servers.url());
    servers.move_slot(100, 2);
    assert_eq!(shard_at(&proxy, servers.server(2).port, "100")["slots"], 5461);
    let node = servers.add_node(&plan);
    servers.move_slot(16_383, node);
    let added = shard_at(&proxy, servers.server(node).port, "16383");
    assert_eq!(added["slots"], 1);
    servers.move_slot(16_383, 0);
    shard_at(&proxy, servers.server(0).port, "16383");
    servers.wait_until_agreed();
    assert_eq!(cluster(&proxy)["slots_served"], 16_384);
}

/// The number of times that a node was asked this.
fn asked(server: &Server, question: &str) -> u64 {
    let stats = server.run_text(&["INFO", "commandstats"]);
    let prefix = format!("cmdstat_cluster|{question}:calls=");
    let calls = stats.lines().find_map(|line| line.strip_prefix(&prefix)?.split(',').next()?.parse().ok());
    calls.unwrap_or(0)
}

fn asks_for_endpoints_only_now_and_then(flavor: Flavor) {
    let servers = Cluster::start(&ClusterPlan { replicas: 0, ..ClusterPlan::new(flavor) });
    let toml = format!("[upstreams.main]\nurl = \"{}\"\npoll-interval = \"30ms\"\n", servers.url());
    let mut proxy = Proxy::start_file(1, &toml);
    proxy.allow_log("the shard has no primary: localhost");
    shard_at(&proxy, servers.server(0).port, RANGES[0]);
    let node = servers.server(0);
    let (before, endpoints_before) = (asked(node, "nodes"), asked(node, "slots"));
    wait::until("many rounds", || asked(node, "nodes") >= before + 60);
    let endpoints = asked(node, "slots") - endpoints_before;
    let rounds = asked(node, "nodes") - before;
    assert!((1..=rounds / 3).contains(&endpoints), "{endpoints} questions for endpoints in {rounds} rounds");
    // The kind of endpoint that nodes prefer shows nowhere else.
    for option in
        [["cluster-announce-hostname", "localhost"], ["cluster-preferred-endpoint-type", "hostname"]]
    {
        servers
            .nodes
            .iter()
            .for_each(|node| node.server.run_text(&["CONFIG", "SET", option[0], option[1]]).clear());
    }
    let address = format!("localhost:{}", node.port);
    wait::until("the preferred endpoint", || {
        let cluster = cluster(&proxy);
        let shards = cluster["shards"].as_array().expect("shards");
        shards.iter().any(|shard| shard["primary"]["address"] == address.as_str())
    });
}

#[test]
fn a_server_without_a_cluster_is_named() {
    let server = Server::start(Flavor::Valkey);
    let url = format!("redis-cluster://127.0.0.1:{}", server.port);
    let mut proxy = Proxy::launch(free_port(), 1, &["--upstream", &url]);
    proxy.allow_log("");
    wait::until("the reason at /readyz", || proxy.http("/readyz").contains("is no node of a cluster"));
    assert!(proxy.http("/readyz").starts_with("HTTP/1.1 503"));
}

#[test]
fn a_seed_that_is_down_does_not_matter() {
    let servers = Cluster::start(&ClusterPlan { replicas: 0, ..ClusterPlan::new(Flavor::Valkey) });
    let dead = free_port();
    let mut proxy =
        Proxy::start(&format!("redis-cluster://127.0.0.1:{dead},127.0.0.1:{}", servers.server(1).port));
    proxy.allow_log(&dead.to_string());
    shard_at(&proxy, servers.server(0).port, RANGES[0]);
}

on_both_servers!(primaries_are_asked_on_connections_that_stay_open);

/// The number of connections that a server has accepted.
fn connections(stats: &mut Client) -> u64 {
    let info = String::from_utf8_lossy(&stats.call(&["INFO", "stats"])).into_owned();
    let count = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("{info}"))
}

fn primaries_are_asked_on_connections_that_stay_open(flavor: Flavor) {
    // The nodes themselves find nothing for a long time, so that only respgate's own question finds a frozen one.
    let plan = ClusterPlan { replicas: 0, node_timeout_ms: 60_000, ..ClusterPlan::new(flavor) };
    let servers = Cluster::start(&plan);
    let toml = format!("[upstreams.main]\nurl = \"{}\"\nping-interval = \"50ms\"\n", servers.url());
    let mut proxy = Proxy::start_file(1, &toml);
    proxy.allow_log("the shard has no primary");
    proxy.allow_log("the server did not answer in time");
    proxy.allow_log("the cluster is not known: the primary has not been looked up yet");
    for (node, range) in RANGES.iter().enumerate() {
        shard_at(&proxy, servers.server(node).port, range);
    }
    let asked = || {
        let calls = (0..3).map(|node| {
            let text = servers.server(node).run_text(&["INFO", "commandstats"]);
            let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_role:calls="));
            line.and_then(|line| line.split(',').next()?.parse::<u64>().ok()).unwrap_or(0)
        });
        calls.sum::<u64>()
    };
    let mut stats: Vec<Client> = (0..3).map(|node| servers.server(node).client()).collect();
    let before: u64 = stats.iter_mut().map(connections).sum();
    let (first, mut looks) = (asked(), 1);
    wait::until("the primaries to be asked often", || {
        looks += 1;
        asked() >= first + 300
    });
    // Each look is a connection to each node.
    let opened = stats.iter_mut().map(connections).sum::<u64>() - before;
    let asked = asked() - first;
    assert!(
        (6..=asked / 5).contains(&(opened - 3 * looks)),
        "{opened} connections, {looks} looks, {asked} questions"
    );
    // Its connection stays open, and says nothing.
    servers.server(1).signal("STOP");
    let state = |proxy: &Proxy| cluster(proxy)["shards"][1]["state"].clone();
    wait::until("the frozen primary to be found", || state(&proxy) != "serving");
    servers.server(1).signal("CONT");
    wait::until("the primary to be used again", || state(&proxy) == "serving");
}
