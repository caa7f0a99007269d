//! The client programs on a read port: reads come from replicas, and each transcript is the same as with the primary itself.

use std::process::Command;

use super::expect_same;
use super::program::{go, node, perl, php, python, ruby, rust, shell, transcript};
use crate::support::deployment::{Deployment, Plan};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

#[test]
fn on_valkey() {
    same_on_a_read_port(
        Flavor::Valkey,
        &[
            || shell(Flavor::Valkey, "commands"),
            || python("sync_client.py"),
            || python("glide_client.py"),
            || node("node_redis.mjs"),
            || go("redigo"),
            || php("phpredis.php"),
            || ruby("redis_rb.rb"),
            || perl("redis_pm.pl"),
            || rust("fred_client"),
        ],
    );
}

#[test]
fn on_redis() {
    same_on_a_read_port(
        Flavor::Redis,
        &[
            || python("asyncio_client.py"),
            || node("ioredis.mjs"),
            || node("bullmq.mjs"),
            || go("go_redis"),
            || php("sessions.php"),
            || ruby("sidekiq_jobs.rb"),
            || rust("clients"),
        ],
    );
}

fn same_on_a_read_port(flavor: Flavor, clients: &[fn() -> Command]) {
    let deployment = Deployment::start(&Plan { replicas: 2, down_after_ms: 60_000, ..Plan::new(flavor) });
    deployment.wait_until_redundant();
    let text = format!(
        "[tenants.all]\ndefault = true\nreads = \"prefer-replica\"\n[upstreams.main]\nurl = \"{}\"\nread-your-writes = \"tenant\"\n",
        deployment.url()
    );
    let proxy = Proxy::start_file(2, &text);
    for client in clients {
        empty(&deployment.primary);
        let direct = transcript(client(), deployment.primary.port);
        empty(&deployment.primary);
        let through = transcript(client(), proxy.port);
        expect_same(flavor, &direct, &through);
    }
    let sent = proxy.metric("respgate_replica_reads_total", &[]);
    assert!(sent > 10.0, "replicas served {sent} reads, so this test shows nothing");
}

/// Forgets what the last client has left.
fn empty(server: &Server) {
    for command in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"], &["FUNCTION", "FLUSH"]] {
        server.run(command);
    }
}
