//! How far replicas are behind: what respgate samples, and from whom.

use std::time::Duration;

use crate::support::deployment::{Deployment, Plan};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

fn wait_for(proxy: &Proxy, what: &str, metric: &str, labels: &[&str], fits: fn(f64) -> bool) {
    wait::until_some(what, Duration::from_secs(30), || fits(proxy.metric(metric, labels)).then_some(()));
}

fn write_a_megabyte(primary: &Server) {
    let value = "x".repeat(100_000);
    for key in 0..10 {
        primary.run(&["SET", &format!("key:{key}"), &value]);
    }
}

/// respgate that logs in as the user `gate`.
fn start_as_gate(server: &Server) -> Proxy {
    Proxy::start_file(
        1,
        &format!("[upstreams.main]\nurl = \"redis://gate:secret@127.0.0.1:{}\"\n", server.port),
    )
}

on_both_servers!(a_frozen_replica_falls_behind);

fn a_frozen_replica_falls_behind(flavor: Flavor) {
    let deployment =
        Deployment::start(&Plan { replicas: 2, sentinels: 1, down_after_ms: 60_000, ..Plan::new(flavor) });
    deployment.wait_until_redundant();
    let proxy = Proxy::start(&deployment.url());
    let [frozen, other] =
        [0, 1].map(|index| format!("replica=\"127.0.0.1:{}\"", deployment.replicas[index].port));
    wait_for(&proxy, "two connected replicas", "respgate_replica_connected", &[], |sum| sum == 2.0);
    wait_for(&proxy, "no lag", "respgate_replica_lag_bytes", &[], |sum| sum == 0.0);

    deployment.replicas[0].signal("STOP");
    write_a_megabyte(&deployment.primary);
    wait_for(&proxy, "a lag in bytes", "respgate_replica_lag_bytes", &[&frozen], |bytes| bytes > 900_000.0);
    wait_for(&proxy, "a lag in time", "respgate_replica_lag_seconds", &[&frozen], |lag| lag >= 1.0);
    wait_for(&proxy, "no lag of the other", "respgate_replica_lag_bytes", &[&other], |bytes| bytes == 0.0);

    deployment.replicas[0].signal("CONT");
    wait_for(&proxy, "the lag to end", "respgate_replica_lag_bytes", &[&frozen], |bytes| bytes == 0.0);
    wait_for(&proxy, "the lag to end", "respgate_replica_lag_seconds", &[&frozen], |lag| lag == 0.0);
}

/// Behind a fixed address the primary lists its replicas, and respgate dials none of them.
#[test]
fn a_fixed_address_shows_the_replicas_that_the_primary_lists() {
    let deployment = Deployment::start(&Plan { replicas: 1, sentinels: 0, ..Plan::new(Flavor::Valkey) });
    let replica = &deployment.replicas[0];
    let proxy = Proxy::start(&format!("redis://127.0.0.1:{}", deployment.primary.port));
    wait_for(&proxy, "a connected replica", "respgate_replica_connected", &[], |sum| sum == 1.0);
    assert!(!replica.run_text(&["CLIENT", "LIST"]).contains("lib-name=respgate"), "nobody dials the replica");

    // A replica that leaves takes its metrics with it.
    replica.run(&["REPLICAOF", "NO", "ONE"]);
    wait::until("its metrics to disappear", || !proxy.http("/metrics").contains("replica=\""));
}

/// A user who may run neither ROLE nor INFO is asked no more, and says so once.
#[test]
fn a_refusal_ends_the_sampling() {
    let server = Server::start(Flavor::Valkey);
    server.run(&["ACL", "SETUSER", "gate", "on", ">secret", "~*", "+@all", "-role", "-info"]);
    let mut proxy = start_as_gate(&server);
    proxy.allow_log("allows respgate's user neither ROLE nor INFO");
    let said = || proxy.log().matches("does not sample the replication of this node").count();
    wait::until("the refusal in the log", || said() == 1);
    let refusals = || {
        let stats = server.run_text(&["INFO", "commandstats"]);
        let line = stats.lines().find(|line| line.starts_with("cmdstat_info:")).expect("INFO was sent");
        line.split("rejected_calls=").nth(1).expect("refusals").split(',').next().map(str::to_owned)
    };
    let before = refusals();
    // Two more samples are due within this time.
    let uptime = || server.info("server", "uptime_in_seconds");
    let began = uptime();
    wait::until("three more seconds", || uptime() >= began + 3);
    assert_eq!(said(), 1);
    assert_eq!(refusals(), before, "no further attempt");
    assert_eq!(proxy.metric("respgate_replica_connected", &[]), 0.0);
}

/// A user without ROLE is asked by INFO; `replica-sampling = false` asks nobody.
#[test]
fn by_info_and_not_at_all() {
    let deployment = Deployment::start(&Plan { replicas: 1, sentinels: 0, ..Plan::new(Flavor::Redis) });
    let primary = &deployment.primary;
    primary.run(&["ACL", "SETUSER", "gate", "on", ">secret", "~*", "+@all", "-role"]);
    let proxy = start_as_gate(primary);
    wait_for(&proxy, "a connected replica", "respgate_replica_connected", &[], |sum| sum == 1.0);
    wait_for(&proxy, "no lag", "respgate_replica_lag_seconds", &[], |sum| sum == 0.0);

    let count = || primary.run_text(&["CLIENT", "LIST"]).matches("lib-name=respgate").count();
    drop(proxy);
    wait::until("respgate's connections to end", || count() == 0);
    let file =
        format!("[upstreams.main]\naddress = \"127.0.0.1:{}\"\nreplica-sampling = false\n", primary.port);
    let proxy = Proxy::start_file(1, &file);
    proxy.client().expect(&["PING"], "+PONG\r\n");
    assert!(!proxy.http("/metrics").contains("replica=\""));
}
