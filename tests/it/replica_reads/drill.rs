//! Failovers and changes of replicas with reads on replicas: no error, and nobody misses a write that was answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::sent_to_replicas;
use crate::support::client::Client;
use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// Clients of each respgate, that write and read at once.
const CLIENTS: u64 = 4;

on_both_servers!(nobody_notices);

/// One respgate has one worker, and each of its clients sees its own writes. The other has two, and its clients write on one
/// connection and read on another.
fn nobody_notices(flavor: Flavor) {
    let deployment = Deployment::start(&Plan { replicas: 2, down_after_ms: 60_000, ..Plan::new(flavor) });
    deployment.wait_until_redundant();
    // One of the servers for each setting.
    let in_hold = if flavor == Flavor::Valkey { "replica" } else { "wait" };
    let mut drill = Drill::begin(deployment, in_hold);
    drill.go_on();
    drill.a_replica_synchronizes_again();
    drill.a_replica_is_removed_and_another_is_added(flavor);
    drill.a_planned_failover();
    drill.the_primary_crashes();
    drill.end();
}

struct Drill {
    proxies: [Proxy; 2],
    sentinels: Vec<Server>,
    nodes: Vec<Server>,
    load: Arc<Load>,
    clients: Vec<JoinHandle<()>>,
}

/// What the clients are told, and what they tell.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    /// True while clients only read.
    only_reads: AtomicBool,
    /// The number of clients that have seen that.
    rounds: AtomicU64,
}

impl Drill {
    fn begin(deployment: Deployment, in_hold: &str) -> Self {
        let proxy = |workers, shows| {
            let text = format!(
                "[tenants.all]\ndefault = true\nreads = \"prefer-replica\"\n\
                 [upstreams.main]\nurl = \"{}\"\nread-your-writes = \"{shows}\"\nreads-in-hold = \"{in_hold}\"\n",
                deployment.url()
            );
            let mut proxy = Proxy::start_file(workers, &text);
            // The primary crashes.
            proxy.allow_log("no primary: cannot connect to");
            proxy.allow_log("respgate lost a shared upstream connection");
            proxy
        };
        let proxies = [proxy(1, "session"), proxy(2, "tenant")];
        let load = Arc::<Load>::default();
        let clients = (0..2 * CLIENTS)
            .map(|number| {
                let proxy = &proxies[usize::from(number >= CLIENTS)];
                let (writer, load) = (proxy.client(), Arc::clone(&load));
                let reader = (number >= CLIENTS).then(|| proxy.client());
                thread::spawn(move || work(writer, reader, number, &load))
            })
            .collect();
        let Deployment { sentinels, replicas, primary } = deployment;
        Self { proxies, sentinels, nodes: replicas.into_iter().chain([primary]).collect(), load, clients }
    }

    /// Waits until the clients have worked on, and replicas have served some of their reads.
    fn go_on(&self) {
        let done = self.load.rounds.load(Ordering::Relaxed);
        let before = self.proxies.each_ref().map(sent_to_replicas);
        wait::until("work", || self.load.rounds.load(Ordering::Relaxed) > done + 200);
        wait::until("reads from replicas", || {
            self.proxies.iter().zip(before).all(|(proxy, before)| sent_to_replicas(proxy) > before + 30.0)
        });
        assert!(
            self.clients.iter().all(|client| !client.is_finished()),
            "a client saw an error or an old value"
        );
    }

    /// Returns the port of the primary that the first Sentinel names.
    fn primary(&self) -> u16 {
        let named = self.sentinels[0].run_text(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
        named.lines().nth(4).and_then(|port| port.parse().ok()).expect("a port")
    }

    /// Returns the index of a node that replicates from the primary.
    fn a_replica(&self) -> usize {
        let primary = format!("master_port:{}\r", self.primary());
        let follows = |node: &Server| node.run_text(&["INFO", "replication"]).contains(&primary);
        self.nodes.iter().position(follows).expect("a replica")
    }

    fn a_replica_synchronizes_again(&self) {
        let (replica, primary) = (&self.nodes[self.a_replica()], self.primary().to_string());
        replica.run(&["REPLICAOF", "NO", "ONE"]);
        replica.run(&["SET", "drill:other", "history"]);
        self.go_on();
        replica.run(&["REPLICAOF", "127.0.0.1", &primary]);
        wait_for_link(replica);
        self.go_on();
    }

    fn a_replica_is_removed_and_another_is_added(&mut self, flavor: Flavor) {
        let removed = self.a_replica();
        self.nodes.remove(removed).crash();
        self.go_on();
        let added = Server::start_with(flavor, &["--replicaof", "127.0.0.1", &self.primary().to_string()]);
        wait_for_link(&added);
        // Otherwise Sentinels look every 10 s.
        for sentinel in &self.sentinels {
            sentinel.run(&["SENTINEL", "RESET", NAME]);
        }
        self.wait_for_sentinels(2);
        // Only the new one is left.
        let other = &self.nodes[self.a_replica()];
        other.run(&["REPLICAOF", "NO", "ONE"]);
        wait::until("reads from the new replica", || {
            added.run_text(&["INFO", "commandstats"]).contains("cmdstat_get:")
        });
        other.run(&["REPLICAOF", "127.0.0.1", &self.primary().to_string()]);
        wait_for_link(other);
        self.nodes.push(added);
        self.go_on();
    }

    fn a_planned_failover(&self) {
        self.wait_for_sentinels(2);
        let former = self.primary();
        self.sentinels[0].run(&["SENTINEL", "FAILOVER", NAME]);
        wait::until("a new primary", || self.primary() != former);
        self.go_on();
    }

    /// What the primary has answered and not replicated is lost with it, so the clients only read in that moment.
    fn the_primary_crashes(&mut self) {
        for sentinel in &self.sentinels {
            sentinel.run(&["SENTINEL", "SET", NAME, "down-after-milliseconds", "1000"]);
        }
        let former = self.primary();
        let at = self.nodes.iter().position(|node| node.port == former).expect("the primary");
        self.load.only_reads.store(true, Ordering::SeqCst);
        let done = self.load.rounds.load(Ordering::Relaxed);
        wait::until("reads only", || self.load.rounds.load(Ordering::Relaxed) > done + 100);
        // One client goes on writing, and learns what may be lost.
        let (over, mut writer) = (Arc::new(AtomicBool::new(false)), self.proxies[1].client());
        writer.deadline(Duration::from_secs(30));
        let ended = Arc::clone(&over);
        let unsure = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let reply = writer.call(&["INCR", "drill:unsure"]);
                let known = reply.starts_with(b":") || reply.starts_with(b"-OUTCOMEUNKNOWN ");
                assert!(known, "{}", reply.escape_ascii());
            }
        });
        self.nodes.remove(at).crash();
        wait::until("a new primary", || self.primary() != former);
        self.load.only_reads.store(false, Ordering::SeqCst);
        self.go_on();
        over.store(true, Ordering::Relaxed);
        unsure.join().expect("a client that writes saw another error than OUTCOMEUNKNOWN");
    }

    /// Waits until each Sentinel knows the others and this number of replicas.
    fn wait_for_sentinels(&self, replicas: usize) {
        for sentinel in &self.sentinels {
            wait::until("the Sentinels to find each other", || {
                let known = sentinel.run_text(&["SENTINEL", "MASTER", NAME]);
                let field =
                    |name: &str| known.lines().skip_while(|line| *line != name).nth(2).map(str::to_owned);
                field("num-other-sentinels") == Some((self.sentinels.len() - 1).to_string())
                    && field("num-slaves").and_then(|count| count.parse().ok()) >= Some(replicas)
            });
        }
    }

    fn end(self) {
        self.load.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a client saw an error or an old value");
        }
    }
}

fn wait_for_link(replica: &Server) {
    wait::until("the replica's link", || {
        replica.run_text(&["INFO", "replication"]).contains("master_link_status:up")
    });
}

/// Writes a number, and reads it some times, on the other connection if there is one.
fn work(mut writer: Client, mut reader: Option<Client>, number: u64, load: &Load) {
    for client in [Some(&mut writer), reader.as_mut()].into_iter().flatten() {
        client.deadline(Duration::from_secs(30));
    }
    let key = format!("drill:{number}");
    let mut value = 0_u64;
    while !load.stop.load(Ordering::Relaxed) {
        if value == 0 || !load.only_reads.load(Ordering::SeqCst) {
            value += 1;
            writer.expect(&["SET", &key, &value.to_string()], "+OK\r\n");
        }
        let shown = format!("${}\r\n{value}\r\n", value.to_string().len());
        for pause in [0, 0, 20, 0] {
            thread::sleep(Duration::from_millis(pause));
            reader.as_mut().unwrap_or(&mut writer).expect(&["GET", &key], &shown);
        }
        load.rounds.fetch_add(1, Ordering::Relaxed);
    }
}
