//! What operators order for a cluster.

use serde_json::Value;

use super::{Controlled, expect};
use crate::cluster::discovery::cluster;
use crate::support::cluster::{Cluster, ClusterPlan};
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// Returns true if all shards are in this state.
fn are_all(controlled: &Controlled, state: &str) -> bool {
    let cluster = cluster(&controlled.proxy);
    let shards = cluster["shards"].as_array().cloned().unwrap_or_default();
    shards.len() == 3 && shards.iter().all(|shard: &Value| shard["state"] == state)
}

#[test]
fn a_cluster_is_paused() {
    let servers = Cluster::start(&ClusterPlan { replicas: 0, ..ClusterPlan::new(Flavor::Valkey) });
    let url = format!("url = {:?}", servers.url());
    let mut controlled = Controlled::with_upstream(Server::start(Flavor::Valkey), 2, &url);
    controlled.proxy.allow_log("control: ");
    wait::until("all shards to serve", || are_all(&controlled, "serving"));
    expect(&controlled.on_socket(&["pause", "main"]), 0, "state: paused\n");
    wait::until("all shards to be paused", || are_all(&controlled, "paused"));
    expect(&controlled.on_socket(&["resume", "main"]), 0, "state: resumed\n");
    wait::until("all shards to serve again", || are_all(&controlled, "serving"));
}
