//! A primary, its replicas and the Sentinels that watch them.

use std::net::SocketAddr;

use super::certificates::Certificates;
use super::place::Place;
use super::port::free_port;
use super::servers::{Flavor, Server, tls_options};
use super::wait;

/// The name that the Sentinels know the primary by.
pub const NAME: &str = "mymaster";

/// What to start; see [`Deployment::start`].
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    pub flavor: Flavor,
    pub replicas: usize,
    pub sentinels: usize,
    /// Password of the default user, on every node.
    pub password: Option<&'a str>,
    /// Password of the Sentinels' own default user.
    pub sentinel_password: Option<&'a str>,
    /// How long a node must be silent before Sentinel calls it down.
    pub down_after_ms: u32,
    /// How long a step of a failover may take; the next attempt comes after twice that.
    pub failover_timeout_ms: u32,
    /// More options for the primary.
    pub primary_options: &'a [&'a str],
    /// Nodes (`NODE.crt`) and Sentinels (`SENTINEL.crt`) speak TLS to each other, and announce where they do.
    pub tls: Option<PlanTls<'a>>,
}

/// See [`Plan::tls`].
#[derive(Clone, Copy)]
pub struct PlanTls<'a> {
    pub certificates: &'a Certificates,
    pub node: &'a str,
    pub sentinel: &'a str,
}

impl std::fmt::Debug for PlanTls<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} and {}", self.node, self.sentinel)
    }
}

impl Plan<'_> {
    /// One primary, no replica, three Sentinels, no passwords.
    pub fn new(flavor: Flavor) -> Self {
        Self {
            flavor,
            replicas: 0,
            sentinels: 3,
            password: None,
            sentinel_password: None,
            down_after_ms: 1500,
            failover_timeout_ms: 10_000,
            primary_options: &[],
            tls: None,
        }
    }
}

/// Running servers; all killed on drop.
pub struct Deployment {
    pub sentinels: Vec<Server>,
    pub replicas: Vec<Server>,
    pub primary: Server,
}

impl Deployment {
    /// Starts everything and waits until each process answers.
    pub fn start(plan: &Plan<'_>) -> Self {
        let mut options = Vec::new();
        if let Some(password) = plan.password {
            options.extend(["--requirepass", password, "--masterauth", password]);
        }
        let node = |options: &[&str]| match plan.tls {
            None => Server::start_with(plan.flavor, options),
            Some(PlanTls { certificates, node, .. }) => {
                let options = [options, &["--tls-replication", "yes"]].concat();
                Server::start_tls(plan.flavor, certificates, node, &options)
            }
        };
        let primary = node(&[&options, plan.primary_options].concat());
        let primary_port = primary.announced().to_string();
        let replicas = (0..plan.replicas)
            .map(|_| {
                let mut options = options.clone();
                options.extend(["--replicaof", "127.0.0.1", &primary_port]);
                node(&options)
            })
            .collect();
        let announced = primary.place.address(primary.announced());
        let sentinels =
            (0..plan.sentinels).map(|_| start_sentinel(plan, Place::LOOPBACK, announced)).collect();
        Self { sentinels, replicas, primary }
    }

    /// Waits until a failover would succeed: every Sentinel knows every other one and every replica, and replicas
    /// are in sync.
    pub fn wait_until_redundant(&self) {
        for replica in &self.replicas {
            wait::until("a replica's link to its primary", || {
                replica.run_text(&["INFO", "replication"]).contains("master_link_status:up")
            });
        }
        for sentinel in &self.sentinels {
            wait::until("the Sentinels to find each other", || {
                let others = field(sentinel, "num-other-sentinels");
                let replicas = field(sentinel, "num-slaves");
                others == Some(self.sentinels.len() - 1) && replicas == Some(self.replicas.len())
            });
        }
    }

    /// `redis-sentinel://127.0.0.1:P1,…/0#mymaster`; `rediss-sentinel` with TLS.
    pub fn url(&self) -> String {
        let hosts: Vec<String> =
            self.sentinels.iter().map(|s| format!("127.0.0.1:{}", s.announced())).collect();
        let scheme = if self.primary.tls_port.is_some() { "rediss-sentinel" } else { "redis-sentinel" };
        format!("{scheme}://{}/0#{NAME}", hosts.join(","))
    }
}

/// One more Sentinel somewhere, for the primary at this address.
pub fn start_sentinel(plan: &Plan<'_>, place: Place, primary: SocketAddr) -> Server {
    let port = free_port();
    let mut text = format!(
        "port {port}\nbind {}\nsentinel monitor {NAME} {} {} {}\n\
         sentinel down-after-milliseconds {NAME} {}\nsentinel failover-timeout {NAME} {}\n",
        place.host,
        primary.ip(),
        primary.port(),
        plan.sentinels / 2 + 1,
        plan.down_after_ms,
        plan.failover_timeout_ms,
    );
    if let Some(password) = plan.password {
        text.push_str(&format!("sentinel auth-pass {NAME} {password}\n"));
    }
    if let Some(password) = plan.sentinel_password {
        text.push_str(&format!("requirepass {password}\n"));
    }
    let mut tls_port = None;
    if let Some(PlanTls { certificates, sentinel, .. }) = plan.tls {
        let port = *tls_port.insert(free_port());
        text.push_str("tls-replication yes\n");
        for (key, value) in tls_options(certificates, sentinel, port) {
            text.push_str(&format!("{key} {value}\n"));
        }
    }
    let mut sentinel = Server::start_sentinel(place, plan.flavor, port, &text);
    sentinel.tls_port = tls_port;
    sentinel.password = plan.sentinel_password.map(str::to_owned);
    sentinel
}

/// A number of `SENTINEL MASTER mymaster`, whose reply is a flat list of names and values.
fn field(sentinel: &Server, name: &str) -> Option<usize> {
    let reply = sentinel.run_text(&["SENTINEL", "MASTER", NAME]);
    let mut lines = reply.lines().skip_while(|line| *line != name);
    lines.nth(2)?.parse().ok()
}
