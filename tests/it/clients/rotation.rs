//! Client libraries whose token is rotated on the server: they fetch the new one and go on by themselves.

use std::process::Command;

use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

use super::program::{node, python, transcript};

/// The user whose token is rotated. The program rotates it on a connection to the server itself.
const USER: &[&str] = &["ACL", "SETUSER", "app", "on", ">token-1", "~*", "&*", "+@all"];

/// The number of commands that may fail at one rotation.
#[derive(Clone, Copy)]
struct Most {
    direct: usize,
    through: usize,
}

/// Runs the program directly and through respgate. Each run recovers from every rotation, which the program asserts.
#[track_caller]
fn recovers(flavor: Flavor, workers: usize, most: Most, client: impl Fn() -> Command) {
    let (direct_server, server) = (Server::start(flavor), Server::start(flavor));
    let url = format!("redis://127.0.0.1:{}", server.port);
    let mut proxy = Proxy::start_file(workers, &format!("[upstreams.main]\nurl = \"{url}\"\n"));
    for text in ["lost a shared upstream connection", "lost a fan-in connection", "disconnects subscribers"] {
        proxy.allow_log(text);
    }
    let run = |server: &Server, port| {
        assert_eq!(server.run_text(USER), "+OK\r\n");
        let mut command = client();
        command.env("SERVER_PORT", server.port.to_string());
        transcript(command, port)
    };
    let direct = failures(&run(&direct_server, direct_server.port), most.direct);
    let through = failures(&run(&server, proxy.port), most.through);
    assert_eq!(direct, through, "the rotations differ");
}

/// Returns the names of the rotations, in order, after checking that at most `most` commands failed at each.
#[track_caller]
fn failures(transcript: &str, most: usize) -> Vec<String> {
    let rotations: Vec<_> = transcript.lines().filter_map(|line| line.strip_prefix("failed ")).collect();
    assert_eq!(rotations.len(), 8, "{transcript}");
    let names = rotations.iter().map(|rotation| {
        let (name, count) = rotation.rsplit_once(' ').expect("a name and a count");
        let count: usize = count.parse().expect("a count");
        assert!(count <= most, "{count} commands failed at {name}, more than {most}:\n{transcript}");
        name.to_owned()
    });
    names.collect()
}

/// redis-py and ioredis send a command again when a new token is needed. A write that was under way may still be answered
/// with OUTCOMEUNKNOWN.
const RESENDS: Most = Most { direct: 1, through: 1 };

/// node-redis sends no command again. Through respgate, the write under way, the refused command and the command sent
/// before the library notices the close may fail.
const REPORTS: Most = Most { direct: 1, through: 3 };

#[test]
fn redis_py() {
    recovers(Flavor::Valkey, 1, RESENDS, || python("rotation.py"));
}

#[test]
fn redis_py_on_redis() {
    recovers(Flavor::Redis, 2, RESENDS, || python("rotation.py"));
}

#[test]
fn ioredis() {
    recovers(Flavor::Valkey, 2, RESENDS, || node("ioredis_rotation.mjs"));
}

#[test]
fn ioredis_on_redis() {
    recovers(Flavor::Redis, 1, RESENDS, || node("ioredis_rotation.mjs"));
}

#[test]
fn node_redis() {
    recovers(Flavor::Valkey, 1, REPORTS, || node("node_redis_rotation.mjs"));
}

#[test]
fn node_redis_on_redis() {
    recovers(Flavor::Redis, 2, REPORTS, || node("node_redis_rotation.mjs"));
}
