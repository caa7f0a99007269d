//! Another node is made the primary by hand, connections are left open, and the Sentinels are told afterwards.

use std::time::Instant;

use super::*;

on_both_servers!(manual, |flavor| (0..REPEATS).for_each(|_| manual(flavor)));

on_both_servers!(server_side_failover, |flavor| (0..REPEATS).for_each(|_| server_side(flavor)));

/// REPLICAOF on every node. READONLY is never shown. What the old primary had not replicated is lost.
fn manual(flavor: Flavor) {
    let mut drill = Drill::start(flavor);
    let begun = Instant::now();
    let survivor = drill.replace_by_hand();
    let verdict = drill.expect_moved(survivor, begun.elapsed(), "manual");
    assert!(verdict.lost <= WRITERS as i64, "more than what was in flight: {verdict}");
}

/// `FAILOVER TO`: the server waits until the replica has everything.
fn server_side(flavor: Flavor) {
    let mut drill = Drill::start(flavor);
    let survivor = drill.deployment.replicas[0].port;
    drill.note("FAILOVER");
    let begun = Instant::now();
    let port = survivor.to_string();
    let reply = drill.deployment.primary.run_text(&["FAILOVER", "TO", "127.0.0.1", &port]);
    assert_eq!(reply, "+OK\r\n");
    wait::until("the replica to be the primary", || {
        drill.deployment.replicas[0].run_text(&["ROLE"]).contains("master")
    });
    drill.point_sentinels_at(survivor);
    let verdict = drill.expect_moved(survivor, begun.elapsed(), "server-side");
    assert_eq!(verdict.lost, 0, "{verdict}");
}

impl Drill {
    /// Makes the first replica the primary, and tells the Sentinels a little later. Its port.
    pub(super) fn replace_by_hand(&self) -> u16 {
        let survivor = self.deployment.replicas[0].port;
        let port = survivor.to_string();
        self.note(format!("REPLICAOF, towards port {port}"));
        self.deployment.primary.run(&["REPLICAOF", "127.0.0.1", &port]);
        self.deployment.replicas[0].run(&["REPLICAOF", "NO", "ONE"]);
        self.deployment.replicas[1].run(&["REPLICAOF", "127.0.0.1", &port]);
        thread::sleep(Duration::from_millis(300));
        self.point_sentinels_at(survivor);
        survivor
    }

    pub(super) fn point_sentinels_at(&self, port: u16) {
        for sentinel in &self.deployment.sentinels {
            let quorum = (self.deployment.sentinels.len() / 2 + 1).to_string();
            assert_eq!(sentinel.run_text(&["SENTINEL", "REMOVE", NAME]), "+OK\r\n");
            let monitor = ["SENTINEL", "MONITOR", NAME, "127.0.0.1", &port.to_string(), &quorum];
            assert_eq!(sentinel.run_text(&monitor), "+OK\r\n");
        }
        self.note("the Sentinels are told");
    }

    /// Nobody has noticed more than a pause, besides the time that the operator `took` until all Sentinels were told: they
    /// write their configuration to disk first.
    #[track_caller]
    fn expect_moved(&mut self, survivor: u16, took: Duration, name: &str) -> Verdict {
        wait::until("a write to the new primary", || calls(self.node(survivor), "incr") > 0);
        thread::sleep(Duration::from_millis(1500));
        let (verdict, _) = self.finish(survivor);
        self.report(name, &verdict);
        assert!(verdict.refused.is_empty(), "{verdict}: {:?}", verdict.refused);
        assert_eq!((verdict.doubled, verdict.dropped, verdict.unknown), (0, 0, 0), "{verdict}");
        let limit = Duration::from_millis(1500).max(took + Duration::from_millis(500));
        self.turn.expect_within(limit, verdict.longest_pause, "the longest pause");
        verdict
    }
}
