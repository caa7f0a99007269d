//! Reads from the replicas of a cluster: each goes to the shard of its slot, nobody misses an own write, and nobody notices a lost replica, a
//! failover or a slot that moves.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::discovery;
use crate::support::client::{Client, encode};
use crate::support::cluster::{Cluster, ClusterPlan, key_of};
use crate::support::proxy::Proxy;
use crate::support::servers::Flavor;
use crate::support::wait;

on_both_servers!(what_clients_read);
on_both_servers!(lost_replicas_are_not_noticed);
on_both_servers!(failovers_show_no_old_data);
on_both_servers!(slots_move_while_clients_read);
on_both_servers!(reads_go_on_without_a_primary);

/// A slot of each of three shards.
const SLOTS: [u16; 3] = [10, 8000, 16_000];

fn proxy(cluster: &Cluster, workers: usize, reads: &str, keys: &str) -> Proxy {
    let text = format!(
        "[tenants.all]\ndefault = true\nreads = \"{reads}\"\n[upstreams.main]\nurl = \"{}\"\n{keys}\n",
        cluster.url()
    );
    let mut proxy = Proxy::start_file(workers, &text);
    proxy.allow_log("\"WARN\"");
    proxy.wait_until_ready();
    proxy
}

fn sent_to_replicas(proxy: &Proxy) -> f64 {
    proxy.metric("respgate_replica_reads_total", &[])
}

/// The number of GET commands that a node has run.
fn reads_at(cluster: &Cluster, node: usize) -> u64 {
    let text = cluster.server(node).run_text(&["INFO", "commandstats"]);
    let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls="));
    line.map_or(0, |line| line.split(',').next().and_then(|calls| calls.parse().ok()).unwrap_or(0))
}

/// Reads until a replica answers this client.
fn wait_for_replica(proxy: &Proxy, client: &mut Client, key: &str) {
    let before = sent_to_replicas(proxy);
    wait::until("a read from a replica", || {
        client.call(&["GET", key]);
        sent_to_replicas(proxy) > before
    });
}

fn bulk(value: &str) -> String {
    format!("${}\r\n{value}\r\n", value.len())
}

fn what_clients_read(flavor: Flavor) {
    let cluster = Cluster::three(flavor);
    reads_go_to_the_replica_of_their_shard(&cluster);
    own_writes_are_seen(&cluster, "session");
    own_writes_are_seen(&cluster, "tenant");
    clients_choose(&cluster);
    reads_wait_where_only_replicas_may_serve(&cluster);
}

fn reads_go_to_the_replica_of_their_shard(cluster: &Cluster) {
    let proxy = proxy(cluster, 1, "prefer-replica", "");
    let keys = SLOTS.map(|slot| key_of("shard", slot));
    let mut client = proxy.client();
    for key in &keys {
        client.expect(&["SET", key, key], "+OK\r\n");
        wait_for_replica(&proxy, &mut client, key);
    }
    let before: Vec<u64> = (0..6).map(|node| reads_at(cluster, node)).collect();
    for _ in 0..20 {
        for key in &keys {
            client.expect(&["GET", key], &bulk(key));
        }
    }
    let read: Vec<u64> = (0..6).map(|node| reads_at(cluster, node) - before[node]).collect();
    assert_eq!(read, [0, 0, 0, 20, 20, 20]);
    // Reads of several shards under way at once, with commands for primaries among them.
    let mut pipeline = Vec::new();
    for _ in 0..10 {
        keys.iter().for_each(|key| pipeline.extend(encode(&["GET", key])));
        pipeline.extend(encode(&["EXISTS", &keys[0], &keys[1], &keys[2]]));
        pipeline.extend(encode(&["STRLEN", &keys[1]]));
        pipeline.extend(encode(&["APPEND", &keys[2], ""]));
    }
    client.send(&pipeline);
    for _ in 0..10 {
        keys.iter().for_each(|key| client.expect_reply(&bulk(key)));
        client.expect_reply(":3\r\n");
        client.expect_reply(&format!(":{}\r\n", keys[1].len()));
        client.expect_reply(&format!(":{}\r\n", keys[2].len()));
    }
    // Operators see the replica of each shard.
    let answer = proxy.http("/status");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let status: serde_json::Value = serde_json::from_str(body).expect("the status");
    let shown = status["upstreams"][0]["replication"]["replicas"].as_array().expect("replicas").clone();
    let serving = shown.iter().filter(|replica| replica["reads"]["serves"] == true).count();
    assert_eq!((shown.len(), serving), (3, 3), "{shown:?}");
    let replica = format!("replica=\"127.0.0.1:{}\"", cluster.server(4).port);
    assert!(proxy.metric("respgate_replica_requests_total", &[&replica]) >= 20.0);
}

/// Clients write and read at once, in all shards. With `tenant`, another connection reads, perhaps at another worker.
fn own_writes_are_seen(cluster: &Cluster, shows: &str) {
    let proxy = proxy(cluster, 2, "prefer-replica", &format!("read-your-writes = \"{shows}\""));
    let before = sent_to_replicas(&proxy);
    thread::scope(|scope| {
        for number in 0..6 {
            let (mut writer, mut other) = (proxy.client(), (shows == "tenant").then(|| proxy.client()));
            scope.spawn(move || {
                let keys = SLOTS.map(|slot| key_of(&format!("own:{number}"), slot));
                for round in 0..150 {
                    let value = round.to_string();
                    for key in &keys {
                        match round % 3 {
                            0 => writer.expect(&["SET", key, &value], "+OK\r\n"),
                            1 => writer.expect(
                                &["EVAL", "return redis.call('set', KEYS[1], ARGV[1])", "1", key, &value],
                                "+OK\r\n",
                            ),
                            _ => {
                                writer.send(
                                    [encode(&["MULTI"]), encode(&["SET", key, &value]), encode(&["EXEC"])]
                                        .concat(),
                                );
                                writer.replies_are(&["+OK\r\n", "+QUEUED\r\n", "*1\r\n+OK\r\n"]);
                            }
                        }
                        other.as_mut().unwrap_or(&mut writer).expect(&["GET", key], &bulk(&value));
                    }
                    if round % 10 == 0 {
                        thread::sleep(Duration::from_millis(10));
                    }
                    for key in &keys {
                        other.as_mut().unwrap_or(&mut writer).expect(&["GET", key], &bulk(&value));
                    }
                    // A write and a read behind it in one pipeline.
                    let next = format!("{value}+");
                    writer.send(
                        [
                            encode(&["GET", &keys[1]]),
                            encode(&["SET", &keys[0], &next]),
                            encode(&["GET", &keys[0]]),
                        ]
                        .concat(),
                    );
                    writer.replies_are(&[&bulk(&value), "+OK\r\n", &bulk(&next)]);
                }
            });
        }
    });
    let sent = sent_to_replicas(&proxy) - before;
    assert!(sent > 50.0, "only {sent} reads went to replicas, so this test shows little");
}

fn clients_choose(cluster: &Cluster) {
    let proxy = proxy(cluster, 1, "on-request", "");
    let key = key_of("choice", SLOTS[1]);
    let mut client = proxy.client();
    client.expect(&["SET", &key, "1"], "+OK\r\n");
    client.expect(&["GET", &key], "$1\r\n1\r\n");
    assert_eq!(sent_to_replicas(&proxy), 0.0);
    client.expect(&["READONLY"], "+OK\r\n");
    wait_for_replica(&proxy, &mut client, &key);
    client.expect(&["READWRITE"], "+OK\r\n");
    let before = sent_to_replicas(&proxy);
    client.expect(&["GET", &key], "$1\r\n1\r\n");
    assert_eq!(sent_to_replicas(&proxy), before);
}

fn reads_wait_where_only_replicas_may_serve(cluster: &Cluster) {
    let proxy = proxy(cluster, 1, "replica", "hold-timeout = \"1s\"\nmax-lag = \"300ms\"");
    let keys = SLOTS.map(|slot| key_of("only", slot));
    let mut client = proxy.client();
    for key in &keys {
        client.expect(&["SET", key, "1"], "+OK\r\n");
        client.expect(&["GET", key], "$1\r\n1\r\n");
    }
    assert_eq!(sent_to_replicas(&proxy), 3.0);
    cluster.server(4).signal("STOP");
    wait::until("the replica to be out of use", || {
        let replica = format!("replica=\"127.0.0.1:{}\"", cluster.server(4).port);
        proxy.metric("respgate_replica_serves", &[&replica]) == 0.0
    });
    let asked = Instant::now();
    let refused = client.call(&["GET", &keys[1]]);
    let waited = asked.elapsed();
    client.expect(&["GET", &keys[0]], "$1\r\n1\r\n");
    cluster.server(4).signal("CONT");
    assert!(refused.starts_with(b"-ERR respgate: no replica to read from"), "{}", refused.escape_ascii());
    assert!(waited >= Duration::from_millis(900), "{waited:?}");
    wait::until("the replica to serve again", || client.call(&["GET", &keys[1]]) == b"$1\r\n1\r\n");
}

fn lost_replicas_are_not_noticed(flavor: Flavor) {
    let mut cluster = Cluster::three(flavor);
    let proxy = proxy(&cluster, 1, "prefer-replica", "max-lag = \"500ms\"");
    let keys = SLOTS.map(|slot| key_of("lost", slot));
    let mut client = proxy.client();
    for key in &keys {
        client.expect(&["SET", key, "1"], "+OK\r\n");
        wait_for_replica(&proxy, &mut client, key);
    }
    let mut read_all = |times| {
        for _ in 0..times {
            let pipeline: Vec<u8> = keys.iter().flat_map(|key| encode(&["GET", key])).collect();
            client.send(&pipeline);
            client.replies_are(&["$1\r\n1\r\n"; 3]);
        }
    };
    wait::until("a read that a frozen replica owes", || {
        let before = reads_at(&cluster, 4);
        wait::until("reads from the replica", || {
            read_all(1);
            reads_at(&cluster, 4) > before
        });
        cluster.server(4).signal("STOP");
        let asked = Instant::now();
        read_all(30);
        let waited = asked.elapsed();
        cluster.server(4).signal("CONT");
        assert!(waited < Duration::from_secs(5), "reads waited {waited:?}");
        proxy.metric("respgate_replica_reads_returned_total", &[]) > 0.0
    });
    let before = reads_at(&cluster, 4);
    wait::until("reads from the replica again", || {
        read_all(1);
        reads_at(&cluster, 4) > before
    });
    cluster.kill(4);
    read_all(100);
    let before = reads_at(&cluster, 1);
    read_all(10);
    assert!(reads_at(&cluster, 1) > before, "the primary serves the reads of its slots");
}

/// Clients that write a number to a key, and read it until the next one.
struct Clients {
    ends: AtomicBool,
    only_reads: AtomicBool,
    rounds: AtomicU64,
}

impl Clients {
    /// Lets clients work while `meddle` runs, and for a while before and after.
    fn around(proxies: &[&Proxy], slots: &[u16], meddle: impl FnOnce(&Self)) {
        let clients = Self {
            ends: AtomicBool::new(false),
            only_reads: AtomicBool::new(false),
            rounds: AtomicU64::new(0),
        };
        thread::scope(|scope| {
            let running: Vec<_> = (0..4 * proxies.len())
                .map(|number| {
                    let (client, clients) = (proxies[number % proxies.len()].client(), &clients);
                    let keys: Vec<String> =
                        slots.iter().map(|slot| key_of(&format!("c{number}"), *slot)).collect();
                    scope.spawn(move || clients.work(client, &keys))
                })
                .collect();
            clients.pass(200);
            meddle(&clients);
            clients.pass(200);
            clients.ends.store(true, Ordering::Relaxed);
            running
                .into_iter()
                .for_each(|client| client.join().expect("a client saw an error or an old value"));
        });
    }

    /// Waits for so many more rounds.
    fn pass(&self, rounds: u64) {
        let until = self.rounds.load(Ordering::Relaxed) + rounds;
        wait::until("the clients to go on", || self.rounds.load(Ordering::Relaxed) >= until);
    }

    fn work(&self, mut client: Client, keys: &[String]) {
        client.deadline(Duration::from_secs(30));
        let mut value = 0_u64;
        while !self.ends.load(Ordering::Relaxed) {
            if value == 0 || !self.only_reads.load(Ordering::SeqCst) {
                value += 1;
                for key in keys {
                    client.expect(&["SET", key, &value.to_string()], "+OK\r\n");
                    client.expect(&["GET", key], &bulk(&value.to_string()));
                }
            }
            for pause in [0, 15, 0] {
                thread::sleep(Duration::from_millis(pause));
                let pipeline: Vec<u8> = keys.iter().flat_map(|key| encode(&["GET", key])).collect();
                client.send(&pipeline);
                keys.iter().for_each(|_| client.expect_reply(&bulk(&value.to_string())));
            }
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn failovers_show_no_old_data(flavor: Flavor) {
    let options = ["--cluster-require-full-coverage", "no"];
    let mut cluster = Cluster::start(&ClusterPlan { options: &options, ..ClusterPlan::new(flavor) });
    let [prefers, alone] = ["", "reads-in-hold = \"replica\""].map(|keys| {
        let keys = format!("read-your-writes = \"session\"\n{keys}");
        proxy(&cluster, 1, "prefer-replica", &keys)
    });
    let proxies = [&prefers, &alone];
    Clients::around(&proxies, &SLOTS, |clients| {
        for node in [4, 1] {
            cluster.failover(node);
            cluster.wait_until_agreed();
            let before = proxies.map(sent_to_replicas);
            clients.pass(100);
            wait::until("reads from replicas after the failover", || {
                proxies.iter().zip(before).all(|(proxy, before)| sent_to_replicas(proxy) > before + 30.0)
            });
        }
        // What a primary has answered and not replicated is lost with it, so the clients only read in that moment.
        clients.only_reads.store(true, Ordering::SeqCst);
        clients.pass(50);
        cluster.kill(0);
        wait::until("the replica to take over", || cluster.is_primary(3));
        clients.only_reads.store(false, Ordering::SeqCst);
        clients.pass(100);
    });
}

fn slots_move_while_clients_read(flavor: Flavor) {
    let cluster = Cluster::three(flavor);
    let proxy = proxy(&cluster, 2, "prefer-replica", "poll-interval = \"200ms\"");
    let slots = [11, 12, SLOTS[1]];
    let moving = || discovery::cluster(&proxy)["slots_moving"].as_u64().expect("a number");
    Clients::around(&[&proxy], &slots, |clients| {
        for (slot, to) in [(11, 1), (12, 2), (11, 0)] {
            wait::until("no slot to move", || moving() == 0);
            cluster.begin_move(slot, to);
            // Replicas of many servers say of a key that has moved that it does not exist.
            wait::until("respgate to know that the slot moves", || moving() > 0);
            while cluster.move_keys(slot, to, 1) > 0 {
                clients.pass(5);
            }
            cluster.finish_move(slot, to);
            clients.pass(50);
        }
        wait::until("no slot to move", || moving() == 0);
        let before = sent_to_replicas(&proxy);
        wait::until("reads from replicas again", || sent_to_replicas(&proxy) > before + 30.0);
    });
    assert_eq!(proxy.metric("respgate_cluster_redirects_failed_total", &[]), 0.0);
}

/// With `reads-in-hold = "replica"`, the reads of a shard without a primary go on at its replicas.
fn reads_go_on_without_a_primary(flavor: Flavor) {
    let options = ["--cluster-require-full-coverage", "no"];
    let plan = ClusterPlan { options: &options, node_timeout_ms: 4000, ..ClusterPlan::new(flavor) };
    let mut cluster = Cluster::start(&plan);
    let proxy = proxy(&cluster, 1, "prefer-replica", "reads-in-hold = \"replica\"");
    let key = key_of("held", SLOTS[1]);
    let (mut reader, mut writer) = (proxy.client(), proxy.client());
    writer.deadline(Duration::from_secs(30));
    reader.expect(&["SET", &key, "1"], "+OK\r\n");
    wait_for_replica(&proxy, &mut reader, &key);
    cluster.kill(1);
    let killed = Instant::now();
    let write = thread::spawn({
        let key = key.clone();
        move || {
            writer.expect(&["APPEND", &key, ""], ":1\r\n");
            killed.elapsed()
        }
    });
    let (mut slowest, mut last) = (Duration::ZERO, Instant::now());
    while killed.elapsed() < Duration::from_millis(3500) {
        reader.expect(&["GET", &key], "$1\r\n1\r\n");
        slowest = slowest.max(last.elapsed());
        last = Instant::now();
        thread::sleep(Duration::from_millis(2));
    }
    let held = write.join().expect("the write");
    assert!(held > Duration::from_secs(3), "the shard had a primary again after {held:?}");
    assert!(slowest < Duration::from_millis(1500), "a read waited {slowest:?}");
    reader.deadline(Duration::from_secs(30));
    reader.expect(&["GET", &key], "$1\r\n1\r\n");
}
