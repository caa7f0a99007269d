//! What clients have under way, or on their connections, when a cluster replaces one primary, and back.

use super::discovery::cluster as shown;
use super::switch::{at_primary, three};
use crate::control::expect;
use crate::control::switch::url;
use crate::support::cluster::key_of;
use crate::support::servers::Flavor;
use crate::support::wait;

with_one_and_two_workers!(what_clients_have_on_their_connections_moves);
with_one_and_two_workers!(what_cannot_be_on_one_node_ends);
with_one_and_two_workers!(what_waits_in_a_cluster_goes_to_the_primary);

/// A blocked client, an open transaction, a watched key and a shard channel.
fn what_clients_have_on_their_connections_moves(workers: usize) {
    let (controlled, cluster) = (at_primary(Flavor::Valkey, workers), three(Flavor::Valkey));
    let client = || controlled.proxy.client();
    let (mut blocked, mut transaction, mut watching, mut channel) = (client(), client(), client(), client());
    let (queue, once, watched) = (key_of("queue", 16_000), key_of("once", 9000), key_of("watched", 11_000));
    channel.expect(&["SSUBSCRIBE", "shard"], "*3\r\n$10\r\nssubscribe\r\n$5\r\nshard\r\n:1\r\n");
    for (turn, to) in [cluster.url(), url(&controlled.server), cluster.url()].iter().enumerate() {
        blocked.send_command(&["BLPOP", &queue, "0"]);
        wait::until("a blocked client", || {
            client().call(&["CLIENT", "LIST"]).windows(9).any(|at| at == b"cmd=blpop")
        });
        transaction.expect(&["MULTI"], "+OK\r\n");
        transaction.expect(&["INCR", &once], "+QUEUED\r\n");
        watching.expect(&["WATCH", &watched], "+OK\r\n");
        expect(&controlled.on_socket(&["switch", "main", to, "--data-copied"]), 0, "to: ");
        transaction.expect(&["INCR", &once], "+QUEUED\r\n");
        let before = if turn == 2 { 2 } else { 0 };
        transaction.expect(&["EXEC"], &format!("*2\r\n:{}\r\n:{}\r\n", before + 1, before + 2));
        watching.expect(&["MULTI"], "+OK\r\n");
        watching.expect(&["SET", &watched, "x"], "+QUEUED\r\n");
        watching.expect(&["EXEC"], "*-1\r\n");
        client().expect(&["RPUSH", &queue, "x"], ":1\r\n");
        let popped = format!("*2\r\n${}\r\n{queue}\r\n$1\r\nx\r\n", queue.len());
        blocked.expect_reply(&popped);
        wait::until("the shard channel", || client().call(&["SPUBLISH", "shard", "m"]) == b":1\r\n");
        channel.expect_reply("*3\r\n$8\r\nsmessage\r\n$5\r\nshard\r\n$1\r\nm\r\n");
    }
    assert_eq!(controlled.proxy.metric("respgate_outcome_unknown_total", &[]), 0.0);
}

/// A transaction with keys of several slots is discarded, and tracking ends its client. Shard channels of several shards go on.
fn what_cannot_be_on_one_node_ends(workers: usize) {
    let (controlled, cluster) = (at_primary(Flavor::Valkey, workers), three(Flavor::Valkey));
    let client = || controlled.proxy.client();
    let (mut transaction, mut channels, mut tracking) = (client(), client(), client());
    transaction.expect(&["MULTI"], "+OK\r\n");
    for slot in [7, 16_000] {
        transaction.expect(&["INCR", &key_of("t", slot)], "+QUEUED\r\n");
        let channel = key_of("c", slot);
        channels.call(&["SSUBSCRIBE", &channel]);
    }
    tracking.call(&["HELLO", "3"]);
    tracking.expect(&["CLIENT", "TRACKING", "ON"], "+OK\r\n");
    expect(&controlled.on_socket(&["switch", "main", &cluster.url(), "--data-copied"]), 0, "to: ");
    transaction.expect(&["EXEC"], "-EXECABORT Transaction discarded because of previous errors.\r\n");
    transaction.expect(&["INCR", &key_of("t", 7)], ":1\r\n");
    assert!(tracking.try_reply().is_err());
    let mut hear_all = || {
        for slot in [7, 16_000] {
            let channel = key_of("c", slot);
            wait::until("the shard channel", || client().call(&["SPUBLISH", &channel, "m"]) == b":1\r\n");
            let message = format!("*3\r\n$8\r\nsmessage\r\n${}\r\n{channel}\r\n$1\r\nm\r\n", channel.len());
            channels.expect_reply(&message);
        }
    };
    hear_all();
    // MULTI is answered before its node is known.
    transaction.expect(&["MULTI"], "+OK\r\n");
    expect(&controlled.on_socket(&["switch", "main", &url(&controlled.server), "--data-copied"]), 0, "to: ");
    hear_all();
    for slot in [7, 16_000] {
        transaction.expect(&["INCR", &key_of("t", slot)], "+QUEUED\r\n");
    }
    transaction.expect(&["EXEC"], "*2\r\n:1\r\n:1\r\n");
}

/// Commands that wait because a slot is on its way, or because a shard is lost, go to the primary that replaces the cluster.
fn what_waits_in_a_cluster_goes_to_the_primary(workers: usize) {
    let mut cluster = three(Flavor::Valkey);
    let mut controlled = at_primary(Flavor::Valkey, workers);
    controlled.proxy.allow_log("\"WARN\"");
    expect(&controlled.on_socket(&["switch", "main", &cluster.url(), "--data-copied"]), 0, "to: ");
    let (here, there) = (key_of("here", 7), key_of("there", 7));
    for key in [&here, &there] {
        assert_eq!(controlled.server.run_text(&["SET", key, "p"]), "+OK\r\n");
    }
    let client = || controlled.proxy.client();
    let (mut moving, mut lost, mut divided, mut blocked) = (client(), client(), client(), client());
    moving.expect(&["SET", &here, "c"], "+OK\r\n");
    cluster.begin_move(7, 2);
    moving.expect(&["SET", &there, "c"], "+OK\r\n");
    moving.send_command(&["MGET", &here, &there]);
    wait::until("the server to say TRYAGAIN", || {
        controlled.proxy.metric("respgate_cluster_redirects_total", &["kind=\"tryagain\""]) >= 2.0
    });
    let home = shown(&controlled.proxy)["home"].clone();
    let shards = shown(&controlled.proxy)["shards"].clone();
    let home = shards.as_array().expect("shards").iter().find(|shard| shard["number"] == home).expect("home");
    let address = |node: usize| format!("127.0.0.1:{}", cluster.server(node).port);
    let dead = [1, 2].into_iter().find(|node| home["primary"]["address"] != address(*node)).expect("another");
    let slot = [0, 8000, 16_000][dead];
    cluster.kill(dead);
    let queue = key_of("queue", slot);
    divided.send_command(&["MSET", &key_of("a", slot), "1"]);
    divided.send_command(&["EXISTS", &key_of("a", slot), &key_of("a", 3), &key_of("a", 9000)]);
    lost.send_command(&["INCR", &key_of("n", slot)]);
    blocked.send_command(&["BLPOP", &queue, "0"]);
    wait::until("clients to wait", || controlled.proxy.metric("respgate_clients_held", &[]) >= 2.0);
    expect(&controlled.on_socket(&["switch", "main", &url(&controlled.server), "--data-copied"]), 0, "to: ");
    moving.expect_reply("*2\r\n$1\r\np\r\n$1\r\np\r\n");
    divided.expect_reply("+OK\r\n");
    divided.expect_reply(":1\r\n");
    lost.expect_reply(":1\r\n");
    client().expect(&["RPUSH", &queue, "x"], ":1\r\n");
    blocked.expect_reply(&format!("*2\r\n${}\r\n{queue}\r\n$1\r\nx\r\n", queue.len()));
    assert_eq!(controlled.proxy.metric("respgate_cluster_redirects_failed_total", &[]), 0.0);
}
