//! What becomes of sessions that hold something when another node takes over: none of them ends.

mod held;
mod twice;

use std::time::Instant;

use super::*;
use crate::support::client::Client;

/// How the primary is replaced.
#[derive(Clone, Copy, Debug)]
enum Way {
    Planned,
    Crash,
    /// By hand: nobody kills the connections.
    Manual,
}

const WAYS: [Way; 3] = [Way::Planned, Way::Crash, Way::Manual];

impl Drill {
    /// Another node is the primary, and respgate knows. The port of that node.
    fn replace_primary(&mut self, way: Way) -> u16 {
        self.note(format!("{way:?}"));
        let survivor = match way {
            Way::Planned => {
                let reply = self.deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]);
                assert_eq!(reply, "+OK\r\n");
                self.wait_for_switch().1
            }
            Way::Crash => {
                self.deployment.primary.crash();
                self.wait_for_switch().1
            }
            Way::Manual => self.replace_by_hand(),
        };
        // A write goes through: respgate has switched.
        self.proxy.client().expect(&["SET", "switched", "yes"], "+OK\r\n");
        assert_eq!(self.node(survivor).run_text(&["GET", "switched"]), "$3\r\nyes\r\n");
        self.note("switched");
        survivor
    }
}

/// Runs a drill with each way on each server.
fn in_every_way(drill: impl Fn(&mut Drill, Way)) {
    for (flavor, way) in Flavor::ALL.into_iter().flat_map(|flavor| WAYS.map(|way| (flavor, way))) {
        let mut started = Drill::without_writers(flavor);
        started.note(format!("{} {way:?}", flavor.name()));
        drill(&mut started, way);
    }
}

fn connect(drill: &Drill, name: &str) -> Client {
    let mut client = drill.proxy.client();
    client.expect(&["CLIENT", "SETNAME", name], "+OK\r\n");
    client
}

#[test]
fn a_scan_that_goes_on_misses_nothing() {
    in_every_way(|drill, way| {
        let mut client = connect(drill, "scan");
        for number in 0..300 {
            client.expect(&["SET", &format!("scan:{number}"), "x"], "+OK\r\n");
        }
        let first = client.call(&["SCAN", "0", "COUNT", "30"]);
        let mut seen = String::from_utf8_lossy(&first).into_owned();
        let mut cursor = seen.lines().nth(2).expect("a cursor").to_owned();
        assert_ne!(cursor, "0", "there is more to see");
        wait::until("replication", || replicated(drill));
        drill.replace_primary(way);
        while cursor != "0" {
            let page = client.call(&["SCAN", &cursor, "COUNT", "30"]);
            let page = String::from_utf8_lossy(&page).into_owned();
            cursor = page.lines().nth(2).expect("a cursor").to_owned();
            seen += &page;
        }
        for number in 0..300 {
            assert!(seen.contains(&format!("scan:{number}\r\n")), "scan:{number} was missed");
        }
    });
}

#[test]
fn idle_sessions_keep_what_they_have_set() {
    in_every_way(|drill, way| {
        let mut client = connect(drill, "idle");
        client.expect(&["SELECT", "3"], "+OK\r\n");
        client.expect(&["SET", "k", "in-3"], "+OK\r\n");
        let mut modern = drill.proxy.client();
        assert!(modern.call(&["HELLO", "3", "SETNAME", "modern"]).starts_with(b"%"));
        wait::until("replication", || replicated(drill));
        drill.replace_primary(way);
        client.expect(&["GET", "k"], "$4\r\nin-3\r\n");
        client.expect(&["CLIENT", "GETNAME"], "$4\r\nidle\r\n");
        modern.expect(&["GET", "missing"], "_\r\n");
        modern.expect(&["CLIENT", "GETNAME"], "$6\r\nmodern\r\n");
    });
}

#[test]
fn an_open_transaction_goes_on() {
    in_every_way(|drill, way| {
        let mut client = connect(drill, "multi");
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["INCR", "counter"], "+QUEUED\r\n");
        client.expect(&["INCR", "counter"], "+QUEUED\r\n");
        let survivor = drill.replace_primary(way);
        client.expect(&["INCR", "counter"], "+QUEUED\r\n");
        client.expect(&["EXEC"], "*3\r\n:1\r\n:2\r\n:3\r\n");
        assert_eq!(drill.node(survivor).run_text(&["GET", "counter"]), "$1\r\n3\r\n");
    });
}

#[test]
fn a_watched_key_makes_exec_fail_softly() {
    in_every_way(|drill, way| {
        let mut client = connect(drill, "watch");
        client.expect(&["WATCH", "k"], "+OK\r\n");
        drill.replace_primary(way);
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["SET", "k", "mine"], "+QUEUED\r\n");
        client.expect(&["EXEC"], "*-1\r\n");
        // And the next attempt works.
        client.expect(&["WATCH", "k"], "+OK\r\n");
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["SET", "k", "mine"], "+QUEUED\r\n");
        client.expect(&["EXEC"], "*1\r\n+OK\r\n");
    });
}

/// A blocked pop that the old primary is known to have given up goes on waiting at the new one. After a crash nobody
/// knows whether it had popped something, so it ends as if its time were up, and clients ask again.
#[test]
fn a_blocked_pop_is_served_by_the_new_primary() {
    in_every_way(|drill, way| {
        let mut popper = connect(drill, "pop");
        popper.send_command(&["BLPOP", "queue", "30"]);
        wait_until_blocked(&drill.deployment.primary, 1);
        let survivor = drill.replace_primary(way);
        if let Way::Crash = way {
            popper.expect_reply("*-1\r\n");
            popper.send_command(&["BLPOP", "queue", "30"]);
        }
        wait_until_blocked(drill.node(survivor), 1);
        drill.proxy.client().expect(&["RPUSH", "queue", "job"], ":1\r\n");
        popper.expect_reply("*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n");
    });
}

/// The time that has passed counts.
#[test]
fn a_blocked_pop_ends_when_it_was_to_end() {
    in_every_way(|drill, way| {
        if let Way::Crash = way {
            return;
        }
        let mut popper = connect(drill, "pop");
        let start = Instant::now();
        popper.send_command(&["BLPOP", "queue", "6"]);
        wait_until_blocked(&drill.deployment.primary, 1);
        drill.replace_primary(way);
        popper.expect_reply("*-1\r\n");
        let took = start.elapsed();
        assert!((Duration::from_millis(5900)..Duration::from_millis(7500)).contains(&took), "{took:?}");
    });
}

#[test]
fn subscriptions_go_on() {
    in_every_way(|drill, way| {
        let mut plain = connect(drill, "sub");
        plain.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
        plain.expect(&["PSUBSCRIBE", "n*"], "*3\r\n$10\r\npsubscribe\r\n$2\r\nn*\r\n:2\r\n");
        let mut sharded = connect(drill, "ssub");
        sharded.expect(&["SSUBSCRIBE", "shard"], "*3\r\n$10\r\nssubscribe\r\n$5\r\nshard\r\n:1\r\n");
        let survivor = drill.replace_primary(way);
        let node = drill.node(survivor);
        wait::until("the subscriptions at the new primary", || {
            node.run_text(&["PUBSUB", "NUMSUB", "news"]).ends_with(":1\r\n")
                && node.run_text(&["PUBSUB", "NUMPAT"]) == ":1\r\n"
                && node.run_text(&["PUBSUB", "SHARDNUMSUB", "shard"]).ends_with(":1\r\n")
        });
        node.run(&["PUBLISH", "news", "hello"]);
        node.run(&["SPUBLISH", "shard", "hello"]);
        // No confirmation of the new subscriptions comes between.
        plain.expect_reply("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
        plain.expect_reply("*4\r\n$8\r\npmessage\r\n$2\r\nn*\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
        sharded.expect_reply("*3\r\n$8\r\nsmessage\r\n$5\r\nshard\r\n$5\r\nhello\r\n");
        plain.expect(&["UNSUBSCRIBE", "news"], "*3\r\n$11\r\nunsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    });
}

#[test]
fn tracking_is_flushed_and_goes_on() {
    in_every_way(|drill, way| {
        let mut client = drill.proxy.client();
        assert!(client.call(&["HELLO", "3"]).starts_with(b"%"));
        client.expect(&["CLIENT", "TRACKING", "ON"], "+OK\r\n");
        client.expect(&["GET", "k"], "_\r\n");
        drill.replace_primary(way);
        client.expect_reply(">2\r\n$10\r\ninvalidate\r\n_\r\n");
        client.expect(&["GET", "k"], "_\r\n");
        drill.proxy.client().expect(&["SET", "k", "v"], "+OK\r\n");
        client.expect_reply(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n");
    });
}

/// Scripts are not replicated.
#[test]
fn a_script_is_known_to_the_new_primary() {
    in_every_way(|drill, way| {
        let mut client = drill.proxy.client();
        let reply = client.call(&["SCRIPT", "LOAD", "return redis.call('incr', KEYS[1])"]);
        let sha = String::from_utf8_lossy(&reply).lines().nth(1).expect("a digest").to_owned();
        client.expect(&["EVALSHA", &sha, "1", "runs"], ":1\r\n");
        wait::until("replication", || replicated(drill));
        drill.replace_primary(way);
        client.expect(&["EVALSHA", &sha, "1", "runs"], ":2\r\n");
    });
}

fn replicated(drill: &Drill) -> bool {
    let primary = drill.deployment.primary.info("replication", "master_repl_offset");
    let replicas = drill.deployment.replicas.iter();
    replicas.map(|replica| replica.info("replication", "slave_repl_offset")).all(|at| at >= primary)
}

fn wait_until_blocked(node: &Server, count: u64) {
    wait::until("blocked clients", || node.info("clients", "blocked_clients") == count);
}
