//! Each alert fires in a real Prometheus when its condition is caused in a real deployment, and each panel of the
//! dashboard has data then.
//!
//! Five alerts are tested by `promtool` alone (`deploy/prometheus/alerts_test.yml`): `RespgateUpstreamPaused` and
//! `RespgateUpstreamSwitched`, for which this test does not wait; `RespgateRestartsOften`, whose
//! metric has a resolution of a second; `RespgateWorkerStalls`, which is a fault of respgate or of the machine; and
//! `RespgateReloadStuck`, which needs a file system that hangs.

mod prometheus;
mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::documents::dashboard;
use crate::support::client::{Client, encode};
use crate::support::port::free_port;
use crate::support::tls::Tls;
use crate::support::wait;
use prometheus::Prometheus;
use stage::Stage;

/// Panels that have no data here, each with the reason.
const WITHOUT_DATA: [(&str, &str); 1] = [(
    "Log lines left out",
    "a metric only once respgate has left out lines, which takes thousands a second",
)];

#[test]
fn each_alert_fires_and_each_panel_has_data() {
    let stage = Stage::set();
    let prometheus = Prometheus::start(&[stage.gate.admin, stage.users.admin]);
    let traffic = Traffic::start(&stage);

    limits_are_reached(&stage, &prometheus);
    errors_are_seen(&stage, &prometheus);
    server_is_slow(&stage, &prometheus);
    files_are_wrong(&stage, &prometheus);
    drop(traffic);
    replica_falls_behind(&stage, &prometheus);
    let stage = primary_crashes(stage, &prometheus);
    let stage = sentinels_leave(stage, &prometheus);
    let stage = server_stays_away(stage, &prometheus);
    respgate_ends(stage, &prometheus);

    for (name, annotations) in prometheus.fired() {
        for key in ["summary", "description", "runbook_url"] {
            let text = annotations[key].as_str().unwrap_or_else(|| panic!("{name} has no {key}"));
            let hole =
                ["<no value>", "  ", "()", "of :", "upstream \n"].iter().find(|hole| text.contains(**hole));
            assert!(hole.is_none() && !text.ends_with(' '), "{name}: {text}");
        }
    }
    let empty: Vec<_> = dashboard::expressions(&dashboard::read())
        .into_iter()
        .filter(|(title, expression)| {
            !WITHOUT_DATA.iter().any(|(known, _)| known == title) && !prometheus.has_had(expression)
        })
        .collect();
    assert!(empty.is_empty(), "panels without data: {empty:#?}");
}

/// Clients that go on all the time.
struct Traffic {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    fn of_nobody() -> Self {
        Self { stop: Arc::default(), threads: Vec::new() }
    }

    fn start(stage: &Stage) -> Self {
        let mut this = Self::of_nobody();
        stage.client_in(0).expect(&["LPUSH", "list", "a"], ":1\r\n");
        // Wrong commands, of which there are more than others.
        this.repeat(stage.client_in(0), &["GET", "list"]);
        this.repeat(Client::connect(stage.ports.slowed), &["LLEN", "list"]);
        this
    }

    /// Sends a command 20 times, takes the replies, and begins again.
    fn repeat(&mut self, mut client: Client, command: &[&str]) {
        let stop = self.stop.clone();
        let commands = encode(command).repeat(20);
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                client.send(&commands);
                (0..20).for_each(|_| drop(client.reply()));
                thread::sleep(Duration::from_millis(20));
            }
        }));
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "a client had an error");
        }
    }
}

/// Fills `max-clients`, `max-leased`, the shared connections, the memory, and the limits of two tenants.
fn limits_are_reached(stage: &Stage, prometheus: &Prometheus) {
    let mut small: Vec<_> = (0..5).map(|_| Client::connect(stage.ports.small)).collect();
    small.iter_mut().for_each(|client| client.expect(&["PING"], "+PONG\r\n"));
    Client::connect(stage.ports.small).expect_reply("-ERR max number of clients reached\r\n");

    let mut in_databases: Vec<_> = (1..6).map(|database| stage.client_in(database)).collect();
    in_databases.iter_mut().for_each(|client| client.expect(&["GET", "k"], "$-1\r\n"));

    let mut blocked: Vec<_> = (0..2).map(|_| stage.client_in(0)).collect();
    for client in &mut blocked {
        client.send_command(&["BLPOP", "nothing", "0"]);
    }
    wait::until("both leases to be out", || stage.gate.metric("respgate_clients_pinned", &["main"]) >= 2.0);
    let refused = stage.client_in(0).call(&["BLPOP", "nothing", "0"]);
    assert!(refused.starts_with(b"-ERR respgate: no upstream connection became free"), "{refused:?}");

    // A request whose end does not come.
    let mut large = stage.client_in(0);
    large.send("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$29360128\r\n");
    large.send(vec![b'x'; 28 * 1024 * 1024]);

    let mut rejected = Client::connect(stage.ports.rejected);
    rejected.send(encode(&["PING"]).repeat(20));
    (0..20).for_each(|_| drop(rejected.reply()));

    prometheus.until_fired(&[
        "RespgateClientsNearLimit",
        "RespgateClientsTurnedAway",
        "RespgateLeasesNearLimit",
        "RespgateLeasesExhausted",
        "RespgateSharedConnectionsNearLimit",
        "RespgateMemoryNearLimit",
        "RespgateTenantRefused",
        "RespgateTenantDelayed",
    ]);
}

/// Clients send what is not RESP, speak no TLS, guess passwords; the server refuses credentials, and does not answer.
fn errors_are_seen(stage: &Stage, prometheus: &Prometheus) {
    for _ in 0..15 {
        let mut broken = Client::connect(stage.gate.port);
        broken.send("*1\r\n!\r\n");
        broken.rest();
        let mut plain = Client::connect(stage.ports.secure);
        plain.send("PING\r\n");
        plain.rest();
    }
    let mut secure = Tls::new(&stage.certificates).client(stage.ports.secure);
    secure.expect(&["PING"], "+PONG\r\n");

    for _ in 0..10 {
        Client::connect(stage.users.port).call(&["AUTH", "plain", "guess"]);
    }
    // Of another source, which has sent no wrong password.
    let mut app = Client::connect_from([127, 0, 0, 9].into(), stage.users.address());
    app.expect(&["AUTH", "app", "secret"], "+OK\r\n");
    app.call(&["GET", "k"]);

    stage.locked.run(&["CONFIG", "SET", "requirepass", "new"]);
    let mut locked = Client::connect(stage.ports.locked);
    locked.deadline(Duration::from_millis(500));
    let mut admin = Client::connect_to(stage.locked.address());
    admin.expect(&["AUTH", "new"], "+OK\r\n");
    admin.call(&["CLIENT", "KILL", "TYPE", "normal"]);
    let _ = locked.try_reply();
    locked.send_command(&["GET", "k"]);

    let mut late = Client::connect(stage.ports.spare);
    late.expect(&["SET", "k", "v"], "+OK\r\n");
    stage.spare.run(&["CLIENT", "PAUSE", "6000", "WRITE"]);
    let error = late.call(&["SET", "k", "v"]);
    assert!(error.starts_with(b"-OUTCOMEUNKNOWN "), "{error:?}");

    prometheus.until_fired(&[
        "RespgateErrorRate",
        "RespgateClientsDisconnected",
        "RespgateTlsHandshakesFail",
        "RespgateWrongPasswords",
        "RespgateUserCredentialsRefused",
        "RespgateCredentialsRefused",
        "RespgateCommandTimeouts",
    ]);
}

/// A server leaves commands waiting for 300 ms.
fn server_is_slow(stage: &Stage, prometheus: &Prometheus) {
    stage.spare.run(&["CLIENT", "UNPAUSE"]);
    let mut slowed = Client::connect(stage.ports.spare);
    stage.spare.run(&["CLIENT", "PAUSE", "300", "WRITE"]);
    slowed.send(encode(&["SET", "k", "v"]).repeat(40));
    (0..40).for_each(|_| slowed.expect_reply("+OK\r\n"));
    prometheus.until_fired(&["RespgateLatencyHigh", "RespgateSlowCommands"]);
}

/// Certificates expire; the configuration changes what needs a restart, and then has an error.
fn files_are_wrong(stage: &Stage, prometheus: &Prometheus) {
    let restart = "control-socket = \"control.sock\"\n";
    stage.prepend(restart);
    prometheus.until_fired(&["RespgateRestartNeeded"]);
    stage.append("[upstreams.main]\n");
    prometheus.until_fired(&[
        "RespgateReloadFailed",
        "RespgateCertificateExpires",
        "RespgateCertificateExpired",
    ]);
    stage.append("");
}

/// A replica is sent to a node that does not exist; another one freezes, and lacks what is written meanwhile.
fn replica_falls_behind(stage: &Stage, prometheus: &Prometheus) {
    let replica = &stage.deployment.replicas[0];
    replica.run(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    let mut reads = Traffic::of_nobody();
    reads.repeat(Client::connect(stage.ports.spare), &["GET", "k"]);
    wait::until("reads from the replica", || {
        stage.gate.metric("respgate_replica_reads_total", &["spare"]) > 0.0
    });
    stage.spare_replica.signal("STOP");
    Client::connect(stage.ports.spare).expect(&["SET", "k", "v"], "+OK\r\n");
    prometheus.until_fired(&[
        "RespgateReplicaDisconnected",
        "RespgateReplicationLag",
        "RespgateNoReplicaServes",
    ]);
    stage.spare_replica.signal("CONT");
    drop(reads);
    replica.run(&["REPLICAOF", "127.0.0.1", &stage.deployment.primary.port.to_string()]);
    stage.deployment.wait_until_redundant();
}

/// The primary freezes with a write under way, and dies.
fn primary_crashes(mut stage: Stage, prometheus: &Prometheus) -> Stage {
    let mut writer = stage.client_in(0);
    stage.deployment.primary.signal("STOP");
    writer.send_command(&["INCR", "n"]);
    writer.expect_silence(Duration::from_millis(300));
    stage.deployment.primary.crash();
    let unknown = writer.reply();
    assert!(unknown.starts_with(b"-OUTCOMEUNKNOWN "), "{unknown:?}");
    writer.expect(&["SET", "n", "1"], "+OK\r\n");
    prometheus.until_fired(&["RespgateWritesUnknown", "RespgateFailoverTooLong"]);
    stage
}

/// One Sentinel forgets the primary, and another one dies.
fn sentinels_leave(mut stage: Stage, prometheus: &Prometheus) -> Stage {
    stage.deployment.sentinels[0].run(&["SENTINEL", "REMOVE", crate::support::deployment::NAME]);
    prometheus.until_fired(&["RespgateSentinelsDisagree"]);
    stage.deployment.sentinels[1].crash();
    prometheus.until_fired(&["RespgateSentinelsUnreachable", "RespgateSentinelMajorityLost"]);
    stage
}

/// A server dies, and nothing replaces it.
fn server_stays_away(mut stage: Stage, prometheus: &Prometheus) -> Stage {
    stage.spare.crash();
    let mut waiting = Client::connect(stage.ports.spare);
    // The replica may still answer reads until respgate has noticed the loss.
    waiting.expect(&["READWRITE"], "+OK\r\n");
    let error = waiting.call(&["GET", "k"]);
    assert!(error.starts_with(b"-ERR respgate: no primary to send to"), "{error:?}");
    prometheus.until_fired(&[
        "RespgateNoPrimary",
        "RespgateClientsHeld",
        "RespgateCommandsFailed",
        "RespgateUpstreamRefusesConnections",
        "RespgateRatesNotShared",
    ]);
    stage
}

/// respgate itself ends.
fn respgate_ends(stage: Stage, prometheus: &Prometheus) {
    prometheus.forget("RespgateDown");
    drop(stage.users);
    prometheus.until_fired(&["RespgateDown"]);
}
