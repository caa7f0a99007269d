//! The clusters that the other tests start: they move slots, fail over and grow as clusters of users do.

use std::time::{Duration, Instant};

use crate::support::cluster::{Cluster, ClusterPlan, key_of};
use crate::support::servers::Flavor;
use crate::support::wait;

on_both_servers!(a_cluster_starts_quickly);
on_both_servers!(a_slot_moves_with_its_keys);
on_both_servers!(a_replica_takes_over);
on_both_servers!(a_node_comes_and_goes);

fn a_cluster_starts_quickly(flavor: Flavor) {
    let started = Instant::now();
    let cluster = Cluster::three(flavor);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(cluster.primaries(), [0, 1, 2]);
    assert_eq!(cluster.slots_of(0), [0..=5461]);
    assert_eq!(cluster.replicas_of(1), [4]);
    assert_eq!(cluster.flavor(), flavor);
}

fn a_slot_moves_with_its_keys(flavor: Flavor) {
    let cluster = Cluster::three(flavor);
    let key = key_of("a", 7);
    cluster.server(0).client().expect(&["SET", &key, "1"], "+OK\r\n");
    cluster.begin_move(7, 2);
    let asked = cluster.server(0).run_text(&["GET", &key_of("b", 7)]);
    assert!(asked.starts_with("-ASK 7 "), "{asked}");
    assert_eq!(cluster.move_keys(7, 2, 10), 1);
    cluster.finish_move(7, 2);
    cluster.wait_until_agreed();
    assert_eq!(cluster.owner(7), 2);
    cluster.server(2).client().expect(&["GET", &key], "$1\r\n1\r\n");
    cluster.move_slot(7, 0);
    cluster.server(0).client().expect(&["GET", &key], "$1\r\n1\r\n");
}

fn a_replica_takes_over(flavor: Flavor) {
    let mut cluster = Cluster::three(flavor);
    cluster.failover(3);
    cluster.wait_until_agreed();
    assert_eq!(cluster.owner(0), 3);
    cluster.kill(1);
    wait::until("the replica of the killed primary to take over", || cluster.is_primary(4));
    cluster.wait_until_agreed();
    assert_eq!(cluster.owner(8000), 4);
}

fn a_node_comes_and_goes(flavor: Flavor) {
    let plan = ClusterPlan { replicas: 0, ..ClusterPlan::new(flavor) };
    let mut cluster = Cluster::start(&plan);
    let node = cluster.add_node(&plan);
    cluster.move_slot(9, node);
    cluster.wait_until_agreed();
    assert_eq!(cluster.owner(9), node);
    cluster.move_slot(9, 0);
    cluster.remove_node(node);
    cluster.wait_until_agreed();
    assert_eq!(cluster.view(0).len(), 3);
}
