//! A managed service without Sentinels: two nodes, and a name or a balancer that leads to one of them.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::certificates::Certificates;
use crate::support::forwarder::Forwarder;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// The name in the hosts file; `server.crt` is valid for it.
const HOST: &str = "db.example";

/// What the service moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// The name's address, in a hosts file that only the tested respgate sees.
    Name,
    /// The target of a balancer whose address stays.
    Target,
}

/// What happens to the old node before the move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldNode {
    /// `REPLICAOF` makes it a replica of the new node; its connections stay open.
    Demoted,
    /// `FAILOVER TO` makes it a replica of the new node.
    FailedOver,
    /// The process ends, and its connections break.
    Stopped,
    /// The process is stopped by a signal: connections are accepted, and nothing is answered.
    Frozen,
    /// Nothing: it goes on working as a primary.
    Untouched,
}

/// One way in which a service hands over.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub flavor: Flavor,
    pub workers: usize,
    pub moved: Moved,
    pub old: OldNode,
    pub tls: bool,
    /// The time between the old node's change and the move.
    pub outage: Duration,
}

/// The nodes and what leads to them.
pub struct Site {
    pub plan: Plan,
    pub old: Server,
    pub new: Server,
    first: Forwarder,
    /// Listens at the port of `first` on the address to which the name moves.
    _second: Option<Forwarder>,
    certificates: Certificates,
    folder: TempDir,
}

impl Site {
    pub fn start(plan: Plan) -> Self {
        let certificates = Certificates::new();
        let start = || match plan.tls {
            true => Server::start_tls(plan.flavor, &certificates, "server", &[]),
            false => Server::start(plan.flavor),
        };
        let (old, new) = (start(), start());
        if plan.old == OldNode::FailedOver {
            new.run(&["REPLICAOF", "127.0.0.1", &old.port.to_string()]);
            wait::until("the replica", || new.run_text(&["INFO", "replication"]).contains("link_status:up"));
        }
        let first = Forwarder::start(old.place.address(old.announced()));
        let second = (plan.moved == Moved::Name).then(|| {
            let address = ([127, 0, 0, 2], first.port).into();
            Forwarder::start_at(address, new.place.address(new.announced()))
        });
        let folder = TempDir::new().expect("a folder");
        let site = Self { plan, old, new, first, _second: second, certificates, folder };
        site.name("127.0.0.1");
        site
    }

    /// Starts one more respgate in front of the service.
    pub fn proxy(&self, pubsub: &str) -> Proxy {
        let scheme = if self.plan.tls { "rediss" } else { "redis" };
        let port = self.first.port;
        let ca = match self.plan.tls {
            true => format!("tls-ca = \"{}\"\n", self.certificates.path("ca.pem")),
            false => String::new(),
        };
        let host = if self.plan.moved == Moved::Name { HOST } else { "127.0.0.1" };
        let toml = format!(
            "[upstreams.main]\nurl = \"{scheme}://{host}:{port}\"\n{ca}[tenants.all]\ndefault = true\npubsub = \"{pubsub}\"\n"
        );
        let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", self.hosts());
        let namespace = ["unshare", "-m", "sh", "-c", &script, "sh"];
        let wrapper: &[&str] = if self.plan.moved == Moved::Name { &namespace } else { &[] };
        let mut proxy = Proxy::launch_file(wrapper, self.plan.workers, &toml);
        proxy.wait_until_ready();
        proxy.allow_log("\"WARN\"");
        proxy
    }

    /// Hands over, and returns the time from which on the new node answers in place of the old one.
    pub fn hand_over(&self) -> Instant {
        let new_port = self.new.port.to_string();
        match self.plan.old {
            OldNode::Demoted => drop(self.old.run(&["REPLICAOF", "127.0.0.1", &new_port])),
            OldNode::FailedOver => {
                assert_eq!(self.old.run_text(&["FAILOVER", "TO", "127.0.0.1", &new_port]), "+OK\r\n");
                wait::until("the new primary", || self.new.run_text(&["ROLE"]).contains("master"));
            }
            OldNode::Stopped => self.old.signal("KILL"),
            OldNode::Frozen => self.old.signal("STOP"),
            OldNode::Untouched => {}
        }
        thread::sleep(self.plan.outage);
        self.new.run(&["SET", "where", "new"]);
        self.new.run(&["RPUSH", "queue", "job"]);
        let moved = Instant::now();
        match self.plan.moved {
            Moved::Name => self.name("127.0.0.2"),
            Moved::Target => self.first.point_at(&[self.new.place.address(self.new.announced())]),
        }
        moved
    }

    fn hosts(&self) -> String {
        self.folder.path().join("hosts").to_string_lossy().into_owned()
    }

    /// Writes the file in place, because what is mounted is this very file, and over the text of the same length, so that
    /// nobody reads an empty file.
    fn name(&self, ip: &str) {
        let file = File::options().write(true).create(true).truncate(false).open(self.hosts());
        file.expect("a hosts file").write_all(format!("{ip} {HOST}\n").as_bytes()).expect("a name");
    }
}

/// Returns true if a process of these tests can have a hosts file of its own.
pub fn can_move_names() -> bool {
    let namespaces = Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status();
    namespaces.is_ok_and(|status| status.success())
}
