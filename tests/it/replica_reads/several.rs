//! Several replicas: clients spread over them, prefer those of their own zone, and go on with another one when theirs is lost.

use super::{sent_to_replicas, wait_for_replica};
use crate::support::client::{Client, encode};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

const GET: [&str; 2] = ["GET", "several"];
const VALUE: &str = "$1\r\n1\r\n";

struct Site {
    primary: Server,
    replicas: [Server; 2],
}

impl Site {
    fn start(flavor: Flavor) -> Self {
        let primary = Server::start(flavor);
        let port = primary.port.to_string();
        let replicas = [0, 1].map(|_| Server::start_with(flavor, &["--replicaof", "127.0.0.1", &port]));
        primary.client().expect(&["SET", "several", "1"], "+OK\r\n");
        for replica in &replicas {
            wait::until("the value at a replica", || replica.run(&GET) == VALUE.as_bytes());
        }
        Self { primary, replicas }
    }

    fn proxy(&self, keys: &str) -> Proxy {
        let [first, second] = &self.replicas;
        let proxy = Proxy::start_file(
            1,
            &format!(
                "[tenants.all]\ndefault = true\nreads = \"prefer-replica\"\n[upstreams.main]\naddress = \"127.0.0.1:{}\"\n\
                 replicas = [\"127.0.0.1:{}\", \"127.0.0.1:{}\"]\n{keys}\n",
                self.primary.port, first.port, second.port
            ),
        );
        // The connections to both replicas are open once clients have read from both, or from the near one.
        proxy.client().expect(&GET, VALUE);
        proxy
    }

    fn nodes(&self) -> [&Server; 3] {
        [&self.primary, &self.replicas[0], &self.replicas[1]]
    }

    /// The reads that each node has answered: the primary and the replicas.
    fn reads(&self) -> [u64; 3] {
        self.nodes().map(|node| {
            let text = node.run_text(&["INFO", "commandstats"]);
            let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls="));
            line.map_or(0, |line| line.split(',').next().and_then(|calls| calls.parse().ok()).unwrap_or(0))
        })
    }

    fn reset(&self) {
        self.nodes().iter().for_each(|node| node.client().expect(&["CONFIG", "RESETSTAT"], "+OK\r\n"));
    }

    /// Waits until new clients read from the replica of this index.
    fn wait_for(&self, proxy: &Proxy, index: usize) {
        let before = self.reads()[index + 1];
        wait::until("reads from the replica", || {
            proxy.client().expect(&GET, VALUE);
            self.reads()[index + 1] > before
        });
    }
}

/// Connects clients that send their first command at the same moment. They stay connected.
fn read_at_once(proxy: &Proxy, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.send(encode(&GET)));
    clients.iter_mut().for_each(|client| client.expect_reply(VALUE));
    clients
}

on_both_servers!(several_replicas);

fn several_replicas(flavor: Flavor) {
    let mut site = Site::start(flavor);
    clients_spread(&site);
    the_primary_does_not_wait_for_a_replica(&site);
    the_reads_of_a_frozen_replica_go_to_another_one(&site);
    clients_prefer_their_zone(&mut site);
}

fn clients_spread(site: &Site) {
    let proxy = site.proxy("");
    (0..2).for_each(|index| site.wait_for(&proxy, index));
    site.reset();
    let mut clients = read_at_once(&proxy, 40);
    let [primary, first, second] = site.reads();
    let (busiest, sum) = (first.max(second), first + second);
    assert!(
        sum >= 30 && busiest * 3 <= sum * 2,
        "40 clients read {first} and {second} times, and {primary} at the primary"
    );
    // Each of them keeps its replica.
    site.reset();
    for _ in 0..5 {
        clients.iter_mut().for_each(|client| client.expect(&GET, VALUE));
    }
    let again = site.reads();
    assert!(again[1].max(again[2]) * 3 <= (again[1] + again[2]) * 2, "{again:?}");
}

/// Commands that only read run on two nodes at once, and their replies keep their order.
fn the_primary_does_not_wait_for_a_replica(site: &Site) {
    let proxy = site.proxy("max-lag = \"60s\"");
    (0..2).for_each(|index| site.wait_for(&proxy, index));
    let mut client = proxy.client();
    client.expect(&GET, VALUE);
    let pipeline = [encode(&GET), encode(&["DBSIZE"]), encode(&GET)].concat();
    for _ in 0..20 {
        client.send([&pipeline[..], &encode(&["SET", "several", "1"])].concat());
        client.replies_are(&[VALUE, ":1\r\n", VALUE, "+OK\r\n"]);
    }
    wait_for_replica(&proxy, &mut client, "several");
    site.reset();
    site.replicas.iter().for_each(|replica| replica.signal("STOP"));
    client.send(&pipeline);
    wait::until("DBSIZE at the primary", || {
        site.primary.run_text(&["INFO", "commandstats"]).contains("cmdstat_dbsize:")
    });
    site.replicas.iter().for_each(|replica| replica.signal("CONT"));
    client.replies_are(&[VALUE, ":1\r\n", VALUE]);
}

/// The primary answers none of them, unless the other replica cannot prove within some milliseconds that it is as new.
fn the_reads_of_a_frozen_replica_go_to_another_one(site: &Site) {
    let proxy = site.proxy("max-lag = \"300ms\"");
    wait::until("a read that another replica takes over", || {
        (0..2).for_each(|index| site.wait_for(&proxy, index));
        let mut clients = read_at_once(&proxy, 10);
        let before = sent_to_replicas(&proxy);
        site.reset();
        site.replicas[0].signal("STOP");
        clients.iter_mut().for_each(|client| client.send(encode(&GET)));
        clients.iter_mut().for_each(|client| client.expect_reply(VALUE));
        let sent = sent_to_replicas(&proxy) - before;
        site.replicas[0].signal("CONT");
        // The frozen replica has answered its own, too.
        let [primary, _, second] = site.reads();
        sent == 10.0 && primary == 0 && second == 10
    });
    assert!(proxy.metric("respgate_replica_reads_returned_total", &[]) > 0.0);
}

/// Older servers name no zone. Clients then read from all replicas.
fn clients_prefer_their_zone(site: &mut Site) {
    let zones = ["zone-1", "zone-2"];
    let named = site
        .replicas
        .iter()
        .zip(zones)
        .all(|(replica, zone)| replica.run(&["CONFIG", "SET", "availability-zone", zone]) == b"+OK\r\n");
    let proxy = site.proxy("availability-zone = \"zone-2\"");
    site.wait_for(&proxy, 1);
    if !named {
        site.wait_for(&proxy, 0);
    }
    site.reset();
    let mut clients = read_at_once(&proxy, 20);
    let [primary, first, second] = site.reads();
    assert!(second > 0, "{primary} {first} {second}");
    assert_eq!(first == 0, named, "{primary} {first} {second}");
    // The replicas of other zones serve when the own zone has none.
    site.replicas[1].crash();
    wait::until("reads from the other zone", || {
        clients.iter_mut().for_each(|client| client.expect(&GET, VALUE));
        let [_, first] =
            [&site.primary, &site.replicas[0]].map(|node| node.run_text(&["INFO", "commandstats"]));
        first.contains("cmdstat_get")
    });
}
