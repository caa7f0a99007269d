//! Rust: redis-rs, blocking and asynchronous API, in RESP2 and RESP3.

use std::process::Command;

use crate::support::servers::Flavor;

use super::program::installed;
use super::same_outcome;

fn redis_rs() -> Command {
    Command::new(installed("rust/debug/clients"))
}

#[test]
fn redis_rs_on_valkey() {
    same_outcome(Flavor::Valkey, 2, redis_rs);
}

#[test]
fn redis_rs_on_redis() {
    same_outcome(Flavor::Redis, 1, redis_rs);
}
