//! The client programs in front of a cluster: they know nothing of it, and each transcript is the same as with one server, but for the
//! differences named here.
//!
//! `MSET` of many keys is divided, as docs/cluster.md says. Where a cluster has one database, a program uses it in place of all others.
//! Sidekiq is not here: it uses keys of several slots in one transaction, and has no setting for a hash tag.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use super::program::{Program, go, node, perl, php, python, ruby, rust, shell};
use super::{With, expect_same};
use crate::support::cluster::{Cluster, ClusterPlan};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

const PROGRAMS: &[fn(Flavor) -> Command] = &[
    |flavor| shell(flavor, "commands"),
    |flavor| python("terminal.py").with(&flavor.binary("cli")),
    |_| python("sync_client.py"),
    |_| python("asyncio_client.py"),
    |_| python("celery_chain.py"),
    |_| python("glide_client.py"),
    |_| node("glide.mjs"),
    |_| node("ioredis.mjs"),
    |_| node("node_redis.mjs"),
    |_| node("bullmq.mjs"),
    |_| node("bullmq_dashboard.mjs"),
    |_| node("socket_io.mjs"),
    |_| node("socket_io_sharded.mjs"),
    |_| go("redigo"),
    |_| go("go_redis"),
    |_| php("phpredis.php"),
    |_| php("sessions.php"),
    |_| ruby("redis_rb.rb"),
    |_| perl("redis_pm.pl"),
    |_| rust("fred_client"),
    |_| rust("clients"),
];

/// A difference that a cluster makes inevitable.
struct Difference {
    why: &'static str,
    /// The program; `None` if it may be in any.
    program: Option<&'static str>,
    /// What the server says.
    direct: &'static str,
    /// What stands in its place in front of a cluster.
    through: &'static str,
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        why: "a connection sees the keys of one node only, so CLIENT TRACKING is refused",
        program: Some("sync_client.py"),
        direct: "\ncached ['old', 'old', 1]\ninvalidated 'new'\n",
        through: "\ncaching ResponseError: respgate: CLIENT TRACKING is not possible in a cluster\n",
    },
    Difference {
        why: "a connection sees the keys of one node only, so CLIENT TRACKING is refused",
        program: Some("node_redis.mjs"),
        direct: "\ncached [\"old\",\"old\"]\ninvalidated \"new\"\n",
        through: "\nclient error \"Error: ERR respgate: CLIENT TRACKING is not possible in a cluster\"\n\
                  tracking \"Error: ERR respgate: CLIENT TRACKING is not possible in a cluster\"\n",
    },
    Difference {
        why: "a cluster without `cluster-databases` has one database, and the server says so in other words",
        program: None,
        direct: "DB index is out of range",
        through: "SELECT is not allowed in cluster mode",
    },
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
    let mut differing = Vec::new();
    for program in PROGRAMS {
        let client = || {
            let mut client = program(flavor);
            if !databases {
                client.env("ONE_DATABASE", "1");
            }
            client
        };
        let same = || {
            let direct = Program::start(client(), direct_server.port);
            let through = Program::start(client(), proxy.port).finish();
            let expected = in_front_of_a_cluster(&client(), direct.finish(), databases);
            expect_same(flavor, &expected, &through);
        };
        if catch_unwind(AssertUnwindSafe(same)).is_err() {
            differing.push(format!("{:?}", client()));
        }
        empty(&direct_server);
        cluster.nodes.iter().for_each(|node| empty(&node.server));
    }
    assert!(differing.is_empty(), "programs whose transcripts differ: {differing:#?}");
}

/// Returns what a program prints in front of a cluster, given what it prints with the server itself.
fn in_front_of_a_cluster(client: &Command, direct: String, databases: bool) -> String {
    let words = format!("{client:?}");
    DIFFERENCES.iter().fold(direct, |transcript, difference| match difference.program {
        Some(program) if words.contains(program) => {
            assert!(transcript.contains(difference.direct), "no longer a difference: {}", difference.why);
            transcript.replace(difference.direct, difference.through)
        }
        None if !databases => transcript.replace(difference.direct, difference.through),
        _ => transcript,
    })
}

/// Forgets what a client has left.
fn empty(server: &Server) {
    for command in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"], &["FUNCTION", "FLUSH"]] {
        server.run(command);
    }
}
