//! Subscriptions of many clients on one upstream connection per worker.

use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::compare::Pair;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

const FAN_IN: &str = "[upstreams.main]\nurl = \"URL\"\n[tenants.all]\ndefault = true\npubsub = \"fan-in\"\n";

/// Connections with subscriptions, as the server counts them.
fn links(server: &Server) -> usize {
    let clients = server.run_text(&["CLIENT", "LIST"]);
    let subscribed =
        |line: &&str| line.split(' ').any(|field| field.starts_with("flags=") && field.contains('P'));
    clients.lines().filter(subscribed).count()
}

fn start(flavor: Flavor, workers: usize, more: &str) -> (Server, Proxy) {
    let server = Server::start(flavor);
    let toml = FAN_IN.replace("URL", &format!("redis://127.0.0.1:{}", server.port)) + more;
    let proxy = Proxy::start_file(workers, &toml);
    (server, proxy)
}

on_both_servers!(byte_for_byte_as_from_the_server);

/// A client sees what it would on a connection of its own.
fn byte_for_byte_as_from_the_server(flavor: Flavor) {
    let pair = Pair::start_file(flavor, FAN_IN);
    for version in ["2", "3"] {
        pair.compare(|client| {
            let other = client.another();
            client.call(&["HELLO", version, "SETNAME", "x"]);
            client.send("SUBSCRIBE a b a\r\nPING\r\nPSUBSCRIBE a* *\r\nSSUBSCRIBE s\r\n");
            client.replies(7);
            client.at(other).call(&["PUBLISH", "a", "one"]);
            client.replies(3);
            client.at(other).call(&["SPUBLISH", "s", "two"]);
            client.replies(1);
            client
                .send("PING text\r\nUNSUBSCRIBE a\r\nUNSUBSCRIBE nothing\r\nUNSUBSCRIBE\r\nUNSUBSCRIBE\r\n");
            client.replies(5);
            client.at(other).call(&["PUBLISH", "b", "three"]);
            client.replies(1);
            client.send("PUNSUBSCRIBE *\r\nPUNSUBSCRIBE\r\nSUNSUBSCRIBE\r\nGET nothing\r\nPING\r\n");
            client.replies(5);
            client.send("SUBSCRIBE a\r\nRESET\r\nGET nothing\r\n");
            client.replies(3);
        });
    }
    pair.compare(|client| {
        client.send("SUBSCRIBE a\r\n");
        client.replies(1);
        for command in [
            &["GET", "k"][..],
            &["GET"],
            &["MULTI"],
            &["CONFIG", "GET", "x"],
            &["NOSUCH"],
            &["SUBSCRIBE"],
            &["PING", "a", "b"],
        ] {
            client.call(command);
        }
    });
    pair.compare_until_closed("SUBSCRIBE a\r\nQUIT\r\n");
}

/// In RESP3 a subscriber goes on with everything else, on other connections.
#[test]
fn a_resp3_subscriber_has_leases_besides() {
    let pair = Pair::start_file(Flavor::Valkey, FAN_IN);
    pair.compare(|client| {
        let other = client.another();
        client.call(&["HELLO", "3", "SETNAME", "x"]);
        client.pipeline(&[&["SUBSCRIBE", "a"], &["SET", "k", "1"], &["MULTI"], &["INCR", "k"], &["EXEC"]]);
        client.pipeline(&[&["WATCH", "k"], &["SUBSCRIBE", "b"], &["MULTI"], &["GET", "k"]]);
        client.at(other).call(&["PUBLISH", "b", "inside"]);
        client.replies(1);
        client.call(&["EXEC"]);
        client.send("BLPOP queue 0\r\n");
        client.at(other).call(&["PUBLISH", "a", "blocked"]);
        client.replies(1);
        client.at(other).call(&["RPUSH", "queue", "job"]);
        client.replies(1);
        client.pipeline(&[&["UNSUBSCRIBE", "b"], &["GET", "k"], &["UNSUBSCRIBE"], &["PING"]]);
    });
    let mut client = pair.proxy.client();
    client.expect(&["SUBSCRIBE", "a"], "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    let inside = "-ERR respgate: subscriptions cannot change inside a transaction\r\n";
    let mut client = pair.proxy.client();
    client.expect(&["MULTI"], "+OK\r\n");
    client.expect(&["SUBSCRIBE", "a"], inside);
    assert!(client.call(&["EXEC"]).starts_with(b"-EXECABORT"));
    client.expect(&["SUBSCRIBE", "a"], "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
}

struct Subscriber {
    client: Client,
    /// How its frames begin.
    first: char,
}

impl Subscriber {
    fn start(proxy: &Proxy, number: usize) -> Self {
        let mut client = proxy.client();
        let first = if number.is_multiple_of(2) { '*' } else { '>' };
        if first == '>' {
            assert!(client.call(&["HELLO", "3"]).starts_with(b"%"));
        }
        let own = format!("own:{number:03}");
        client.send_command(&["SUBSCRIBE", "news", &own]);
        client.expect_reply(&format!("{first}3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"));
        client.expect_reply(&format!("{first}3\r\n$9\r\nsubscribe\r\n$7\r\n{own}\r\n:2\r\n"));
        Self { client, first }
    }

    fn hears(&mut self, channel: &str, message: &str) {
        let (first, length) = (self.first, channel.len());
        let frame = format!(
            "{first}3\r\n$7\r\nmessage\r\n${length}\r\n{channel}\r\n${}\r\n{message}\r\n",
            message.len()
        );
        self.client.expect_reply(&frame);
    }
}

/// However many subscribe, the server sees a link per worker; each hears what it asked for, in order.
#[test]
fn many_subscribers_and_few_links() {
    for (flavor, workers) in [(Flavor::Valkey, 1), (Flavor::Redis, 2)] {
        let (server, mut proxy) = start(flavor, workers, "");
        let mut all: Vec<Subscriber> = (0..200).map(|number| Subscriber::start(&proxy, number)).collect();
        assert_eq!(links(&server), workers);
        let counted = format!("*2\r\n$4\r\nnews\r\n:{workers}\r\n");
        assert_eq!(server.run_text(&["PUBSUB", "NUMSUB", "news"]), counted);
        assert_eq!(proxy.metric("respgate_fanin_subscribers", &[]), 200.0);
        assert_eq!(proxy.metric("respgate_upstream_connections", &["fan-in"]), workers as f64);
        assert_eq!(proxy.metric("respgate_upstream_connections", &["leased"]), 0.0);

        // More than reaches everybody in one turn.
        let large = "x".repeat(100_000);
        for message in ["first", &large, "second"] {
            assert_eq!(server.run_text(&["PUBLISH", "news", message]), format!(":{workers}\r\n"));
        }
        server.run(&["PUBLISH", "own:007", "to one"]);
        for subscriber in &mut all {
            ["first", &large, "second"].iter().for_each(|message| subscriber.hears("news", message));
        }
        all[7].hears("own:007", "to one");
        assert_eq!(proxy.metric("respgate_fanin_deliveries_total", &[]), 601.0);

        let mut gone: Vec<Subscriber> = all.drain(..100).collect();
        for subscriber in &mut gone[..50] {
            let left = format!("{}3\r\n$11\r\nunsubscribe\r\n$4\r\nnews\r\n:1\r\n", subscriber.first);
            subscriber.client.expect(&["UNSUBSCRIBE", "news"], &left);
        }
        let left_behind: Vec<Subscriber> = gone.drain(..50).collect();
        drop(gone);
        wait::until("those that left to be forgotten", || {
            server.run_text(&["PUBSUB", "NUMSUB", "own:099"]).ends_with(":0\r\n")
        });
        // The server closes the links: they are made again, and the subscriptions with them.
        proxy.allow_log("respgate lost a fan-in connection");
        server.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        wait::until("the links to be made again", || {
            server.run_text(&["PUBSUB", "NUMSUB", "news"]) == counted
        });
        server.run(&["PUBLISH", "news", "third"]);
        all.iter_mut().for_each(|subscriber| subscriber.hears("news", "third"));
        for mut subscriber in left_behind {
            subscriber.client.send_command(&["PING"]);
            let pong = if subscriber.first == '*' { "*2\r\n$4\r\npong\r\n$0\r\n\r\n" } else { "+PONG\r\n" };
            subscriber.client.expect_reply(pong);
        }
        drop(all);
        wait::until("nothing to be left", || {
            proxy.metric("respgate_fanin_channels", &[]) == 0.0
                && server.run_text(&["PUBSUB", "CHANNELS"]) == "*0\r\n"
        });
    }
}

on_both_servers!(refusals_are_the_server_s_and_the_asker_s);

/// What the server refuses is refused to who asked; what it takes back ends who had it; nobody else notices.
fn refusals_are_the_server_s_and_the_asker_s(flavor: Flavor) {
    let mut pair = Pair::start_file(flavor, FAN_IN);
    pair.server.run(&["ACL", "SETUSER", "default", "resetchannels", "&ok:*", "&more:*"]);
    let confirmed = |name: &str| format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{name}\r\n:1\r\n", name.len());
    let mut other = pair.proxy.client();
    other.expect(&["SUBSCRIBE", "ok:1"], &confirmed("ok:1"));
    let mut revoked = pair.proxy.client();
    revoked.expect(&["SUBSCRIBE", "more:1"], &confirmed("more:1"));
    pair.compare(|client| {
        client.pipeline(&[&["SUBSCRIBE", "ok:1", "forbidden"], &["GET", "k"], &["PSUBSCRIBE", "*"]]);
        client.call(&["SUBSCRIBE", "ok:1"]);
    });
    pair.server.run(&["PUBLISH", "ok:1", "one"]);
    other.expect_reply("*3\r\n$7\r\nmessage\r\n$4\r\nok:1\r\n$3\r\none\r\n");

    for line in ["respgate lost a fan-in connection", "the server refuses to restore"] {
        pair.proxy.allow_log(line);
    }
    pair.server.run(&["ACL", "SETUSER", "default", "resetchannels", "&ok:*"]);
    assert_eq!(revoked.rest(), b"");
    wait::until("the link to be made again", || {
        pair.server.run_text(&["PUBSUB", "NUMSUB", "ok:1"]).ends_with(":1\r\n")
    });
    pair.server.run(&["PUBLISH", "ok:1", "two"]);
    other.expect_reply("*3\r\n$7\r\nmessage\r\n$4\r\nok:1\r\n$3\r\ntwo\r\n");
    wait::until("the reason to be logged", || pair.proxy.log().contains("the server refuses to restore"));
}

/// Without a server a SUBSCRIBE waits as long as any command may; who hears nothing for so long is disconnected.
#[test]
fn without_a_server() {
    let server = Server::start(Flavor::Valkey);
    let toml =
        FAN_IN.replace("\"URL\"", &format!("\"redis://127.0.0.1:{}\"\nhold-timeout = \"1s\"", server.port));
    let mut proxy = Proxy::start_file(1, &toml);
    proxy.allow_log("\"WARN\"");
    let mut subscriber = proxy.client();
    subscriber.expect(&["SUBSCRIBE", "a"], "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    drop(server);
    let mut late = proxy.client();
    let refusal = late.call(&["SUBSCRIBE", "b"]);
    assert!(refusal.starts_with(b"-ERR respgate: no primary to send to for "), "{}", refusal.escape_ascii());
    late.expect(&["ECHO", "still there"], "$11\r\nstill there\r\n");
    assert_eq!(subscriber.rest(), b"");
}

/// The channels that a policy allows are the same, and so is the error.
#[test]
fn a_policy_comes_first() {
    let server = Server::start(Flavor::Valkey);
    let toml = FAN_IN.replace("URL", &format!("redis://127.0.0.1:{}", server.port))
        + "channel-prefixes = [\"app:\"]\n";
    let proxy = Proxy::start_file(1, &toml);
    let mut client = proxy.client();
    client.expect(
        &["SUBSCRIBE", "app:1", "other"],
        "-NOPERM No permissions to access a channel (respgate: channel-prefixes of tenant 'all')\r\n",
    );
    client.expect(&["SUBSCRIBE", "app:1"], "*3\r\n$9\r\nsubscribe\r\n$5\r\napp:1\r\n:1\r\n");
    client.expect(
        &["SUBSCRIBE", "other"],
        "-NOPERM No permissions to access a channel (respgate: channel-prefixes of tenant 'all')\r\n",
    );
}

/// What the client asked not to see, it does not see, whichever way its subscriptions go.
#[test]
fn refusals_that_are_not_to_be_shown() {
    for pubsub in ["fan-in", "dedicated"] {
        let pair = Pair::start_file(Flavor::Valkey, &FAN_IN.replace("fan-in", pubsub));
        pair.server.run(&["ACL", "SETUSER", "default", "resetchannels", "&ok"]);
        pair.compare(|client| {
            client.send("CLIENT REPLY OFF\r\nSUBSCRIBE forbidden\r\nCLIENT REPLY ON\r\n");
            client.send("CLIENT REPLY SKIP\r\nSUBSCRIBE forbidden\r\nGET nothing\r\n");
            client.send("SUBSCRIBE forbidden\r\nCLIENT REPLY OFF\r\nSUBSCRIBE ok\r\n");
            client.replies(4);
        });
    }
}

/// Messages count against a tenant's rate, and those beyond it wait, also while the client has a lease besides.
#[test]
fn messages_wait_for_their_tenant_s_rate() {
    let limits = "bytes-out-per-second = \"200KiB\"\nbytes-out-burst = \"20KiB\"\n";
    let (server, proxy) = start(Flavor::Valkey, 1, limits);
    let mut subscriber = Subscriber::start(&proxy, 1);
    let message = "x".repeat(20_000);
    for leases in [false, true] {
        if leases {
            subscriber.client.expect(&["WATCH", "k"], "+OK\r\n");
        }
        let began = Instant::now();
        for _ in 0..10 {
            server.run(&["PUBLISH", "news", &message]);
            subscriber.hears("news", &message);
        }
        server.run(&["PUBLISH", "news", "last"]);
        subscriber.hears("news", "last");
        let took = began.elapsed();
        assert!(took > Duration::from_millis(700), "{took:?}, with a lease: {leases}");
    }
}

/// Messages that come while a long reply is passed on in pieces stand before or behind it, never inside.
#[test]
fn messages_stand_between_replies() {
    const MESSAGES: usize = 50;
    let (server, proxy) = start(Flavor::Valkey, 1, "");
    let large = "x".repeat(20_000_000);
    server.client().expect(&["SET", "large", &large], "+OK\r\n");
    let reply = format!("${}\r\n{large}\r\n", large.len());
    let mut subscriber = Subscriber::start(&proxy, 1);
    // By the shared lane, and by a lease. The client reads nothing of it yet.
    for command in [&["GET", "large"][..], &["EVAL", "return redis.call('GET', 'large')", "0"]] {
        let before = proxy.metric("respgate_fanin_deliveries_total", &[]);
        subscriber.client.send_command(command);
        wait::until("the reply to come in part", || proxy.metric("respgate_buffered_bytes", &[]) > 0.0);
        for number in 0..MESSAGES {
            server.run(&["PUBLISH", "news", &format!("{number:03}")]);
        }
        wait::until("all messages to come", || {
            proxy.metric("respgate_fanin_deliveries_total", &[]) - before == MESSAGES as f64
        });
        let (mut messages, mut replies) = (0, 0);
        while messages + replies < MESSAGES + 1 {
            let frame = subscriber.client.reply();
            if frame.starts_with(b">") {
                let expected = format!(">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$3\r\n{messages:03}\r\n");
                assert!(frame == expected.as_bytes(), "{}", frame.escape_ascii());
                messages += 1;
            } else {
                assert!(frame == reply.as_bytes(), "{} bytes of another reply", frame.len());
                replies += 1;
            }
        }
        assert_eq!((messages, replies), (MESSAGES, 1));
    }
}

/// A subscriber that waits for a lease goes on hearing.
#[test]
fn messages_come_while_a_lease_is_waited_for() {
    let server = Server::start(Flavor::Valkey);
    let keys = "max-connections = 5\nmax-leased = 1\nlease-timeout = \"1m\"";
    let url = format!("\"redis://127.0.0.1:{}\"\n{keys}", server.port);
    let proxy = Proxy::start_file(1, &FAN_IN.replace("\"URL\"", &url));
    let mut subscriber = Subscriber::start(&proxy, 1);
    let mut blocked = proxy.client();
    blocked.send_command(&["BLPOP", "queue", "0"]);
    wait::until("the lease to be taken", || server.info("clients", "blocked_clients") == 1);
    subscriber.client.send_command(&["EVAL", "return 7", "0"]);
    wait::until("a wait for a lease", || proxy.metric("respgate_lease_waits_total", &[]) == 1.0);
    for message in ["one", "two"] {
        server.run(&["PUBLISH", "news", message]);
        subscriber.hears("news", message);
    }
    server.run(&["RPUSH", "queue", "x"]);
    subscriber.client.expect_reply(":7\r\n");
}

/// A link counts as a shared connection; where there is room for one only, whoever does not need it makes room.
#[test]
fn links_are_bounded_with_shared_connections() {
    let server = Server::start(Flavor::Valkey);
    let url = format!("\"redis://127.0.0.1:{}\"\nmax-connections = 2\nmax-leased = 1", server.port);
    let proxy = Proxy::start_file(1, &FAN_IN.replace("\"URL\"", &url));
    let full = |reply: Vec<u8>| {
        let expected = b"-ERR respgate: upstream 'main' has all 1 shared connections of this worker open";
        assert!(reply.starts_with(expected), "{}", reply.escape_ascii());
    };
    let confirmed = "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n";
    let mut subscriber = proxy.client();
    subscriber.expect(&["SUBSCRIBE", "a"], confirmed);
    let mut reader = proxy.client();
    full(reader.call(&["GET", "k"]));
    subscriber.expect(&["UNSUBSCRIBE"], "*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n");
    wait::until("room for the reader", || reader.call(&["GET", "k"]) == b"$-1\r\n");
    full(subscriber.call(&["SUBSCRIBE", "a"]));
    drop(reader);
    wait::until("room for the subscriber", || subscriber.call(&["SUBSCRIBE", "a"]) == confirmed.as_bytes());
}

/// What clients are subscribed to is bounded for all of them together, and costs nobody a connection.
#[test]
fn names_are_bounded_for_all_clients_together() {
    let server = Server::start(Flavor::Valkey);
    let toml = FAN_IN.replace("URL", &format!("redis://127.0.0.1:{}", server.port));
    let proxy = Proxy::start_file(1, &format!("[limits]\nmax-buffered = \"1MiB\"\n{toml}"));
    let subscribed = |client: &mut Client, count: usize| {
        let names: Vec<String> = (0..count).map(|number| format!("{number:08}")).collect();
        let words: Vec<&str> = ["SUBSCRIBE"].into_iter().chain(names.iter().map(String::as_str)).collect();
        client.send_command(&words);
        (0..count).for_each(|_| assert!(client.reply().starts_with(b"*3\r\n")));
    };
    // A quarter of the budget is 256 KiB, and each takes 136 bytes.
    let mut clients = [(); 3].map(|()| proxy.client());
    subscribed(&mut clients[0], 1000);
    subscribed(&mut clients[1], 1000);
    let refused = String::from_utf8(clients[2].call(&["SUBSCRIBE", "a"])).expect("text");
    assert!(refused.contains("take a quarter of max-buffered"), "{refused}");
    clients[2].expect(&["GET", "k"], "$-1\r\n");
    drop(std::mem::replace(&mut clients[0], proxy.client()));
    let again = || clients[2].call(&["SUBSCRIBE", "a"]).starts_with(b"*3\r\n");
    wait::until("room", again);
    server.run(&["PUBLISH", "00000007", "m"]);
    clients[1].expect_reply("*3\r\n$7\r\nmessage\r\n$8\r\n00000007\r\n$1\r\nm\r\n");
}
