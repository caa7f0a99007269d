//! Switches and reloads between one primary and a cluster that are refused, and reloads that follow what was switched.

use super::switch::{at_primary, three};
use crate::control::switch::url;
use crate::control::{Controlled, expect};
use crate::support::client::Client;
use crate::support::cluster::{Cluster, key_of};
use crate::support::port::free_port;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// Only an ordered reload reads the file.
const KEYS: &str = "reload-interval = \"1h\"\n";

/// Has a switch refused. Commands go where they went before.
#[track_caller]
fn expect_refused(controlled: &mut Controlled, words: &[&str], why: &str) {
    controlled.proxy.allow_log("control: refused");
    expect(&controlled.on_socket(&[&["switch", "main"], words].concat()), 1, why);
    assert_eq!(controlled.proxy.metric("respgate_upstream_switches_total", &[]), 0.0);
    controlled.proxy.client().expect(&["SET", "k", "v"], "+OK\r\n");
}

on_both_servers!(a_target_that_cannot_take_over_is_refused);

fn a_target_that_cannot_take_over_is_refused(flavor: Flavor) {
    let (mut controlled, cluster) = (at_primary(flavor, 2), three(flavor));
    let to = cluster.url();
    expect_refused(
        &mut controlled,
        &[&to],
        "cannot be checked, because it is a cluster, which has no replication history as a whole; state --data-copied",
    );
    let mut elsewhere = controlled.proxy.client();
    elsewhere.expect(&["SELECT", "3"], "+OK\r\n");
    elsewhere.expect(&["SET", "k", "v"], "+OK\r\n");
    expect_refused(
        &mut controlled,
        &[&to, "--data-copied"],
        "clients use database 3, which it refuses: ERR ",
    );
    elsewhere.expect(&["GET", "k"], "$1\r\nv\r\n");
    // A client counts from its SELECT on.
    elsewhere.expect(&["SELECT", "4"], "+OK\r\n");
    expect_refused(
        &mut controlled,
        &[&to, "--data-copied"],
        "clients use database 4, which it refuses: ERR ",
    );
    drop(elsewhere);
    wait::until("the client to be gone", || controlled.proxy.metric("respgate_clients", &[]) == 0.0);
    // Slot 9 of the first node belongs to nobody.
    for node in cluster.running() {
        assert_eq!(cluster.server(node).run_text(&["CLUSTER", "DELSLOTS", "9"]), "+OK\r\n");
    }
    expect_refused(&mut controlled, &[&to, "--data-copied"], "1 of its 16384 slots have no primary");
    expect_refused(
        &mut controlled,
        &["redis-cluster://127.0.0.1:1", "--data-copied"],
        "cannot take over, and nothing has changed: ",
    );
    assert!(controlled.server.run_text(&["GET", "k"]).contains('v'), "commands go to the primary");
}

#[test]
fn a_pool_of_sessions_cannot_enter_a_cluster() {
    let server = Server::start(Flavor::Valkey);
    let upstream = format!("url = \"{}\"\npool = \"session\"", url(&server));
    let mut controlled = Controlled::with_upstream(server, 1, &upstream);
    let cluster = three(Flavor::Valkey);
    expect_refused(&mut controlled, &[&cluster.url(), "--data-copied"], "pool is \"session\"");
}

fn upstream(url: &str) -> String {
    format!("[upstreams.main]\nurl = \"{url}\"\n")
}

fn allow(controlled: &mut Controlled) {
    for text in ["\"upstream\":\"main (", "respgate cannot use the new version", "control: refused"] {
        controlled.proxy.allow_log(text);
    }
    crate::control::switch::may_warn(controlled);
}

with_one_and_two_workers!(a_reload_moves_to_a_cluster_and_back);

fn a_reload_moves_to_a_cluster_and_back(workers: usize) {
    let (server, cluster) = (Server::start(Flavor::Valkey), three(Flavor::Valkey));
    let (primary, in_cluster) = (upstream(&url(&server)), upstream(&cluster.url()));
    let mut controlled = Controlled::with_file(server, workers, KEYS, &primary);
    allow(&mut controlled);
    let mut client = controlled.proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    // A reload has no way to say that the data was copied.
    expect(&controlled.reload(KEYS, &in_cluster), 1, "state --data-copied if the data was copied");
    client.expect(&["GET", "k"], "$1\r\nv\r\n");
    let switched = controlled.on_socket(&["switch", "main", &cluster.url(), "--data-copied"]);
    expect(&switched, 0, "note: until the next start");
    expect(&controlled.reload(KEYS, &in_cluster), 0, "");
    assert_eq!(controlled.proxy.metric("respgate_upstream_switched", &[]), 0.0);
    let (one, other) = (key_of("a", 7), key_of("b", 16_000));
    client.expect(&["SET", &one, "1"], "+OK\r\n");
    client.expect(&["MGET", &one, &other], "*2\r\n$1\r\n1\r\n$-1\r\n");
    // The same nodes by other names.
    let seed = format!("redis-cluster://127.0.0.1:{}", cluster.server(2).port);
    expect(&controlled.reload(KEYS, &upstream(&seed)), 0, "");
    assert_eq!(controlled.proxy.metric("respgate_upstream_switches_total", &[]), 2.0);
    client.expect(&["MGET", &one, &other], "*2\r\n$1\r\n1\r\n$-1\r\n");
    expect(&controlled.reload(KEYS, &primary), 1, "because the upstream is a cluster");
    client.expect(&["GET", &one], "$1\r\n1\r\n");
}

/// An upstream that never had a primary has written nothing, so a reload may move it anywhere.
#[test]
fn an_upstream_that_never_had_a_primary_moves_to_a_cluster() {
    let cluster: Cluster = three(Flavor::Valkey);
    let (server, port) = (Server::start(Flavor::Valkey), free_port());
    let main = upstream(&url(&server));
    let listener = format!("[listeners.b]\naddress = \"127.0.0.1:{port}\"\nupstream = \"other\"\n");
    let other = |url: &str| format!("{main}{listener}[upstreams.other]\nurl = \"{url}\"\n");
    let mut controlled = Controlled::with_file(server, 2, KEYS, &main);
    allow(&mut controlled);
    controlled.proxy.allow_log("no primary");
    controlled.proxy.allow_log("\"upstream\":\"other (");
    expect(&controlled.reload(KEYS, &other("redis://127.0.0.1:1")), 0, "");
    let mut client = Client::connect(port);
    let (one, another) = (key_of("a", 7), key_of("b", 16_000));
    client.send_command(&["SET", &one, "1"]);
    client.send_command(&["EXISTS", &one, &another]);
    wait::until("a waiting client", || controlled.proxy.metric("respgate_clients_held", &["other"]) > 0.0);
    expect(&controlled.reload(KEYS, &other(&cluster.url())), 0, "");
    client.expect_reply("+OK\r\n");
    client.expect_reply(":1\r\n");
}
