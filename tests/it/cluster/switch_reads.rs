//! Moves upstreams between one primary and clusters while clients read from replicas: nobody misses an own write, and reads go to the replicas
//! of the new layout.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::cluster::switch::{PATIENT, copy_from_cluster, copy_to_cluster, move_with_data};
use crate::control::Controlled;
use crate::control::switch::{may_warn, replica_of, url, wait_for_link};
use crate::support::client::{Client, encode};
use crate::support::cluster::{Cluster, key_of};
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

on_both_servers!(own_writes_are_seen_over_switches, workers: [1, 2]);

/// The number of clients that write and read.
const CLIENTS: u16 = 4;
/// A slot of each of three shards.
const SLOTS: [u16; 3] = [10, 8000, 16_000];

/// The number of GET commands that a server has run.
fn reads_at(server: &Server) -> u64 {
    let text = server.run_text(&["INFO", "commandstats"]);
    let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls="));
    line.map_or(0, |line| line.split(',').next().and_then(|calls| calls.parse().ok()).unwrap_or(0))
}

fn bulk(value: u64) -> String {
    let text = value.to_string();
    format!("${}\r\n{text}\r\n", text.len())
}

/// Clients that write, and read what they have written.
#[derive(Default)]
struct Checking {
    ends: AtomicBool,
    rounds: AtomicU64,
}

impl Checking {
    /// Waits until each replica serves further reads.
    fn wait_for_reads(&self, replicas: &[&Server]) {
        let before: Vec<u64> = replicas.iter().map(|server| reads_at(server)).collect();
        wait::until_some("reads from each replica of the new layout", Duration::from_secs(60), || {
            let read = replicas.iter().zip(&before).all(|(server, before)| reads_at(server) > before + 20);
            read.then_some(())
        });
        let rounds = self.rounds.load(Ordering::Relaxed);
        wait::until_some("further rounds", Duration::from_secs(60), || {
            (self.rounds.load(Ordering::Relaxed) > rounds + 100).then_some(())
        });
    }

    fn check(&self, mut client: Client, number: u16) {
        let keys = SLOTS.map(|slot| key_of(&format!("own{number}"), slot + number));
        let kept = SLOTS.map(|slot| key_of(&format!("kept{number}"), slot + number));
        for key in &kept {
            client.expect(&["SET", key, "7"], "+OK\r\n");
        }
        let mut value = 0;
        while !self.ends.load(Ordering::Relaxed) {
            value += 1;
            for key in &keys {
                client.expect(&["SET", key, &value.to_string()], "+OK\r\n");
                client.expect(&["GET", key], &bulk(value));
            }
            // Written by one command, and read behind it in one pipeline.
            value += 1;
            let mut pipeline = Vec::new();
            for key in &keys {
                pipeline.extend(encode(&["INCR", key]));
                pipeline.extend(encode(&["GET", key]));
            }
            client.send(&pipeline);
            for _ in &keys {
                client.expect_reply(&format!(":{value}\r\n"));
                client.expect_reply(&bulk(value));
            }
            // What was written long ago, or before the switch.
            for key in keys.iter().chain(&keys).chain(&keys) {
                client.expect(&["GET", key], &bulk(value));
            }
            let pipeline: Vec<u8> = kept.iter().chain(&kept).flat_map(|key| encode(&["GET", key])).collect();
            client.send(&pipeline);
            kept.iter().chain(&kept).for_each(|_| client.expect_reply("$1\r\n7\r\n"));
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn own_writes_are_seen_over_switches(flavor: Flavor, workers: usize) {
    let (server, cluster) = (Server::start(flavor), Cluster::three(flavor));
    let replicas = [replica_of(&server, &[]), replica_of(&server, &[])];
    let tables = format!(
        "[tenants.all]\ndefault = true\nreads = \"prefer-replica\"\n[upstreams.main]\nurl = \"{}\"\n\
         replicas = [\"127.0.0.1:{}\", \"127.0.0.1:{}\"]\n{PATIENT}",
        url(&server),
        replicas[0].port,
        replicas[1].port,
    );
    let mut controlled = Controlled::with_file(server, workers, "", &tables);
    may_warn(&mut controlled);
    controlled.proxy.allow_log("\"upstream\":\"main (");
    let of_primary: Vec<&Server> = replicas.iter().collect();
    let of_cluster: Vec<&Server> = (3..6).map(|node| cluster.server(node)).collect();
    let checking = Checking::default();
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (client, checking) = (controlled.proxy.client(), &checking);
            scope.spawn(move || checking.check(client, number));
        }
        checking.wait_for_reads(&of_primary);
        for _ in 0..2 {
            move_with_data(&controlled, &cluster.url(), || copy_to_cluster(&controlled.server, &cluster));
            checking.wait_for_reads(&of_cluster);
            let left = |server: &Server| !server.run_text(&["CLIENT", "LIST"]).contains("lib-name=respgate");
            wait::until("the former replicas to be left", || of_primary.iter().all(|server| left(server)));
            move_with_data(&controlled, &url(&controlled.server), || {
                copy_from_cluster(&cluster, &controlled.server);
            });
            of_primary.iter().for_each(|replica| wait_for_link(replica));
            checking.wait_for_reads(&of_primary);
            wait::until("the cluster's replicas to be left", || of_cluster.iter().all(|server| left(server)));
        }
        checking.ends.store(true, Ordering::Relaxed);
    });
    for metric in ["respgate_outcome_unknown_total", "respgate_cluster_redirects_failed_total"] {
        assert_eq!(controlled.proxy.metric(metric, &[]), 0.0, "{metric}");
    }
}
