//! Three hosts, each with a data server and a Sentinel. Which server is the primary changes all the time.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::network::{HOSTS, Network};
use crate::support::client::Client;
use crate::support::deployment::{NAME, Plan, start_sentinel};
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// How long a node must be silent before Sentinel calls it down.
pub const DOWN_AFTER: Duration = Duration::from_millis(1500);

/// How long a step of a failover may take; another attempt comes after twice that.
pub const FAILOVER_TIMEOUT: Duration = Duration::from_secs(3);

/// A former primary is demoted after some 10 s, a Sentinel that stood still sits out 30 s.
const SETTLING: Duration = Duration::from_secs(60);

/// A server that has not answered by then is frozen or gone.
const ANSWER: Duration = Duration::from_secs(1);

/// What is acknowledged is in the kernel's hands, so a killed process has it when it starts again.
const OPTIONS: [&str; 12] = [
    "--appendonly",
    "yes",
    "--appendfsync",
    "no",
    "--repl-backlog-size",
    "32mb",
    "--repl-ping-replica-period",
    "1",
    "--repl-timeout",
    "10",
    "--auto-aof-rewrite-percentage",
    "0",
];

/// The servers. The data server and the Sentinel of one number share a host.
pub struct Cluster {
    pub network: Network,
    pub nodes: Vec<Server>,
    pub sentinels: Vec<Server>,
}

impl Cluster {
    pub fn start(flavor: Flavor, network: Network) -> Self {
        let first = Server::start_at(network.node(0), flavor, &OPTIONS);
        let primary = first.address();
        let mut nodes = vec![first];
        for number in 1..HOSTS {
            let (host, port) = (primary.ip().to_string(), primary.port().to_string());
            let options = [&OPTIONS[..], &["--replicaof", &host, &port]].concat();
            nodes.push(Server::start_at(network.node(number), flavor, &options));
        }
        let plan = Plan {
            sentinels: HOSTS,
            down_after_ms: DOWN_AFTER.as_millis() as u32,
            failover_timeout_ms: FAILOVER_TIMEOUT.as_millis() as u32,
            ..Plan::new(flavor)
        };
        let sentinels =
            (0..HOSTS).map(|number| start_sentinel(&plan, network.node(number), primary)).collect();
        Self { network, nodes, sentinels }
    }

    /// Where respgate looks for the primary.
    pub fn url(&self) -> String {
        let addresses: Vec<String> =
            self.sentinels.iter().map(|sentinel| sentinel.address().to_string()).collect();
        format!("redis-sentinel://{}/0#{NAME}", addresses.join(","))
    }

    pub fn sentinel_addresses(&self) -> Vec<SocketAddr> {
        self.sentinels.iter().map(Server::address).collect()
    }

    /// The number of the node at this port.
    pub fn number(&self, port: u16) -> usize {
        self.nodes.iter().position(|node| node.port == port).expect("a node of the cluster")
    }

    /// Starts a node that was killed, with what it had.
    pub fn restart(&mut self, number: usize, replica_of: Option<usize>) {
        let primary = replica_of.map(|primary| self.nodes[primary].address());
        let (host, port) =
            primary.map_or_else(Default::default, |at| (at.ip().to_string(), at.port().to_string()));
        let mut options = OPTIONS.to_vec();
        if primary.is_some() {
            options.extend(["--replicaof", &host, &port]);
        }
        self.nodes[number].restart(&options);
    }

    /// Asks a node by its unix socket, which no cut reaches; nothing if it does not answer.
    pub fn ask(&self, number: usize, arguments: &[&str]) -> Option<String> {
        let mut client = Client::try_connect_unix(&self.nodes[number].socket()).ok()?;
        ask(&mut client, arguments)
    }

    fn ask_sentinel(&self, number: usize, arguments: &[&str]) -> Option<String> {
        let mut client = Client::try_connect(self.sentinels[number].address()).ok()?;
        ask(&mut client, arguments)
    }

    /// CLIENT KILL of all connections but those of replicas, so that replies are lost: while the node sleeps, commands
    /// gather and then the order to kill; it runs them all before it writes a reply.
    pub fn kill_links_unanswered(&self, number: usize) {
        let connect = || Client::connect_unix(&self.nodes[number].socket());
        let (mut sleeper, mut killer) = (connect(), connect());
        killer.expect(&["PING"], "+PONG\r\n");
        sleeper.send_command(&["DEBUG", "SLEEP", "0.05"]);
        thread::sleep(Duration::from_millis(25));
        for kind in ["normal", "pubsub"] {
            killer.send_command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
        }
        for _ in 0..2 {
            let reply = killer.reply();
            assert!(reply.starts_with(b":"), "{}", reply.escape_ascii());
        }
    }

    /// The first of the Sentinels that does as it is told, and until when they all refused.
    pub fn tell_a_sentinel(&self, order: &[usize], arguments: &[&str]) {
        let until = Instant::now() + SETTLING;
        let mut refusal = None;
        while Instant::now() < until {
            for number in order {
                refusal = self.ask_sentinel(*number, arguments);
                if refusal.as_deref() == Some("+OK\r\n") {
                    return;
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("no Sentinel will do {arguments:?}: {refusal:?}");
    }

    /// Makes the Sentinels forget the primary, all of them, before any is told of another: else those that were told
    /// hear of the former one from those that were not.
    pub fn point_sentinels_at(&self, primary: usize) {
        let address = self.nodes[primary].address();
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let quorum = (HOSTS / 2 + 1).to_string();
        let (down_after, timeout) =
            (DOWN_AFTER.as_millis().to_string(), FAILOVER_TIMEOUT.as_millis().to_string());
        let monitor = ["SENTINEL", "MONITOR", NAME, &host, &port, &quorum];
        let set =
            ["SENTINEL", "SET", NAME, "down-after-milliseconds", &down_after, "failover-timeout", &timeout];
        for order in [&["SENTINEL", "REMOVE", NAME][..], &monitor, &set] {
            for number in 0..HOSTS {
                let reply = self.ask_sentinel(number, order);
                assert_eq!(reply.as_deref(), Some("+OK\r\n"), "{order:?}");
            }
        }
    }

    /// What an operator may do who does not wait for the Sentinels: makes every node a replica of the primary that they
    /// all name, and lets them forget what they knew of the nodes, which they look at every 10 s only.
    pub fn tidy(&self) {
        let primary = wait::until_some("the Sentinels to agree", SETTLING, || self.agreed().ok());
        for number in (0..HOSTS).filter(|number| *number != primary) {
            let address = self.nodes[primary].address();
            let order = ["REPLICAOF", &address.ip().to_string(), &address.port().to_string()];
            wait::until("a node to become a replica", || {
                self.ask(number, &order).is_some_and(|reply| reply.starts_with("+OK"))
            });
        }
        for number in 0..HOSTS {
            let reply = self.ask_sentinel(number, &["SENTINEL", "RESET", NAME]);
            assert_eq!(reply.as_deref(), Some(":1\r\n"), "Sentinel {number}");
        }
    }

    /// Waits until a failover could begin: one primary, which all Sentinels name and all other nodes copy in full. Its
    /// number.
    pub fn settle(&self) -> usize {
        let until = Instant::now() + SETTLING;
        loop {
            match self.settled() {
                Ok(primary) => return primary,
                Err(why) if Instant::now() > until => panic!("not settled after {SETTLING:?}: {why}"),
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// The primary that all Sentinels name, none of which is in a failover.
    fn agreed(&self) -> Result<usize, String> {
        let mut named = None;
        for number in 0..HOSTS {
            let state = self.ask_sentinel(number, &["SENTINEL", "MASTER", NAME]);
            let state = state.ok_or_else(|| format!("Sentinel {number} does not answer"))?;
            let port: u16 =
                field(&state, "port").parse().map_err(|_| format!("Sentinel {number} has no primary"))?;
            if *named.get_or_insert(port) != port {
                return Err(format!("Sentinel {number} names port {port}, another one {named:?}"));
            }
            let flags = field(&state, "flags");
            if flags != "master" {
                return Err(format!("Sentinel {number}: {flags}"));
            }
        }
        Ok(self.number(named.expect("a primary")))
    }

    fn settled(&self) -> Result<usize, String> {
        let primary = self.agreed()?;
        for number in 0..HOSTS {
            let silent = || format!("Sentinel {number} does not answer");
            let state = self.ask_sentinel(number, &["SENTINEL", "MASTER", NAME]).ok_or_else(silent)?;
            let known = ["num-other-sentinels", "num-slaves"].map(|name| field(&state, name));
            if known != ["2", "2"] {
                return Err(format!("Sentinel {number}: other Sentinels and replicas: {known:?}"));
            }
            let info = self.ask_sentinel(number, &["INFO", "sentinel"]).ok_or_else(silent)?;
            if !info.contains("sentinel_tilt:0") {
                return Err(format!("Sentinel {number} sits out: its clock jumped"));
            }
            let replicas = self.ask_sentinel(number, &["SENTINEL", "REPLICAS", NAME]).ok_or_else(silent)?;
            let down = ["s_down", "o_down", "disconnected"].iter().find(|flag| replicas.contains(**flag));
            if let Some(flag) = down {
                return Err(format!("Sentinel {number} calls a replica {flag}"));
            }
            // Each looks every 10 s. One that last saw a primary there would demote it again, perhaps just after
            // another Sentinel has promoted it: then there is no primary at all for half a minute.
            if replicas.contains("role-reported\r\n$6\r\nmaster") {
                return Err(format!("Sentinel {number} takes a replica for a primary"));
            }
        }
        for number in 0..HOSTS {
            let info = self.ask(number, &["INFO", "replication"]);
            let info = info.ok_or_else(|| format!("node {number} does not answer"))?;
            let master_port = format!("master_port:{}\r\n", self.nodes[primary].port);
            let copies = info.contains("role:slave")
                && info.contains(&master_port)
                && info.contains("master_link_status:up");
            let leads = info.contains("role:master") && info.contains("connected_slaves:2");
            if !(if number == primary { leads } else { copies }) {
                return Err(format!("node {number}, with node {primary} as the primary: {info}"));
            }
        }
        Ok(primary)
    }
}

/// A value of a flat list of names and values.
fn field<'a>(state: &'a str, name: &str) -> &'a str {
    state.lines().skip_while(|line| *line != name).nth(2).unwrap_or_default()
}

fn ask(client: &mut Client, arguments: &[&str]) -> Option<String> {
    client.deadline(ANSWER);
    client.send_command(arguments);
    client.try_reply().ok().map(|reply| String::from_utf8_lossy(&reply).into_owned())
}
