//! Ruby: redis-rb with connection pools, and Sidekiq, as the distribution packages them. They speak RESP2 only.

use std::process::Command;

use crate::support::servers::Flavor;

use super::program::source;
use super::same_outcome;

pub fn ruby(script: &str) -> Command {
    let mut command = Command::new("ruby");
    // Sidekiq warns of its own use of redis-rb.
    command.arg("-W0").arg(source("ruby").join(script));
    command
}

#[test]
fn redis_rb_on_valkey() {
    same_outcome(Flavor::Valkey, 2, || ruby("redis_rb.rb"));
}

#[test]
fn redis_rb_on_redis() {
    same_outcome(Flavor::Redis, 1, || ruby("redis_rb.rb"));
}

#[test]
fn sidekiq_on_valkey() {
    same_outcome(Flavor::Valkey, 1, || ruby("sidekiq_jobs.rb"));
}

#[test]
fn sidekiq_on_redis() {
    same_outcome(Flavor::Redis, 2, || ruby("sidekiq_jobs.rb"));
}
