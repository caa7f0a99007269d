//! MULTI, EXEC, DISCARD and WATCH.

use crate::support::compare::Pair;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

fn both(check: impl Fn(&Pair)) {
    for flavor in Flavor::ALL {
        check(&Pair::start(flavor));
    }
}

#[test]
fn transactions_in_both_versions() {
    both(|pair| {
        for version in ["2", "3"] {
            pair.compare(|client| {
                client.call(&["HELLO", version, "SETNAME", "x"]);
                client.pipeline(&[
                    &["SET", "k", "1"],
                    &["MULTI"],
                    &["INCR", "k"],
                    &["HSET", "h", "a", "1"],
                    &["HGETALL", "h"],
                    &["LPUSH", "k", "wrong type"],
                    &["BLPOP", "empty", "0"],
                    &["ZADD", "z", "1.5", "m"],
                    &["ZSCORE", "z", "m"],
                    &["EXEC"],
                    &["GET", "k"],
                ]);
            });
        }
    });
}

#[test]
fn faults_in_transactions() {
    both(|pair| {
        let sequences: [&[&[&str]]; 14] = [
            &[&["EXEC"], &["DISCARD"], &["UNWATCH"]],
            &[&["MULTI"], &["MULTI"], &["SET", "k", "1"], &["EXEC"]],
            &[&["MULTI"], &["WATCH", "k"], &["EXEC"]],
            &[&["MULTI"], &["NOSUCH"], &["SET", "k", "1"], &["EXEC"], &["EXISTS", "k"]],
            &[&["MULTI"], &["GET"], &["EXEC"], &["PING"]],
            &[&["MULTI"], &["SET", "k", "1"], &["DISCARD"], &["EXISTS", "k"]],
            &[&["MULTI"], &["EXEC"], &["EXEC", "extra"], &["MULTI", "extra"], &["WATCH"]],
            &[&["MULTI"], &["DISCARD", "extra"], &["SET", "k", "1"], &["EXEC"], &["EXISTS", "k"]],
            &[&["MULTI"], &["DISCARD", "extra"], &["DISCARD"], &["PING"]],
            &[&["MULTI"], &["SUBSCRIBE"], &["SET", "k", "1"], &["EXEC"], &["EXISTS", "k"]],
            &[&["MULTI"], &["RESET", "extra"], &["SET", "k", "1"], &["EXEC"], &["EXISTS", "k"]],
            &[&["MULTI"], &["EXEC", "extra"], &["SET", "k", "1"], &["EXEC"]],
            &[&["MULTI"], &["GET"], &["CLIENT", "NOSUCH"], &["EXEC", "extra"], &["EXEC"]],
            &[&["MULTI"], &["SENTINEL", "PRIMARY", "1"], &["SET", "k", "1"], &["EXEC"], &["EXISTS", "k"]],
        ];
        for sequence in sequences {
            pair.compare(|client| client.pipeline(sequence));
            pair.compare(|client| {
                for command in sequence {
                    client.call(command);
                }
            });
        }
    });
}

/// A command that does not exist leaves nothing, so the client's connection is its own no longer than without that command. respgate asks
/// the server for its commands although the client has the only lease. A server that denies `COMMAND` refuses the command itself.
#[test]
fn a_command_that_does_not_exist_keeps_no_connection() {
    for (flavor, denied) in Flavor::ALL.into_iter().flat_map(|flavor| [(flavor, false), (flavor, true)]) {
        let server = Server::start(flavor);
        if denied {
            server.run(&["ACL", "SETUSER", "default", "-command"]);
        }
        let toml = format!("[upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\nmax-leased = 1\n", server.port);
        let proxy = Proxy::start_file(1, &toml);
        let unknown = "-ERR unknown command 'NOSUCH', with args beginning with: \r\n";
        let mut client = proxy.client();
        for begin in [["WATCH", "k"].as_slice(), &["MULTI"]] {
            client.expect(begin, "+OK\r\n");
            client.expect(&["NOSUCH"], unknown);
        }
        client.expect(&["SET", "k", "1"], "+QUEUED\r\n");
        client.expect(&["EXEC"], "-EXECABORT Transaction discarded because of previous errors.\r\n");
        client.expect(&["GET", "k"], "$-1\r\n");
        wait::until("the connection to be given back", || {
            proxy.metric("respgate_clients_pinned", &["main"]) == 0.0
        });
    }
}

/// Who asked not to see replies does not see that of an EXEC which respgate answers.
#[test]
fn a_muted_client_sees_no_abort() {
    both(|pair| {
        pair.compare(|client| {
            client.send("CLIENT REPLY OFF\r\nMULTI\r\nCLIENT NOSUCH\r\nEXEC\r\nCLIENT REPLY ON\r\nPING\r\n");
            client.replies(2);
            client.send("MULTI\r\nCLIENT NOSUCH\r\nPING\r\n");
            client.replies(3);
            client.send("DISCARD\r\n");
            client.replies(1);
        });
    });
}

#[test]
fn databases_in_transactions() {
    both(|pair| {
        pair.compare(|client| {
            client.pipeline(&[
                &["MULTI"],
                &["SET", "k", "in 0"],
                &["SELECT", "5"],
                &["SET", "k", "in 5"],
                &["EXEC"],
                &["GET", "k"],
                &["SELECT", "0"],
                &["GET", "k"],
                &["MULTI"],
                &["SELECT", "7"],
                &["DISCARD"],
                &["GET", "k"],
            ]);
        });
    });
}

#[test]
fn watched_keys() {
    both(|pair| {
        pair.compare(|client| {
            let other = client.another();
            client.call(&["SET", "k", "1"]);
            client.pipeline(&[
                &["WATCH", "k", "l"],
                &["GET", "k"],
                &["MULTI"],
                &["SET", "k", "2"],
                &["EXEC"],
            ]);
            client.call(&["WATCH", "k"]);
            client.call_on(other, &["SET", "k", "changed"]);
            client.pipeline(&[&["MULTI"], &["SET", "k", "3"], &["EXEC"], &["GET", "k"]]);
            client.call(&["WATCH", "k"]);
            client.call(&["UNWATCH"]);
            client.call_on(other, &["SET", "k", "changed again"]);
            client.pipeline(&[&["MULTI"], &["GET", "k"], &["EXEC"]]);
            client.call(&["WATCH", "k"]);
            client.pipeline(&[&["MULTI"], &["DISCARD"]]);
            client.call_on(other, &["SET", "k", "and again"]);
            client.pipeline(&[&["MULTI"], &["GET", "k"], &["EXEC"]]);
        });
    });
}

/// An EXEC that the server refuses ends the watch, outside a transaction, too.
#[test]
fn a_refused_exec_forgets_what_is_watched() {
    both(|pair| {
        pair.compare(|client| {
            client.call(&["WATCH", "k"]);
            client.call(&["EXEC", "extra"]);
            client.call(&["SET", "k", "1"]);
            client.pipeline(&[&["MULTI"], &["GET", "k"], &["EXEC"]]);
        });
    });
}

/// A client that leaves in the middle takes its transaction along; nothing of it runs, now or later.
#[test]
fn an_abandoned_transaction_does_not_run() {
    let pair = Pair::start(Flavor::Valkey);
    for _ in 0..20 {
        let mut client = pair.proxy.client();
        client.send("MULTI\r\nSET abandoned 1\r\n");
        client.replies_are(&["+OK\r\n", "+QUEUED\r\n"]);
        drop(client);
        let mut next = pair.proxy.client();
        next.send("MULTI\r\nGET abandoned\r\nEXEC\r\n");
        next.replies_are(&["+OK\r\n", "+QUEUED\r\n", "*1\r\n$-1\r\n"]);
    }
}

/// What changes the connection's protocol or identity in the middle would make EXEC's reply unreadable.
#[test]
fn connection_commands_do_not_queue() {
    let pair = Pair::start(Flavor::Valkey);
    for command in ["SUBSCRIBE a b", "HELLO 3", "MONITOR", "CLIENT REPLY OFF"] {
        let mut client = pair.proxy.client();
        client.send(format!("MULTI\r\n{command}\r\n"));
        client.expect_reply("+OK\r\n");
        let reply = client.reply();
        assert!(reply.starts_with(b"-"), "{command} was answered by {}", reply.escape_ascii());
        client.send("EXEC\r\nPING\r\n");
        let exec = client.reply();
        assert!(exec.starts_with(b"-EXECABORT") || exec == b"*0\r\n", "{}", exec.escape_ascii());
        client.expect_reply("+PONG\r\n");
    }
}
