//! Reads from replicas: nobody reads data that is older than the bound, or that lacks an own write, and nobody notices a lost replica.

mod drill;
mod hold;
mod link;
mod operators;
mod several;
mod shown;

use std::time::{Duration, Instant};

use self::link::Link;
use crate::support::client::Client;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// A primary, and a replica behind a link that can be paused.
struct Site {
    primary: Server,
    link: Link,
    replica: Server,
}

impl Site {
    fn start(flavor: Flavor) -> Self {
        let primary = Server::start(flavor);
        let link = Link::start(primary.address());
        let replica = Server::start_with(flavor, &["--replicaof", "127.0.0.1", &link.port.to_string()]);
        wait::until("the replica's link", || {
            replica.run_text(&["INFO", "replication"]).contains("master_link_status:up")
        });
        Self { primary, link, replica }
    }

    /// respgate in front of it; `keys` are those of the upstream.
    fn proxy(&self, reads: &str, keys: &str) -> Proxy {
        Proxy::start_file(1, &self.configuration(reads, keys))
    }

    fn configuration(&self, reads: &str, keys: &str) -> String {
        let (primary, replica) = (self.primary.port, self.replica.port);
        format!(
            "[tenants.all]\ndefault = true\nreads = \"{reads}\"\n\
             [upstreams.main]\naddress = \"127.0.0.1:{primary}\"\nreplicas = [\"127.0.0.1:{replica}\"]\n{keys}\n"
        )
    }
}

fn sent_to_replicas(proxy: &Proxy) -> f64 {
    proxy.metric("respgate_replica_reads_total", &[])
}

/// Reads until a replica answers this client.
fn wait_for_replica(proxy: &Proxy, client: &mut Client, key: &str) {
    let before = sent_to_replicas(proxy);
    wait::until("a read from the replica", || {
        client.call(&["GET", key]);
        sent_to_replicas(proxy) > before
    });
}

on_both_servers!(what_a_client_reads);

fn what_a_client_reads(flavor: Flavor) {
    let mut site = Site::start(flavor);
    data_is_never_older_than_the_bound(&site);
    own_writes_are_seen(&site);
    clients_choose(&site);
    a_departed_client_does_not_wait(&site);
    a_frozen_replica_delays_reads_only_briefly(&site);
    a_lost_replica_is_not_noticed(&mut site);
}

fn data_is_never_older_than_the_bound(site: &Site) {
    let bound = Duration::from_secs(1);
    let proxy = site.proxy("prefer-replica", "max-lag = \"1s\"");
    site.primary.run(&["SET", "bound", "old"]);
    let mut reader = proxy.client();
    wait_for_replica(&proxy, &mut reader, "bound");
    wait::until("the old value at the replica", || reader.call(&["GET", "bound"]) == b"$3\r\nold\r\n");

    site.link.pause(true);
    site.primary.run(&["SET", "bound", "new"]);
    let written = Instant::now();
    let mut old = 0;
    wait::until("the new value", || {
        let asked = Instant::now();
        let value = reader.call(&["GET", "bound"]);
        if value == b"$3\r\nold\r\n" {
            old += 1;
            let age = asked - written;
            assert!(age < bound, "a value that was {age:?} old");
        }
        value == b"$3\r\nnew\r\n"
    });
    assert!(old > 0, "no read went to the replica, so this test shows nothing");
    // No read goes back to the replica as long as it lags.
    let before = sent_to_replicas(&proxy);
    for _ in 0..50 {
        reader.expect(&["GET", "bound"], "$3\r\nnew\r\n");
    }
    assert_eq!(sent_to_replicas(&proxy), before);
    site.link.pause(false);
    wait_for_replica(&proxy, &mut reader, "bound");
    reader.expect(&["GET", "bound"], "$3\r\nnew\r\n");
}

fn own_writes_are_seen(site: &Site) {
    // The replica stays within this bound whatever happens to its link.
    let proxy = site.proxy("prefer-replica", "max-lag = \"60s\"");
    let (mut writer, mut other) = (proxy.client(), proxy.client());
    writer.expect(&["SET", "own", "0"], "+OK\r\n");
    wait_for_replica(&proxy, &mut writer, "own");
    wait_for_replica(&proxy, &mut other, "own");
    wait::until("the first value at the replica", || other.call(&["GET", "own"]) == b"$1\r\n0\r\n");

    site.link.pause(true);
    // The replies to the reads before came from the replica.
    writer.send("*3\r\n$3\r\nSET\r\n$3\r\nown\r\n$1\r\n9\r\n*2\r\n$3\r\nGET\r\n$3\r\nown\r\n");
    writer.replies_are(&["+OK\r\n", "$1\r\n9\r\n"]);
    for number in 10..60 {
        let value = number.to_string();
        writer.expect(&["SET", "own", &value], "+OK\r\n");
        writer.expect(&["GET", "own"], &format!("$2\r\n{value}\r\n"));
        // The same in one pipeline, and in a transaction.
        writer.send("*3\r\n$6\r\nAPPEND\r\n$3\r\nown\r\n$1\r\nx\r\n*2\r\n$3\r\nGET\r\n$3\r\nown\r\n");
        writer.replies_are(&[":3\r\n", &format!("$3\r\n{value}x\r\n")]);
        writer.send("*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$3\r\nown\r\n$2\r\n99\r\n*1\r\n$4\r\nEXEC\r\n");
        writer.replies_are(&["+OK\r\n", "+QUEUED\r\n", "*1\r\n+OK\r\n"]);
        writer.expect(&["GET", "own"], "$2\r\n99\r\n");
    }
    other.expect(&["GET", "own"], "$1\r\n0\r\n");
    site.link.pause(false);
    wait_for_replica(&proxy, &mut writer, "own");
    writer.expect(&["GET", "own"], "$2\r\n99\r\n");
}

fn clients_choose(site: &Site) {
    let proxy = site.proxy("on-request", "");
    let mut client = proxy.client();
    client.expect(&["SET", "choice", "1"], "+OK\r\n");
    client.expect(&["GET", "choice"], "$1\r\n1\r\n");
    assert_eq!(sent_to_replicas(&proxy), 0.0);
    client.expect(&["READONLY"], "+OK\r\n");
    wait_for_replica(&proxy, &mut client, "choice");
    client.expect(&["READWRITE"], "+OK\r\n");
    let before = sent_to_replicas(&proxy);
    client.expect(&["GET", "choice"], "$1\r\n1\r\n");
    assert_eq!(sent_to_replicas(&proxy), before);
}

/// A client that leaves while it waits for a replica is gone at once.
fn a_departed_client_does_not_wait(site: &Site) {
    let proxy = site.proxy("replica", "max-lag = \"1s\"\nhold-timeout = \"10m\"");
    let clients = || proxy.metric("respgate_clients", &[]);
    site.primary.run(&["SET", "left", "1"]);
    let mut reader = proxy.client();
    wait_for_replica(&proxy, &mut reader, "left");
    site.link.pause(true);
    site.primary.run(&["SET", "left", "2"]);
    // The replica lags by now, or soon.
    reader.deadline(Duration::from_millis(200));
    wait::until("a read that waits", || {
        reader.send_command(&["GET", "left"]);
        reader.try_reply().is_err()
    });
    assert_eq!(clients(), 1.0);
    drop(reader);
    wait::until("the client to be gone", || clients() == 0.0);
    site.link.pause(false);
}

/// The reads that a frozen replica owes go to the primary as soon as its last sample is too old.
fn a_frozen_replica_delays_reads_only_briefly(site: &Site) {
    let proxy = site.proxy("prefer-replica", "max-lag = \"500ms\"");
    site.primary.run(&["SET", "frozen", "1"]);
    let mut reader = proxy.client();
    wait_for_replica(&proxy, &mut reader, "frozen");
    site.replica.signal("STOP");
    let asked = Instant::now();
    for _ in 0..20 {
        reader.expect(&["GET", "frozen"], "$1\r\n1\r\n");
    }
    let waited = asked.elapsed();
    site.replica.signal("CONT");
    assert!(waited < Duration::from_secs(5), "reads waited {waited:?}");
    assert!(proxy.metric("respgate_replica_reads_returned_total", &[]) > 0.0, "a read was under way");
    wait_for_replica(&proxy, &mut reader, "frozen");
}

fn a_lost_replica_is_not_noticed(site: &mut Site) {
    let proxy = site.proxy("prefer-replica", "");
    site.primary.run(&["SET", "lost", "1"]);
    let mut reader = proxy.client();
    wait_for_replica(&proxy, &mut reader, "lost");
    // A replica without its data refuses reads.
    site.replica.run(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
    site.replica.run(&["REPLICAOF", "127.0.0.1", "1"]);
    for _ in 0..100 {
        reader.expect(&["GET", "lost"], "$1\r\n1\r\n");
    }
    site.replica.run(&["REPLICAOF", "127.0.0.1", &site.link.port.to_string()]);
    wait_for_replica(&proxy, &mut reader, "lost");
    site.replica.crash();
    for _ in 0..100 {
        reader.expect(&["GET", "lost"], "$1\r\n1\r\n");
    }
}
