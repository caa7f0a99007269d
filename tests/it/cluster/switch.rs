//! Moves upstreams from one primary to a cluster and back, and from cluster to cluster, under the same client connections.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use respgate::cluster::slot::Slot;

use crate::cluster::discovery::cluster as shown;
use crate::control::switch::{may_warn, url};
use crate::control::{Controlled, expect};
use crate::support::client::{Client, encode};
use crate::support::cluster::{Cluster, ClusterPlan, key_of};
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// The number of clients that write.
const WRITERS: u16 = 6;
/// The number of commands that a client sends in one write.
const PIPELINED: usize = 16;
/// The time for which writers wait while data is copied.
pub const PATIENT: &str = "hold-timeout = \"60s\"\n";

on_both_servers!(a_primary_becomes_a_cluster_and_back_under_load, workers: [1, 2]);
on_both_servers!(reads_of_all_shards_go_on_over_switches, workers: [1, 2]);
with_one_and_two_workers!(a_cluster_becomes_another_cluster_under_load);

/// Three primaries without replicas.
pub fn three(flavor: Flavor) -> Cluster {
    Cluster::start(&ClusterPlan { replicas: 0, ..ClusterPlan::new(flavor) })
}

/// In front of one primary.
pub fn at_primary(flavor: Flavor, workers: usize) -> Controlled {
    let server = Server::start(flavor);
    let upstream = format!("url = \"{}\"\n{PATIENT}", url(&server));
    let mut controlled = Controlled::with_upstream(server, workers, &upstream);
    may_warn(&mut controlled);
    // Discovery logs what it finds at a target.
    controlled.proxy.allow_log("\"upstream\":\"main (");
    controlled
}

/// Copies every key of `from` to the server that `to` returns for its slot.
fn copy<'a>(from: &Server, to: impl Fn(Slot) -> &'a Server) {
    let reply = String::from_utf8(from.run(&["KEYS", "*"])).expect("keys that are text");
    for key in reply.lines().skip(2).step_by(2) {
        let port = to(Slot::of(key.as_bytes())).port.to_string();
        let copied =
            from.run_text(&["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "COPY", "REPLACE", "KEYS", key]);
        assert_eq!(copied, "+OK\r\n", "{key}");
    }
}

pub fn copy_to_cluster(from: &Server, cluster: &Cluster) {
    copy(from, |slot| cluster.server(cluster.owner(slot.number())));
}

pub fn copy_from_cluster(cluster: &Cluster, to: &Server) {
    cluster.primaries().into_iter().for_each(|node| copy(cluster.server(node), |_| to));
}

/// Moves the upstream to `to` while commands wait and `copy` copies the data.
#[track_caller]
pub fn move_with_data(controlled: &Controlled, to: &str, copy: impl FnOnce()) {
    expect(&controlled.on_socket(&["pause", "main", "--deadline", "50s"]), 0, "commands-under-way: 0\n");
    copy();
    expect(&controlled.on_socket(&["switch", "main", to, "--data-copied"]), 0, "commands-waited-ms: ");
}

/// Clients that count on keys of their own in all parts of the slots, append to others, and check every reply.
struct Counting {
    ends: AtomicBool,
    written: AtomicU64,
}

impl Counting {
    /// Lets clients write while `meddle` runs, and for a while before and after. Returns all keys with what they must hold.
    fn around(controlled: &Controlled, meddle: impl FnOnce(&Self)) -> Vec<(String, String)> {
        let counting = Self { ends: AtomicBool::new(false), written: AtomicU64::new(0) };
        thread::scope(|scope| {
            let writing: Vec<_> = (0..WRITERS)
                .map(|number| {
                    let (client, counting) = (controlled.proxy.client(), &counting);
                    scope.spawn(move || counting.write(client, number))
                })
                .collect();
            counting.pass(1000);
            meddle(&counting);
            counting.pass(1000);
            counting.ends.store(true, Ordering::Relaxed);
            writing.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect()
        })
    }

    /// Waits until `count` more commands were answered.
    fn pass(&self, count: u64) {
        let before = self.written.load(Ordering::Relaxed);
        wait::until_some("commands to be answered", Duration::from_secs(60), || {
            (self.written.load(Ordering::Relaxed) >= before + count).then_some(())
        });
    }

    fn write(&self, mut client: Client, number: u16) -> Vec<(String, String)> {
        let slots = [7, 5500, 11_000, 16_000].map(|slot| slot + number);
        let keys: Vec<String> = slots.iter().map(|slot| key_of(&format!("count{number}"), *slot)).collect();
        let text = key_of(&format!("text{number}"), 9000 + number);
        let (mut counts, mut appended) = (vec![0_u64; keys.len()], 0);
        let mut next = 0;
        while !self.ends.load(Ordering::Relaxed) {
            let places: Vec<usize> = (next..next + PIPELINED).map(|place| place % keys.len()).collect();
            let mut pipeline: Vec<u8> =
                places.iter().flat_map(|place| encode(&["INCR", &keys[*place]])).collect();
            pipeline.extend(encode(&["APPEND", &text, "x"]));
            client.send(&pipeline);
            for place in places {
                counts[place] += 1;
                client.expect_reply(&format!(":{}\r\n", counts[place]));
            }
            appended += 1;
            client.expect_reply(&format!(":{appended}\r\n"));
            next += 1;
            self.written.fetch_add(PIPELINED as u64, Ordering::Relaxed);
        }
        let counts = counts.iter().map(ToString::to_string);
        keys.into_iter().zip(counts).chain([(text, "x".repeat(appended))]).collect()
    }
}

/// The servers hold what was acknowledged, and the client reads it with one command.
fn expect_all(controlled: &Controlled, written: &[(String, String)]) {
    let mut command = vec!["MGET"];
    command.extend(written.iter().map(|(key, _)| key.as_str()));
    let values = written.iter().map(|(_, value)| format!("${}\r\n{value}\r\n", value.len()));
    let reply = format!("*{}\r\n{}", written.len(), values.collect::<String>());
    controlled.proxy.client().expect(&command, &reply);
    for metric in ["respgate_outcome_unknown_total", "respgate_cluster_redirects_failed_total"] {
        assert_eq!(controlled.proxy.metric(metric, &[]), 0.0, "{metric}");
    }
}

fn is_cluster(controlled: &Controlled) -> bool {
    !shown(&controlled.proxy).is_null()
}

fn a_primary_becomes_a_cluster_and_back_under_load(flavor: Flavor, workers: usize) {
    let (controlled, cluster) = (at_primary(flavor, workers), three(flavor));
    let mut subscriber = controlled.proxy.client();
    subscriber.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    let mut heard = |text: &str| {
        // The subscription may be on its way to the other server.
        wait::until("the subscription", || {
            controlled.proxy.client().call(&["PUBLISH", "news", text]) == b":1\r\n"
        });
        let message = format!("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n${}\r\n{text}\r\n", text.len());
        subscriber.expect_reply(&message);
    };
    heard("at the primary");
    let written = Counting::around(&controlled, |counting| {
        move_with_data(&controlled, &cluster.url(), || copy_to_cluster(&controlled.server, &cluster));
        assert!(is_cluster(&controlled));
        assert_eq!(controlled.proxy.metric("respgate_cluster_slots_served", &[]), 16_384.0);
        assert_eq!(controlled.proxy.metric("respgate_upstream_switched", &[]), 1.0);
        counting.pass(2000);
        heard("in the cluster");
        let mut client = controlled.proxy.client();
        client.expect(&["MSET", "{a}1", "x", "{a}2", "y"], "+OK\r\n");
        client.expect(&["MGET", "{a}1", "b", "{a}2", "c"], "*4\r\n$1\r\nx\r\n$-1\r\n$1\r\ny\r\n$-1\r\n");
        move_with_data(&controlled, &url(&controlled.server), || {
            copy_from_cluster(&cluster, &controlled.server);
        });
        assert!(!is_cluster(&controlled));
        let metrics = controlled.proxy.http("/metrics");
        assert!(!metrics.contains("respgate_cluster_shards{"), "the cluster is left");
        assert_eq!(controlled.proxy.metric("respgate_upstream_switched", &[]), 0.0);
        assert_eq!(controlled.proxy.metric("respgate_upstream_switches_total", &[]), 2.0);
        let back = format!("\"to\": \"127.0.0.1:{}\"", controlled.server.port);
        wait::until("the timeline of the way back", || controlled.proxy.http("/failovers").contains(&back));
        counting.pass(1000);
        heard("at the primary again");
        client.expect(&["MGET", "{a}1", "b", "{a}2", "c"], "*4\r\n$1\r\nx\r\n$-1\r\n$1\r\ny\r\n$-1\r\n");
        let left = |server: &Server| server.run_text(&["CLIENT", "LIST"]).contains("lib-name=respgate");
        wait::until("the cluster to be left", || cluster.running().all(|node| !left(cluster.server(node))));
        move_with_data(&controlled, &cluster.url(), || copy_to_cluster(&controlled.server, &cluster));
        wait::until("the primary to be left", || !left(&controlled.server));
    });
    expect_all(&controlled, &written);
}

/// Both sides hold the same keys, so each reply must be the same on both, however it is put together.
fn reads_of_all_shards_go_on_over_switches(flavor: Flavor, workers: usize) {
    let (controlled, cluster) = (at_primary(flavor, workers), three(flavor));
    let keys: Vec<String> = (0..300).map(|number| format!("key:{number}")).collect();
    keys.iter().for_each(|key| assert_eq!(controlled.server.run_text(&["SET", key, key]), "+OK\r\n"));
    copy_to_cluster(&controlled.server, &cluster);
    let mut mget = vec!["MGET"];
    mget.extend(keys.iter().map(String::as_str));
    let values: String = keys.iter().map(|key| format!("${}\r\n{key}\r\n", key.len())).collect();
    let (all, ends) = (format!("*300\r\n{values}"), AtomicBool::new(false));
    let reads = |mut client: Client| {
        while !ends.load(Ordering::Relaxed) {
            client.send([encode(&["DBSIZE"]), encode(&mget), encode(&["GET", "key:7"])].concat());
            client.send([encode(&["EXISTS", "key:1", "key:2", "none"]), encode(&["DBSIZE"])].concat());
            client.expect_reply(":300\r\n");
            client.expect_reply(&all);
            client.expect_reply("$5\r\nkey:7\r\n");
            client.expect_reply(":2\r\n");
            client.expect_reply(":300\r\n");
        }
    };
    let scans = |mut client: Client| {
        while !ends.load(Ordering::Relaxed) {
            let mut seen = std::collections::BTreeSet::new();
            let mut cursor = "0".to_owned();
            loop {
                let page = String::from_utf8(client.call(&["SCAN", &cursor, "COUNT", "7"])).expect("a page");
                let lines: Vec<&str> = page.lines().collect();
                cursor = lines[2].to_owned();
                seen.extend(lines.iter().skip(5).step_by(2).map(|key| (*key).to_owned()));
                if cursor == "0" {
                    break;
                }
            }
            assert_eq!(seen.len(), 300);
        }
    };
    thread::scope(|scope| {
        let mut reading: Vec<_> = Vec::new();
        for _ in 0..6 {
            let client = controlled.proxy.client();
            reading.push(scope.spawn(move || reads(client)));
        }
        for _ in 0..2 {
            let client = controlled.proxy.client();
            reading.push(scope.spawn(move || scans(client)));
        }
        for _ in 0..8 {
            for to in [cluster.url(), url(&controlled.server)] {
                expect(&controlled.on_socket(&["switch", "main", &to, "--data-copied"]), 0, "to: ");
                thread::sleep(Duration::from_millis(50));
            }
        }
        ends.store(true, Ordering::Relaxed);
        reading.into_iter().for_each(|reader| reader.join().expect("a reader"));
    });
}

fn a_cluster_becomes_another_cluster_under_load(workers: usize) {
    let (first, second) = (three(Flavor::Valkey), three(Flavor::Valkey));
    let controlled = at_primary(Flavor::Valkey, workers);
    expect(&controlled.on_socket(&["switch", "main", &first.url(), "--data-copied"]), 0, "to: ");
    let written = Counting::around(&controlled, |counting| {
        for (from, to) in [(&first, &second), (&second, &first)] {
            move_with_data(&controlled, &to.url(), || {
                from.running().for_each(|node| copy_to_cluster(from.server(node), to));
            });
            counting.pass(2000);
        }
    });
    expect_all(&controlled, &written);
}
