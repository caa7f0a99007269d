//! CLIENT LIST shows the sessions of all workers, and the server's other connections.

use std::time::Duration;

use super::{Site, block, list, names};
use crate::support::servers::Flavor;
use crate::support::wait;

on_both_servers!(every_client_is_shown_with_its_state, workers: [1, 2]);

fn every_client_is_shown_with_its_state(flavor: Flavor, workers: usize) {
    let site = Site::at_level(flavor, workers, "read-only");
    let mut asker = site.named("asker");
    let mut plain = site.named("plain");
    plain.expect(&["CLIENT", "SETINFO", "LIB-NAME", "redis-py"], "+OK\r\n");
    plain.expect(&["CLIENT", "SETINFO", "LIB-VER", "6.0"], "+OK\r\n");
    plain.expect(&["SELECT", "3"], "+OK\r\n");
    plain.expect(&["GET", "k"], "$-1\r\n");
    let mut subscriber = site.named("subscriber");
    subscriber.send_command(&["SUBSCRIBE", "a", "b"]);
    subscriber.reply();
    subscriber.reply();
    let mut queueing = site.named("queueing");
    queueing.expect(&["WATCH", "k", "l"], "+OK\r\n");
    queueing.expect(&["MULTI"], "+OK\r\n");
    queueing.expect(&["GET", "k"], "+QUEUED\r\n");
    let mut tracking = site.named("tracking");
    tracking.call(&["HELLO", "3"]);
    tracking.expect(&["CLIENT", "TRACKING", "ON"], "+OK\r\n");
    let mut blocked = site.named("blocked");
    block(&site.server, &mut blocked, "q");

    let line = |asker: &mut _, name: &str| {
        let lines = list(asker, &["NAME", name]);
        assert_eq!(lines.len(), 1, "{name}: {lines:?}");
        lines[0].clone()
    };
    let shown = |asker: &mut _, name: &str, fields: &[(&str, &str)]| {
        let line = line(asker, name);
        for (field, value) in fields {
            assert_eq!(line.field(field), *value, "{field} in {line:?}");
        }
    };
    let laddr = format!("127.0.0.1:{}", site.proxy.port);
    shown(
        &mut asker,
        "plain",
        &[
            ("db", "3"),
            ("flags", "N"),
            ("cmd", "get"),
            ("lib-name", "redis-py"),
            ("lib-ver", "6.0"),
            ("laddr", &laddr),
            ("user", "default"),
            ("resp", "2"),
            ("multi", "-1"),
        ],
    );
    shown(&mut asker, "subscriber", &[("flags", "P"), ("sub", "2"), ("psub", "0"), ("cmd", "subscribe")]);
    shown(&mut asker, "queueing", &[("flags", "x"), ("multi", "1"), ("watch", "2")]);
    shown(&mut asker, "tracking", &[("flags", "t"), ("resp", "3"), ("redir", "0")]);
    shown(&mut asker, "blocked", &[("flags", "b"), ("cmd", "blpop")]);
    shown(&mut asker, "asker", &[("cmd", "client|list")]);

    let id = String::from_utf8(plain.call(&["CLIENT", "ID"])).expect("text");
    assert_eq!(line(&mut asker, "plain").field("id"), id.trim().trim_start_matches(':'));
    let info = String::from_utf8(plain.call(&["CLIENT", "INFO"])).expect("text");
    assert!(info.contains("cmd=client|info") && info.contains("name=plain"), "{info}");

    // A runbook's `CLIENT LIST | grep sub`.
    let all = list(&mut asker, &[]);
    let subscribed: Vec<_> = all.iter().filter(|line| line.0.contains("sub=2")).collect();
    assert_eq!(subscribed.len(), 1, "{all:?}");
    assert_eq!(all.len(), 6, "respgate's own connections are not shown: {all:?}");
    let ids: Vec<u64> = all.iter().map(|line| line.field("id").parse().expect("a number")).collect();
    assert!(ids.is_sorted(), "{ids:?}");

    // What has ended is shown no more.
    queueing.expect(&["DISCARD"], "+OK\r\n");
    subscriber.send_command(&["UNSUBSCRIBE", "a", "b"]);
    subscriber.reply();
    subscriber.reply();
    wait::until("the states to end", || {
        ["queueing", "subscriber"].iter().all(|name| line(&mut asker, name).field("flags") == "N")
    });
    drop(plain);
    wait::until("the client to be gone", || list(&mut asker, &["NAME", "plain"]).is_empty());
}

on_both_servers!(each_filter_selects, workers: [1, 2]);

fn each_filter_selects(flavor: Flavor, workers: usize) {
    let site = Site::at_level(flavor, workers, "read-only");
    let mut asker = site.named("asker");
    let mut one = site.named("one");
    one.expect(&["CLIENT", "SETINFO", "LIB-NAME", "lib"], "+OK\r\n");
    one.expect(&["SELECT", "2"], "+OK\r\n");
    let mut two = site.named("two");
    two.send_command(&["SUBSCRIBE", "a"]);
    two.reply();
    let of_one = list(&mut asker, &["NAME", "one"])[0].clone();
    let (id, addr) = (of_one.field("id"), of_one.field("addr"));
    let laddr = format!("127.0.0.1:{}", site.proxy.port);
    wait::until_some("a second of idleness", Duration::from_secs(20), || {
        (names(&mut asker, &["IDLE", "1"]) == ["one", "two"]).then_some(())
    });
    for (words, expected) in [
        (&["ID", id][..], &["one"][..]),
        (&["NOT-ID", id], &["asker", "two"]),
        (&["TYPE", "pubsub"], &["two"]),
        (&["NOT-TYPE", "pubsub"], &["asker", "one"]),
        (&["ADDR", addr], &["one"]),
        (&["NOT-ADDR", addr], &["asker", "two"]),
        (&["LADDR", &laddr], &["asker", "one", "two"]),
        (&["NOT-LADDR", &laddr], &[]),
        (&["IP", "127.0.0.1"], &["asker", "one", "two"]),
        (&["USER", "default"], &["asker", "one", "two"]),
        (&["NOT-USER", "default"], &[]),
        (&["NAME", "one"], &["one"]),
        (&["NOT-NAME", "one"], &["asker", "two"]),
        (&["LIB-NAME", "lib"], &["one"]),
        (&["NOT-LIB-NAME", "lib"], &["asker", "two"]),
        (&["FLAGS", "P"], &["two"]),
        (&["NOT-FLAGS", "P"], &["asker", "one"]),
        (&["DB", "2"], &["one"]),
        (&["NOT-DB", "2"], &["asker", "two"]),
        (&["MAXAGE", "1"], &["asker", "one", "two"]),
        (&["MAXAGE", "99999"], &[]),
        (&["SKIPME", "YES"], &["one", "two"]),
        (&["TYPE", "normal", "DB", "0"], &["asker"]),
    ] {
        assert_eq!(names(&mut asker, words), expected, "{words:?}");
    }
}

on_both_servers!(connections_to_the_server_are_shown_with_other_ids);

fn connections_to_the_server_are_shown_with_other_ids(flavor: Flavor) {
    let site = Site::at_level(flavor, 2, "read-only");
    let mut direct = site.server.client();
    direct.expect(&["CLIENT", "SETNAME", "direct"], "+OK\r\n");
    let id = String::from_utf8(direct.call(&["CLIENT", "ID"])).expect("text");
    let id: u64 = id.trim().trim_start_matches(':').parse().expect("a number");
    let mut asker = site.named("asker");
    assert_eq!(names(&mut asker, &[]), ["asker", "direct"]);
    let line = list(&mut asker, &["NAME", "direct"])[0].clone();
    assert_eq!(line.field("id"), (8_000_000_000_000_000 + id).to_string());
    assert_eq!(names(&mut asker, &["ID", line.field("id")]), ["direct"]);
    for words in [&["KILL", "ID", line.field("id")][..], &["UNBLOCK", line.field("id")]] {
        let reply = asker.call(&[&["CLIENT"], words].concat());
        assert!(reply.starts_with(b"-NOPERM"), "{}", reply.escape_ascii());
    }
    direct.expect(&["PING"], "+PONG\r\n");
}

on_both_servers!(a_pinned_client_lists_and_keeps_its_state);

/// A client with a subscription, a watch or tracking goes on with it.
fn a_pinned_client_lists_and_keeps_its_state(flavor: Flavor) {
    let site = Site::start(flavor, 2);
    let mut client = site.named("pinned");
    client.call(&["HELLO", "3"]);
    client.send_command(&["SUBSCRIBE", "news"]);
    client.reply();
    client.expect(&["WATCH", "k"], "+OK\r\n");
    assert_eq!(names(&mut client, &["TYPE", "pubsub"]), ["pinned"]);
    assert!(client.call(&["INFO", "respgate"]).starts_with(b"="));
    site.server.run(&["PUBLISH", "news", "hello"]);
    client.expect_reply(">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
    site.server.run(&["SET", "k", "v"]);
    client.expect(&["MULTI"], "+OK\r\n");
    let refused = client.call(&["CLIENT", "LIST"]);
    assert!(
        refused.starts_with(b"-ERR respgate: commands about the connection"),
        "{}",
        refused.escape_ascii()
    );
    assert!(client.call(&["EXEC"]).starts_with(b"-EXECABORT"));
}

on_both_servers!(replies_follow_client_reply);

fn replies_follow_client_reply(flavor: Flavor) {
    let site = Site::start(flavor, 1);
    let mut client = site.proxy.client();
    client.send_command(&["CLIENT", "REPLY", "OFF"]);
    client.send_command(&["CLIENT", "LIST"]);
    client.send_command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    client.expect(&["CLIENT", "REPLY", "ON"], "+OK\r\n");
    client.send_command(&["CLIENT", "REPLY", "SKIP"]);
    client.send_command(&["CLIENT", "LIST"]);
    client.expect(&["PING"], "+PONG\r\n");
}

on_both_servers!(info_has_a_section_about_respgate);

fn info_has_a_section_about_respgate(flavor: Flavor) {
    let site = Site::start(flavor, 2);
    let mut client = site.named("asker");
    let mut blocked = site.named("blocked");
    block(&site.server, &mut blocked, "q");
    let info = |client: &mut crate::support::client::Client, words: &[&str]| {
        String::from_utf8(client.call(&[&["INFO"], words].concat())).expect("text")
    };
    let own = info(&mut client, &["respgate"]);
    assert!(own.contains("\r\n# Respgate\r\nrespgate_version:"), "{own}");
    let primary = format!("respgate_primary:127.0.0.1:{}\r\n", site.server.port);
    for field in
        ["respgate_workers:2\r\n", "respgate_clients:2\r\n", "respgate_clients_leased:1\r\n", &primary]
    {
        assert!(own.contains(field), "{field} is not in {own}");
    }
    assert!(!own.contains("# Server"), "{own}");
    let both = info(&mut client, &["server", "RESPGATE"]);
    assert!(both.contains("# Server\r\n") && both.contains("# Respgate\r\n"), "{both}");
    for usual in [&[][..], &["everything"], &["server"]] {
        assert!(!info(&mut client, usual).contains("# Respgate"), "{usual:?}");
    }
}
