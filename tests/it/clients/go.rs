//! Go: redigo, as the distribution packages it. It speaks RESP2 only.

use std::process::Command;

use crate::support::servers::Flavor;

use super::program::installed;
use super::same_outcome;

fn redigo() -> Command {
    Command::new(installed("go/redigo"))
}

#[test]
fn redigo_on_valkey() {
    same_outcome(Flavor::Valkey, 2, redigo);
}

#[test]
fn redigo_on_redis() {
    same_outcome(Flavor::Redis, 1, redigo);
}
