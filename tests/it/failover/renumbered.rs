//! Every node and every Sentinel is replaced by one at another address, one after the other, while clients write.

use super::*;
use crate::support::deployment::start_sentinel;
use crate::support::place::Place;

on_both_servers!(all_addresses_change);

fn all_addresses_change(flavor: Flavor) {
    let mut drill = Drill::start(flavor);
    let plan = plan(flavor);
    let primary = drill.deployment.primary.address();
    let replica_of = ["--replicaof", "127.0.0.1", &primary.port().to_string()];
    let deployment = &mut drill.deployment;
    let former_replicas: Vec<Server> = deployment.replicas.drain(..).collect();
    deployment.replicas.extend((0..2).map(|_| Server::start_with(flavor, &replica_of)));
    drop(former_replicas);
    let mut sentinels: Vec<Server> =
        (0..3).map(|_| start_sentinel(&plan, Place::LOOPBACK, primary)).collect();
    std::mem::swap(&mut sentinels, &mut drill.deployment.sentinels);
    drill.note("new replicas and Sentinels are up; the old replicas are gone");
    // The old Sentinels name the new ones; once respgate follows those it needs the old no more.
    for sentinel in &drill.deployment.sentinels {
        wait::until("respgate to subscribe to a new Sentinel", || {
            let clients = sentinel.run_text(&["CLIENT", "LIST"]);
            clients.lines().any(|line| line.contains(" sub=") && !line.contains(" sub=0 "))
        });
    }
    drop(sentinels);
    for sentinel in &drill.deployment.sentinels {
        // What an operator does so that the dead are forgotten.
        assert_eq!(sentinel.run_text(&["SENTINEL", "RESET", NAME]), ":1\r\n");
    }
    drill.note("the old Sentinels are gone and forgotten");
    drill.deployment.wait_until_redundant();

    let sentinels: Vec<_> = drill.deployment.sentinels.iter().map(Server::address).collect();
    drill.watch = Watch::start(&sentinels, &drill.timeline);
    drill.note("SENTINEL FAILOVER");
    // -NOGOODSLAVE until it has heard from a replica lately.
    wait::until("a Sentinel to begin a failover", || {
        drill.deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]) == "+OK\r\n"
    });
    let (_, survivor) = drill.wait_for_switch();
    thread::sleep(Duration::from_secs(2));
    drill.deployment.primary.crash();
    drill.note("the last of the old nodes is gone");
    thread::sleep(Duration::from_secs(1));
    let (verdict, _) = drill.finish(survivor);
    drill.report("renumbered", &verdict);
    assert_eq!((verdict.lost, verdict.doubled, verdict.unknown), (0, 0, 0), "{verdict}");
    assert_eq!((verdict.refused.len(), verdict.dropped), (0, 0), "{verdict}: {:?}", verdict.refused);
    drill.turn.expect_within(Duration::from_millis(1500), verdict.longest_pause, "the longest pause");
}
