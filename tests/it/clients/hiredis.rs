//! C: hiredis' own test program, from the distribution's source package (0.14, RESP2), on TCP, a unix socket and an
//! inherited descriptor. The installer raises its 10 ms limit for replies to 500 ms. All of its 87 tests, the throughput
//! included, run on both paths.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

use super::expect_same;
use super::program::{Program, installed, source};

fn all_tests(socket: &Path) -> Command {
    let mut command = Command::new("bash");
    command.arg(source("hiredis/all_tests")).arg(socket);
    command.env("HIREDIS_TEST", installed("hiredis/source/hiredis-test"));
    command
}

/// The program sends `DEBUG SLEEP 3`, hence `--admin-commands allow`. Both paths run at once, because it sleeps for 6 s.
#[track_caller]
fn passes_all(flavor: Flavor, workers: usize) {
    let direct_server = Server::start(flavor);
    let server = Server::start(flavor);
    let folder = TempDir::new().expect("a temporary folder");
    let socket = folder.path().join("socket");
    let url = format!("redis://127.0.0.1:{}", server.port);
    let listener = format!("unix:{}", socket.display());
    let proxy = Proxy::start_with(&url, workers, &["--listen", &listener, "--admin-commands", "allow"]);
    let direct = Program::start(all_tests(&direct_server.socket()), direct_server.port);
    let through = Program::start(all_tests(&socket), proxy.port).finish();
    assert!(through.ends_with("ALL TESTS PASSED\n"), "{through}");
    expect_same(flavor, &direct.finish(), &through);
}

#[test]
fn hiredis_tests_on_valkey() {
    passes_all(Flavor::Valkey, 2);
}

#[test]
fn hiredis_tests_on_redis() {
    passes_all(Flavor::Redis, 1);
}
