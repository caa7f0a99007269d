//! Switches between Sentinels and a fixed address, and what is sampled and delivered afterwards.

use super::load::Load;
use super::switch::{may_warn, replica_of, url};
use super::{Controlled, expect};
use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

with_one_and_two_workers!(from_an_address_to_sentinels_and_back);

/// Sentinels come to a server that was alone, fail over, and are left again: under load, without an error.
fn from_an_address_to_sentinels_and_back(workers: usize) {
    let plan =
        Plan { replicas: 1, down_after_ms: 2000, failover_timeout_ms: 6000, ..Plan::new(Flavor::Valkey) };
    let deployment = Deployment::start(&plan);
    deployment.wait_until_redundant();
    let spare = Server::start(Flavor::Valkey);
    let mut controlled =
        Controlled::with_upstream(spare, workers, &format!("url = \"{}\"", url(&deployment.primary)));
    controlled.proxy.allow_log("\"WARN\"");
    let mut load = Load::start_at(&controlled, &deployment.primary);
    expect(&controlled.on_socket(&["switch", "main", &deployment.url()]), 0, "commands-waited-ms: ");
    wait::until("the Sentinels to be shown", || {
        controlled.proxy.metric("respgate_sentinels", &["view=\"agrees\""]) == 3.0
    });
    let replica = &deployment.replicas[0];
    wait::until("the replica of the Sentinels to be sampled", || {
        let sampled = format!("replica=\"127.0.0.1:{}\"", replica.port);
        controlled.proxy.metric("respgate_replica_connected", &[&sampled]) == 1.0
            && replica.run_text(&["CLIENT", "LIST"]).contains("lib-name=respgate")
    });
    load.expect_served_by(&deployment.primary);
    assert_eq!(deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]), "+OK\r\n");
    wait::until("the failover", || controlled.proxy.metric("respgate_primary_generation", &[]) >= 3.0);
    wait::until("the end of the failover", || {
        controlled.on_socket(&["switch", "main", &url(replica)]).status.success()
    });
    controlled.proxy.allow_log("control: refused");
    assert_eq!(controlled.proxy.metric("respgate_sentinels", &[]), 0.0, "the Sentinels are left");
    load.finish(replica, "to Sentinels, a failover, and back");
}

/// The replicas of the new server are sampled, and those of the former one are not shown any more.
#[test]
fn the_replicas_of_the_new_server_are_sampled() {
    let mut controlled = Controlled::start(1);
    may_warn(&mut controlled);
    let other = Server::start_with(Flavor::Valkey, &["--requirepass", "s3cret-other"]);
    let (mine, others) =
        (replica_of(&controlled.server, &[]), replica_of(&other, &["--masterauth", "s3cret-other"]));
    let sampled = |replica: &Server, of: &Server| {
        let (this, that) = (replica.port, of.port);
        wait::until("the replica to be sampled, and no other one", || {
            let metrics = controlled.proxy.http("/metrics");
            metrics.contains(&format!("replica=\"127.0.0.1:{this}\""))
                && !metrics.contains(&format!("replica=\"127.0.0.1:{that}\""))
        });
    };
    sampled(&mine, &others);
    let to = format!("redis://:s3cret-other@127.0.0.1:{}", other.port);
    expect(&controlled.on_socket(&["switch", "main", &to, "--data-copied"]), 0, "to: ");
    sampled(&others, &mine);
}

with_one_and_two_workers!(fan_in_subscribers_stay);

/// Subscribers that share a connection stay, and get what is published at the new server.
fn fan_in_subscribers_stay(workers: usize) {
    let fan_in = "[tenants.everybody]\ndefault = true\npubsub = \"fan-in\"";
    let mut controlled = Controlled::in_front_of(Server::start(Flavor::Valkey), workers, fan_in);
    may_warn(&mut controlled);
    let other = Server::start(Flavor::Valkey);
    let mut subscribers: Vec<_> = (0..40).map(|_| controlled.proxy.client()).collect();
    for subscriber in &mut subscribers {
        subscriber.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    }
    let subscribed = |server: &Server| {
        server.run_text(&["PUBSUB", "NUMSUB", "news"]).ends_with(&format!(":{workers}\r\n"))
    };
    wait::until("one connection of each worker", || subscribed(&controlled.server));
    for (from, to) in [(&controlled.server, &other), (&other, &controlled.server)] {
        expect(&controlled.on_socket(&["switch", "main", &url(to), "--data-copied"]), 0, "to: ");
        wait::until("the subscriptions at the new server", || subscribed(to));
        assert_eq!(from.run_text(&["PUBSUB", "NUMSUB", "news"]), "*2\r\n$4\r\nnews\r\n:0\r\n");
        to.run(&["PUBLISH", "news", "hello"]);
        for subscriber in &mut subscribers {
            subscriber.expect_reply("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
        }
    }
}
