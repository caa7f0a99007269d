//! Real clients doing their real work, once against the server and once through respgate: same transcript.

mod cluster;
mod hiredis;
mod maintenance;
mod program;
mod queue_failover;
mod read_port;
mod repointed;
mod rotation;

use std::process::Command;

use crate::support::certificates::Certificates;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

use program::{go, node, perl, php, python, ruby, rust, shell, transcript};

/// The same client on both paths, each with an empty server.
#[track_caller]
fn same_outcome(flavor: Flavor, workers: usize, client: impl Fn() -> Command) {
    let direct_server = Server::start(flavor);
    let server = Server::start(flavor);
    let proxy = Proxy::start_with(&format!("redis://127.0.0.1:{}", server.port), workers, &[]);
    let direct = transcript(client(), direct_server.port);
    let through = transcript(client(), proxy.port);
    expect_same(flavor, &direct, &through);
}

#[track_caller]
fn expect_same(flavor: Flavor, direct: &str, through: &str) {
    if direct == through {
        return;
    }
    let lines = direct.lines().map(Some).chain(std::iter::repeat(None));
    let other = through.lines().map(Some).chain(std::iter::repeat(None));
    let (number, (left, right)) =
        lines.zip(other).enumerate().find(|(_, (left, right))| left != right).expect("a difference");
    panic!(
        "{flavor:?}: line {} differs\n  direct:  {}\n  through: {}\n--- whole transcript through respgate\n{through}",
        number + 1,
        left.unwrap_or("(end)"),
        right.unwrap_or("(end)"),
    );
}

/// As `same_outcome`, with TLS on both sides of respgate, which asks the client for a certificate.
#[track_caller]
fn same_outcome_over_tls(flavor: Flavor, client: impl Fn() -> Command) {
    let certificates = Certificates::new();
    let direct_server = Server::start(flavor);
    let server = Server::start_tls(flavor, &certificates, "server", &[]);
    let ca = certificates.path("ca.pem");
    let url = format!("rediss://127.0.0.1:{}", server.announced());
    let [cert, key] = ["server.crt", "server.key"].map(|name| certificates.path(name));
    let flags = ["--upstream-ca", &ca, "--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca];
    let proxy = Proxy::start_with(&url, 2, &flags);
    let mut through = client();
    through.env("TLS_CA", &ca);
    through.env("TLS_CERT", certificates.path("client.crt")).env("TLS_KEY", certificates.path("client.key"));
    let direct = transcript(client(), direct_server.port);
    expect_same(flavor, &direct, &transcript(through, proxy.port));
}

#[test]
fn redis_py_over_mutual_tls() {
    same_outcome_over_tls(Flavor::Redis, || python("sync_client.py"));
}

#[test]
fn ioredis_over_mutual_tls() {
    same_outcome_over_tls(Flavor::Valkey, || node("ioredis.mjs"));
}

on_both_servers!(bullmq_sees_the_workers_of_two_respgates);

/// Workers and listeners for events behind one respgate are found by a dashboard behind another, each once.
fn bullmq_sees_the_workers_of_two_respgates(flavor: Flavor) {
    let (direct_server, server) = (Server::start(flavor), Server::start(flavor));
    let dashboard = |second: u16, first: u16| {
        let mut client = node("bullmq_dashboard.mjs");
        client.arg(second.to_string());
        transcript(client, first)
    };
    let url = format!("redis://127.0.0.1:{}", server.port);
    let [one, two] = [1, 2].map(|workers| Proxy::start_with(&url, workers, &[]));
    let direct = dashboard(direct_server.port, direct_server.port);
    assert!(direct.contains("events by way 1 2"), "{direct}");
    expect_same(flavor, &direct, &dashboard(two.port, one.port));
}

/// One test per client and flavour; the number of workers alternates, so both numbers see every kind of client.
macro_rules! clients {
    ($($name:ident: $flavor:ident, $workers:literal, $client:expr;)*) => {$(
        #[test]
        fn $name() {
            same_outcome(Flavor::$flavor, $workers, || $client);
        }
    )*};
}

clients! {
    valkey_cli: Valkey, 1, shell(Flavor::Valkey, "commands");
    redis_cli: Redis, 2, shell(Flavor::Redis, "commands");
    valkey_cli_interactive: Valkey, 2, python("terminal.py").with("valkey-cli");
    redis_cli_interactive: Redis, 1, python("terminal.py").with("redis-cli");
    redis_py: Valkey, 2, python("sync_client.py");
    redis_py_on_redis: Redis, 1, python("sync_client.py");
    redis_py_asyncio: Valkey, 1, python("asyncio_client.py");
    redis_py_asyncio_on_redis: Redis, 2, python("asyncio_client.py");
    celery: Valkey, 2, python("celery_chain.py");
    celery_on_redis: Redis, 1, python("celery_chain.py");
    glide_for_python: Valkey, 2, python("glide_client.py");
    glide_for_python_on_redis: Redis, 1, python("glide_client.py");
    glide_for_node: Valkey, 1, node("glide.mjs");
    glide_for_node_on_redis: Redis, 2, node("glide.mjs");
    ioredis: Valkey, 1, node("ioredis.mjs");
    ioredis_on_redis: Redis, 2, node("ioredis.mjs");
    node_redis: Valkey, 2, node("node_redis.mjs");
    node_redis_on_redis: Redis, 1, node("node_redis.mjs");
    bullmq: Valkey, 1, node("bullmq.mjs");
    bullmq_on_redis: Redis, 2, node("bullmq.mjs");
    bullmq_dashboard: Valkey, 2, node("bullmq_dashboard.mjs");
    bullmq_dashboard_on_redis: Redis, 1, node("bullmq_dashboard.mjs");
    socket_io: Valkey, 2, node("socket_io.mjs");
    socket_io_on_redis: Redis, 1, node("socket_io.mjs");
    socket_io_sharded: Valkey, 1, node("socket_io_sharded.mjs");
    socket_io_sharded_on_redis: Redis, 2, node("socket_io_sharded.mjs");
    redigo: Valkey, 2, go("redigo");
    redigo_on_redis: Redis, 1, go("redigo");
    go_redis: Valkey, 1, go("go_redis");
    go_redis_on_redis: Redis, 2, go("go_redis");
    phpredis: Valkey, 1, php("phpredis.php");
    phpredis_on_redis: Redis, 2, php("phpredis.php");
    phpredis_sessions: Valkey, 2, php("sessions.php");
    phpredis_sessions_on_redis: Redis, 1, php("sessions.php");
    redis_rb: Valkey, 2, ruby("redis_rb.rb");
    redis_rb_on_redis: Redis, 1, ruby("redis_rb.rb");
    sidekiq: Valkey, 1, ruby("sidekiq_jobs.rb");
    sidekiq_on_redis: Redis, 2, ruby("sidekiq_jobs.rb");
    redis_pm: Valkey, 1, perl("redis_pm.pl");
    redis_pm_on_redis: Redis, 2, perl("redis_pm.pl");
    fred: Valkey, 1, rust("fred_client");
    fred_on_redis: Redis, 2, rust("fred_client");
    redis_rs: Valkey, 2, rust("clients");
    redis_rs_on_redis: Redis, 1, rust("clients");
}

/// Lets a table line add an argument.
trait With {
    fn with(self, argument: &str) -> Self;
}

impl With for Command {
    fn with(mut self, argument: &str) -> Self {
        self.arg(argument);
        self
    }
}
