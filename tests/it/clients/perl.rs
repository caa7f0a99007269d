//! Perl: Redis.pm, as the distribution packages it. It speaks RESP2 only.

use std::process::Command;

use crate::support::servers::Flavor;

use super::program::source;
use super::same_outcome;

fn redis_pm() -> Command {
    let mut command = Command::new("perl");
    command.arg(source("perl/redis_pm.pl"));
    command
}

#[test]
fn redis_pm_on_valkey() {
    same_outcome(Flavor::Valkey, 1, redis_pm);
}

#[test]
fn redis_pm_on_redis() {
    same_outcome(Flavor::Redis, 2, redis_pm);
}
