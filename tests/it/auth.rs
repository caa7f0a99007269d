//! Whose identity clients act under.

use crate::support::compare::Pair;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

/// A server with a password, one more user, and respgate without credentials: clients bring their own.
fn protected(flavor: Flavor) -> Pair {
    let server = Server::start_with(flavor, &["--requirepass", "secret"]);
    server.run(&["ACL", "SETUSER", "app", "on", ">apple", "~app:*", "&*", "+@all", "-@admin"]);
    let url = format!("redis://127.0.0.1:{}", server.port);
    let proxy =
        Proxy::start_file(1, &format!("[upstreams.main]\nurl = \"{url}\"\nclient-auth = \"required\"\n"));
    Pair { proxy, server }
}

on_both_servers!(clients_bring_their_own);

fn clients_bring_their_own(flavor: Flavor) {
    let pair = protected(flavor);
    let sequences: [&[&[&str]]; 5] = [
        &[&["PING"], &["GET", "k"], &["HELLO"], &["HELLO", "3"], &["CLIENT", "SETNAME", "x"]],
        &[&["AUTH", "wrong"], &["AUTH", "app", "wrong"], &["GET", "k"], &["AUTH", "secret"], &["GET", "k"]],
        &[&["AUTH", "app", "apple"], &["SET", "app:k", "1"], &["SET", "k", "1"], &["ACL", "WHOAMI"]],
        &[
            &["HELLO", "3", "AUTH", "app", "wrong"],
            &["PING"],
            &["HELLO", "3", "AUTH", "app", "apple"],
            &["PING"],
        ],
        &[&["AUTH", "secret"], &["AUTH", "app", "wrong"], &["ACL", "WHOAMI"], &["RESET"], &["PING"]],
    ];
    // Redis 7.0 words the refusal of HELLO otherwise.
    for sequence in sequences.iter().filter(|sequence| flavor == Flavor::Valkey || sequence[2] != ["HELLO"]) {
        pair.compare(|client| {
            for command in *sequence {
                client.call(command);
            }
        });
    }
    // Pipelined behind a good AUTH, everything runs as that user, in order.
    pair.compare(|client| {
        client.pipeline(&[
            &["HELLO", "3", "AUTH", "app", "apple", "SETNAME", "x"],
            &["SET", "app:k", "1"],
            &["INCR", "app:k"],
            &["GET", "k"],
            &["MULTI"],
            &["GET", "app:k"],
            &["EXEC"],
            &["ACL", "WHOAMI"],
        ]);
    });
}

#[test]
fn strangers_may_send_little() {
    let pair = protected(Flavor::Valkey);
    for bytes in ["*11\r\n", "*2\r\n$4\r\nAUTH\r\n$16385\r\n"] {
        pair.compare(|client| {
            client.send(bytes);
            client.closed();
        });
    }
}

#[test]
fn respgate_holds_them() {
    let server = Server::start_with(Flavor::Valkey, &["--requirepass", "secret"]);
    server.run(&["ACL", "SETUSER", "app", "on", ">apple", "~*", "&*", "+@all"]);
    let mut proxy = Proxy::start(&format!("redis://app:apple@127.0.0.1:{}", server.port));
    proxy.allow_log("--upstream: holds a password");
    let mut client = proxy.client();
    client.expect(&["ACL", "WHOAMI"], "$3\r\napp\r\n");
    client.expect(&["MULTI"], "+OK\r\n");
    client.expect(&["ACL", "WHOAMI"], "+QUEUED\r\n");
    client.expect(&["EXEC"], "*1\r\n$3\r\napp\r\n");
    // Who sends AUTH acts as that user from then on, and nobody else does.
    client.expect(&["AUTH", "default", "secret"], "+OK\r\n");
    client.expect(&["ACL", "WHOAMI"], "$7\r\ndefault\r\n");
    proxy.client().expect(&["ACL", "WHOAMI"], "$3\r\napp\r\n");
    assert!(!proxy.log().contains("apple") && !proxy.http("/metrics").contains("apple"));
}

/// Each user's commands travel on that user's connections, whatever the interleaving.
#[test]
fn users_do_not_mix() {
    let server = Server::start(Flavor::Valkey);
    for user in ["a", "b", "c"] {
        server.run(&["ACL", "SETUSER", user, "on", &format!(">{user}"), &format!("~{user}:*"), "+@all"]);
    }
    let proxy = Proxy::start_with(&format!("redis://127.0.0.1:{}", server.port), 2, &[]);
    let mut clients: Vec<_> = (0..30).map(|_| proxy.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let user = ["a", "b", "c"][number % 3];
        client.send(format!("AUTH {user} {user}\r\nACL WHOAMI\r\nSET {user}:k v\r\nSET other:k v\r\n"));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let user = ["a", "b", "c"][number % 3];
        client.replies_are(&["+OK\r\n", &format!("$1\r\n{user}\r\n"), "+OK\r\n"]);
        assert!(client.reply().starts_with(b"-NOPERM"));
    }
}
