//! What stands behind respgate: one server, or the primaries of a cluster.

use std::path::Path;

use crate::direct::{blocked_clients, calls};
use crate::support::cluster::{Cluster, ClusterPlan};
use crate::support::servers::Flavor;
use crate::wire::{Address, Wire};

/// What stands behind respgate, and what a session is compared with: always one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The server that the session is compared with.
    Server,
    /// A cluster of three primaries.
    Cluster,
}

impl Layout {
    pub const ALL: [Self; 2] = [Self::Server, Self::Cluster];

    /// Returns the name that `DIFFERENTIAL_LAYOUT` has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Cluster => "cluster",
        }
    }
}

/// The servers behind respgate, and a connection to each.
pub struct Behind {
    wires: Vec<Wire>,
    /// What DEBUG DIGEST makes of a database's number, if there are several nodes; see [`Behind::digest`].
    base: Vec<u8>,
    /// The key `address` or `url` of respgate's upstream.
    upstream: String,
    /// Ends the nodes when it is dropped.
    _cluster: Option<Cluster>,
}

impl Behind {
    /// The server at this socket.
    pub fn server(socket: &Path) -> Self {
        let upstream = format!("address = \"unix:{}\"", socket.display());
        Self { wires: vec![connect(socket)], base: Vec::new(), upstream, _cluster: None }
    }

    /// A cluster of three primaries, with `direct` as the server that it is compared with.
    pub fn cluster(flavor: Flavor, direct: &mut Wire) -> Self {
        let plan = ClusterPlan { replicas: 0, options: &["--hz", "100"], ..ClusterPlan::new(flavor) };
        let cluster = Cluster::start(&plan);
        let wires = cluster.nodes.iter().map(|node| connect(&node.server.socket())).collect();
        let upstream = format!("url = \"{}\"", cluster.url());
        Self { wires, base: base(direct), upstream, _cluster: Some(cluster) }
    }

    /// Where respgate finds the servers, as a line of its configuration.
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// A request to every server, and their replies.
    pub fn ask_each(&mut self, request: &[&str]) -> Vec<String> {
        self.wires.iter_mut().map(|wire| wire.ask_text(request)).collect()
    }

    /// Requests to every server.
    pub fn tell_each(&mut self, requests: &[&[&str]]) {
        for wire in &mut self.wires {
            wire.ask_all(requests);
        }
    }

    /// Clients that wait in a blocking command.
    pub fn blocked(&mut self) -> u64 {
        self.wires.iter_mut().map(blocked_clients).sum()
    }

    /// How often a command has been called, or refused, since CONFIG RESETSTAT.
    pub fn calls(&mut self, name: &str) -> u64 {
        self.wires.iter_mut().map(|wire| calls(wire, name)).sum()
    }

    /// The DEBUG DIGEST that one server has with the data of all.
    ///
    /// With one database, a server's digest is that of the database's number XOR those of its keys, or zero without keys.
    /// So an even number of digests lacks that of the number.
    pub fn digest(&mut self) -> String {
        let digests = self.ask_each(&["DEBUG", "DIGEST"]);
        if let [digest] = &digests[..] {
            return digest.clone();
        }
        let mut filled: Vec<Vec<u8>> = digests.iter().map(|digest| bytes(digest)).collect();
        filled.retain(|digest| digest.iter().any(|byte| *byte != 0));
        if filled.is_empty() {
            return text(&vec![0; self.base.len()]);
        }
        if filled.len().is_multiple_of(2) {
            filled.push(self.base.clone());
        }
        text(&xor(&filled))
    }
}

fn connect(socket: &Path) -> Wire {
    Wire::connect(&Address::Unix(socket.to_owned())).expect("a connection to a server")
}

/// The digest of the number of database 0: with two keys it is there once more than in the digests of each key alone.
fn base(server: &mut Wire) -> Vec<u8> {
    let mut digest = |keys: &[&str]| {
        server.ask(&["FLUSHALL"]);
        for key in keys {
            server.ask(&["SET", key, "x"]);
        }
        bytes(&server.ask_text(&["DEBUG", "DIGEST"]))
    };
    let digests = [digest(&["a"]), digest(&["b"]), digest(&["a", "b"])];
    server.ask(&["FLUSHALL"]);
    xor(&digests)
}

fn xor(all: &[Vec<u8>]) -> Vec<u8> {
    let both =
        |one: Vec<u8>, other: &Vec<u8>| one.iter().zip(other).map(|(one, other)| one ^ other).collect();
    let (first, rest) = all.split_first().expect("one digest at least");
    rest.iter().fold(first.clone(), both)
}

fn bytes(digest: &str) -> Vec<u8> {
    let pairs = digest.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(|pair| byte(pair).expect("a digest in hexadecimal digits")).collect()
}

fn text(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
