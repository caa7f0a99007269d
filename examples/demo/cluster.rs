//! A cluster of three shards with a replica each, and respgate in front of it, each on a free loopback port.

use std::io;
use std::ops::RangeInclusive;

use crate::connection::ask;
use crate::processes::{Doors, Processes, free_ports, wait_for};

const SHARDS: usize = 3;

/// Every slot, in one range for each shard.
const RANGES: [RangeInclusive<u16>; SHARDS] = [0..=5460, 5461..=10922, 10923..=16383];

/// Everything that runs.
pub struct Cluster {
    processes: Processes,
    /// The primaries at the start, then their replicas.
    nodes: [u16; 2 * SHARDS],
    /// The port of each node for the other nodes.
    buses: [u16; 2 * SHARDS],
    respgate: Doors,
}

/// A node, as another one describes it in `CLUSTER NODES`.
#[derive(Clone, Debug)]
pub struct Node {
    pub id: String,
    pub port: u16,
    pub is_primary: bool,
    /// The id of its primary; `-` for a primary.
    pub primary: String,
    /// False if the node that was asked finds it down, or is told so.
    pub is_up: bool,
    slots: Vec<RangeInclusive<u16>>,
}

impl Node {
    pub fn serves(&self, slot: u16) -> bool {
        self.slots.iter().any(|range| range.contains(&slot))
    }
}

impl Cluster {
    /// A place for everything; nothing runs yet.
    pub fn new() -> io::Result<Self> {
        let [clients, admin, ports @ ..] = free_ports::<{ 2 + 4 * SHARDS }>()?;
        let mut cluster = Self {
            processes: Processes::new()?,
            nodes: [0; 2 * SHARDS],
            buses: [0; 2 * SHARDS],
            respgate: Doors { clients, admin },
        };
        let (nodes, buses) = ports.split_at(2 * SHARDS);
        cluster.nodes.copy_from_slice(nodes);
        cluster.buses.copy_from_slice(buses);
        Ok(cluster)
    }

    /// Starts all of it, and waits until the nodes agree and respgate serves keys of every shard.
    pub async fn start(&mut self) -> io::Result<()> {
        for node in self.nodes {
            self.start_node(node)?;
        }
        for node in self.nodes {
            wait_for("the nodes to start", || async move { ask(node, "PING").await.is_ok() }).await?;
        }
        for ((node, epoch), range) in self.nodes.iter().zip(1..).zip(RANGES) {
            ask(*node, &format!("CLUSTER SET-CONFIG-EPOCH {epoch}")).await?;
            ask(*node, &format!("CLUSTER ADDSLOTSRANGE {} {}", range.start(), range.end())).await?;
        }
        let [first, others @ ..] = self.nodes;
        for (other, bus) in others.iter().zip(&self.buses[1..]) {
            ask(first, &format!("CLUSTER MEET 127.0.0.1 {other} {bus}")).await?;
        }
        for node in self.nodes {
            wait_for("the nodes to know each other", || async move {
                nodes(node)
                    .await
                    .is_ok_and(|known| known.iter().filter(|node| node.is_up).count() == 2 * SHARDS)
            })
            .await?;
        }
        for (primary, replica) in self.nodes.iter().zip(&self.nodes[SHARDS..]) {
            let id = ask(*primary, "CLUSTER MYID").await?.concat();
            ask(*replica, &format!("CLUSTER REPLICATE {id}")).await?;
        }
        for node in self.nodes {
            wait_for("the cluster to be ready", || async move { is_ready(node).await }).await?;
        }
        let (respgate, [one, two, three, ..]) = (self.respgate, self.nodes);
        let upstream = format!("redis-cluster://127.0.0.1:{one},127.0.0.1:{two},127.0.0.1:{three}");
        let ready = wait_for("respgate to reach every shard", || async move {
            for key in ["demo:ready:1", "demo:ready:2", "demo:ready:3", "demo:ready:4", "demo:ready:5"] {
                if ask(respgate.clients, &format!("DEL {key}")).await.is_err() {
                    return false;
                }
            }
            true
        });
        self.processes.start_respgate(respgate, &upstream, ready).await
    }

    fn start_node(&mut self, port: u16) -> io::Result<()> {
        let bus = self.nodes.iter().position(|node| *node == port).map_or(0, |at| self.buses[at]).to_string();
        // Two seconds of silence make a node "down" here; the default of fifteen is too slow to watch.
        let own = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"];
        // Without this, every shard refuses commands as soon as one has no primary.
        let coverage = ["--cluster-require-full-coverage", "no"];
        self.processes.start_server(port, &[&own[..], &coverage[..]].concat())
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.respgate.clients
    }

    /// The ports of the nodes.
    pub fn nodes(&self) -> &[u16] {
        &self.nodes
    }

    /// What runs where.
    pub fn introduction(&self) -> String {
        let family = self.processes.family();
        let list = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
        let (primaries, replicas) = self.nodes.split_at(SHARDS);
        format!(
            "\n  {family} primaries {}\n  {family} replicas  {}\n  respgate         {}\n  files            {}\n",
            list(primaries),
            list(replicas),
            self.respgate.clients,
            self.processes.folder(),
        )
    }

    /// What to do with it.
    pub fn invitation(&self) -> String {
        let family = self.processes.family();
        let Doors { clients, admin } = self.respgate;
        format!(
            "Your turn, until Ctrl-C:\n\n  talk to it    {family}-cli -p {clients}        (no -c: it looks like one server)\n  \
             look at it    {family}-cli -p {} CLUSTER NODES\n  \
             look inside   http://127.0.0.1:{admin}/ in a browser: the status page (also /metrics)\n",
            self.nodes[0],
        )
    }

    /// Kills a node without a warning.
    pub async fn crash(&mut self, port: u16) -> io::Result<()> {
        self.processes.crash(port).await
    }

    /// Starts a node that was killed. It finds its place in the cluster by its file.
    pub fn restart(&mut self, port: u16) -> io::Result<()> {
        self.start_node(port)
    }

    /// The last lines that respgate logged.
    pub fn log_tail(&self) -> String {
        self.processes.log_tail()
    }

    /// Lets respgate drain, ends the servers and removes the folder.
    pub async fn stop(self) -> io::Result<()> {
        self.processes.stop().await
    }
}

/// The nodes that a node knows.
pub async fn nodes(port: u16) -> io::Result<Vec<Node>> {
    let text = ask(port, "CLUSTER NODES").await?.concat();
    Ok(text.lines().filter_map(node).collect())
}

/// `id host:port@bus,name flags primary ping pong epoch link slot …`
fn node(line: &str) -> Option<Node> {
    let mut fields = line.split(' ');
    let (id, address, flags, primary) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let port = address.split('@').next()?.rsplit(':').next()?.parse().ok()?;
    let flags: Vec<&str> = flags.split(',').collect();
    // A slot that moves stands in brackets.
    let slots = fields.skip(4).filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    Some(Node {
        id: id.to_owned(),
        port,
        is_primary: flags.contains(&"master"),
        primary: primary.to_owned(),
        is_up: !flags.iter().any(|flag| ["fail", "fail?", "handshake", "noaddr"].contains(flag)),
        slots: slots.collect(),
    })
}

/// Whether a node serves, and is in sync if it is a replica.
async fn is_ready(port: u16) -> bool {
    let cluster = ask(port, "CLUSTER INFO").await.unwrap_or_default().concat();
    let replication = ask(port, "INFO replication").await.unwrap_or_default().concat();
    let in_sync = replication.contains("role:master") || replication.contains("master_link_status:up");
    let primaries = nodes(port).await.unwrap_or_default().iter().filter(|node| node.is_primary).count();
    cluster.contains("cluster_state:ok") && in_sync && primaries == SHARDS
}
