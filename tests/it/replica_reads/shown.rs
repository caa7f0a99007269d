//! Which writes a read shows, and which reads stay with a replica.

use super::{Site, sent_to_replicas, wait_for_replica};
use crate::support::client::Client;
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::Flavor;
use crate::support::wait;

on_both_servers!(what_reads_show);

fn what_reads_show(flavor: Flavor) {
    let site = Site::start(flavor);
    writes_of_others_are_seen(&site, 1);
    writes_of_others_are_seen(&site, 2);
    writes_before_a_reload_are_seen(&site);
    pings_keep_nobody_from_a_replica(&site);
    nobody_waits_for_a_replica_that_refuses_the_user(&site);
}

/// The listener of the proxy itself writes, and the read port reads.
fn writes_of_others_are_seen(site: &Site, workers: usize) {
    let port = free_port();
    let (primary, replica) = (site.primary.port, site.replica.port);
    let text = format!(
        "[listeners.read]\naddress = \"127.0.0.1:{port}\"\nreads = \"prefer-replica\"\n\
         [upstreams.main]\naddress = \"127.0.0.1:{primary}\"\nreplicas = [\"127.0.0.1:{replica}\"]\n\
         max-lag = \"60s\"\nread-your-writes = \"tenant\"\n"
    );
    let proxy = Proxy::start_file(workers, &text);
    site.primary.run(&["SET", "shared", "0"]);
    let mut writer = proxy.client();
    let mut readers: Vec<Client> = (0..3).map(|_| Client::connect(port)).collect();
    for reader in &mut readers {
        wait::until("the first value at the replica", || reader.call(&["GET", "shared"]) == b"$1\r\n0\r\n");
        wait_for_replica(&proxy, reader, "shared");
    }
    // Each kind of writes begins when the replica has all earlier ones.
    let writes: [(&str, &[&str], &str); 4] = [
        ("SET shared 10\r\n", &["+OK\r\n"], "10"),
        ("EVAL \"return redis.call('INCR', KEYS[1])\" 1 shared\r\n", &[":11\r\n"], "11"),
        ("MULTI\r\nSET shared 12\r\nEXEC\r\n", &["+OK\r\n", "+QUEUED\r\n", "*1\r\n+OK\r\n"], "12"),
        ("GET shared\r\nSET shared 13\r\nINCR shared\r\n", &["$2\r\n12\r\n", "+OK\r\n", ":14\r\n"], "14"),
    ];
    for (requests, replies, value) in writes {
        site.link.pause(true);
        writer.send(requests);
        writer.replies_are(replies);
        let shown = format!("${}\r\n{value}\r\n", value.len());
        for _ in 0..5 {
            readers.iter_mut().for_each(|reader| reader.expect(&["GET", "shared"], &shown));
        }
        site.link.pause(false);
        for reader in &mut readers {
            wait_for_replica(&proxy, reader, "shared");
            reader.expect(&["GET", "shared"], &shown);
        }
    }
    site.link.pause(true);
    // A client that has left has written, too.
    let mut leaver = proxy.client();
    leaver.expect(&["SET", "shared", "left"], "+OK\r\n");
    drop(leaver);
    let mut late = Client::connect(port);
    late.expect(&["GET", "shared"], "$4\r\nleft\r\n");
    site.link.pause(false);
    wait_for_replica(&proxy, &mut late, "shared");
    late.expect(&["GET", "shared"], "$4\r\nleft\r\n");
}

fn writes_before_a_reload_are_seen(site: &Site) {
    let (primary, replica) = (site.primary.port, site.replica.port);
    let ports = [free_port(), free_port()];
    let text = |reads, shows| {
        format!(
            "[listeners.app]\naddress = \"127.0.0.1:{}\"\nreads = \"{reads}\"\n\
             [listeners.read]\naddress = \"127.0.0.1:{}\"\nreads = \"prefer-replica\"\n\
             [upstreams.main]\naddress = \"127.0.0.1:{primary}\"\nreplicas = [\"127.0.0.1:{replica}\"]\n\
             max-lag = \"60s\"\nread-your-writes = \"{shows}\"\n",
            ports[0], ports[1]
        )
    };
    for (reads, shows) in [("primary", "session"), ("prefer-replica", "off")] {
        let proxy = Proxy::start_file(1, &text(reads, shows));
        let mut writer = Client::connect(ports[0]);
        writer.expect(&["SET", "reloaded", "0"], "+OK\r\n");
        wait::until("the value at the replica", || site.replica.run(&["GET", "reloaded"]) == b"$1\r\n0\r\n");
        wait_for_replica(&proxy, &mut Client::connect(ports[1]), "reloaded");
        site.link.pause(true);
        writer.expect(&["SET", "reloaded", "1"], "+OK\r\n");
        proxy.rewrite(&text("prefer-replica", "session"));
        let reloads = ["kind=\"configuration\"", "outcome=\"ok\""];
        wait::until("the reload", || proxy.metric("respgate_reloads_total", &reloads) > 0.0);
        wait_for_replica(&proxy, &mut Client::connect(ports[0]), "reloaded");
        writer.expect(&["GET", "reloaded"], "$1\r\n1\r\n");
        site.link.pause(false);
    }
}

fn pings_keep_nobody_from_a_replica(site: &Site) {
    let proxy = site.proxy("prefer-replica", "max-lag = \"60s\"");
    let mut client = proxy.client();
    wait_for_replica(&proxy, &mut client, "ping");
    let before = sent_to_replicas(&proxy);
    for _ in 0..20 {
        client.expect(&["PING"], "+PONG\r\n");
        client.expect(&["GET", "ping"], "$-1\r\n");
    }
    assert_eq!(sent_to_replicas(&proxy), before + 20.0);
}

fn nobody_waits_for_a_replica_that_refuses_the_user(site: &Site) {
    let proxy = site.proxy("prefer-replica", "max-lag = \"60s\"");
    wait_for_replica(&proxy, &mut proxy.client(), "user");
    site.primary.run(&["ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all"]);
    let mut client = proxy.client();
    client.expect(&["AUTH", "app", "secret"], "+OK\r\n");
    let fallbacks = |reason| proxy.metric("respgate_replica_fallbacks_total", &[reason]);
    wait::until("the refusal", || {
        client.expect(&["GET", "user"], "$-1\r\n");
        fallbacks("reason=\"none\"") > 0.0
    });
    let [behind, nobody] = ["reason=\"behind\"", "reason=\"none\""];
    let before = (fallbacks(behind), fallbacks(nobody));
    for _ in 0..200 {
        client.expect(&["GET", "user"], "$-1\r\n");
    }
    // Once a second, respgate tries again.
    let (waited, at_once) = (fallbacks(behind) - before.0, fallbacks(nobody) - before.1);
    assert!(
        waited < 100.0 && at_once > 100.0,
        "{waited} reads waited for a replica that refuses them, {at_once} did not"
    );
}
