//! The client programs in front of a cluster: they know nothing of it, and each transcript is the same as with one server.
//!
//! `MSET` of many keys is divided, as docs/cluster.md says. Programs that use several databases run where a cluster can have them: with
//! Valkey 9 and its `cluster-databases`. The other programs of `tests/clients` are not here. BullMQ's scripts use keys of several slots
//! together, and node-redis uses `CLIENT TRACKING`: docs/cluster.md says that both get an error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use super::expect_same;
use super::program::{go, node, php, python, rust, shell, transcript};
use crate::support::cluster::{Cluster, ClusterPlan};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

/// Programs that use one database.
const PROGRAMS: &[fn() -> Command] =
    &[|| python("asyncio_client.py"), || node("socket_io.mjs"), || php("sessions.php")];

/// Programs that use several databases.
const WITH_DATABASES: &[fn() -> Command] = &[
    || shell(Flavor::Valkey, "commands"),
    || python("glide_client.py"),
    || node("glide.mjs"),
    || go("go_redis"),
    || rust("fred_client"),
    || rust("clients"),
];

#[test]
fn on_valkey() {
    same_on_a_cluster(Flavor::Valkey);
}

#[test]
fn on_redis() {
    same_on_a_cluster(Flavor::Redis);
}

fn same_on_a_cluster(flavor: Flavor) {
    let direct_server = Server::start(flavor);
    let databases =
        direct_server.run_text(&["CONFIG", "GET", "cluster-databases"]).contains("cluster-databases");
    let options: &[&str] = if databases { &["--cluster-databases", "16"] } else { &[] };
    let cluster = Cluster::start(&ClusterPlan { replicas: 0, options, ..ClusterPlan::new(flavor) });
    let toml = format!("[upstreams.main]\nurl = \"{}\"\ncross-slot-writes = \"split\"\n", cluster.url());
    let proxy = Proxy::start_file(2, &toml);
    let more = if databases { WITH_DATABASES } else { &[] };
    let mut differing = Vec::new();
    for client in PROGRAMS.iter().chain(more) {
        let same = || {
            let direct = transcript(client(), direct_server.port);
            let through = transcript(client(), proxy.port);
            expect_same(flavor, &direct, &through);
        };
        if catch_unwind(AssertUnwindSafe(same)).is_err() {
            differing.push(format!("{:?}", client()));
        }
        empty(&direct_server);
        cluster.nodes.iter().for_each(|node| empty(&node.server));
    }
    assert!(differing.is_empty(), "programs whose transcripts differ: {differing:#?}");
}

/// Forgets what a client has left.
fn empty(server: &Server) {
    for command in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"], &["FUNCTION", "FLUSH"]] {
        server.run(command);
    }
}
