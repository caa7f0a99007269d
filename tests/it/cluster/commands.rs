//! Commands of every group, with keys of every shard: clients see one server.

use std::time::Duration;

use crate::support::client::{Client, encode};
use crate::support::cluster::{Cluster, key_of};
use crate::support::proxy::Proxy;
use crate::support::servers::Flavor;

on_both_servers!(clients_see_one_server);

const CROSS_SLOT: &str = "-CROSSSLOT Keys in request don't hash to the same slot\r\n";
const ABORTED: &str = "-EXECABORT Transaction discarded because of previous errors.\r\n";

/// A slot of each shard.
const SLOTS: [u16; 3] = [1, 8000, 16_000];

/// One cluster serves all of these, because it takes seconds to start.
fn clients_see_one_server(flavor: Flavor) {
    let cluster = Cluster::three(flavor);
    let mut proxy = Proxy::start_with(&cluster.url(), 2, &[]);
    proxy.allow_log("\"WARN\"");
    a_command_that_does_not_exist_leaves_nothing(&proxy);
    every_group_of_commands(&proxy);
    pipelines_are_answered_in_order(&proxy);
    transactions_run_at_the_node_of_their_keys(&proxy);
    refused_commands_discard_their_transaction(&proxy, &cluster);
    watched_keys(&proxy);
    commands_that_block(&proxy);
    scripts(&proxy);
    publish_and_subscribe(&proxy);
    commands_beside_state_at_another_node(&proxy);
    nothing_shows_the_cluster(&proxy, &cluster);
    absurd_requests_harm_nobody(&proxy);
}

fn keys(prefix: &str) -> [String; 3] {
    SLOTS.map(|slot| key_of(prefix, slot))
}

fn every_group_of_commands(proxy: &Proxy) {
    let mut client = proxy.client();
    for (number, slot) in (0..).zip(SLOTS) {
        let key = |prefix: &str| key_of(prefix, slot);
        client.expect(&["SET", &key("s"), "v"], "+OK\r\n");
        client.expect(&["APPEND", &key("s"), "w"], ":2\r\n");
        client.expect(&["GET", &key("s")], "$2\r\nvw\r\n");
        client.expect(&["INCRBY", &key("n"), "7"], ":7\r\n");
        client.expect(&["SETBIT", &key("b"), "7", "1"], ":0\r\n");
        client.expect(&["BITCOUNT", &key("b")], ":1\r\n");
        client.expect(&["HSET", &key("h"), "f", "1"], ":1\r\n");
        client.expect(&["HINCRBY", &key("h"), "f", "2"], ":3\r\n");
        client.expect(&["RPUSH", &key("l"), "a", "b"], ":2\r\n");
        client.expect(&["LRANGE", &key("l"), "0", "-1"], "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
        client.expect(&["SADD", &key("set"), "m"], ":1\r\n");
        client.expect(&["SISMEMBER", &key("set"), "m"], ":1\r\n");
        client.expect(&["ZADD", &key("z"), "1", "m"], ":1\r\n");
        client.expect(&["ZSCORE", &key("z"), "m"], "$1\r\n1\r\n");
        client.expect(&["XADD", &key("x"), "1-1", "f", "v"], "$3\r\n1-1\r\n");
        client.expect(&["XGROUP", "CREATE", &key("x"), "g", "0"], "+OK\r\n");
        client.expect(&["PFADD", &key("p"), "e"], ":1\r\n");
        client.expect(&["PFCOUNT", &key("p")], ":1\r\n");
        client.expect(&["GEOADD", &key("g"), "13", "38", "m"], ":1\r\n");
        client.expect(&["EXPIRE", &key("s"), "100"], ":1\r\n");
        client.expect(&["OBJECT", "ENCODING", &key("n")], "$3\r\nint\r\n");
        client.expect(&["TYPE", &key("z")], "+zset\r\n");
        client.expect(&["RENAME", &key("s"), &key("s2")], "+OK\r\n");
        client.expect(&["COPY", &key("s2"), &key("s3")], ":1\r\n");
        client.expect(&["SORT", &key("l"), "ALPHA", "LIMIT", "0", "1"], "*1\r\n$1\r\na\r\n");
        let scanned = client.call(&["HSCAN", &key("h"), "0"]);
        assert!(scanned.starts_with(b"*2\r\n$1\r\n0\r\n"), "{number}: {scanned:?}");
    }
    let [one, other, _] = keys("k");
    client.expect(&["RENAME", &one, &other], CROSS_SLOT);
    client.expect(&["SINTERSTORE", &one, &other], CROSS_SLOT);
    client.expect(&["GET"], "-ERR wrong number of arguments for 'get' command\r\n");
}

fn pipelines_are_answered_in_order(proxy: &Proxy) {
    let mut client = proxy.client();
    let keys: Vec<String> = (0..60).map(|number| format!("pipeline:{number}")).collect();
    let (mut pipeline, mut expected) = (Vec::new(), Vec::new());
    for round in 1..=20 {
        for (number, key) in keys.iter().enumerate() {
            pipeline.extend(encode(&["INCR", key]));
            expected.push(format!(":{round}\r\n"));
            match number % 7 {
                0 => {
                    pipeline.extend(encode(&["ECHO", key]));
                    expected.push(format!("${}\r\n{key}\r\n", key.len()));
                }
                1 => {
                    pipeline.extend(encode(&["NO-SUCH-COMMAND-HERE"]));
                    expected.push(
                        "-ERR unknown command 'NO-SUCH-COMMAND-HERE', with args beginning with: \r\n".into(),
                    );
                }
                _ => {}
            }
        }
    }
    let mut writer = client.writer();
    std::thread::scope(|scope| {
        scope.spawn(move || writer.send(&pipeline));
        for reply in &expected {
            client.expect_reply(reply);
        }
    });
}

fn transactions_run_at_the_node_of_their_keys(proxy: &Proxy) {
    let mut client = proxy.client();
    for key in keys("tx") {
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["SET", &key, "1"], "+QUEUED\r\n");
        client.expect(&["INCR", &key], "+QUEUED\r\n");
        client.expect(&["EXEC"], "*2\r\n+OK\r\n:2\r\n");
        // The first command has no key.
        client.send(
            [encode(&["MULTI"]), encode(&["ECHO", "e"]), encode(&["INCR", &key]), encode(&["EXEC"])].concat(),
        );
        client.replies_are(&["+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", "*2\r\n$1\r\ne\r\n:3\r\n"]);
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["INCR", &key], "+QUEUED\r\n");
        client.expect(&["DISCARD"], "+OK\r\n");
        client.expect(&["GET", &key], "$1\r\n3\r\n");
    }
    let [one, other, _] = keys("tx");
    client.expect(&["MULTI"], "+OK\r\n");
    client.expect(&["INCR", &one], "+QUEUED\r\n");
    client.expect(&["INCR", &other], CROSS_SLOT);
    client.expect(&["EXEC"], ABORTED);
    client.expect(&["GET", &one], "$1\r\n3\r\n");
    client.expect(&["MULTI"], "+OK\r\n");
    client.expect(&["EXEC"], "*0\r\n");
    client.expect(&["MULTI"], "+OK\r\n");
    client.expect(&["DISCARD"], "+OK\r\n");
    client.expect(&["EXEC"], "-ERR EXEC without MULTI\r\n");
    client.expect(&["MULTI"], "+OK\r\n");
    client.expect(&["RESET"], "+RESET\r\n");
    client.expect(&["EXEC"], "-ERR EXEC without MULTI\r\n");
}

/// The first client of a worker to send an unlisted command is the one for which respgate asks the server about it.
fn a_command_that_does_not_exist_leaves_nothing(proxy: &Proxy) {
    for key in keys("unknown") {
        let mut client = proxy.client();
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["NOSUCH"], "-ERR unknown command 'NOSUCH', with args beginning with: \r\n");
        client.expect(&["SET", &key, "1"], "+QUEUED\r\n");
        client.expect(&["EXEC"], ABORTED);
        for key in keys("unknown") {
            client.expect(&["EVAL", "return KEYS[1]", "1", &key], &format!("${}\r\n{key}\r\n", key.len()));
        }
    }
}

/// What a server has refused before the first key discards the transaction at the node of that key too, or not, as on one server.
fn refused_commands_discard_their_transaction(proxy: &Proxy, cluster: &Cluster) {
    let mut direct = cluster.server(cluster.owner(SLOTS[0])).client();
    let at_server = key_of("refused", SLOTS[0]);
    for refused in [&["MULTI"][..], &["MULTI", "x"], &["WATCH"], &["UNWATCH", "x"]] {
        let play = |client: &mut Client, key: &str| {
            [&["MULTI"][..], refused, &["GET", key], &["EXEC"]].map(|command| client.call(command))
        };
        let expected = play(&mut direct, &at_server);
        for key in keys("refused") {
            assert_eq!(play(&mut proxy.client(), &key), expected, "{refused:?} before {key}");
        }
    }
}

fn watched_keys(proxy: &Proxy) {
    let (mut client, mut other) = (proxy.client(), proxy.client());
    let [_, elsewhere, _] = keys("elsewhere");
    other.expect(&["SET", &elsewhere, "e"], "+OK\r\n");
    for key in keys("watched") {
        client.expect(&["WATCH", &key], "+OK\r\n");
        // A key of another node is read beside the watch.
        client.expect(&["GET", &elsewhere], "$1\r\ne\r\n");
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["SET", &key, "mine"], "+QUEUED\r\n");
        client.expect(&["EXEC"], "*1\r\n+OK\r\n");
        client.expect(&["WATCH", &key], "+OK\r\n");
        other.expect(&["SET", &key, "theirs"], "+OK\r\n");
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["SET", &key, "mine"], "+QUEUED\r\n");
        client.expect(&["EXEC"], "*-1\r\n");
        client.expect(&["GET", &key], "$6\r\ntheirs\r\n");
    }
    let [one, two, _] = keys("watched");
    client.expect(&["WATCH", &one], "+OK\r\n");
    client.expect(&["WATCH", &two], CROSS_SLOT);
    client.expect(&["UNWATCH"], "+OK\r\n");
    client.expect(&["WATCH", &two], "+OK\r\n");
    client.expect(&["UNWATCH"], "+OK\r\n");
}

fn commands_that_block(proxy: &Proxy) {
    let mut other = proxy.client();
    let mut waiting: Vec<(String, Client)> = keys("queue")
        .map(|key| {
            let mut client = proxy.client();
            client.send_command(&["BLPOP", &key, "20"]);
            (key, client)
        })
        .into();
    std::thread::sleep(Duration::from_millis(20));
    for (key, client) in &mut waiting {
        other.expect(&["RPUSH", key, "v"], ":1\r\n");
        client.expect_reply(&format!("*2\r\n${}\r\n{key}\r\n$1\r\nv\r\n", key.len()));
        client.expect(&["GET", "unblocked"], "$-1\r\n");
    }
    let [one, two, _] = keys("queue");
    other.expect(&["BLPOP", &one, &two, "1"], CROSS_SLOT);
    other.expect(&["BLPOP", &one, "0.01"], "*-1\r\n");
}

fn scripts(proxy: &Proxy) {
    let mut client = proxy.client();
    for key in keys("script") {
        client.expect(&["EVAL", "return redis.call('set', KEYS[1], ARGV[1])", "1", &key, "v"], "+OK\r\n");
        client.expect(&["EVAL", "return redis.call('get', KEYS[1])", "1", &key], "$1\r\nv\r\n");
    }
    let [one, two, _] = keys("script");
    client.expect(&["EVAL", "return 1", "2", &one, &two], CROSS_SLOT);
    client.expect(&["EVAL", "return 1", "0"], ":1\r\n");
}

fn publish_and_subscribe(proxy: &Proxy) {
    let (mut subscriber, mut publisher) = (proxy.client(), proxy.client());
    subscriber.expect(&["SUBSCRIBE", "c"], "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    publisher.call(&["PUBLISH", "c", "m"]);
    subscriber.expect_reply("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n");
    for channel in keys("c") {
        let mut subscriber = proxy.client();
        let length = channel.len();
        subscriber.expect(
            &["SSUBSCRIBE", &channel],
            &format!("*3\r\n$10\r\nssubscribe\r\n${length}\r\n{channel}\r\n:1\r\n"),
        );
        publisher.expect(&["SPUBLISH", &channel, "m"], ":1\r\n");
        subscriber.expect_reply(&format!("*3\r\n$8\r\nsmessage\r\n${length}\r\n{channel}\r\n$1\r\nm\r\n"));
    }
    let [one, two, _] = keys("c");
    let confirmed = |channel: &str, count: u32| {
        format!("*3\r\n$10\r\nssubscribe\r\n${}\r\n{channel}\r\n:{count}\r\n", channel.len())
    };
    publisher.send_command(&["SSUBSCRIBE", &one, &two]);
    publisher.replies_are(&[&confirmed(&one, 1), &confirmed(&two, 2)]);
}

fn commands_beside_state_at_another_node(proxy: &Proxy) {
    let mut client = proxy.client();
    client.call(&["HELLO", "3"]);
    client.expect(&["SUBSCRIBE", "beside"], ">3\r\n$9\r\nsubscribe\r\n$6\r\nbeside\r\n:1\r\n");
    for key in keys("beside") {
        client.expect(&["SET", &key, "v"], "+OK\r\n");
        client.expect(&["GET", &key], "$1\r\nv\r\n");
    }
    proxy.client().call(&["PUBLISH", "beside", "m"]);
    client.expect_reply(">3\r\n$7\r\nmessage\r\n$6\r\nbeside\r\n$1\r\nm\r\n");
    let tracking = client.call(&["CLIENT", "TRACKING", "ON"]);
    assert!(tracking.starts_with(b"-ERR respgate: CLIENT TRACKING"), "{tracking:?}");
    // A setting of the connection goes where the client's commands go. (Redis 7.0 does not know this one.)
    let mut client = proxy.client();
    client.call(&["CLIENT", "NO-TOUCH", "ON"]);
    for _ in 0..10 {
        for key in keys("beside") {
            client.expect(&["EVAL", "return redis.call('GET', KEYS[1])", "1", &key], "$1\r\nv\r\n");
            client.expect(&["GET", &key], "$1\r\nv\r\n");
        }
    }
    // In RESP2, a subscriber may do nothing else, whichever node has the keys.
    for subscribe in ["SUBSCRIBE", "SSUBSCRIBE"] {
        let mut client = proxy.client();
        let kind = subscribe.to_ascii_lowercase();
        let confirmation = format!("*3\r\n${}\r\n{kind}\r\n$6\r\nbeside\r\n:1\r\n", kind.len());
        client.expect(&[subscribe, "beside"], &confirmation);
        for command in keys("beside").iter().map(|key| vec!["get", key]).chain([vec!["dbsize"], vec!["exec"]])
        {
            let (name, start) = match command[0] {
                "exec" => ("exec", "-EXECABORT Transaction discarded because of:"),
                name => (name, "-ERR"),
            };
            client.expect(&command, &format!("{start} Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context\r\n"));
        }
        client.expect(
            &["exec", "x"],
            "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command\r\n",
        );
    }
    // A transaction that the server has refused a command of still goes to the node of its first key.
    for key in &keys("beside") {
        let mut client = proxy.client();
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["SCRIPT"], "-ERR wrong number of arguments for 'script' command\r\n");
        client.expect(&["GET", key], "+QUEUED\r\n");
        client.expect(&["EXEC"], ABORTED);
        client.expect(&["GET", key], "$1\r\nv\r\n");
    }
}

fn nothing_shows_the_cluster(proxy: &Proxy, cluster: &Cluster) {
    let mut client = proxy.client();
    client.expect(&["CLUSTER", "SLOTS"], "-ERR This instance has cluster support disabled\r\n");
    let info = String::from_utf8(client.call(&["INFO"])).expect("text");
    assert!(info.contains("cluster_enabled:0") && !info.contains("mode:cluster"), "{info}");
    let hello = String::from_utf8_lossy(&client.call(&["HELLO", "3"])).into_owned();
    assert!(hello.contains("$10\r\nstandalone\r\n"), "{hello}");
    let mut client = proxy.client();
    let refused = cluster.server(0).run_text(&["SELECT", "1"]);
    client.expect(&["SELECT", "1"], &refused);
    let tracking = client.call(&["CLIENT", "TRACKING", "ON"]);
    assert!(tracking.starts_with(b"-ERR respgate: CLIENT TRACKING"), "{tracking:?}");
}

fn absurd_requests_harm_nobody(proxy: &Proxy) {
    let mut client = proxy.client();
    let mut words = vec!["SINTER".to_owned()];
    words.extend((0..100_000).map(|number| number.to_string()));
    client.expect(&words, CROSS_SLOT);
    let mut words = vec!["EVAL".to_owned(), "return #KEYS".to_owned(), "100000".to_owned()];
    words.extend((0..100_000).map(|number| format!("{{k}}{number}")));
    client.expect(&words, ":100000\r\n");
    client.expect(
        &["EVAL", "return 1", "99999999999999999999", "k"],
        "-ERR value is not an integer or out of range\r\n",
    );
    client.expect(&["PING"], "+PONG\r\n");
}
