//! One server, one respgate with many kinds of listeners and clients' rights, and what both must look like when
//! everybody has left.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::client::encode;
use crate::support::cluster::{Cluster, ClusterPlan};
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::words::TREASURES;

/// What respgate's process may take besides one and a half of what it may keep for clients, in bytes: threads, TLS, tables, and what the
/// allocator keeps. The program itself does not count: a debug build takes 34 MiB, and an optimised one a third of that.
const BASE: usize = 40 << 20;

/// The largest value that the server keeps, in bytes. Larger ones are a matter of size, not of hostility, and would
/// measure the server.
const MAX_VALUE: &str = "4mb";

/// The password of each of respgate's users is `secret`: as `respgate hash-password` hashes it, and with little work.
const HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$mSJGHcgQ/Sh1B9vJ6N76Og$lwp8irVfOvoA5f2m7i/nrDr99G6Nne+Qki1wMTw1MdM";
const CHEAP_HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$2Huxnavx+f1swty09zxDRQ$RGYSCL3JgwR3INUYOxAuE1y5+1bBWgCYaWYxn2ZPdXQ";

/// Of the server's default user, as which only the test acts.
const ROOT: &str = "root-password";

/// What the server refuses to the user that respgate acts as: what ends, stops or changes the whole server by right.
const REFUSED: &str = "-flushall -flushdb -swapdb -shutdown -debug -replicaof -slaveof -failover -migrate -lcs -module \
    -save -bgsave -bgrewriteaof -cluster -pfselftest -config|set -config|rewrite -config|resetstat -acl|setuser \
    -acl|deluser -acl|load -acl|save -client|kill -client|pause -client|unblock";

/// What respgate may keep without clients, in bytes: a fan-in connection of each worker has a buffer to read into.
const IDLE_BYTES: f64 = 160.0 * 1024.0;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// How long respgate may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// Where a client comes in, and with which rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Of no tenant: everything but administrative commands.
    Free,
    /// With administrative commands, but without those that disconnect or unblock other clients.
    Admin,
    /// A tenant of victims, with prefixes.
    Victims,
    /// Another one, with fan-in.
    FanVictims,
    /// A tenant of attackers, with other prefixes.
    Mob,
    /// Another one, with fan-in.
    FanMob,
    /// respgate's HTTP side.
    Http,
}

impl Door {
    const LISTENERS: [Door; 6] =
        [Door::Free, Door::Admin, Door::Victims, Door::FanVictims, Door::Mob, Door::FanMob];

    fn name(self) -> &'static str {
        match self {
            Door::Free => "free",
            Door::Admin => "admin",
            Door::Victims => "victim",
            Door::FanVictims => "fanvictim",
            Door::Mob => "mob",
            Door::FanMob => "fanmob",
            Door::Http => "http",
        }
    }

    /// Whoever comes in here must not learn what a victim keeps.
    pub fn is_confined(self) -> bool {
        matches!(self, Door::Mob | Door::FanMob | Door::Http)
    }

    /// What keys and channels must begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Door::Victims => "v:",
            Door::FanVictims => "f:",
            Door::Mob | Door::FanMob => "a:",
            Door::Free | Door::Admin | Door::Http => "n:",
        }
    }
}

/// How respgate knows who a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// By the listener; clients may AUTH as users of the server.
    Listeners,
    /// By respgate's own users; every client must AUTH.
    Users,
    /// As `Listeners`, in front of a cluster of three primaries.
    Cluster,
}

/// Addresses and logins, for whoever connects.
#[derive(Clone, Debug)]
pub struct Doors {
    layout: Layout,
    ports: Vec<(Door, u16)>,
    /// The servers themselves, and what their default users must send first.
    pub direct: Vec<SocketAddr>,
    pub direct_login: Vec<u8>,
}

impl Doors {
    pub fn address(&self, door: Door) -> SocketAddr {
        let port = self.ports.iter().find(|(known, _)| *known == door).map(|(_, port)| *port);
        (Ipv4Addr::LOCALHOST, port.expect("every door has a port")).into()
    }

    /// Returns true if respgate is in front of a cluster.
    pub fn is_cluster(&self) -> bool {
        self.layout == Layout::Cluster
    }

    /// What a client of this door must send first, and will be answered with `+OK`.
    pub fn login(&self, door: Door) -> Option<Vec<u8>> {
        let needed = self.layout == Layout::Users && door != Door::Http;
        needed.then(|| encode(&["AUTH", door.name(), "secret"]))
    }
}

/// Connects from one of the machine's loopback addresses.
pub fn connect(address: SocketAddr, source: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&address.into(), CONNECT)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// How much clients may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What respgate may keep for clients, in bytes.
    pub max_buffered: usize,
    /// Requests and values are small, and passwords are cheap to check: for attackers that are to try much in little
    /// time. Otherwise the defaults hold.
    pub is_tight: bool,
}

impl Limits {
    pub const TIGHT: Self = Self { max_buffered: 32 << 20, is_tight: true };

    /// The most that respgate's process may take, in bytes, without the pages of its program.
    pub fn max_resident(self) -> usize {
        self.max_buffered + self.max_buffered / 2 + BASE
    }
}

/// What is started.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub flavor: Flavor,
    pub workers: usize,
    pub layout: Layout,
    pub limits: Limits,
}

/// What respgate is in front of.
enum Backend {
    One(Box<Server>),
    Cluster(Cluster),
}

impl Backend {
    fn start(setting: Setting) -> Self {
        let mut options = Vec::new();
        if setting.limits.is_tight {
            options.extend(["--proto-max-bulk-len", MAX_VALUE]);
        }
        if setting.layout == Layout::Cluster {
            let plan = ClusterPlan {
                replicas: 0,
                // A node that an attacker keeps busy is not down.
                node_timeout_ms: 60_000,
                password: Some(ROOT),
                options: &options,
                ..ClusterPlan::new(setting.flavor)
            };
            return Self::Cluster(Cluster::start(&plan));
        }
        // With a password, nobody becomes the user that may do everything.
        options.extend(["--databases", "4", "--requirepass", ROOT]);
        Self::One(Box::new(Server::start_with(setting.flavor, &options)))
    }

    fn servers(&self) -> Vec<&Server> {
        match self {
            Self::One(server) => vec![server],
            Self::Cluster(cluster) => cluster.nodes.iter().map(|node| &node.server).collect(),
        }
    }

    /// Runs a command at the server that has its key.
    fn run(&self, words: &[&str]) -> Vec<u8> {
        let answers = self.servers().into_iter().map(|server| server.run(words));
        answers.into_iter().find(|reply| !reply.starts_with(b"-MOVED ")).expect("a server of the key")
    }

    /// respgate's URL, without a scheme and a user.
    fn hosts(&self) -> String {
        let hosts: Vec<_> = self.servers().iter().map(|server| server.address().to_string()).collect();
        hosts.join(",")
    }
}

/// Running servers and respgate.
pub struct Arena {
    pub proxy: Proxy,
    pub limits: Limits,
    pub doors: Doors,
    backend: Backend,
    /// What respgate's connections look like to the server while they are clean.
    fresh: BTreeSet<String>,
    /// The treasures as they must stay.
    treasures: Vec<Vec<u8>>,
}

impl Arena {
    /// Starts everything; `secret` is in what victims keep.
    pub fn start(setting: Setting, secret: &str) -> Self {
        let backend = Backend::start(setting);
        for (name, keys) in [("app", "~*"), ("mallory", "~a:*")] {
            let mut words = vec!["ACL", "SETUSER", name, "on"];
            let password = format!(">{name}-password");
            words.extend([&*password, keys, "&*", "+@all"]);
            words.extend(REFUSED.split_ascii_whitespace());
            if setting.layout == Layout::Cluster {
                words.extend(["+cluster|nodes", "+cluster|slots"]);
            }
            for server in backend.servers() {
                assert_eq!(server.run(&words), b"+OK\r\n", "the server's user {name}");
            }
        }
        hide(&backend, secret);
        let mut ports: Vec<_> = Door::LISTENERS.into_iter().map(|door| (door, free_port())).collect();
        let mut proxy = Proxy::start_file(setting.workers, &configuration(setting, &ports, &backend.hosts()));
        // What is logged is judged by the round.
        proxy.allow_log("");
        ports.push((Door::Http, proxy.admin));
        let doors = Doors {
            layout: setting.layout,
            ports,
            direct: backend.servers().iter().map(|server| server.address()).collect(),
            direct_login: encode(&["AUTH", ROOT]),
        };
        let limits = setting.limits;
        let mut arena = Self { proxy, limits, doors, backend, fresh: BTreeSet::new(), treasures: Vec::new() };
        arena.treasures = arena.look_at_treasures();
        arena.warm_up();
        arena.fresh = arena.connections();
        arena
    }

    /// Opens connections of every kind.
    fn warm_up(&self) {
        for door in [Door::Free, Door::FanVictims] {
            for version in ["2", "3"] {
                let stream = connect(self.doors.address(door), Ipv4Addr::LOCALHOST).expect("a connection");
                drop(stream);
                let mut client = crate::support::client::Client::connect_to(self.doors.address(door));
                if let Some(login) = self.doors.login(door) {
                    client.send(login);
                    client.expect_reply("+OK\r\n");
                }
                client.call(&["HELLO", version]);
                client.call(&["GET", "f:nothing"]);
                client.call(&["BLPOP", "f:nothing", "0.01"]);
                client.call(&["SUBSCRIBE", "f:nothing"]);
            }
        }
    }

    /// The grammar of the server's commands.
    pub fn command_docs(&self) -> Vec<u8> {
        self.backend.servers().first().expect("a server").run(&["COMMAND", "DOCS"])
    }

    /// What the servers' lists of clients say, one after the other.
    fn client_lists(&self) -> String {
        self.backend.servers().iter().map(|server| server.run_text(&["CLIENT", "LIST"])).collect()
    }

    /// How the server describes respgate's connections: the state that a client can leave on one.
    fn connections(&self) -> BTreeSet<String> {
        const STATE: [&str; 12] = [
            "name",
            "flags",
            "sub",
            "psub",
            "ssub",
            "multi",
            "watch",
            "redir",
            "lib-name",
            "lib-ver",
            "capa",
            "resp3-push",
        ];
        let list = self.client_lists();
        let ours = list.lines().filter(|line| line.contains(" user=app ") || line.contains(" user=mallory "));
        let state = |line: &str| {
            let fields = line
                .split(' ')
                .filter(|field| field.split_once('=').is_some_and(|(name, _)| STATE.contains(&name)));
            fields.collect::<Vec<_>>().join(" ")
        };
        ours.map(state).collect()
    }

    fn look_at_treasures(&self) -> Vec<Vec<u8>> {
        TREASURES.iter().map(|key| self.backend.run(&["DUMP", key])).collect()
    }

    /// Connections to the server that a client has left in another state than it found.
    pub fn dirt(&self) -> Vec<String> {
        let dirty = self.connections().difference(&self.fresh).cloned().collect::<Vec<_>>();
        let tell = |state: &String| {
            format!("a connection to the server is kept for the next client in this state: {state}")
        };
        dirty.iter().map(tell).collect()
    }

    /// What respgate still keeps although every client has left.
    pub fn remains(&self) -> Vec<String> {
        let kept = [
            ("respgate_clients", 0.0),
            ("respgate_clients_pinned", 0.0),
            ("respgate_clients_held", 0.0),
            ("respgate_fanin_subscribers", 0.0),
            ("respgate_buffered_bytes", IDLE_BYTES),
        ];
        let kept = kept.map(|(name, most)| (name, most, self.proxy.metric(name, &[])));
        let kept = kept.into_iter().filter(|(_, most, now)| now > most);
        kept.map(|(name, _, now)| format!("all clients have left, and {name} is {now}")).collect()
    }

    /// What respgate's connections are at, as the server tells it.
    pub fn connections_at_work(&self) -> Vec<String> {
        let list = self.client_lists();
        list.lines()
            .filter(|line| line.starts_with("id=") && !line.contains(" user=default "))
            .map(str::to_owned)
            .collect()
    }

    /// Ends respgate as an operator does. Nobody is connected any more, so that nothing delays it.
    ///
    /// # Errors
    /// What is wrong with how it ended.
    pub fn end(mut self) -> Result<(), String> {
        let begun = Instant::now();
        self.proxy.signal("TERM");
        while begun.elapsed() < ENDS_WITHIN {
            if let Some(status) = self.proxy.exit_status() {
                return if status.success() { Ok(()) } else { Err(format!("respgate ended with {status}")) };
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.proxy.signal("QUIT");
        self.proxy.wait_for_exit();
        // Its drop would call this a panic of the test.
        std::mem::forget(self.proxy);
        Err(format!("respgate has not ended {ENDS_WITHIN:?} after SIGTERM, although nobody is connected"))
    }

    /// Which of the victims' known keys an attacker has changed.
    pub fn damage(&self) -> Vec<String> {
        let now = self.look_at_treasures();
        let changed =
            TREASURES.iter().zip(self.treasures.iter().zip(now)).filter(|(_, (was, is))| *was != is);
        changed.map(|(key, _)| format!("the victims' key {key} has changed")).collect()
    }
}

/// Puts the secret where only victims may look.
fn hide(backend: &Backend, secret: &str) {
    let [string, list, hash, set, zset, stream] = TREASURES;
    for words in [
        vec!["SET", string, secret],
        vec!["RPUSH", list, secret, secret],
        vec!["HSET", hash, "field", secret],
        vec!["SADD", set, secret],
        vec!["ZADD", zset, "1", secret],
        vec!["XADD", stream, "1-1", "field", secret],
        // What attackers ask for without taking it.
        vec!["SETRANGE", "a:k1", "1000000", "x"],
    ] {
        assert!(!backend.run(&words).starts_with(b"-"), "{words:?}");
    }
}

fn configuration(setting: Setting, ports: &[(Door, u16)], hosts: &str) -> String {
    let Setting { layout, limits, .. } = setting;
    let max_buffered = limits.max_buffered;
    let mut text = format!("[limits]\nmax-buffered = {max_buffered}\n");
    if limits.is_tight {
        text.push_str("max-request = \"8MiB\"\nmax-bulk = \"4MiB\"\n");
    }
    let scheme = if layout == Layout::Cluster { "redis-cluster" } else { "redis" };
    text.push_str(&format!("[upstreams.main]\nurl = \"{scheme}://app:app-password@{hosts}\"\n"));
    let hash = if limits.is_tight { CHEAP_HASH } else { HASH };
    if layout == Layout::Users {
        text.push_str("client-auth = \"required\"\n");
    }
    for (door, port) in ports {
        let name = door.name();
        text.push_str(&format!("[listeners.{name}]\naddress = \"127.0.0.1:{port}\"\n"));
        if *door == Door::Admin {
            text.push_str("admin-commands = \"allow\"\n");
        }
        let tenant = match door {
            Door::Free | Door::Http => String::new(),
            _ => format!("tenant = \"{name}\"\n"),
        };
        if layout == Layout::Users {
            text.push_str(&format!("[users.{name}]\npassword-hash = \"{hash}\"\n{tenant}"));
        } else {
            text.push_str(&tenant);
        }
        if *door == Door::Admin {
            // With these, an operator ends any client's session or wait by right.
            text.push_str("[tenants.admin]\ncommands = [\"+@all\", \"-client|kill\", \"-client|unblock\"]\n");
        } else if !tenant.is_empty() {
            let prefix = door.prefix();
            text.push_str(&format!(
                "[tenants.{name}]\nkey-prefixes = [\"{prefix}\"]\nchannel-prefixes = [\"{prefix}\"]\n"
            ));
        }
        match door {
            Door::Victims | Door::FanVictims => text.push_str("scripts = \"declared-keys\"\n"),
            _ => {}
        }
        if matches!(door, Door::FanVictims | Door::FanMob) {
            text.push_str("pubsub = \"fan-in\"\n");
        }
    }
    text
}
