//! ACL rules that name databases (`db=`, Valkey 9.1): the server's decision reaches the client, whatever lane the command takes.

use crate::support::client::Client;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

/// What a user of databases 1 and 3 does, in several databases and on both lanes.
const SESSION: &[&[&str]] = &[
    &["AUTH", "app", "secret"],
    &["SET", "k", "v"],
    &["EVAL", "return redis.call('GET', 'k')", "0"],
    &["SELECT", "1"],
    &["SET", "k", "v"],
    &["EVAL", "return redis.call('GET', 'k')", "0"],
    &["MULTI"],
    &["GET", "k"],
    &["EXEC"],
    &["SELECT", "2"],
    &["GET", "k"],
    &["SELECT", "3"],
    &["GET", "k"],
    &["MULTI"],
    &["SET", "k", "v"],
    &["EXEC"],
    &["COPY", "k", "k", "DB", "2"],
    &["COPY", "k", "other", "DB", "1"],
    &["MOVE", "k", "2"],
    &["SWAPDB", "1", "2"],
    &["FLUSHALL"],
];

fn transcript(mut client: Client) -> Vec<(String, String)> {
    let run = |command: &&[&str]| (command.join(" "), client.call(command).escape_ascii().to_string());
    SESSION.iter().map(run).collect()
}

fn database_rules_hold(flavor: Flavor, workers: usize) {
    let server = Server::start(flavor);
    let rule = server.run_text(&["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "db=1,3"]);
    let version = server.version();
    let number = version.split(' ').nth(1).expect("a version");
    let (major, minor) = number.split_once('.').expect("a version with a dot");
    let minor = minor.split('.').next().unwrap_or_default();
    let number: (u32, u32) = (major.parse().expect("a number"), minor.parse().expect("a number"));
    if flavor == Flavor::Redis || number < (9, 1) {
        assert!(rule.starts_with("-ERR Error in ACL SETUSER modifier 'db=1,3'"), "{rule}");
        return;
    }
    assert_eq!(rule, "+OK\r\n");
    let proxy = Proxy::start_with(&format!("redis://127.0.0.1:{}", server.port), workers, &[]);
    let direct = transcript(server.client());
    assert!(
        direct.iter().any(|(_, reply)| reply.contains("No permissions to access database")),
        "{direct:?}"
    );
    server.run(&["FLUSHALL"]);
    assert_eq!(transcript(proxy.client()), direct);
}

on_both_servers!(database_rules_hold, workers: [1, 2]);
