//! A subscriber and a Lua worker of each client library, while a fixed address begins to lead to another server.

use std::process::Command;

use crate::support::forwarder::Forwarder;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

use super::program::{Program, node, python};

const MESSAGES: usize = 20;
/// The number of scripts that may be under way when respgate cuts the connection to the former server.
const UNDER_WAY: usize = 1;

/// Every message published at B arrives, no connection of the client is lost, and no script runs twice or at A after B.
#[track_caller]
fn survives(flavor: Flavor, workers: usize, pubsub: &str, client: Command) {
    let (a, b) = (Server::start(flavor), Server::start(flavor));
    let forwarder = Forwarder::start(a.address());
    let url = forwarder.url();
    let mut proxy = Proxy::start_file(
        workers,
        &format!(
            "[upstreams.main]\nurl = \"{url}\"\nping-interval = \"1s\"\n[tenants.all]\ndefault = true\npubsub = \"{pubsub}\"\n"
        ),
    );
    proxy.allow_log("\"WARN\"");
    let program = Program::start(client, proxy.port);
    wait::until("the program to work at A", || subscribers(&a) == 1 && jobs(&a).len() >= MESSAGES);
    forwarder.point_at(&[b.address()]);
    wait::until("the program to work at B", || subscribers(&b) == 1 && jobs(&b).len() >= MESSAGES);
    let at_a = jobs(&a);
    let messages: Vec<_> = (0..MESSAGES).map(|n| format!("m{n}")).chain(["end".to_owned()]).collect();
    for message in &messages {
        assert_eq!(b.run_text(&["PUBLISH", "news", message]), ":1\r\n");
    }
    let transcript = program.finish();
    let lines = |kind: &str| -> Vec<String> {
        transcript.lines().filter_map(|line| line.strip_prefix(kind)).map(str::to_owned).collect()
    };
    assert_eq!(lines("message "), messages, "{transcript}");
    assert_eq!(lines("lost "), Vec::<String>::new(), "{transcript}");
    assert_eq!(jobs(&a), at_a, "a script ran at A after the switch");
    let errors = lines("error ");
    assert!(errors.len() <= UNDER_WAY, "{transcript}");
    assert!(errors.iter().all(|error| error.contains(" OUTCOMEUNKNOWN ")), "{transcript}");
    let failed: Vec<usize> =
        errors.iter().filter_map(|error| error.split(' ').next()?.parse().ok()).collect();
    let pushed: usize = lines("pushed ").concat().parse().expect("a number of scripts");
    let ran = [at_a, jobs(&b)].concat();
    assert!(ran.is_sorted_by(|one, next| one < next), "a script ran twice or out of order: {ran:?}");
    let missing: Vec<usize> = (1..=pushed).filter(|n| !ran.contains(n) && !failed.contains(n)).collect();
    assert_eq!(missing, Vec::<usize>::new(), "an acknowledged script is lost:\n{transcript}");
}

/// Returns the number of subscribers that the server has.
fn subscribers(server: &Server) -> usize {
    let reply = server.run_text(&["PUBSUB", "NUMSUB", "news"]);
    reply.rsplit(':').next().and_then(|count| count.trim().parse().ok()).expect("a count")
}

/// Returns the numbers that scripts pushed at the server.
fn jobs(server: &Server) -> Vec<usize> {
    let reply = server.run_text(&["LRANGE", "jobs", "0", "-1"]);
    let words = reply.split("\r\n").filter(|word| !word.starts_with(['*', '$']));
    words.filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn redis_py() {
    survives(Flavor::Valkey, 1, "dedicated", python("repointed.py"));
}

#[test]
fn redis_py_on_redis() {
    survives(Flavor::Redis, 2, "fan-in", python("repointed.py"));
}

#[test]
fn ioredis() {
    survives(Flavor::Valkey, 2, "fan-in", node("ioredis_repointed.mjs"));
}

#[test]
fn ioredis_on_redis() {
    survives(Flavor::Redis, 1, "dedicated", node("ioredis_repointed.mjs"));
}

#[test]
fn node_redis() {
    survives(Flavor::Valkey, 1, "dedicated", node("node_redis_repointed.mjs"));
}

#[test]
fn node_redis_on_redis() {
    survives(Flavor::Redis, 2, "fan-in", node("node_redis_repointed.mjs"));
}
