//! Hosts that can be cut off from each other: network namespaces on a bridge, or loopback where there are none.
//!
//! Everything is made inside a namespace of this program's own, so nothing of the machine's network is touched and
//! all of it is gone when the last process of the run is.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::support::place::Place;

/// Set, to anything, in the program that runs inside.
const INSIDE: &str = "CHAOS_INSIDE";

/// The hosts of the data servers, each with a Sentinel beside it.
pub const HOSTS: usize = 3;

/// Namespaces of the hosts, and the one of respgate.
const NAMES: [&str; HOSTS + 1] = ["node1", "node2", "node3", "proxy"];

/// A host's number in [`NAMES`].
pub const PROXY: usize = HOSTS;

/// Two bridges that are not connected: whoever is moved to the second is cut off from the rest, and no packet says so.
/// The run itself is at the first. Its clients reach respgate by a link of their own, which is never cut.
const SETUP: &str = "
    mount -t tmpfs none /run
    mkdir /run/netns
    ip link set lo up
    ip link add main type bridge
    ip link add apart type bridge
    ip address add 10.77.0.254/24 dev main
    ip link set main up
    ip link set apart up
    number=1
    for name in node1 node2 node3 proxy; do
        ip netns add $name
        ip link add $name type veth peer name cluster netns $name
        ip link set $name master main up
        nsenter --net=/run/netns/$name ip link set lo up
        nsenter --net=/run/netns/$name ip address add 10.77.0.$number/24 dev cluster
        nsenter --net=/run/netns/$name ip link set cluster up
        number=$((number + 1))
    done
    ip link add clients type veth peer name clients netns proxy
    ip address add 10.78.0.1/30 dev clients
    ip link set clients up
    nsenter --net=/run/netns/proxy ip address add 10.78.0.2/30 dev clients
    nsenter --net=/run/netns/proxy ip link set clients up
";

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Hosts that can be cut off.
    Hosts,
    /// One host for everything.
    Loopback,
}

impl Network {
    /// Starts this program anew in a namespace of its own, where that is possible; where not, says why not, and gives
    /// what there is. `greet` is called once, outside; `settings` are variables for the inside.
    pub fn enter(settings: &[(&str, String)], greet: impl FnOnce()) -> Self {
        if std::env::var_os(INSIDE).is_some() {
            run("sh", &["-ec", SETUP]).expect("what could be set up a moment ago");
            return Self::Hosts;
        }
        greet();
        // As root, or else as a user who may have namespaces.
        let ways: [&[&str]; 2] =
            [&["--net", "--mount", "--"], &["--map-root-user", "--net", "--mount", "--"]];
        let mut why = String::new();
        for way in ways {
            match run("unshare", &[way, &["sh", "-ec", SETUP]].concat()) {
                Ok(()) => {
                    let this = std::env::current_exe().expect("the path of this program");
                    let settings = settings.iter().map(|(name, value)| (*name, value));
                    let error =
                        Command::new("unshare").args(way).arg(this).env(INSIDE, "1").envs(settings).exec();
                    panic!("unshare worked a moment ago: {error}");
                }
                Err(error) => why = error,
            }
        }
        println!("No network namespaces here ({why}): the steps that cut the network are left out.");
        Self::Loopback
    }

    /// Where the node of this number lives.
    pub fn node(self, number: usize) -> Place {
        match self {
            Self::Hosts => Place::within(NAMES[number], Ipv4Addr::new(10, 77, 0, number as u8 + 1)),
            Self::Loopback => Place::LOOPBACK,
        }
    }

    /// Where respgate lives, as its clients see it.
    pub fn proxy(self) -> Place {
        match self {
            Self::Hosts => Place::within(NAMES[PROXY], Ipv4Addr::new(10, 78, 0, 2)),
            Self::Loopback => Place::LOOPBACK,
        }
    }

    /// These hosts hear each other, and nobody else.
    pub fn part(self, hosts: &[usize]) {
        hosts.iter().for_each(|host| move_to("apart", NAMES[*host]));
    }

    /// Everybody hears everybody.
    pub fn heal(self) {
        if self == Self::Hosts {
            NAMES.iter().for_each(|name| move_to("main", name));
        }
    }
}

fn move_to(bridge: &str, name: &str) {
    run("ip", &["link", "set", name, "master", bridge]).unwrap_or_else(|error| panic!("{error}"));
}

/// Runs a program to its end; its complaint if it fails.
fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", complaint.trim().lines().last().unwrap_or("failed")))
}
