//! Commands that nodes redirect: slots move and replicas take over while clients write. No client sees an error, and no write is lost,
//! doubled or overtaken.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::status::document;
use crate::support::client::{Client, encode};
use crate::support::cluster::{Cluster, ClusterPlan, key_of};
use crate::support::proxy::Proxy;
use crate::support::servers::Flavor;
use crate::support::wait;

on_both_servers!(keys_of_a_slot_on_its_way_are_found);
on_both_servers!(commands_with_keys_on_both_nodes_wait);
on_both_servers!(slots_move_while_clients_write);
on_both_servers!(slots_move_all_at_once_while_clients_write);
on_both_servers!(a_node_comes_and_goes_while_clients_write);
on_both_servers!(replicas_take_over_while_clients_write);

/// The number of clients that write.
const WRITERS: usize = 8;
/// The number of increments that a client sends in one write.
const PIPELINED: usize = 24;
/// The slots that move, of the first node.
const MOVING: [u16; 4] = [1, 2, 1000, 5000];

fn proxy(cluster: &Cluster, workers: usize) -> Proxy {
    let mut proxy = Proxy::start_file(workers, &format!("[upstreams.main]\nurl = \"{}\"\n", cluster.url()));
    proxy.allow_log("\"WARN\"");
    proxy.wait_until_ready();
    proxy
}

fn redirects(proxy: &Proxy, kind: &str) -> f64 {
    proxy.metric("respgate_cluster_redirects_total", &[&format!("kind=\"{kind}\"")])
}

fn keys_of_a_slot_on_its_way_are_found(flavor: Flavor) {
    let cluster = Cluster::three(flavor);
    let proxy = proxy(&cluster, 1);
    let mut client = proxy.client();
    let (here, there) = (key_of("here", 7), key_of("there", 7));
    client.expect(&["SET", &here, "0"], "+OK\r\n");
    cluster.begin_move(7, 2);
    // The old node has only the first key, so it answers every second command itself.
    let mut pipeline = Vec::new();
    for _ in 0..50 {
        pipeline.extend(encode(&["INCR", &here]));
        pipeline.extend(encode(&["INCR", &there]));
    }
    client.send(&pipeline);
    for number in 1..=50 {
        client.expect_reply(&format!(":{number}\r\n"));
        client.expect_reply(&format!(":{number}\r\n"));
    }
    assert!(redirects(&proxy, "ask") >= 50.0, "{}", redirects(&proxy, "ask"));
    assert_eq!(cluster.move_keys(7, 2, 10), 1);
    client.expect(&["INCR", &here], ":51\r\n");
    cluster.finish_move(7, 2);
    for number in 52..60 {
        client.expect(&["INCR", &here], &format!(":{number}\r\n"));
        client.expect(&["GET", &there], "$2\r\n50\r\n");
    }
    cluster.server(2).client().expect(&["GET", &here], "$2\r\n59\r\n");
    assert_eq!(proxy.metric("respgate_cluster_redirects_failed_total", &[]), 0.0);
}

fn commands_with_keys_on_both_nodes_wait(flavor: Flavor) {
    let cluster = Cluster::three(flavor);
    let proxy = proxy(&cluster, 1);
    let mut client = proxy.client();
    let (here, there) = (key_of("here", 7), key_of("there", 7));
    client.expect(&["SET", &here, "a"], "+OK\r\n");
    cluster.begin_move(7, 2);
    client.expect(&["SET", &there, "b"], "+OK\r\n");
    client.send_command(&["MGET", &here, &there]);
    client.send_command(&["ECHO", "behind"]);
    wait::until("the server to say TRYAGAIN", || redirects(&proxy, "tryagain") >= 3.0);
    // Others go on meanwhile.
    proxy.client().expect(&["GET", &here], "$1\r\na\r\n");
    cluster.move_keys(7, 2, 10);
    client.expect_reply("*2\r\n$1\r\na\r\n$1\r\nb\r\n");
    client.expect_reply("$6\r\nbehind\r\n");
    cluster.finish_move(7, 2);
    client.expect(&["MGET", &here, &there], "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
}

/// Clients that increment keys of their own, and check every reply.
struct Writers {
    ends: AtomicBool,
    /// The number of answered increments of each client.
    written: [AtomicU64; WRITERS],
}

/// Ends the writers, also when a test fails meanwhile.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Writers {
    /// Lets clients write while `meddle` runs, and for a while before and after.
    fn around(proxy: &Proxy, slots: &[u16], meddle: impl FnOnce(&Self)) {
        let writers = Self { ends: AtomicBool::new(false), written: Default::default() };
        let totals: Vec<(String, u64)> = thread::scope(|scope| {
            let running: Vec<_> = (0..WRITERS)
                .map(|number| {
                    let keys: Vec<String> =
                        slots.iter().map(|slot| key_of(&format!("w{number}"), *slot)).collect();
                    let (client, writers) = (proxy.client(), &writers);
                    scope.spawn(move || writers.write(number, client, keys))
                })
                .collect();
            let end = End(&writers.ends);
            writers.pass(2000);
            meddle(&writers);
            writers.pass(2000);
            drop(end);
            running.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect()
        });
        eprintln!("{} increments", writers.total());
        let mut client = proxy.client();
        for (key, total) in totals {
            let total = total.to_string();
            client.expect(&["GET", &key], &format!("${}\r\n{total}\r\n", total.len()));
        }
        assert_eq!(proxy.metric("respgate_cluster_redirects_failed_total", &[]), 0.0);
        assert_eq!(proxy.metric("respgate_outcome_unknown_total", &[]), 0.0);
    }

    fn total(&self) -> u64 {
        self.written.iter().map(|written| written.load(Ordering::Relaxed)).sum()
    }

    /// Waits until `count` more increments were answered.
    fn pass(&self, count: u64) {
        let before = self.total();
        wait::until_some("increments to be answered", Duration::from_secs(60), || {
            (self.total() >= before + count).then_some(())
        });
    }

    /// Waits until everything that is under way now was answered.
    fn settle(&self) {
        for written in &self.written {
            let before = written.load(Ordering::Relaxed);
            wait::until_some("each client's increments to be answered", Duration::from_secs(60), || {
                (written.load(Ordering::Relaxed) >= before + 2 * PIPELINED as u64).then_some(())
            });
        }
    }

    /// Increments the keys in turn. Every reply must be the next number of its key. Returns the last numbers.
    fn write(&self, number: usize, mut client: Client, keys: Vec<String>) -> Vec<(String, u64)> {
        let mut totals: Vec<(String, u64)> = keys.into_iter().map(|key| (key, 0)).collect();
        let (count, mut next) = (totals.len(), 0);
        while !self.ends.load(Ordering::Relaxed) {
            let places: Vec<usize> = (next..next + PIPELINED).map(|place| place % count).collect();
            let pipeline: Vec<u8> =
                places.iter().flat_map(|place| encode(&["INCR", &totals[*place].0])).collect();
            client.send(&pipeline);
            let next_of = |place: usize| {
                totals[place].1 += 1;
                format!(":{}\r\n", totals[place].1)
            };
            let expected: Vec<String> = places.into_iter().map(next_of).collect();
            let replies: Vec<String> =
                expected.iter().map(|_| String::from_utf8_lossy(&client.reply()).into_owned()).collect();
            assert_eq!(replies, expected);
            next += PIPELINED;
            self.written[number].fetch_add(PIPELINED as u64, Ordering::Relaxed);
        }
        totals
    }
}

fn slots_move_while_clients_write(flavor: Flavor) {
    let cluster = Cluster::three(flavor);
    let proxy = proxy(&cluster, 2);
    // The last two slots stay where they are, on the other nodes.
    let slots = [&MOVING[..], &[8000, 16000]].concat();
    Writers::around(&proxy, &slots, |writers| {
        for to in [1, 2, 0, 2, 1, 0] {
            for slot in MOVING {
                cluster.begin_move(slot, to);
                writers.pass(100);
                while cluster.move_keys(slot, to, 1) > 0 {
                    writers.pass(50);
                }
                writers.pass(100);
                cluster.finish_move(slot, to);
                writers.pass(100);
            }
        }
    });
    let seen = ["moved", "ask", "tryagain", "clusterdown"].map(|kind| (kind, redirects(&proxy, kind)));
    eprintln!("redirects: {seen:?}");
    assert!(redirects(&proxy, "moved") > 0.0 && redirects(&proxy, "ask") > 0.0);
}

fn replicas_take_over_while_clients_write(flavor: Flavor) {
    let cluster = Cluster::three(flavor);
    let proxy = proxy(&cluster, 2);
    let slots = [&MOVING[..], &[8000, 16000]].concat();
    Writers::around(&proxy, &slots, |writers| {
        // Node 3 is the replica of node 0, and takes its place: node 0 is its replica then.
        for node in [3, 0, 3] {
            cluster.failover(node);
            writers.pass(2000);
        }
    });
}

/// Valkey 9 moves slots as replication does: the node hands them over at once, and redirects from then on.
fn slots_move_all_at_once_while_clients_write(flavor: Flavor) {
    let cluster = Cluster::three(flavor);
    let proxy = proxy(&cluster, 2);
    let slots = [&MOVING[..], &[8000, 16000]].concat();
    Writers::around(&proxy, &slots, |writers| {
        for to in [1, 2, 0, 2, 1, 0] {
            if !cluster.migrate_slots(0, 1500, to) {
                eprintln!("{} cannot move slots all at once", flavor.name());
                return;
            }
            writers.pass(500);
            assert!(cluster.migrate_slots(5000, 5000, to));
            writers.pass(500);
        }
    });
    let seen = ["moved", "ask", "tryagain", "clusterdown"].map(|kind| (kind, redirects(&proxy, kind)));
    eprintln!("redirects: {seen:?}");
}

fn a_node_comes_and_goes_while_clients_write(flavor: Flavor) {
    let plan = ClusterPlan { replicas: 0, ..ClusterPlan::new(flavor) };
    let mut cluster = Cluster::start(&plan);
    let proxy = proxy(&cluster, 2);
    let slots = [&MOVING[..], &[8000, 16000]].concat();
    Writers::around(&proxy, &slots, |writers| {
        for _ in 0..2 {
            let node = cluster.add_node(&plan);
            writers.pass(500);
            for slot in MOVING {
                cluster.move_slot(slot, node);
                writers.pass(200);
            }
            for slot in MOVING {
                cluster.move_slot(slot, 0);
                writers.pass(200);
            }
            // An operator stops a node once nobody needs it.
            cluster.wait_until_agreed();
            let address = cluster.server(node).address().to_string();
            wait::until("respgate to see the node without slots", || {
                let status = document(&proxy, "/status");
                let shards =
                    status["upstreams"][0]["cluster"]["shards"].as_array().cloned().unwrap_or_default();
                let of_node = |shard: &&Value| shard["primary"]["address"] == address.as_str();
                shards.iter().filter(of_node).all(|shard| shard["slots"] == 0)
            });
            writers.settle();
            cluster.remove_node(node);
            writers.pass(500);
        }
    });
    cluster.wait_until_agreed();
}
