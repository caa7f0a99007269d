//! A cluster: primaries that share the slots, each with replicas.

use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;

use respgate::cluster::slot::{SLOTS, Slot};

use super::certificates::Certificates;
use super::port::free_port;
use super::servers::{Flavor, Server};
use super::wait;

/// What to start; see [`Cluster::start`].
#[derive(Clone)]
pub struct ClusterPlan<'a> {
    pub flavor: Flavor,
    pub primaries: usize,
    /// Replicas of each primary.
    pub replicas: usize,
    /// How long a node must be silent before the others call it down.
    pub node_timeout_ms: u32,
    /// The password of the default user, on every node.
    pub password: Option<&'a str>,
    /// More options for every node.
    pub options: &'a [&'a str],
    /// Nodes speak TLS with `NAME.crt`, and announce their TLS ports.
    pub tls: Option<(&'a Certificates, &'a str)>,
}

impl<'a> ClusterPlan<'a> {
    /// Three primaries with a replica each, without passwords.
    pub fn new(flavor: Flavor) -> Self {
        Self {
            flavor,
            primaries: 3,
            replicas: 1,
            node_timeout_ms: 1000,
            password: None,
            options: &[],
            tls: None,
        }
    }

    fn node(&self) -> ClusterNode {
        let (bus, timeout) = (free_port(), self.node_timeout_ms.to_string());
        let bus_text = bus.to_string();
        let mut options = vec!["--cluster-enabled", "yes", "--cluster-port", &bus_text];
        options.extend(["--cluster-node-timeout", &timeout, "--cluster-allow-replica-migration", "no"]);
        options.extend(["--cluster-replica-validity-factor", "0"]);
        if let Some(password) = self.password {
            options.extend(["--requirepass", password, "--masterauth", password]);
        }
        let server = match self.tls {
            None => Server::start_with(self.flavor, &[&options, self.options].concat()),
            Some((certificates, name)) => {
                options.extend(["--tls-replication", "yes", "--tls-cluster", "yes"]);
                Server::start_tls(self.flavor, certificates, name, &[&options, self.options].concat())
            }
        };
        let id = bulk(&server.run_text(&["CLUSTER", "MYID"]));
        ClusterNode { server, bus, id }
    }

    fn nodes(&self, count: usize) -> Vec<ClusterNode> {
        thread::scope(|scope| {
            let starting: Vec<_> = (0..count).map(|_| scope.spawn(|| self.node())).collect();
            starting.into_iter().map(|node| node.join().expect("a started node")).collect()
        })
    }
}

/// One node.
pub struct ClusterNode {
    pub server: Server,
    /// The port of the cluster bus.
    bus: u16,
    /// The id that the cluster knows it by.
    pub id: String,
}

/// A line of CLUSTER NODES.
#[derive(Clone, Debug)]
pub struct NodeLine {
    pub id: String,
    pub flags: Vec<String>,
    pub primary: Option<String>,
    pub epoch: u64,
    pub slots: Vec<RangeInclusive<u16>>,
}

/// Running servers; all killed on drop. Nodes are named by their place in `nodes`: first the primaries, then the replicas.
pub struct Cluster {
    pub nodes: Vec<ClusterNode>,
    flavor: Flavor,
    /// Nodes that were killed or removed.
    gone: Vec<usize>,
}

impl Cluster {
    /// Three primaries (nodes 0 to 2) with a replica each (nodes 3 to 5: node 3 is that of node 0, and so on).
    pub fn three(flavor: Flavor) -> Self {
        Self::start(&ClusterPlan::new(flavor))
    }

    /// Starts all nodes and waits until they agree and replicate.
    pub fn start(plan: &ClusterPlan<'_>) -> Self {
        let nodes = plan.nodes(plan.primaries * (1 + plan.replicas));
        let cluster = Self { nodes, flavor: plan.flavor, gone: Vec::new() };
        let share = SLOTS.div_ceil(plan.primaries);
        for (number, node) in cluster.nodes.iter().enumerate() {
            node.ok(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
            if number < plan.primaries {
                let (first, last) = (number * share, ((number + 1) * share).min(SLOTS) - 1);
                node.ok(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            }
        }
        for (number, node) in cluster.nodes.iter().enumerate() {
            cluster.nodes[number + 1..].iter().for_each(|other| node.meet(other));
        }
        cluster.wait_until("every node to know all others", |lines| {
            lines.len() == cluster.nodes.len() && !lines.iter().any(|line| line.has("handshake"))
        });
        for number in plan.primaries..cluster.nodes.len() {
            cluster.replicate(number, number % plan.primaries);
        }
        cluster.wait_until_agreed();
        cluster
    }

    /// The server of a node.
    pub fn server(&self, node: usize) -> &Server {
        &self.nodes[node].server
    }

    /// `redis-cluster://127.0.0.1:P1,…`; `rediss-cluster` with TLS.
    pub fn url(&self) -> String {
        let hosts: Vec<String> =
            self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.server.announced())).collect();
        let scheme = if self.nodes[0].server.tls_port.is_some() { "rediss-cluster" } else { "redis-cluster" };
        format!("{scheme}://{}", hosts.join(","))
    }

    /// What a node says of all nodes.
    pub fn view(&self, node: usize) -> Vec<NodeLine> {
        self.nodes[node].view()
    }

    /// The nodes that run and say that they are primaries, also those without slots.
    pub fn primaries(&self) -> Vec<usize> {
        self.running().filter(|node| self.myself(*node).has("master")).collect()
    }

    /// The slots that a node says that it serves.
    pub fn slots_of(&self, node: usize) -> Vec<RangeInclusive<u16>> {
        self.myself(node).slots
    }

    /// The node that says that it serves a slot.
    pub fn owner(&self, slot: u16) -> usize {
        wait::until_some("a node that serves the slot", wait::PATIENCE, || {
            self.primaries()
                .into_iter()
                .find(|node| self.slots_of(*node).iter().any(|range| range.contains(&slot)))
        })
    }

    /// The replicas of a node, as it knows them.
    pub fn replicas_of(&self, node: usize) -> Vec<usize> {
        let id = self.nodes[node].id.clone();
        let lines = self.view(node).into_iter().filter(|line| line.primary.as_ref() == Some(&id));
        lines.filter_map(|line| self.nodes.iter().position(|node| node.id == line.id)).collect()
    }

    /// Begins to move a slot, and moves no key: its present owner redirects with ASK for keys that it lacks.
    pub fn begin_move(&self, slot: u16, to: usize) {
        let (from, slot) = (self.owner(slot), slot.to_string());
        self.nodes[to].ok(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.nodes[from].id]);
        self.nodes[from].ok(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.nodes[to].id]);
    }

    /// Moves the keys of a slot, at most `count`, which [`Cluster::begin_move`] prepared. Returns how many it moved.
    pub fn move_keys(&self, slot: u16, to: usize, count: usize) -> usize {
        let (from, target) = (self.owner(slot), &self.nodes[to].server);
        let mut client = self.nodes[from].server.client();
        let reply = client.call(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &count.to_string()]);
        let text = String::from_utf8(reply).expect("keys that are text");
        let keys: Vec<&str> = text.lines().skip(2).step_by(2).collect();
        if keys.is_empty() {
            return 0;
        }
        let port = target.announced().to_string();
        let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000"];
        if let Some(password) = &target.password {
            migrate.extend(["AUTH", password]);
        }
        migrate.push("KEYS");
        migrate.extend(&keys);
        client.expect(&migrate, "+OK\r\n");
        keys.len()
    }

    /// Ends a move: the slot belongs to `to`. Returns when all primaries know it: if slots move faster, two primaries can come to name
    /// each other.
    pub fn finish_move(&self, slot: u16, to: usize) {
        let (from, id, text) = (self.owner(slot), &self.nodes[to].id, slot.to_string());
        self.nodes[to].ok(&["CLUSTER", "SETSLOT", &text, "NODE", id]);
        self.nodes[from].ok(&["CLUSTER", "SETSLOT", &text, "NODE", id]);
        let serves = |line: &NodeLine| line.slots.iter().any(|range| range.contains(&slot));
        wait::until("the primaries to know the slot's new owner", || {
            let knows = |node| self.view(node).iter().any(|line| line.id == *id && serves(line));
            self.primaries().into_iter().all(knows)
        });
    }

    /// Moves a slot with its keys, as `redis-cli --cluster reshard` does. Replicas learn of it by gossip.
    pub fn move_slot(&self, slot: u16, to: usize) {
        if self.owner(slot) == to {
            return;
        }
        self.begin_move(slot, to);
        while self.move_keys(slot, to, 100) > 0 {}
        self.finish_move(slot, to);
    }

    /// Lets the owner of a slot move it with its neighbours up to `last`, all at once, as Valkey 9 does, and returns when `to` has
    /// them. Returns false if the server cannot.
    pub fn migrate_slots(&self, first: u16, last: u16, to: usize) -> bool {
        let from = self.owner(first);
        let (first_text, last_text) = (first.to_string(), last.to_string());
        let command =
            ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", &first_text, &last_text, "NODE", &self.nodes[to].id];
        let reply = self.nodes[from].server.run_text(&command);
        if reply.starts_with("-ERR unknown subcommand") {
            return false;
        }
        assert_eq!(reply, "+OK\r\n");
        wait::until("the slots to move", || {
            let slots = self.slots_of(to);
            [first, last].iter().all(|slot| slots.iter().any(|range| range.contains(slot)))
        });
        true
    }

    /// Ends a node at once, as a crash would.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].server.crash();
        self.gone.push(node);
    }

    /// Lets a replica take over from its primary, which is up, and returns when it has.
    pub fn failover(&self, replica: usize) {
        wait::until("CLUSTER FAILOVER to succeed", || {
            self.nodes[replica].server.run_text(&["CLUSTER", "FAILOVER"]);
            let limit = Duration::from_secs(3);
            let started = std::time::Instant::now();
            while started.elapsed() < limit {
                if self.is_primary(replica) {
                    return true;
                }
                thread::sleep(Duration::from_millis(10));
            }
            false
        });
    }

    /// Returns true if a node says that it is a primary.
    pub fn is_primary(&self, node: usize) -> bool {
        self.myself(node).has("master")
    }

    /// Adds a primary without slots, and returns it once all nodes know it.
    pub fn add_node(&mut self, plan: &ClusterPlan<'_>) -> usize {
        let node = plan.node();
        let number = self.nodes.len();
        self.running().for_each(|known| self.nodes[known].meet(&node));
        self.nodes.push(node);
        self.wait_until_agreed();
        number
    }

    /// Makes a node the replica of another.
    pub fn replicate(&self, node: usize, of: usize) {
        wait::until("a node to become a replica", || {
            self.nodes[node].server.run(&["CLUSTER", "REPLICATE", &self.nodes[of].id]) == b"+OK\r\n"
        });
    }

    /// Makes all nodes forget a node without slots, and ends it.
    pub fn remove_node(&mut self, node: usize) {
        let id = self.nodes[node].id.clone();
        self.kill(node);
        self.running().for_each(|other| {
            self.nodes[other].server.run(&["CLUSTER", "FORGET", &id]);
        });
    }

    /// Waits until all nodes that run name the same owner for each slot, every slot has one, and replicas are in sync.
    pub fn wait_until_agreed(&self) {
        wait::until("the nodes of the cluster to agree", || {
            let mut views = self.running().map(|node| {
                let mut owners: Vec<_> = self
                    .view(node)
                    .into_iter()
                    .filter(|line| !line.slots.is_empty())
                    .map(|line| (line.id, line.slots))
                    .collect();
                owners.sort_by(|one, other| one.0.cmp(&other.0));
                owners
            });
            let Some(first) = views.next() else { return false };
            let served: usize = first.iter().flat_map(|(_, slots)| slots).map(ExactSizeIterator::len).sum();
            served == SLOTS
                && views.all(|view| view == first)
                && self.running().all(|node| self.is_settled(node))
        });
    }

    /// Returns true if a node finds the cluster healthy and, as a replica, is in sync.
    fn is_settled(&self, node: usize) -> bool {
        let server = &self.nodes[node].server;
        if !server.run_text(&["CLUSTER", "INFO"]).contains("cluster_state:ok") {
            return false;
        }
        let replication = server.run_text(&["INFO", "replication"]);
        replication.contains("role:master") || replication.contains("master_link_status:up")
    }

    /// Waits until this holds for what each node says.
    fn wait_until(&self, what: &str, holds: impl Fn(&[NodeLine]) -> bool) {
        wait::until(what, || self.running().all(|node| holds(&self.view(node))));
    }

    /// The nodes that run.
    pub fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|node| !self.gone.contains(node))
    }

    fn myself(&self, node: usize) -> NodeLine {
        let mut lines = self.view(node).into_iter();
        lines.find(|line| line.has("myself")).expect("a node that knows itself")
    }

    /// Which server it is.
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }
}

impl ClusterNode {
    fn ok(&self, arguments: &[&str]) {
        self.server.client().expect(arguments, "+OK\r\n");
    }

    fn meet(&self, other: &Self) {
        let (port, bus) = (other.server.announced().to_string(), other.bus.to_string());
        self.ok(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }

    fn view(&self) -> Vec<NodeLine> {
        let text = self.server.run_text(&["CLUSTER", "NODES"]);
        text.lines().filter_map(NodeLine::parse).collect()
    }
}

impl NodeLine {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let id = fields.next().filter(|id| id.len() == 40)?.to_owned();
        let _address = fields.next()?;
        let flags = fields.next()?.split(',').map(str::to_owned).collect();
        let primary = fields.next().filter(|id| *id != "-").map(str::to_owned);
        let epoch = fields.nth(2)?.parse().ok()?;
        let _link = fields.next()?;
        // A slot on its way stands in brackets.
        let slots = fields.filter(|slots| !slots.starts_with('['));
        let slots = slots.filter_map(|slots| {
            let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
            Some(first.parse().ok()?..=last.parse().ok()?)
        });
        Some(Self { id, flags, primary, epoch, slots: slots.collect() })
    }

    /// Returns true if the node has this flag.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }
}

/// The text of a bulk reply of one line.
fn bulk(reply: &str) -> String {
    reply.lines().nth(1).expect("a bulk reply").to_owned()
}

/// A key of this slot, which begins with `prefix`.
pub fn key_of(prefix: &str, slot: u16) -> String {
    let keys = (0_u32..).map(|number| format!("{prefix}:{number}"));
    keys.into_iter().find(|key| Slot::of(key.as_bytes()).number() == slot).expect("a key of the slot")
}
