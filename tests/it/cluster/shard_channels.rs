//! Shard channels in front of real clusters: clients see what one server would show.

use std::collections::BTreeSet;

use crate::support::client::Client;
use crate::support::cluster::{Cluster, ClusterPlan, key_of};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

on_both_servers!(shard_channels_are_listed_and_counted_at_all_shards);

fn cluster(flavor: Flavor) -> Cluster {
    Cluster::start(&ClusterPlan { replicas: 0, ..ClusterPlan::new(flavor) })
}

fn gateway(cluster: &Cluster, settings: &str) -> Proxy {
    let toml = format!("[upstreams.main]\nurl = \"{}\"\n{settings}\n", cluster.url());
    let mut proxy = Proxy::start_file(1, &toml);
    // The seeds have not answered yet.
    proxy.allow_log("the cluster is not known: the primary has not been looked up yet");
    proxy
}

/// A channel of each of three nodes.
fn channels() -> [String; 3] {
    [("a", 1), ("b", 8000), ("c", 16_000)].map(|(name, slot)| key_of(name, slot))
}

fn text(reply: &[u8]) -> String {
    String::from_utf8_lossy(reply).into_owned()
}

fn at_version(port: u16, version: &str) -> Client {
    let mut client = Client::connect(port);
    client.call(&["HELLO", version]);
    client
}

fn shard_channels_are_listed_and_counted_at_all_shards(flavor: Flavor) {
    let (cluster, server) = (cluster(flavor), Server::start(flavor));
    let proxy = gateway(&cluster, "");
    let [a, b, c] = channels();
    let subscribed = [vec![&a], vec![&b], vec![&b], vec![&c]];
    let mut subscribers: Vec<(Client, Client)> = Vec::new();
    for channels in &subscribed {
        let (mut through, mut direct) = (proxy.client(), server.client());
        let mut command = vec!["SSUBSCRIBE"];
        command.extend(channels.iter().map(|channel| channel.as_str()));
        assert_eq!(text(&through.call(&command)), text(&direct.call(&command)));
        subscribers.push((through, direct));
    }
    let pair = |channel: &str, count: u32| format!("${}\r\n{channel}\r\n:{count}\r\n", channel.len());
    let (a2, nobody) = (format!("{{{a}}}2"), "nobody".to_owned());
    for version in ["2", "3"] {
        let (mut through, mut direct) = (at_version(proxy.port, version), at_version(server.port, version));
        let mut same = |words: &[&str]| {
            let (got, expected) = (through.call(words), direct.call(words));
            assert_eq!(text(&got), text(&expected), "{words:?} with RESP{version}");
        };
        same(&["PUBSUB", "SHARDNUMSUB"]);
        same(&["PUBSUB", "SHARDNUMSUB", &b]);
        same(&["PUBSUB", "SHARDNUMSUB", &a, &a2]);
        same(&["PUBSUB", "SHARDNUMSUB", &nobody, &c, &a, &b, &c]);
        same(&["PUBSUB", "SHARDCHANNELS", "nothing*"]);
        same(&["PUBSUB", "SHARDCHANNELS", &b]);
        same(&["PUBSUB", "SHARDCHANNELS", "too", "many"]);
        let mut listed = |command: &[&str]| -> BTreeSet<String> {
            let reply = text(&through.call(command));
            reply.lines().filter(|line| !line.starts_with(['*', '$'])).map(str::to_owned).collect()
        };
        let all = BTreeSet::from([a.clone(), b.clone(), c.clone()]);
        assert_eq!(listed(&["PUBSUB", "SHARDCHANNELS"]), all);
        assert_eq!(listed(&["PUBSUB", "SHARDCHANNELS", "[ab]*"]), BTreeSet::from([a.clone(), b.clone()]));
        // In a transaction, the node of its keys is asked, as for other commands of all shards.
        through.expect(&["MULTI"], "+OK\r\n");
        through.expect(&["GET", &a2], "+QUEUED\r\n");
        through.expect(&["PUBSUB", "SHARDNUMSUB", &a], "+QUEUED\r\n");
        through.expect(&["PUBSUB", "SHARDNUMSUB", &b], "+QUEUED\r\n");
        let replies = text(&through.call(&["EXEC"]));
        let null = if version == "2" { "$-1" } else { "_" };
        assert_eq!(replies, format!("*3\r\n{null}\r\n*2\r\n{}*2\r\n{}", pair(&a, 1), pair(&b, 0)));
        // A client with state on its connection asks all shards too.
        through.expect(&["WATCH", &a2], "+OK\r\n");
        let expected = format!("*4\r\n{}{}", pair(&b, 2), pair(&c, 1));
        through.expect(&["PUBSUB", "SHARDNUMSUB", &b, &c], &expected);
    }
}
