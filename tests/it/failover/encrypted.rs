//! TLS on all legs: clients with certificates, nodes and Sentinels that speak nothing else to respgate and each other.

use super::*;
use crate::support::certificates::{By, Certificates};
use crate::support::deployment::PlanTls;
use crate::support::port::free_port;
use crate::support::tls::Tls;

/// Nodes are dialled by IP address, and have certificates for one name; Sentinels have an authority of their own.
fn start(certificates: &Certificates) -> Drill {
    certificates.server("node", By::Intermediate, &["db.example"]);
    certificates.server("sentinel", By::Other, &["127.0.0.1"]);
    let tls = PlanTls { certificates, node: "node", sentinel: "sentinel" };
    let upstream = format!(
        "tls-ca = \"{}\"\ntls-server-name = \"db.example\"\nsentinel-tls-ca = \"{}\"\n",
        certificates.path("ca.pem"),
        certificates.path("other-ca.pem")
    );
    let target = Target { port: free_port(), tls: Some(Tls::named(certificates, "client")) };
    let listener = format!(
        "[listeners.secure]\naddress = \"127.0.0.1:{}\"\n{}tls-client-ca = \"{}\"\n",
        target.port,
        certificates.pair("server"),
        certificates.path("ca.pem")
    );
    Drill::start_plan(&Plan { tls: Some(tls), ..plan(Flavor::Valkey) }, &upstream, Some((listener, target)))
}

/// Neither writers, nor a subscriber, nor a transaction that is open notices more than a pause.
#[test]
fn planned_over_tls() {
    let certificates = Certificates::new();
    let mut drill = start(&certificates);
    let mut subscriber = drill.target.client();
    subscriber.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    let mut transaction = drill.target.client();
    transaction.expect(&["MULTI"], "+OK\r\n");
    transaction.expect(&["INCR", "once"], "+QUEUED\r\n");
    drill.note("SENTINEL FAILOVER");
    let reply = drill.deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]);
    assert_eq!(reply, "+OK\r\n");
    let (_, survivor) = drill.wait_for_switch();
    let node = drill.node(survivor);
    wait::until("the subscription at the new primary", || {
        node.run_text(&["PUBSUB", "NUMSUB", "news"]).ends_with(":1\r\n")
    });
    node.run(&["PUBLISH", "news", "hello"]);
    subscriber.expect_reply("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
    transaction.expect(&["EXEC"], "*1\r\n:1\r\n");
    thread::sleep(Duration::from_secs(1));
    let (verdict, _) = drill.finish(survivor);
    drill.report("planned over TLS", &verdict);
    assert_eq!((verdict.lost, verdict.doubled), (0, 0), "{verdict}");
    assert!(verdict.refused.is_empty(), "{verdict}: {:?}", verdict.refused);
    assert_eq!((verdict.unknown, verdict.dropped), (0, 0), "{verdict}");
    drill.turn.expect_within(Duration::from_millis(1500), verdict.longest_pause, "the longest pause");
    drill.expect_timeline("\"lossless\": true");
}

#[test]
fn crash_over_tls() {
    let certificates = Certificates::new();
    let mut drill = start(&certificates);
    drill.note("SIGKILL");
    let gone = drill.timeline.now();
    drill.deployment.primary.crash();
    let (named, survivor) = drill.wait_for_switch();
    thread::sleep(Duration::from_secs(1));
    let (verdict, records) = drill.finish(survivor);
    drill.expect_crash_like(&verdict, &records, gone, named, "crash over TLS");
}
