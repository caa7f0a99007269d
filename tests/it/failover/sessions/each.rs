//! One session for each thing that a session can have, with what must have become of it.

use super::*;

/// What is looked at when another node is the primary, given its port.
type Check = Box<dyn FnOnce(&Drill, u16)>;

/// Sessions before the change.
pub(super) struct Each {
    /// Clients that are blocked.
    pub(super) blocked: u64,
    checks: Vec<(&'static str, Check)>,
}

pub(super) fn start(drill: &Drill, way: Way) -> Each {
    let mut checks: Vec<(&'static str, Check)> = vec![
        ("scan", scan(drill)),
        ("idle", idle(drill)),
        ("transaction", transaction(drill)),
        ("watch", watch(drill)),
        ("pop", pop(drill, way)),
        ("subscriptions", subscriptions(drill)),
        ("subscriptions by fan-in", fan_in(drill)),
        ("tracking", tracking(drill, way)),
        ("script", script(drill)),
    ];
    let crash = matches!(way, Way::Crash);
    if !crash {
        checks.push(("pop that times out", pop_ends(drill)));
    }
    Each { blocked: if crash { 1 } else { 2 }, checks }
}

impl Each {
    pub(super) fn check(self, drill: &Drill, survivor: u16) {
        for (what, check) in self.checks {
            drill.note(what);
            check(drill, survivor);
        }
    }
}

/// A scan that goes on misses nothing.
fn scan(drill: &Drill) -> Check {
    let mut client = connect(drill, "scan");
    for number in 0..300 {
        client.expect(&["SET", &format!("scan:{number}"), "x"], "+OK\r\n");
    }
    let first = client.call(&["SCAN", "0", "COUNT", "30"]);
    let mut seen = String::from_utf8_lossy(&first).into_owned();
    let mut cursor = seen.lines().nth(2).expect("a cursor").to_owned();
    assert_ne!(cursor, "0", "there is more to see");
    Box::new(move |_, _| {
        while cursor != "0" {
            let page = client.call(&["SCAN", &cursor, "COUNT", "30"]);
            let page = String::from_utf8_lossy(&page).into_owned();
            cursor = page.lines().nth(2).expect("a cursor").to_owned();
            seen += &page;
        }
        for number in 0..300 {
            assert!(seen.contains(&format!("scan:{number}\r\n")), "scan:{number} was missed");
        }
    })
}

/// Idle sessions keep what they have set.
fn idle(drill: &Drill) -> Check {
    let mut client = connect(drill, "idle");
    client.expect(&["SELECT", "3"], "+OK\r\n");
    client.expect(&["SET", "idle", "in-3"], "+OK\r\n");
    let mut modern = drill.proxy.client();
    assert!(modern.call(&["HELLO", "3", "SETNAME", "modern"]).starts_with(b"%"));
    Box::new(move |_, _| {
        client.expect(&["GET", "idle"], "$4\r\nin-3\r\n");
        client.expect(&["CLIENT", "GETNAME"], "$4\r\nidle\r\n");
        modern.expect(&["GET", "missing"], "_\r\n");
        modern.expect(&["CLIENT", "GETNAME"], "$6\r\nmodern\r\n");
    })
}

/// An open transaction goes on.
fn transaction(drill: &Drill) -> Check {
    let mut client = connect(drill, "multi");
    client.expect(&["MULTI"], "+OK\r\n");
    client.expect(&["INCR", "counter"], "+QUEUED\r\n");
    client.expect(&["INCR", "counter"], "+QUEUED\r\n");
    Box::new(move |drill, survivor| {
        client.expect(&["INCR", "counter"], "+QUEUED\r\n");
        client.expect(&["EXEC"], "*3\r\n:1\r\n:2\r\n:3\r\n");
        assert_eq!(drill.node(survivor).run_text(&["GET", "counter"]), "$1\r\n3\r\n");
    })
}

/// A watched key makes EXEC fail softly, and the next attempt works.
fn watch(drill: &Drill) -> Check {
    let mut client = connect(drill, "watch");
    client.expect(&["WATCH", "watched"], "+OK\r\n");
    Box::new(move |_, _| {
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["SET", "watched", "mine"], "+QUEUED\r\n");
        client.expect(&["EXEC"], "*-1\r\n");
        client.expect(&["WATCH", "watched"], "+OK\r\n");
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["SET", "watched", "mine"], "+QUEUED\r\n");
        client.expect(&["EXEC"], "*1\r\n+OK\r\n");
    })
}

/// A blocked pop that the old primary is known to have given up goes on waiting at the new one. After a crash nobody
/// knows whether it had popped something, so it ends as if its time were up, and clients ask again.
fn pop(drill: &Drill, way: Way) -> Check {
    let mut popper = connect(drill, "pop");
    popper.send_command(&["BLPOP", "queue", "60"]);
    Box::new(move |drill, _| {
        if let Way::Crash = way {
            popper.expect_reply("*-1\r\n");
            popper.send_command(&["BLPOP", "queue", "60"]);
        }
        drill.proxy.client().expect(&["RPUSH", "queue", "job"], ":1\r\n");
        popper.expect_reply("*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n");
    })
}

/// A blocked pop ends when it was to end: the time that has passed counts.
fn pop_ends(drill: &Drill) -> Check {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let mut popper = connect(drill, "pop");
    let start = Instant::now();
    popper.send_command(&["BLPOP", "nothing", &TIMEOUT.as_secs().to_string()]);
    Box::new(move |drill, _| {
        popper.expect_reply("*-1\r\n");
        let took = start.elapsed();
        assert!(took >= TIMEOUT - Duration::from_millis(100), "{took:?}");
        drill.turn.expect_within(TIMEOUT + Duration::from_millis(1500), took, "a pop's timeout");
    })
}

fn subscriptions(drill: &Drill) -> Check {
    let mut plain = connect(drill, "sub");
    plain.expect(&["SUBSCRIBE", "tell:it"], "*3\r\n$9\r\nsubscribe\r\n$7\r\ntell:it\r\n:1\r\n");
    plain.expect(&["PSUBSCRIBE", "tell:*"], "*3\r\n$10\r\npsubscribe\r\n$6\r\ntell:*\r\n:2\r\n");
    let mut sharded = connect(drill, "ssub");
    sharded.expect(&["SSUBSCRIBE", "shard"], "*3\r\n$10\r\nssubscribe\r\n$5\r\nshard\r\n:1\r\n");
    Box::new(move |drill, survivor| {
        let node = drill.node(survivor);
        wait::until("the subscriptions at the new primary", || {
            // Two other sessions have a pattern each.
            node.run_text(&["PUBSUB", "NUMSUB", "tell:it"]).ends_with(":1\r\n")
                && node.run_text(&["PUBSUB", "NUMPAT"]) == ":3\r\n"
                && node.run_text(&["PUBSUB", "SHARDNUMSUB", "shard"]).ends_with(":1\r\n")
        });
        node.run(&["PUBLISH", "tell:it", "hello"]);
        node.run(&["SPUBLISH", "shard", "hello"]);
        // No confirmation of the new subscriptions comes between.
        plain.expect_reply("*3\r\n$7\r\nmessage\r\n$7\r\ntell:it\r\n$5\r\nhello\r\n");
        plain.expect_reply("*4\r\n$8\r\npmessage\r\n$6\r\ntell:*\r\n$7\r\ntell:it\r\n$5\r\nhello\r\n");
        sharded.expect_reply("*3\r\n$8\r\nsmessage\r\n$5\r\nshard\r\n$5\r\nhello\r\n");
        let left = "*3\r\n$11\r\nunsubscribe\r\n$7\r\ntell:it\r\n:1\r\n";
        plain.expect(&["UNSUBSCRIBE", "tell:it"], left);
    })
}

/// Those that share a link move with it, and notice nothing.
fn fan_in(drill: &Drill) -> Check {
    let mut all: Vec<Client> = (0..4).map(|number| connect(drill, &format!("fan-{number}"))).collect();
    for client in &mut all {
        client.expect(&["SUBSCRIBE", "fan"], "*3\r\n$9\r\nsubscribe\r\n$3\r\nfan\r\n:1\r\n");
        client.expect(&["SSUBSCRIBE", "fans"], "*3\r\n$10\r\nssubscribe\r\n$4\r\nfans\r\n:1\r\n");
    }
    let count = |node: &Server| {
        ["NUMSUB", "SHARDNUMSUB"].map(|of| {
            let name = if of == "NUMSUB" { "fan" } else { "fans" };
            node.run_text(&["PUBSUB", of, name])
        })
    };
    // One for each worker that has any of them.
    let links = count(&drill.deployment.primary);
    assert!(links[0].ends_with(":1\r\n") || links[0].ends_with(":2\r\n"), "{links:?}");
    Box::new(move |drill, survivor| {
        let node = drill.node(survivor);
        wait::until("the links to the new primary", || count(node) == links);
        node.run(&["PUBLISH", "fan", "hello"]);
        for client in &mut all {
            client.expect_reply("*3\r\n$7\r\nmessage\r\n$3\r\nfan\r\n$5\r\nhello\r\n");
            client.expect(&["SUBSCRIBE", "more"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nmore\r\n:2\r\n");
        }
    })
}

/// Tracking is flushed, and goes on.
fn tracking(drill: &Drill, way: Way) -> Check {
    let mut client = drill.proxy.client();
    assert!(client.call(&["HELLO", "3"]).starts_with(b"%"));
    client.expect(&["CLIENT", "TRACKING", "ON"], "+OK\r\n");
    client.expect(&["GET", "tracked"], "_\r\n");
    Box::new(move |drill, _| {
        let flush = ">2\r\n$10\r\ninvalidate\r\n_\r\n";
        client.expect_reply(flush);
        // In a coordinated failover the Sentinel also closes the connections to the new primary.
        client.send_command(&["GET", "tracked"]);
        let next = client.reply();
        if next == flush.as_bytes() && matches!(way, Way::Coordinated) {
            client.expect_reply("_\r\n");
        } else {
            assert_eq!(next, b"_\r\n", "{}", next.escape_ascii());
        }
        drill.proxy.client().expect(&["SET", "tracked", "v"], "+OK\r\n");
        client.expect_reply(">2\r\n$10\r\ninvalidate\r\n*1\r\n$7\r\ntracked\r\n");
    })
}

/// A script is known to the new primary, although scripts are not replicated.
fn script(drill: &Drill) -> Check {
    let mut client = drill.proxy.client();
    let reply = client.call(&["SCRIPT", "LOAD", "return redis.call('incr', KEYS[1])"]);
    let sha = String::from_utf8_lossy(&reply).lines().nth(1).expect("a digest").to_owned();
    client.expect(&["EVALSHA", &sha, "1", "runs"], ":1\r\n");
    Box::new(move |_, _| client.expect(&["EVALSHA", &sha, "1", "runs"], ":2\r\n"))
}
