//! Clients of every kind at work while an operator acts: writers that count, a blocked client, a subscriber, a transaction
//! that is open, and one with a watched key.

use std::thread;
use std::time::Duration;

use super::Controlled;
use crate::failover::checker::Verdict;
use crate::failover::timeline::Timeline;
use crate::failover::writers::Writers;
use crate::support::client::Client;
use crate::support::servers::Server;
use crate::support::tls::Target;
use crate::support::wait;

/// Writers of each test.
const WRITERS: usize = 8;

/// The clients at work.
pub struct Load {
    writers: Writers,
    pub blocked: Client,
    pub subscriber: Client,
    pub transaction: Client,
    pub watching: Client,
}

impl Load {
    /// All are connected and at work.
    pub fn start(controlled: &Controlled) -> Self {
        Self::start_at(controlled, &controlled.server)
    }

    /// As [`Self::start`], with an upstream that leads to `server`.
    pub fn start_at(controlled: &Controlled, server: &Server) -> Self {
        let target = Target { port: controlled.proxy.port, tls: None };
        let writers = Writers::start(WRITERS, &target, &Timeline::start());
        let client = || controlled.proxy.client();
        let (mut blocked, mut subscriber, mut transaction, mut watching) =
            (client(), client(), client(), client());
        blocked.send_command(&["BLPOP", "queue", "0"]);
        subscriber.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
        transaction.expect(&["MULTI"], "+OK\r\n");
        transaction.expect(&["INCR", "once"], "+QUEUED\r\n");
        watching.expect(&["WATCH", "watched"], "+OK\r\n");
        is_blocked(server);
        thread::sleep(Duration::from_millis(200));
        Self { writers, blocked, subscriber, transaction, watching }
    }

    /// The blocked client and the subscriber are served by `server`, and the transaction runs once.
    pub fn expect_served_by(&mut self, server: &Server) {
        self.expect_pushed_to(server);
        self.transaction.expect(&["EXEC"], "*1\r\n:1\r\n");
        assert_eq!(server.run_text(&["GET", "once"]), "$1\r\n1\r\n");
    }

    /// The blocked client and the subscriber are served by `server`.
    pub fn expect_pushed_to(&mut self, server: &Server) {
        is_blocked(server);
        server.run(&["RPUSH", "queue", "x"]);
        self.blocked.expect_reply("*2\r\n$5\r\nqueue\r\n$1\r\nx\r\n");
        wait::until("the subscription", || {
            server.run_text(&["PUBSUB", "NUMSUB", "news"]).ends_with(":1\r\n")
        });
        server.run(&["PUBLISH", "news", "hello"]);
        self.subscriber.expect_reply("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
        assert_eq!(server.run_text(&["LLEN", "queue"]), ":0\r\n");
    }

    /// Ends the writing, whatever the writers have seen.
    pub fn stop(self) {
        self.writers.finish();
    }

    /// Ends the writing. No writer may have seen an error, and `survivor` must hold what was acknowledged, once.
    #[track_caller]
    pub fn finish(self, survivor: &Server, name: &str) -> Verdict {
        thread::sleep(Duration::from_millis(200));
        let verdict = Verdict::of(&self.writers.finish(), survivor);
        eprintln!("{name}: {verdict}");
        assert!(verdict.acknowledged > 0, "{verdict}");
        assert!(verdict.refused.is_empty(), "{verdict}: {:?}", verdict.refused);
        assert_eq!((verdict.lost, verdict.doubled), (0, 0), "{verdict}");
        assert_eq!((verdict.unknown, verdict.dropped), (0, 0), "{verdict}");
        verdict
    }
}

/// Waits until a client is blocked in BLPOP at the server.
pub fn is_blocked(server: &Server) {
    wait::until("a blocked client", || server.run_text(&["CLIENT", "LIST"]).contains("cmd=blpop"));
}

/// How often a server has run INCR for clients.
pub fn increments(server: &Server) -> u64 {
    let text = server.run_text(&["INFO", "commandstats"]);
    let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_incr:calls=")?.split(',').next());
    line.and_then(|calls| calls.parse().ok()).unwrap_or(0)
}
