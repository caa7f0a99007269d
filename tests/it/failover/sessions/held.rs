//! Sessions in both protocol versions, each holding something of its own while the primary is replaced.

use super::*;

/// More than a hash may have that is small enough to be shown at once.
const MEMBERS: usize = 600;

on_both_servers!(a_read_of_new_entries_skips_none);

/// An entry that comes between the two primaries is read: `$` means what was newest when the client asked.
fn a_read_of_new_entries_skips_none(flavor: Flavor) {
    let drill = Drill::without_writers(flavor, "");
    // XINFO shows the whole entry, more of it than is read at once.
    let seen = "seen".repeat(200_000);
    drill.proxy.client().expect(&["XADD", "old", "5-1", "f", &seen], "$3\r\n5-1\r\n");
    let mut readers = [2, 3].map(|resp| greeted(&drill.proxy, resp));
    for reader in &mut readers {
        reader.send_command(&["XREAD", "BLOCK", "60000", "STREAMS", "new", "old", "$", "$"]);
    }
    wait_until_blocked(&drill.deployment.primary, 2);
    wait::until("replication", || replicated(&drill));
    let next = &drill.deployment.replicas[0];
    next.run(&["REPLICAOF", "NO", "ONE"]);
    next.run(&["XADD", "new", "1-1", "f", "first"]);
    next.run(&["XADD", "old", "5-2", "f", "second"]);
    drill.replace_by_hand();
    for reader in &mut readers {
        let read = String::from_utf8_lossy(&reader.reply()).into_owned();
        assert!(read.contains("first") && read.contains("second"), "{read}");
        assert!(!read.contains("seen"), "{read}");
        reader.expect(&["ECHO", "in step"], "$7\r\nin step\r\n");
    }
}

/// The sessions of both versions, and one that watches all that the server does.
pub(super) struct Many {
    sessions: [Held; 2],
    monitor: Client,
    observing: Proxy,
}

impl Many {
    pub(super) fn start(drill: &Drill) -> Self {
        let nodes = drill.deployment.replicas.iter().chain([&drill.deployment.primary]);
        // ACLs are not replicated.
        nodes.for_each(|node| {
            assert_eq!(
                node.run_text(&["ACL", "SETUSER", "ann", "on", ">pw", "~*", "&*", "+@all"]),
                "+OK\r\n"
            );
        });
        let mut observing = Proxy::start_with(&drill.deployment.url(), 1, &["--admin-commands", "allow"]);
        observing.allow_log("\"WARN\"");
        let mut monitor = observing.client();
        monitor.expect(&["MONITOR"], "+OK\r\n");
        let sessions = [2, 3].map(|resp| Held::start(&drill.proxy, resp));
        Self { sessions, monitor, observing }
    }

    /// BLMOVE, XREAD and BLPOP of each.
    pub(super) fn blocked(&self) -> u64 {
        3 * self.sessions.len() as u64
    }

    pub(super) fn check(mut self, drill: &Drill, way: Way, survivor: u16) {
        let survivor = drill.node(survivor);
        for session in &mut self.sessions {
            session.check(drill, way, survivor);
        }
        wait::until("MONITOR to show what the new primary does", || {
            survivor.run(&["ECHO", "observed"]);
            self.monitor.reply().windows(8).any(|shown| shown == b"observed")
        });
        drop(self.observing);
    }
}

/// A client that speaks this version.
fn greeted(proxy: &Proxy, resp: u8) -> Client {
    let mut client = proxy.client();
    client.call(&["HELLO", &resp.to_string()]);
    client
}

/// One session for each thing to hold.
struct Held {
    resp: u8,
    user: Client,
    transaction: Client,
    watched: Client,
    mover: Client,
    reader: Client,
    popper: Client,
    subscriber: Client,
    scanner: Client,
    scans: Vec<Scan>,
}

/// A scan that has begun.
struct Scan {
    command: &'static str,
    key: String,
    cursor: String,
    seen: String,
}

impl Held {
    fn start(proxy: &Proxy, resp: u8) -> Self {
        let client = || greeted(proxy, resp);
        let (mut user, mut transaction, mut watched) = (client(), client(), client());
        user.expect(&["AUTH", "ann", "pw"], "+OK\r\n");
        user.expect(&["SELECT", "3"], "+OK\r\n");
        user.expect(&["SET", &format!("mine{resp}"), "x"], "+OK\r\n");
        transaction.expect(&["SELECT", "2"], "+OK\r\n");
        transaction.expect(&["MULTI"], "+OK\r\n");
        transaction.expect(&["INCR", &format!("n{resp}")], "+QUEUED\r\n");
        watched.expect(&["WATCH", &format!("w{resp}")], "+OK\r\n");
        watched.expect(&["MULTI"], "+OK\r\n");
        watched.expect(&["SET", &format!("w{resp}"), "mine"], "+QUEUED\r\n");
        let (mut mover, mut reader, mut popper) = (client(), client(), client());
        mover.send_command(&["BLMOVE", &format!("from{resp}"), &format!("to{resp}"), "LEFT", "RIGHT", "60"]);
        reader.send_command(&["XREAD", "BLOCK", "60000", "STREAMS", &format!("stream{resp}"), "0-0"]);
        popper.send_command(&["BLPOP", &format!("queue{resp}"), "0"]);
        let mut subscriber = client();
        for (command, name) in [("SUBSCRIBE", "news"), ("PSUBSCRIBE", "p*"), ("SSUBSCRIBE", "shard")] {
            let confirmed = subscriber.call(&[command, &format!("{name}{resp}")]);
            assert!(confirmed.starts_with(sign(resp).as_bytes()), "{}", confirmed.escape_ascii());
        }
        let mut scanner = client();
        let scans = [("HSCAN", "HSET"), ("SSCAN", "SADD"), ("ZSCAN", "ZADD")].map(|(command, add)| {
            let key = format!("{command}{resp}");
            let mut all = vec![add.to_owned(), key.clone()];
            for member in 0..MEMBERS {
                let (name, number) = (format!("member-{member}."), member.to_string());
                match add {
                    "HSET" => all.extend([name, number]),
                    "SADD" => all.push(name),
                    _ => all.extend([number, name]),
                }
            }
            scanner.expect(&all, &format!(":{MEMBERS}\r\n"));
            let mut scan = Scan { command, key, cursor: "0".to_owned(), seen: String::new() };
            scan.page(&mut scanner);
            assert_ne!(scan.cursor, "0", "{command} has more to show");
            scan
        });
        let scans = scans.into();
        Self { resp, user, transaction, watched, mover, reader, popper, subscriber, scanner, scans }
    }

    fn check(&mut self, drill: &Drill, way: Way, survivor: &Server) {
        let resp = self.resp;
        let null = if resp == 3 { "_\r\n" } else { "*-1\r\n" };
        self.user.expect(&["ACL", "WHOAMI"], "$3\r\nann\r\n");
        self.user.expect(&["GET", &format!("mine{resp}")], "$1\r\nx\r\n");
        self.transaction.expect(&["INCR", &format!("n{resp}")], "+QUEUED\r\n");
        self.transaction.expect(&["EXEC"], "*2\r\n:1\r\n:2\r\n");
        self.transaction.expect(&["GET", &format!("n{resp}")], "$1\r\n2\r\n");
        self.watched.expect(&["EXEC"], null);
        self.watched.expect(&["EXISTS", &format!("w{resp}")], ":0\r\n");
        self.check_blocked(drill, way, null);
        self.check_subscriptions(survivor);
        for scan in &mut self.scans {
            while scan.cursor != "0" {
                scan.page(&mut self.scanner);
            }
            for member in 0..MEMBERS {
                let name = format!("member-{member}.");
                assert!(scan.seen.contains(&name), "{} missed {name}", scan.command);
            }
        }
    }

    /// What the old primary was known not to have done goes on; after a crash that is known of reads only.
    fn check_blocked(&mut self, drill: &Drill, way: Way, null: &str) {
        let resp = self.resp;
        let mut other = drill.proxy.client();
        other.expect(&["XADD", &format!("stream{resp}"), "7-7", "f", "entry"], "$3\r\n7-7\r\n");
        let read = String::from_utf8_lossy(&self.reader.reply()).into_owned();
        assert!(read.contains("7-7") && read.contains("entry"), "{read}");
        if let Way::Crash = way {
            self.mover.expect_reply(null);
            let popped = String::from_utf8_lossy(&self.popper.reply()).into_owned();
            assert!(popped.starts_with("-OUTCOMEUNKNOWN "), "{popped}");
        } else {
            other.expect(&["RPUSH", &format!("from{resp}"), "a"], ":1\r\n");
            self.mover.expect_reply("$1\r\na\r\n");
            other.expect(&["LRANGE", &format!("to{resp}"), "0", "-1"], "*1\r\n$1\r\na\r\n");
            other.expect(&["RPUSH", &format!("queue{resp}"), "b"], ":1\r\n");
            self.popper.expect_reply(&format!("*2\r\n$6\r\nqueue{resp}\r\n$1\r\nb\r\n"));
        }
        for client in [&mut self.mover, &mut self.reader, &mut self.popper] {
            client.expect(&["ECHO", "in step"], "$7\r\nin step\r\n");
        }
    }

    /// Messages come, and no confirmation that the client has seen already.
    fn check_subscriptions(&mut self, survivor: &Server) {
        let (resp, sign) = (self.resp, sign(self.resp));
        let named = |channel: &str| survivor.run_text(&["PUBSUB", "NUMSUB", channel]).ends_with(":1\r\n");
        wait::until("the subscriptions at the new primary", || {
            let shard = survivor.run_text(&["PUBSUB", "SHARDNUMSUB", &format!("shard{resp}")]);
            named(&format!("news{resp}")) && shard.ends_with(":1\r\n")
        });
        survivor.run(&["PUBLISH", &format!("news{resp}"), "hello"]);
        self.subscriber
            .expect_reply(&format!("{sign}3\r\n$7\r\nmessage\r\n$5\r\nnews{resp}\r\n$5\r\nhello\r\n"));
        survivor.run(&["PUBLISH", &format!("px{resp}"), "hello"]);
        self.subscriber.expect_reply(&format!(
            "{sign}4\r\n$8\r\npmessage\r\n$3\r\np*{resp}\r\n$3\r\npx{resp}\r\n$5\r\nhello\r\n"
        ));
        survivor.run(&["SPUBLISH", &format!("shard{resp}"), "hello"]);
        self.subscriber
            .expect_reply(&format!("{sign}3\r\n$8\r\nsmessage\r\n$6\r\nshard{resp}\r\n$5\r\nhello\r\n"));
        let pong = if resp == 3 { "+PONG\r\n" } else { "*2\r\n$4\r\npong\r\n$0\r\n\r\n" };
        self.subscriber.expect(&["PING"], pong);
    }
}

/// How a message begins.
fn sign(resp: u8) -> &'static str {
    if resp == 3 { ">" } else { "*" }
}

impl Scan {
    fn page(&mut self, client: &mut Client) {
        let page = client.call(&[self.command, &self.key, &self.cursor, "COUNT", "40"]);
        let page = String::from_utf8_lossy(&page).into_owned();
        self.cursor = page.lines().nth(2).expect("a cursor").to_owned();
        self.seen += &page;
    }
}
