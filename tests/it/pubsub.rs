//! Subscriptions in RESP2 and RESP3.

use crate::support::compare::Pair;
use crate::support::servers::Flavor;

on_both_servers!(messages_in_both_versions);

fn messages_in_both_versions(flavor: Flavor) {
    let pair = Pair::start(flavor);
    for version in ["2", "3"] {
        pair.compare(|client| {
            let other = client.another();
            client.call(&["HELLO", version, "SETNAME", "x"]);
            client.send("SUBSCRIBE a b\r\nPSUBSCRIBE a*\r\n");
            client.replies(3);
            client.call_on(other, &["PUBLISH", "a", "one"]);
            client.replies(2);
            client.call_on(other, &["PUBLISH", "nobody", "two"]);
            client.call_on(other, &["PUBSUB", "NUMSUB", "a", "b", "c"]);
            client.call_on(other, &["PUBSUB", "NUMPAT"]);
            client.send("PING\r\nPING text\r\n");
            client.replies(2);
            client.send("UNSUBSCRIBE a\r\nUNSUBSCRIBE nothing\r\nUNSUBSCRIBE\r\n");
            client.replies(3);
            client.call_on(other, &["PUBLISH", "a", "three"]);
            client.replies(1);
            client.send("PUNSUBSCRIBE\r\n");
            client.replies(1);
            client.call(&["GET", "nothing"]);
            client.call(&["PING"]);
        });
    }
}

#[test]
fn shard_channels() {
    let pair = Pair::start(Flavor::Valkey);
    for version in ["2", "3"] {
        pair.compare(|client| {
            let other = client.another();
            client.call(&["HELLO", version, "SETNAME", "x"]);
            client.send("SSUBSCRIBE a\r\nSUBSCRIBE b\r\n");
            client.replies(2);
            client.call_on(other, &["SPUBLISH", "a", "one"]);
            client.replies(1);
            client.call_on(other, &["PUBSUB", "SHARDNUMSUB", "a"]);
            client.send("SUNSUBSCRIBE\r\nUNSUBSCRIBE\r\n");
            client.replies(2);
            client.call(&["PING"]);
        });
    }
}

/// In RESP2 a subscriber may do little else; the refusals are the server's.
#[test]
fn what_a_resp2_subscriber_may_not() {
    let pair = Pair::start(Flavor::Valkey);
    pair.compare(|client| {
        client.send("SUBSCRIBE a\r\n");
        client.replies(1);
        let refused: &[&[&str]] = &[
            &["GET", "k"],
            &["MULTI"],
            &["ECHO", "x"],
            &["NOSUCH"],
            &["SUBSCRIBE"],
            &["SWAPDB"],
            &["RESET", "extra"],
            &["CLIENT", "SETNAME", "app"],
            &["FUNCTION", "KILL"],
            &["SCRIPT", "LOAD", "x"],
            &["EXEC"],
        ];
        for command in refused {
            client.call(command);
        }
        client.call(&["RESET"]);
        client.call(&["GET", "k"]);
    });
    pair.compare_until_closed("SUBSCRIBE a\r\nQUIT\r\n");
}

/// In RESP3 anything goes, and messages stand between replies.
#[test]
fn a_resp3_subscriber_works_on() {
    let pair = Pair::start(Flavor::Valkey);
    pair.compare(|client| {
        let other = client.another();
        client.call(&["HELLO", "3", "SETNAME", "x"]);
        client.send("SUBSCRIBE a\r\n");
        client.replies(1);
        client.pipeline(&[&["SET", "k", "1"], &["INCR", "k"], &["MULTI"], &["GET", "k"], &["EXEC"]]);
        client.call_on(other, &["PUBLISH", "a", "one"]);
        client.replies(1);
        client.call(&["GET", "k"]);
        client.send("UNSUBSCRIBE\r\n");
        client.replies(1);
    });
}

#[test]
fn unsubscribing_from_nothing() {
    let pair = Pair::start(Flavor::Redis);
    for version in ["2", "3"] {
        pair.compare(|client| {
            client.call(&["HELLO", version, "SETNAME", "x"]);
            client.send("UNSUBSCRIBE\r\nUNSUBSCRIBE a b\r\nPUNSUBSCRIBE\r\n");
            client.replies(4);
            client.call(&["PING"]);
        });
    }
    // valkey 8.0 refuses with -NOSUB what every other version answers: through respgate it is as everywhere.
    let pair = Pair::start(Flavor::Valkey);
    let mut client = pair.proxy.client();
    client.send("UNSUBSCRIBE\r\nPING\r\n");
    client.replies_are(&["*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n", "+PONG\r\n"]);
}

#[test]
fn a_flood_of_messages_arrives_in_order() {
    let pair = Pair::start(Flavor::Valkey);
    let mut subscriber = pair.proxy.client();
    subscriber.expect(&["SUBSCRIBE", "a"], "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    let mut publisher = pair.proxy.client();
    for number in 0..5000 {
        publisher.send_command(&["PUBLISH", "a", &format!("{number:04}")]);
    }
    for number in 0..5000 {
        publisher.expect_reply(":1\r\n");
        subscriber.expect_reply(&format!("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$4\r\n{number:04}\r\n"));
    }
}
