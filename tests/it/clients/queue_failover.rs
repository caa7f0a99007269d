//! Job queues while Sentinels promote a replica, planned and after a crash.

use std::process::Command;

use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

use super::With;
use super::program::{Program, node, python, ruby};

/// Returns the program that pushes and runs jobs. Each job takes 20 ms, and notes its number in the file `ran`.
type Queue = fn() -> Command;

fn sidekiq() -> Command {
    ruby("sidekiq_failover.rb")
}

fn celery() -> Command {
    python("queue_failover.py").with("celery")
}

fn rq() -> Command {
    python("queue_failover.py").with("rq")
}

fn bullmq() -> Command {
    node("bullmq_failover.mjs")
}

fn redundant(flavor: Flavor) -> Deployment {
    let deployment = Deployment::start(&Plan { replicas: 1, ..Plan::new(flavor) });
    deployment.wait_until_redundant();
    deployment
}

/// Waits until the jobs of the beginning are at this server.
fn wait_for_jobs(server: &Server) {
    wait::until("the jobs to arrive", || server.run_text(&["EXISTS", "pushed"]) == ":1\r\n");
}

/// Asks a Sentinel, because the promoted server cuts connections of clients.
fn wait_for_promotion(deployment: &Deployment) {
    let port = format!("\r\n{}\r\n", deployment.replicas[0].port);
    wait::until("a Sentinel to name the replica", || {
        deployment.sentinels[0].run_text(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).contains(&port)
    });
}

/// Asks for a failover. Valkey 9 can coordinate it: the primary waits until its replica has everything.
fn fail_over(deployment: &Deployment, coordinated: bool) {
    let sentinel = &deployment.sentinels[0];
    if coordinated && sentinel.run_text(&["SENTINEL", "FAILOVER", NAME, "COORDINATED"]) == "+OK\r\n" {
        return;
    }
    assert_eq!(sentinel.run_text(&["SENTINEL", "FAILOVER", NAME]), "+OK\r\n");
}

/// Jobs are pushed and run all the while. None is lost, none runs twice, and no program sees an error.
#[track_caller]
fn planned(flavor: Flavor, queue: Queue, coordinated: bool) {
    let deployment = redundant(flavor);
    let mut proxy = Proxy::start(&deployment.url());
    proxy.allow_log("\"WARN\"");
    let program = Program::start(queue().with("steady"), proxy.port);
    wait_for_jobs(&deployment.primary);
    wait::until("jobs to run", || program.lines("ran") > 10);
    fail_over(&deployment, coordinated);
    wait_for_promotion(&deployment);
    let before = program.lines("ran");
    wait::until("jobs to run at the new primary", || program.lines("ran") > before + 20);
    deployment.replicas[0].run(&["SET", "stop", "1"]);
    let transcript = program.finish();
    assert!(!transcript.contains("error"), "{transcript}");
    assert!(transcript.ends_with("missing []\ndoubled []\n"), "{transcript}");
}

/// The primary dies while jobs run, all of them known to the replica. Each runs at least once; a job whose removal from the
/// queue was not replicated runs again.
#[track_caller]
fn crash(flavor: Flavor, queue: Queue) {
    let mut deployment = redundant(flavor);
    let mut proxy = Proxy::start(&deployment.url());
    proxy.allow_log("\"WARN\"");
    let program = Program::start(queue().with("still"), proxy.port);
    wait_for_jobs(&deployment.replicas[0]);
    deployment.primary.crash();
    wait_for_promotion(&deployment);
    let transcript = program.finish();
    assert!(!transcript.contains("error"), "{transcript}");
    assert!(transcript.contains("pushed 100\nmissing []\n"), "{transcript}");
}

macro_rules! planned {
    ($($name:ident: $flavor:ident, $queue:ident, $coordinated:literal;)*) => {$(
        #[test]
        fn $name() {
            planned(Flavor::$flavor, $queue, $coordinated);
        }
    )*};
}

// Where the third column is true, the failover is a coordinated one if the server has it.
planned! {
    sidekiq_planned_on_valkey: Valkey, sidekiq, false;
    sidekiq_planned_on_redis: Redis, sidekiq, false;
    celery_planned_on_valkey: Valkey, celery, true;
    celery_planned_on_redis: Redis, celery, false;
    rq_planned_on_valkey: Valkey, rq, true;
    bullmq_planned_on_valkey: Valkey, bullmq, true;
    bullmq_planned_on_redis: Redis, bullmq, false;
}

macro_rules! crash {
    ($($name:ident: $flavor:ident, $queue:ident;)*) => {$(
        #[test]
        fn $name() {
            crash(Flavor::$flavor, $queue);
        }
    )*};
}

crash! {
    sidekiq_crash_on_valkey: Valkey, sidekiq;
    sidekiq_crash_on_redis: Redis, sidekiq;
    celery_crash_on_redis: Redis, celery;
    rq_crash_on_valkey: Valkey, rq;
    bullmq_crash_on_redis: Redis, bullmq;
}
