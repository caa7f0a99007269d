//! Sidekiq while Sentinels promote a replica, planned and after a crash.

use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

use super::program::Program;
use super::program::ruby;

fn redundant(flavor: Flavor) -> Deployment {
    let deployment = Deployment::start(&Plan { replicas: 1, ..Plan::new(flavor) });
    deployment.wait_until_redundant();
    deployment
}

fn start(manner: &str, proxy: &Proxy) -> Program {
    let mut command = ruby("sidekiq_failover.rb");
    command.arg(manner);
    Program::start(command, proxy.port)
}

/// Waits until the jobs of the beginning are at this server.
fn wait_for_jobs(server: &Server) {
    wait::until("the jobs to arrive", || server.run_text(&["GET", "pushed"]).contains("300"));
}

/// Asks a Sentinel, because the promoted server cuts connections of clients.
fn wait_for_promotion(deployment: &Deployment) {
    let port = format!("\r\n{}\r\n", deployment.replicas[0].port);
    wait::until("a Sentinel to name the replica", || {
        deployment.sentinels[0].run_text(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).contains(&port)
    });
}

/// Jobs are pushed and run all the while. None is lost, none runs twice, and nobody sees an error.
#[track_caller]
fn planned(flavor: Flavor) {
    let deployment = redundant(flavor);
    let mut proxy = Proxy::start(&deployment.url());
    proxy.allow_log("\"WARN\"");
    let program = start("steady", &proxy);
    wait_for_jobs(&deployment.primary);
    assert_eq!(deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]), "+OK\r\n");
    let survivor = &deployment.replicas[0];
    wait_for_promotion(&deployment);
    let before = processed(survivor);
    wait::until("jobs to run at the new primary", || processed(survivor) > before + 20);
    survivor.run(&["SET", "stop", "1"]);
    let transcript = program.finish();
    assert!(!transcript.contains("error"), "{transcript}");
    assert!(transcript.ends_with("missing []\ndoubled []\n"), "{transcript}");
}

/// Returns the number of commands that the server has taken from lists.
fn processed(server: &Server) -> u64 {
    let text = server.run_text(&["INFO", "commandstats"]);
    let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_brpop:calls="));
    line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
}

/// The primary dies while jobs run, all of them known to the replica. Each runs at least once; a job whose removal from the
/// queue was not replicated runs again.
#[track_caller]
fn crash(flavor: Flavor) {
    let mut deployment = redundant(flavor);
    let mut proxy = Proxy::start(&deployment.url());
    proxy.allow_log("\"WARN\"");
    let program = start("still", &proxy);
    wait_for_jobs(&deployment.replicas[0]);
    deployment.primary.crash();
    wait_for_promotion(&deployment);
    let transcript = program.finish();
    assert!(!transcript.contains("error"), "{transcript}");
    assert!(transcript.contains("pushed 300\nmissing []\n"), "{transcript}");
}

on_both_servers!(sidekiq_planned, |flavor| planned(flavor));

on_both_servers!(sidekiq_crash, |flavor| crash(flavor));
