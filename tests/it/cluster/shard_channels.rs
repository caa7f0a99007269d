//! Shard channels in front of real clusters: clients see what one server would show.

use std::collections::BTreeSet;

use crate::support::client::Client;
use crate::support::cluster::{Cluster, ClusterPlan, key_of};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

on_both_servers!(shard_channels_are_listed_and_counted_at_all_shards);
on_both_servers!(channels_of_all_shards_are_as_on_one_server);
on_both_servers!(other_subscriptions_live_beside_shard_channels);
on_both_servers!(channels_of_all_shards_follow_their_slots);
on_both_servers!(channels_of_all_shards_survive_failovers);
on_both_servers!(fan_in_subscribers_share_a_connection_to_each_shard);
on_both_servers!(a_refused_channel_refuses_the_whole_request);
on_both_servers!(shard_channels_count_against_limits);

fn cluster(flavor: Flavor) -> Cluster {
    Cluster::start(&ClusterPlan { replicas: 0, ..ClusterPlan::new(flavor) })
}

fn configuration(cluster: &Cluster, settings: &str) -> String {
    format!("[upstreams.main]\nurl = \"{}\"\n{settings}\n", cluster.url())
}

fn gateway(cluster: &Cluster, settings: &str) -> Proxy {
    let mut proxy = Proxy::start_file(1, &configuration(cluster, settings));
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

/// Two connections, which must show the same: through respgate, and directly to one server.
struct Pair {
    through: Client,
    direct: Client,
}

impl Pair {
    fn new(proxy: &Proxy, server: &Server, version: &str) -> Self {
        Self { through: at_version(proxy.port, version), direct: at_version(server.port, version) }
    }

    /// Sends a command, whose `replies` replies must be the same.
    #[track_caller]
    fn same(&mut self, words: &[&str], replies: usize) {
        self.through.send_command(words);
        self.direct.send_command(words);
        self.same_replies(words, replies);
    }

    #[track_caller]
    fn same_replies(&mut self, what: &[&str], replies: usize) {
        for number in 0..replies {
            let expected = text(&self.direct.reply());
            assert_eq!(text(&self.through.reply()), expected, "reply {number} to {what:?}");
        }
    }

    /// Has both publish a message, which `heard` must hear.
    #[track_caller]
    fn publish(&mut self, channel: &str, heard: &mut Self) {
        wait::until("the servers to know the subscriber", || {
            let count = |client: &mut Client| text(&client.call(&["PUBSUB", "SHARDNUMSUB", channel]));
            count(&mut self.through).ends_with(":1\r\n") && count(&mut self.direct).ends_with(":1\r\n")
        });
        self.same(&["SPUBLISH", channel, "a message"], 1);
        heard.same_replies(&["smessage"], 1);
    }
}

fn channels_of_all_shards_are_as_on_one_server(flavor: Flavor) {
    let (cluster, server) = (cluster(flavor), Server::start(flavor));
    let proxy = gateway(&cluster, "");
    let [a, b, c] = channels();
    let a2 = format!("{{{a}}}2");
    for version in ["2", "3"] {
        let mut publisher = Pair::new(&proxy, &server, version);
        let mut pair = Pair::new(&proxy, &server, version);
        publisher.same(&["SET", &a2, "v"], 1);
        pair.same(&["SSUBSCRIBE"], 1);
        pair.same(&["SSUBSCRIBE", &b], 1);
        publisher.publish(&b, &mut pair);
        pair.same(&["SSUBSCRIBE", &a, &b, &c, &a2, &a], 5);
        for channel in [&a, &b, &c, &a2] {
            publisher.publish(channel, &mut pair);
        }
        // A RESP2 client may do no more than a subscriber of a server.
        pair.same(&["GET", &a2], 1);
        pair.same(&["PING"], 1);
        pair.same(&["PING", "text"], 1);
        pair.same(&["SET", "elsewhere", "v"], 1);
        pair.same(&["PUBSUB", "SHARDNUMSUB", &a], 1);
        pair.same(&["BLPOP", "list", "0.01"], 1);
        pair.same(&["MULTI"], 1);
        pair.same(&["DISCARD"], 1);
        pair.same(&["SUNSUBSCRIBE", &b, "unknown", &b], 3);
        // The node knows it.
        publisher.same(&["SPUBLISH", &b, "to nobody"], 1);
        publisher.same(&["PUBSUB", "SHARDNUMSUB", &a, &b, &c, &a2], 1);
        publisher.publish(&c, &mut pair);
        pair.same(&["SSUBSCRIBE", &b], 1);
        publisher.publish(&b, &mut pair);
        pair.same(&["SUNSUBSCRIBE", &a2, &b, &a], 3);
        pair.same(&["SUNSUBSCRIBE"], 1);
        publisher.same(&["PUBSUB", "SHARDNUMSUB", &a, &b, &c, &a2], 1);
        pair.same(&["GET", &a2], 1);
        // RESET and the end of a connection end all.
        for end in ["RESET", "QUIT"] {
            pair.same(&["SSUBSCRIBE", &c, &a], 2);
            pair.same(&[end], 1);
            wait::until("the servers to forget the subscriber", || {
                text(&publisher.through.call(&["PUBSUB", "SHARDNUMSUB", &a, &b, &c])).matches(":0").count()
                    == 3
            });
        }
        let mut pair = Pair::new(&proxy, &server, version);
        pair.same(&["CLIENT", "REPLY", "OFF"], 0);
        pair.same(&["SSUBSCRIBE", &c, &a], 2);
        publisher.publish(&a, &mut pair);
        let mut names: Vec<BTreeSet<String>> = Vec::new();
        for client in [&mut pair.through, &mut pair.direct] {
            client.send_command(&["SUNSUBSCRIBE"]);
            let replies = [text(&client.reply()), text(&client.reply())];
            assert!(replies[0].ends_with(":1\r\n") && replies[1].ends_with(":0\r\n"), "{replies:?}");
            let name = |reply: &String| reply.lines().nth(4).map(str::to_owned);
            names.push(replies.iter().filter_map(name).collect());
        }
        assert_eq!(names[0], names[1]);
    }
}

fn other_subscriptions_live_beside_shard_channels(flavor: Flavor) {
    let (cluster, server) = (cluster(flavor), Server::start(flavor));
    let dedicated = gateway(&cluster, "");
    let fan_in = gateway(&cluster, FAN_IN);
    let [a, b, c] = channels();
    for (version, proxy) in [("2", &dedicated), ("3", &dedicated), ("2", &fan_in), ("3", &fan_in)] {
        let mut publisher = Pair::new(proxy, &server, version);
        let mut pair = Pair::new(proxy, &server, version);
        pair.same(&["SSUBSCRIBE", &a, &b], 2);
        pair.same(&["UNSUBSCRIBE"], 1);
        pair.same(&["SUBSCRIBE", "x", "y"], 2);
        pair.same(&["PSUBSCRIBE", "p*"], 1);
        pair.same(&["SSUBSCRIBE", &c], 1);
        publisher.publish(&b, &mut pair);
        publisher.publish(&c, &mut pair);
        publisher.same(&["PUBLISH", "x", "to x"], 1);
        pair.same_replies(&["message"], 1);
        publisher.same(&["PUBLISH", "pattern", "to p*"], 1);
        pair.same_replies(&["pmessage"], 1);
        pair.same(&["PING", "beside"], 1);
        pair.same(&["GET", "key"], 1);
        pair.same(&["UNSUBSCRIBE", "x", "y"], 2);
        pair.same(&["PUNSUBSCRIBE"], 1);
        publisher.publish(&a, &mut pair);
        pair.same(&["PING"], 1);
        pair.same(&["GET", "key"], 1);
        pair.same(&["SUBSCRIBE", "x"], 1);
        pair.same(&["SUNSUBSCRIBE", &a, &b, &c], 3);
        publisher.same(&["PUBLISH", "x", "to x"], 1);
        pair.same_replies(&["message"], 1);
        pair.same(&["GET", "key"], 1);
        pair.same(&["UNSUBSCRIBE"], 1);
        pair.same(&["GET", "key"], 1);
        // In a transaction, the client has its subscriptions all the same.
        if version == "3" {
            pair.same(&["SSUBSCRIBE", &a, &c], 2);
            pair.same(&["WATCH", "key"], 1);
            pair.same(&["MULTI"], 1);
            pair.same(&["SET", "key", "v"], 1);
            publisher.publish(&c, &mut pair);
            pair.same(&["EXEC"], 1);
            pair.same(&["DEL", "key"], 1);
        }
        let listed = text(&publisher.through.call(&["CLIENT", "LIST", "TYPE", "PUBSUB"]));
        assert_eq!(listed.matches("ssub=2").count(), usize::from(version == "3"), "{listed}");
    }
}

const FAN_IN: &str = "[tenants.all]\ndefault = true\npubsub = \"fan-in\"";

/// Reads what a subscriber gets until it gets the last message. Everything else must be the message `m` of the channel.
#[track_caller]
fn hear(client: &mut Client, kind: char, channel: &str) {
    let message = |text: &str| {
        format!(
            "{kind}3\r\n$8\r\nsmessage\r\n${}\r\n{channel}\r\n${}\r\n{text}\r\n",
            channel.len(),
            text.len()
        )
    };
    let mut heard = text(&client.reply());
    while heard != message("last") {
        assert_eq!(heard, message("m"));
        heard = text(&client.reply());
    }
}

/// Publishes until this number of subscribers hear it, and then a last message.
#[track_caller]
fn reach(publisher: &mut Client, channel: &str, subscribers: usize) {
    let all = format!(":{subscribers}\r\n");
    wait::until("all subscribers at the new node", || {
        publisher.call(&["SPUBLISH", channel, "m"]) == all.as_bytes()
    });
    publisher.expect(&["SPUBLISH", channel, "last"], &all);
}

fn channels_of_all_shards_follow_their_slots(flavor: Flavor) {
    let cluster = cluster(flavor);
    for (settings, subscribers) in [("", 2), (FAN_IN, 1)] {
        let mut proxy = gateway(&cluster, settings);
        proxy.allow_log("\"WARN\"");
        let mut publisher = proxy.client();
        let (mut two, mut three) = (proxy.client(), at_version(proxy.port, "3"));
        // Two channels of one slot, and one of each node.
        let [a, b, c] = channels();
        let beside = format!("{{{a}}}beside");
        for client in [&mut two, &mut three] {
            client.send_command(&["SSUBSCRIBE", &a, &b, &c, &beside]);
            (0..4).for_each(|_| drop(client.reply()));
        }
        publisher.expect(&["SET", &b, "v"], "+OK\r\n");
        for to in [1, 2, 0] {
            cluster.move_slot(1, to);
            for channel in [&a, &beside, &b, &c] {
                reach(&mut publisher, channel, subscribers);
                hear(&mut two, '*', channel);
                hear(&mut three, '>', channel);
            }
            two.expect(&["PING"], "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
            three.expect(&["GET", &b], "$1\r\nv\r\n");
        }
        // The counts have not changed.
        for (client, kind) in [(&mut two, '*'), (&mut three, '>')] {
            let end = format!("{kind}3\r\n$12\r\nsunsubscribe\r\n${}\r\n{a}\r\n:3\r\n", a.len());
            client.expect(&["SUNSUBSCRIBE", &a], &end);
        }
        wait::until("the end of the channel", || publisher.call(&["SPUBLISH", &a, "m"]) == b":0\r\n");
        reach(&mut publisher, &beside, subscribers);
        hear(&mut two, '*', &beside);
        hear(&mut three, '>', &beside);
    }
}

fn channels_of_all_shards_survive_failovers(flavor: Flavor) {
    let options = ["--cluster-require-full-coverage", "no"];
    let mut cluster = Cluster::start(&ClusterPlan { options: &options, ..ClusterPlan::new(flavor) });
    let mut proxies = [gateway(&cluster, ""), gateway(&cluster, FAN_IN)];
    let [a, b, c] = channels();
    let mut subscribers: Vec<(Client, char)> = Vec::new();
    for proxy in &mut proxies {
        proxy.allow_log("\"WARN\"");
        for (version, kind) in [("2", '*'), ("3", '>')] {
            let mut client = at_version(proxy.port, version);
            client.send_command(&["SSUBSCRIBE", &a, &b, &c]);
            (0..3).for_each(|_| drop(client.reply()));
            subscribers.push((client, kind));
        }
    }
    let mut publisher = proxies[0].client();
    // The replica of node 0 takes over in order, and that of node 1 after a crash.
    cluster.failover(3);
    cluster.wait_until_agreed();
    for lost in [false, true] {
        if lost {
            cluster.kill(1);
            wait::until("a replica to take over", || cluster.is_primary(4));
        }
        for channel in [&a, &b, &c] {
            // Two connections of the first gateway, and one of the second.
            reach(&mut publisher, channel, 3);
            subscribers.iter_mut().for_each(|(client, kind)| hear(client, *kind, channel));
        }
        for (client, kind) in &mut subscribers {
            let pong = if *kind == '*' { "*2\r\n$4\r\npong\r\n$0\r\n\r\n" } else { "+PONG\r\n" };
            client.expect(&["PING"], pong);
        }
    }
}

fn fan_in_subscribers_share_a_connection_to_each_shard(flavor: Flavor) {
    let cluster = cluster(flavor);
    let proxy = gateway(&cluster, FAN_IN);
    let [a, b, c] = channels();
    let (mut one, mut two, mut publisher) = (proxy.client(), at_version(proxy.port, "3"), proxy.client());
    let confirmed = |kind: char, word: &str, name: &str, count: u32| {
        format!("{kind}3\r\n${}\r\n{word}\r\n${}\r\n{name}\r\n:{count}\r\n", word.len(), name.len())
    };
    one.send_command(&["SSUBSCRIBE", &a, &b, &c]);
    for (name, count) in [(&a, 1), (&b, 2), (&c, 3)] {
        one.expect_reply(&confirmed('*', "ssubscribe", name, count));
    }
    two.send_command(&["SSUBSCRIBE", &c, &b]);
    for (name, count) in [(&c, 1), (&b, 2)] {
        two.expect_reply(&confirmed('>', "ssubscribe", name, count));
    }
    let counts = |channel: &String| format!("${}\r\n{channel}\r\n:1\r\n", channel.len());
    let expected = format!("*6\r\n{}{}{}", counts(&a), counts(&b), counts(&c));
    publisher.expect(&["PUBSUB", "SHARDNUMSUB", &a, &b, &c], &expected);
    let message = |kind: char, name: &str| {
        format!("{kind}3\r\n$8\r\nsmessage\r\n${}\r\n{name}\r\n$1\r\nm\r\n", name.len())
    };
    for channel in [&b, &c] {
        publisher.expect(&["SPUBLISH", channel, "m"], ":1\r\n");
        one.expect_reply(&message('*', channel));
        two.expect_reply(&message('>', channel));
    }
    // One leaves its channels, and the other keeps them.
    one.expect(&["SUNSUBSCRIBE", &b], &confirmed('*', "sunsubscribe", &b, 2));
    publisher.expect(&["SPUBLISH", &b, "m"], ":1\r\n");
    two.expect_reply(&message('>', &b));
    drop(two);
    wait::until("the channel to end", || publisher.call(&["SPUBLISH", &b, "m"]) == b":0\r\n");
    publisher.expect(&["SPUBLISH", &c, "m"], ":1\r\n");
    one.expect_reply(&message('*', &c));
}

fn a_refused_channel_refuses_the_whole_request(flavor: Flavor) {
    let (cluster, server) = (cluster(flavor), Server::start(flavor));
    let [a, b, c] = channels();
    let rules = [
        "ACL",
        "SETUSER",
        "limited",
        "on",
        ">secret",
        "+@all",
        "~*",
        "resetchannels",
        &format!("&{a}"),
        &format!("&{b}"),
    ];
    (0..3).map(|node| cluster.server(node)).chain([&server]).for_each(|server| {
        assert_eq!(server.run(&rules), b"+OK\r\n");
    });
    for settings in ["", FAN_IN] {
        let proxy = gateway(&cluster, settings);
        for version in ["2", "3"] {
            let mut pair = Pair::new(&proxy, &server, version);
            let mut publisher = Pair::new(&proxy, &server, version);
            pair.same(&["AUTH", "limited", "secret"], 1);
            pair.same(&["SSUBSCRIBE", &c], 1);
            pair.same(&["SSUBSCRIBE", &a, &c, &b], 1);
            pair.same(&["GET", "key"], 1);
            wait::until("nobody to be subscribed", || {
                text(&publisher.through.call(&["PUBSUB", "SHARDNUMSUB", &a, &b])).matches(":0").count() == 2
            });
            pair.same(&["SSUBSCRIBE", &a], 1);
            pair.same(&["SSUBSCRIBE", &b, &c], 1);
            pair.same(&["SSUBSCRIBE", &b], 1);
            publisher.publish(&a, &mut pair);
            publisher.publish(&b, &mut pair);
        }
    }
}

fn shard_channels_count_against_limits(flavor: Flavor) {
    let cluster = cluster(flavor);
    let settings = "max-leased = 1\nlease-timeout = \"100ms\"\n[tenants.all]\ndefault = true\nsubscribed = 2\nchannel-prefixes = [\"a:\", \"b:\"]";
    let mut proxy = gateway(&cluster, settings);
    proxy.allow_log("\"WARN\"");
    let [a, b, c] = channels();
    let (mut one, mut two, mut three) = (proxy.client(), proxy.client(), proxy.client());
    let beginning = |reply: Vec<u8>| text(&reply).chars().take(40).collect::<String>();
    let denied = text(&one.call(&["SSUBSCRIBE", &a, &c]));
    assert!(denied.starts_with("-NOPERM"), "{denied}");
    one.send_command(&["SSUBSCRIBE", &a]);
    assert!(beginning(one.reply()).starts_with("*3\r\n$10\r\nssubscribe"));
    // The node of `a` has no more room, that of `b` has.
    let full = text(&two.call(&["SSUBSCRIBE", &b, &a]));
    assert!(full.starts_with("-ERR respgate: no upstream connection became free"), "{full}");
    two.expect(&["GET", "a:key"], "$-1\r\n");
    assert!(beginning(two.call(&["SSUBSCRIBE", &b])).starts_with("*3\r\n$10\r\nssubscribe"));
    let limited = text(&three.call(&["SSUBSCRIBE", &b]));
    assert!(limited.starts_with("-ERR respgate: ") && limited.contains("subscribed"), "{limited}");
    assert!(beginning(two.call(&["SUNSUBSCRIBE"])).starts_with("*3\r\n$12\r\nsunsubscribe"));
    assert!(beginning(three.call(&["SSUBSCRIBE", &b])).starts_with("*3\r\n$10\r\nssubscribe"));
    drop(one);
    wait::until("the room of a client that has left", || {
        text(&two.call(&["SSUBSCRIBE", &a])).starts_with('*')
    });
    // A reload that denies a channel disconnects its subscribers.
    proxy.rewrite(&configuration(&cluster, &settings.replace(", \"b:\"]", "]")));
    three.rest();
    two.expect(&["PING"], "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
}
