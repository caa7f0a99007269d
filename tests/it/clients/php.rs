//! PHP: phpredis with pipelines, transactions and persistent connections, and its session handler with locks.

use std::process::Command;

use crate::support::servers::Flavor;

use super::program::source;
use super::same_outcome;

fn php(script: &str) -> Command {
    let mut command = Command::new("php");
    command.arg(source("php").join(script));
    command
}

#[test]
fn phpredis_on_valkey() {
    same_outcome(Flavor::Valkey, 1, || php("phpredis.php"));
}

#[test]
fn phpredis_on_redis() {
    same_outcome(Flavor::Redis, 2, || php("phpredis.php"));
}

#[test]
fn phpredis_sessions_on_valkey() {
    same_outcome(Flavor::Valkey, 2, || php("sessions.php"));
}

#[test]
fn phpredis_sessions_on_redis() {
    same_outcome(Flavor::Redis, 1, || php("sessions.php"));
}
