//! Ordinary commands: the same reply bytes in both protocol versions, in any depth of pipeline.

use std::thread;

use crate::support::client::encode;
use crate::support::compare::Pair;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

const SAMPLE: &[&[&str]] = &[
    &["SET", "k", "v", "PX", "100000", "NX"],
    &["GET", "k"],
    &["STRLEN", "k"],
    &["APPEND", "k", "more"],
    &["GETRANGE", "k", "0", "1"],
    &["MSET", "a", "1", "b", "2"],
    &["MGET", "a", "b", "nothing"],
    &["INCRBYFLOAT", "a", "1.5"],
    &["HSET", "h", "f", "v", "g", "w"],
    &["HGETALL", "h"],
    &["HMGET", "h", "f", "nothing"],
    &["HRANDFIELD", "h", "5", "WITHVALUES"],
    &["RPUSH", "l", "x", "y", "z"],
    &["LRANGE", "l", "0", "-1"],
    &["LPOS", "l", "y"],
    &["SADD", "s", "m"],
    &["SMEMBERS", "s"],
    &["SMISMEMBER", "s", "m", "n"],
    &["ZADD", "z", "1", "a", "2.25", "b"],
    &["ZRANGE", "z", "0", "-1", "WITHSCORES"],
    &["ZSCORE", "z", "b"],
    &["ZINCRBY", "z", "inf", "a"],
    &["GEOADD", "g", "13.361389", "38.115556", "Palermo"],
    &["GEOPOS", "g", "Palermo", "nowhere"],
    &["XADD", "x", "1-1", "f", "v"],
    &["XREAD", "COUNT", "1", "STREAMS", "x", "0"],
    &["XRANGE", "x", "-", "+"],
    &["SETBIT", "bits", "7", "1"],
    &["BITCOUNT", "bits"],
    &["PFADD", "p", "a", "b"],
    &["PFCOUNT", "p"],
    &["OBJECT", "ENCODING", "a"],
    &["TYPE", "z"],
    &["TTL", "nothing"],
    &["LPUSH", "k", "wrong type"],
    &["SET", "k", "v", "NOSUCH"],
    &["EVAL", "return {1, 2.9, 'x', false, {ok='fine'}, redis.call('GET', 'a')}", "0"],
    &["EVAL", "return redis.error_reply('MINE of my own')", "0"],
    &["EVAL", "redis.setresp(3); return redis.call('HGETALL', KEYS[1])", "1", "h"],
    &["SCRIPT", "LOAD", "return 1"],
    &["EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0"],
    &["EVALSHA", "0000000000000000000000000000000000000000", "0"],
    &["SCRIPT", "EXISTS", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"],
    &["DBSIZE"],
    &["ECHO", ""],
    &["ACL", "WHOAMI"],
    &["WAIT", "0", "0"],
    &["COPY", "a", "c"],
    &["SORT", "l", "ALPHA"],
    &["DEL", "a", "b", "nothing"],
    &["COMMAND", "COUNT"],
    &["LOLWUT", "VERSION", "nosuch"],
];

on_both_servers!(replies_are_the_servers);

fn replies_are_the_servers(flavor: Flavor) {
    let pair = Pair::start(flavor);
    for version in ["2", "3"] {
        pair.compare(|client| {
            client.call(&["HELLO", version, "SETNAME", "x"]);
            client.pipeline(SAMPLE);
        });
        pair.compare(|client| {
            client.call(&["HELLO", version, "SETNAME", "x"]);
            for command in SAMPLE {
                client.call(command);
            }
        });
    }
}

#[test]
fn cursors() {
    let pair = Pair::start(Flavor::Valkey);
    pair.compare(|client| {
        for number in 0..100 {
            client.call(&["HSET", "h", &format!("f{number}"), &"v".repeat(100)]);
        }
        client.call(&["HSCAN", "h", "0", "COUNT", "1000"]);
        client.call(&["SSCAN", "nothing", "0"]);
        client.call(&["SCAN", "0"]);
        client.call(&["SCAN", "x"]);
    });
    let mut client = pair.proxy.client();
    for number in 0..300 {
        client.expect(&["SET", &format!("key:{number}"), "v"], "+OK\r\n");
    }
    let (mut cursor, mut found) = ("0".to_owned(), 0);
    loop {
        let reply = String::from_utf8(client.call(&["SCAN", &cursor, "MATCH", "key:*"])).expect("text");
        found += reply.matches("key:").count();
        cursor = reply.split("\r\n").nth(2).expect("a cursor").to_owned();
        if cursor == "0" {
            break;
        }
    }
    assert!(found >= 300, "{found} keys");
}

with_one_and_two_workers!(a_deep_pipeline_keeps_its_order);

fn a_deep_pipeline_keeps_its_order(workers: usize) {
    let server = Server::start(Flavor::Valkey);
    let proxy = Proxy::start_with(&format!("redis://127.0.0.1:{}", server.port), workers, &[]);
    thread::scope(|scope| {
        for client in 0..4 {
            let proxy = &proxy;
            scope.spawn(move || {
                let mut connection = proxy.client();
                let key = format!("counter:{client}");
                let commands: Vec<u8> = (0..20_000).flat_map(|_| encode(&["INCR", &key])).collect();
                let writer = thread::spawn(move || {
                    connection.send(commands);
                    connection
                });
                let mut connection = writer.join().expect("the writer");
                for number in 1..=20_000 {
                    connection.expect_reply(&format!(":{number}\r\n"));
                }
            });
        }
    });
}

#[test]
fn large_values_pass() {
    for version in ["2", "3"] {
        let pair = Pair::start(Flavor::Valkey);
        let large = "x".repeat(20 * 1024 * 1024);
        let mut client = pair.proxy.client();
        client.call(&["HELLO", version]);
        client.expect(&["SET", "large", &large], "+OK\r\n");
        assert_eq!(client.call(&["GET", "large"]).len(), large.len() + "$20971520\r\n\r\n".len());
        client.expect(&["STRLEN", "large"], ":20971520\r\n");
    }
}

#[test]
fn administration_is_refused() {
    let pair = Pair::start(Flavor::Valkey);
    let mut client = pair.proxy.client();
    let commands: [&[&str]; 9] = [
        &["CONFIG", "SET", "maxmemory", "1"],
        &["SHUTDOWN"],
        &["DEBUG", "SLEEP", "0"],
        &["REPLICAOF", "NO", "ONE"],
        &["ACL", "SETUSER", "x"],
        &["MONITOR"],
        &["SYNC"],
        &["CLIENT", "KILL", "TYPE", "normal"],
        &["CLIENT", "PAUSE", "1000"],
    ];
    for command in commands {
        let reply = client.call(command);
        assert!(reply.starts_with(b"-"), "{command:?} was answered by {}", reply.escape_ascii());
        client.expect(&["PING"], "+PONG\r\n");
    }
}

#[test]
fn administration_where_it_is_allowed() {
    let pair = Pair::start_with(Flavor::Valkey, &[], &["--admin-commands", "allow"]);
    pair.compare(|client| {
        client.call(&["CONFIG", "SET", "maxmemory-samples", "7"]);
        client.call(&["CONFIG", "GET", "maxmemory-samples"]);
        client.call(&["ACL", "GETUSER", "nobody"]);
    });
    let mut monitor = pair.proxy.client();
    monitor.expect(&["MONITOR"], "+OK\r\n");
    pair.server.run(&["SET", "seen", "1"]);
    loop {
        let line = monitor.reply();
        assert!(line.starts_with(b"+"), "{}", line.escape_ascii());
        if line.ends_with(b"\"SET\" \"seen\" \"1\"\r\n") {
            break;
        }
    }
}

with_one_and_two_workers!(clients_share_connections);

/// Many clients, few connections: that is the point.
fn clients_share_connections(workers: usize) {
    let server = Server::start(Flavor::Valkey);
    let proxy = Proxy::start_with(&format!("redis://127.0.0.1:{}", server.port), workers, &[]);
    let mut clients: Vec<_> = (0..200).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.expect(&["GET", "k"], "$-1\r\n");
    }
    // One is this question's own, and discovery may keep one.
    let connections = server.info("clients", "connected_clients");
    assert!(connections <= workers as u64 + 2, "{connections} connections for {workers} workers");
}

/// What respgate answers itself is what the server at hand would answer.
#[test]
fn local_replies_are_the_servers() {
    for flavor in Flavor::ALL {
        let pair = Pair::start(flavor);
        pair.compare(|client| {
            for command in [
                &["READONLY"][..],
                &["READWRITE"],
                &["READONLY", "extra"],
                &["SENTINEL", "FLUSHCONFIG", "extra"],
                &["SENTINEL", "MASTERS"],
                &["SELECT", "-1"],
                &["SELECT", "2147483648"],
                &["SELECT", "-9223372036854775808"],
                &["SELECT", "9223372036854775808"],
                &["HELLO", "3", "AU\0TH"],
                &["HELLO", "3", "h\u{e9}llo\x01 \r\n"],
            ] {
                client.call(command);
            }
            // A skip is for the reply to the next command, whatever that is; RESET ends the rest.
            for mode in ["SKIP", "OFF"] {
                client.send(["CLIENT REPLY ", mode, "\r\nRESET\r\nECHO end\r\n"].concat());
                client.replies(if mode == "SKIP" { 1 } else { 2 });
            }
        });
    }
    // Redis 7.0 has no CLIENT SETINFO.
    let pair = Pair::start(Flavor::Valkey);
    pair.compare(|client| {
        for option in ["\0", "a\0b", "h\u{e9}llo\x01 \r\n", ""] {
            client.call(&["CLIENT", "SETINFO", option, "x"]);
        }
    });
}

/// Requests of commands that neither server of the tests has, though the table does.
const NEWER: &[&str] = &[
    "HEXPIRE h 9 FIELDS 1 f",
    "HPEXPIREAT h 9 NX FIELDS 1 f",
    "HTTL h FIELDS 1 f",
    "HPERSIST h FIELDS 1 f",
    "HGETDEL h FIELDS 1 f",
    "HGETEX h EX 9 FIELDS 1 f",
    "HSETEX h EX 9 FIELDS 1 f v",
    "MSETEX 2 a 1 b 2 EX 9",
    "DELIFEQ k v",
    "DELEX k IFEQ v",
    "DIGEST k",
    "INCREX k BYINT 5",
    "SET k v IFEQ w",
    "LMOVEM a b LEFT RIGHT COUNT 2 BULK",
    "BLMOVEM a b LEFT RIGHT 0 COUNT 2 BULK",
    "SUNIONCARD 1 s",
    "SDIFFCARD 2 s t",
    "XADD s IDMP p i * f v",
    "XDELEX s KEEPREF IDS 1 1-1",
    "XACKDEL s g ACKED IDS 1 1-1",
    "XNACK s g FAIL IDS 1 1-1",
    "XREADGROUP GROUP g c CLAIM 5 STREAMS s >",
    "XREADGROUP GROUP g c BLOCK 0 CLAIM 5 STREAMS s >",
    "XREAD MAXCOUNT 1 MAXSIZE 5 STREAMS s 0",
    "BITOP DIFF a b c",
    "ARSET a 0 v",
    "ARGREP a 0 -1 EXACT v",
    "VADD v VALUES 2 1 2 e",
    "VSIM v ELE e",
    "CLIENT IMPORT-SOURCE ON",
    "HIMPORT PREPARE fields f",
    "HIMPORT SET h fields v",
    "HIMPORT DISCARDALL",
    "TRIMSLOTS RANGES 1 0 1",
];

on_both_servers!(newer_commands_are_answered_as_an_older_server_answers_them);

fn newer_commands_are_answered_as_an_older_server_answers_them(flavor: Flavor) {
    Pair::start(flavor).compare(|client| {
        for request in NEWER {
            client.call(&request.split(' ').collect::<Vec<_>>());
        }
        client.pipeline(&[&["MULTI"], &["HEXPIRE", "h", "9", "FIELDS", "1", "f"], &["EXEC"]]);
        client.call(&["GET", "k"]);
    });
}
