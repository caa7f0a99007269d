//! Six ways past a careless proxy, each closed.

use crate::support::compare::Pair;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

on_both_servers!(a_nul_in_a_name_runs_nothing);

/// The server looks a command up with all its bytes but compares only up to a NUL: `DBSIZE\0x` can run DBSIZE
/// (observed on valkey 8.0 and redis 7.0). Whatever the suffix, nothing but an error may come back.
fn a_nul_in_a_name_runs_nothing(flavor: Flavor) {
    let pair = Pair::start(flavor);
    let mut client = pair.proxy.client();
    pair.server.run(&["SET", "kept", "1"]);
    for suffix in 0..500 {
        for (name, rest) in [("FLUSHALL", None), ("DBSIZE", None), ("CONFIG", Some("GET"))] {
            let hidden = format!("{}\0{suffix}", rest.unwrap_or(name));
            let reply = match rest {
                Some(_) => client.call(&[name, &hidden, "maxmemory"]),
                None => client.call(&[&hidden]),
            };
            assert!(reply.starts_with(b"-"), "{hidden:?} was answered by {}", reply.escape_ascii());
        }
    }
    assert_eq!(pair.server.run(&["EXISTS", "kept"]), b":1\r\n");
}

/// Redis 8.0 takes `ACL|CAT SETUSER x` for an ACL command if the connection's previous command was ACL CAT, and runs
/// ACL SETUSER. No name with a `|` reaches a server, not even one that has not been asked for its commands yet.
#[test]
fn the_name_of_a_subcommand_is_no_command() {
    for flavor in Flavor::ALL {
        for begin in [&["WATCH", "k"][..], &["MULTI"]] {
            let pair = Pair::start(flavor);
            let mut client = pair.proxy.client();
            client.expect(begin, "+OK\r\n");
            client.call(&["ACL", "CAT"]);
            let errors = pair.server.run_text(&["INFO", "errorstats"]);
            let refused =
                "-ERR unknown command 'ACL|CAT', with args beginning with: 'SETUSER' 'evil' 'on' \r\n";
            client.expect(&["ACL|CAT", "SETUSER", "evil", "on"], refused);
            assert!(!pair.server.run_text(&["ACL", "LIST"]).contains("evil"));
            assert_eq!(pair.server.run_text(&["INFO", "errorstats"]), errors, "it was sent");
        }
    }
}

/// Options are compared up to a NUL as well: `BLOCK\0x` blocks, so it must not travel on a shared connection.
#[test]
fn a_nul_in_an_option_hides_nothing() {
    let pair = Pair::start(Flavor::Valkey);
    let (mut blocked, mut other) = (pair.proxy.client(), pair.proxy.client());
    blocked.send_command(&["XREAD", "BLOCK\0zz", "0", "STREAMS", "s", "$"]);
    for _ in 0..20 {
        other.expect(&["PING"], "+PONG\r\n");
        other.expect(&["GET", "k"], "$-1\r\n");
    }
    let mut muted = pair.proxy.client();
    muted.send_command(&["CLIENT", "REPLY\0", "OFF"]);
    muted.send_command(&["CLIENT", "REPLY", "OFF\0"]);
    other.expect(&["ECHO", "still answered"], "$14\r\nstill answered\r\n");
}

/// Scripts can make an old server send a frame too many (CVE-2025-67733). On a shared connection the next client would
/// get it.
#[test]
fn a_split_reply_reaches_its_author_only() {
    let mut pair = Pair::start(Flavor::Valkey);
    pair.proxy.allow_log("after the reply of a script or a module came one that no command had asked for");
    let attacks: [&[&str]; 4] = [
        &["EVAL", "error('x\\r\\n+INJECTED')", "0"],
        &["EVAL", "error({err='x\\r\\n+INJECTED'})", "0"],
        &["EVAL_RO", "error('x\\r\\n+INJECTED')", "0"],
        &["FUNCTION", "LIST", "x\r\n+INJECTED"],
    ];
    let mut victims: Vec<_> = (0..4).map(|_| pair.proxy.client()).collect();
    for attack in attacks {
        for round in 0..25 {
            let mut attacker = pair.proxy.client();
            attacker.send_command(attack);
            for (number, victim) in victims.iter_mut().enumerate() {
                let text = format!("{round:02}/{number}");
                victim.expect(&["ECHO", &text], &format!("$4\r\n{text}\r\n"));
                victim.expect(&["EVAL", "return 'mine'", "0"], "$4\r\nmine\r\n");
            }
            assert!(attacker.reply().starts_with(b"-"));
        }
    }
}

/// A line of blanks leaves valkey 8.0 in its inline mode, where the next request's data would run as commands.
#[test]
fn a_blank_line_does_not_stick() {
    let server = Server::start(Flavor::Valkey);
    let proxy = Proxy::start(&format!("redis://127.0.0.1:{}", server.port));
    let mut client = proxy.client();
    client.send("  \r\n*2\r\n$4\r\nECHO\r\n$15\r\nSET injected 1\n\r\n");
    client.expect_reply("$15\r\nSET injected 1\n\r\n");
    client.expect(&["PING"], "+PONG\r\n");
    assert_eq!(server.run(&["EXISTS", "injected"]), b":0\r\n");
}

/// A browser's request is a server's reason to hang up without a word; on a shared connection all would be cut.
#[test]
fn killer_commands_cost_their_sender_only() {
    let pair = Pair::start(Flavor::Valkey);
    let mut other = pair.proxy.client();
    other.expect(&["PING"], "+PONG\r\n");
    for line in ["POST / HTTP/1.1\r\n", "host: example.net\r\n", "HoSt: a b\r\n"] {
        pair.compare_until_closed(line);
        // A server drops the replies before it as well; through respgate they arrive.
        let mut client = pair.proxy.client();
        client.send(format!("PING\r\n{line}PING\r\n"));
        assert_eq!(client.rest(), b"+PONG\r\n");
        other.expect(&["GET", "k"], "$-1\r\n");
    }
    let before = pair.server.info("stats", "total_connections_received");
    for _ in 0..10 {
        let mut client = pair.proxy.client();
        client.send("GET k\r\nQUIT\r\n");
        assert_eq!(client.rest(), b"$-1\r\n+OK\r\n");
        other.expect(&["GET", "k"], "$-1\r\n");
    }
    // One is this question's own.
    let after = pair.server.info("stats", "total_connections_received");
    assert_eq!(after - before, 1, "shared connections were lost and made again");
}
