//! Discovery against real Sentinels and servers, Valkey's and Redis's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed unwrap is the test's verdict.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use respgate::discovery::config::{DiscoveryConfig, SentinelConfig};
use respgate::discovery::{self, Dialers, Discovery, Logins};
use respgate::hint::Hint;
use respgate::resp::Resp;
use respgate::resp::control::Control;
use respgate::resp::greeting::{GreetError, Greeting, Role, greet};
use respgate::resp::value::Value;
use respgate::rotation::login::Login;
use respgate::secret::{Credentials, Secret};
use respgate::topology::{Address, Generation, Outage, Primary, Topology};
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// A server or Sentinel; killed when dropped.
struct Node {
    process: Child,
    port: u16,
}

impl Node {
    fn start(program: &str, folder: &Path, port: u16, sentinel: bool, config: &str) -> Self {
        let file = folder.join(format!("{port}.conf"));
        let common = format!("port {port}\nbind 127.0.0.1\ndir {}\n", folder.display());
        std::fs::write(&file, common + config).unwrap();
        let mut command = Command::new(format!("{program}-server"));
        command.arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        if sentinel {
            command.arg("--sentinel");
        }
        let process = command.spawn().unwrap_or_else(|error| panic!("{program}-server: {error}"));
        let mut node = Self { process, port };
        let deadline = std::time::Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(std::time::Instant::now() < deadline, "{program} does not listen on {port}");
            assert!(node.process.try_wait().unwrap().is_none(), "{program} on {port} has ended");
            std::thread::sleep(Duration::from_millis(20));
        }
        node
    }

    fn server(program: &str, folder: &Path, extra: &str) -> Self {
        Self::start(program, folder, free_port(), false, &format!("save \"\"\n{extra}"))
    }

    fn address(&self) -> Address {
        Address::tcp("127.0.0.1", self.port)
    }

    async fn call(&self, args: &[&str]) -> Value {
        let stream = Dialers::default().data.dial(&self.address()).await.unwrap();
        let args: Vec<_> = args.iter().map(|arg| arg.as_bytes()).collect();
        Control::new(stream).call(&args, Instant::now() + Duration::from_secs(5)).await.unwrap()
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

struct Deployment {
    nodes: Vec<Node>,
    sentinels: Vec<Node>,
    folder: tempfile::TempDir,
    program: &'static str,
}

impl Deployment {
    async fn start(program: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let primary = Node::server(program, folder.path(), "");
        let follow = format!("replicaof 127.0.0.1 {}\nrepl-diskless-sync-delay 0\n", primary.port);
        let mut nodes = vec![primary];
        for _ in 0..2 {
            nodes.push(Node::server(program, folder.path(), &follow));
        }
        let config = format!(
            "sentinel monitor mymaster 127.0.0.1 {} 2\nsentinel down-after-milliseconds mymaster 1500\n\
             sentinel failover-timeout mymaster 10000\n",
            nodes[0].port
        );
        let sentinels: Vec<_> =
            (0..3).map(|_| Node::start(program, folder.path(), free_port(), true, &config)).collect();
        let deployment = Self { nodes, sentinels, folder, program };
        eventually("Sentinels know each other and the replicas", async || {
            for sentinel in &deployment.sentinels {
                let seen = sentinel.call(&["SENTINEL", "MASTER", "mymaster"]).await;
                let count = |key| seen.field(key).and_then(Value::integer);
                if count("num-other-sentinels") != Some(2) || count("num-slaves") != Some(2) {
                    return false;
                }
            }
            true
        })
        .await;
        deployment
    }

    fn config(&self, seeds: usize) -> SentinelConfig {
        let seeds = self.sentinels.iter().take(seeds).map(Node::address).collect();
        SentinelConfig::new(seeds, "mymaster")
    }

    fn discover(&self, config: SentinelConfig) -> Discovery {
        discovery::spawn(
            "db",
            DiscoveryConfig::Sentinel(config),
            Duration::from_secs(3),
            Logins::default(),
            Dialers::default(),
        )
    }
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn known(discovery: &mut Discovery, wanted: impl Fn(&Primary) -> bool) -> Primary {
    let found = discovery.topology.wait_for(|topology| topology.primary().is_some_and(|it| wanted(it)));
    let topology = timeout(PATIENCE, found).await.expect("no such primary in time").unwrap().clone();
    Primary::clone(topology.primary().unwrap())
}

async fn unknown(discovery: &mut Discovery, wanted: impl Fn(&Outage) -> bool) -> Outage {
    let lost = |topology: &Topology| matches!(topology, Topology::Unknown(outage) if wanted(outage));
    let found = timeout(PATIENCE, discovery.topology.wait_for(lost)).await.is_ok();
    match &*discovery.topology.borrow() {
        Topology::Unknown(outage) if found => Outage::clone(outage),
        other => panic!("no such outage in time, but {other:?}"),
    }
}

#[tokio::test]
async fn follows_a_failover_and_outlives_the_sentinels_on_valkey() {
    follows_a_failover_and_outlives_the_sentinels("valkey").await;
}

#[tokio::test]
async fn follows_a_failover_and_outlives_the_sentinels_on_redis() {
    follows_a_failover_and_outlives_the_sentinels("redis").await;
}

async fn follows_a_failover_and_outlives_the_sentinels(program: &'static str) {
    let mut deployment = Deployment::start(program).await;
    // Two of three are learnt.
    let mut discovery = deployment.discover(deployment.config(1));
    let first = known(&mut discovery, |_| true).await;
    assert_eq!((first.generation, first.address), (Generation(1), deployment.nodes[0].address()));
    assert_eq!(first.config_epoch, Some(0));
    assert_eq!(first.server.unwrap().server, program);
    let all_heard = |status: &discovery::DiscoveryStatus| {
        status.sentinels.len() == 3 && status.sentinels.iter().all(|sentinel| sentinel.subscribed)
    };
    timeout(PATIENCE, discovery.status.wait_for(all_heard)).await.unwrap().unwrap();

    let reply = deployment.sentinels[1].call(&["SENTINEL", "FAILOVER", "mymaster"]).await;
    assert_eq!(reply.text(), Some("OK"));
    let second = known(&mut discovery, |it| it.generation > Generation(1)).await;
    assert_eq!(second.generation, Generation(2));
    assert_eq!(second.config_epoch, Some(1));
    assert!(deployment.nodes[1..].iter().any(|node| node.address() == second.address));

    // Every Sentinel dies: the primary stays.
    let mut sentinels = std::mem::take(&mut deployment.sentinels);
    for sentinel in &mut sentinels {
        sentinel.kill();
    }
    let doubtful = |status: &discovery::DiscoveryStatus| matches!(&status.uncertainty, Some(Outage::SentinelsUnreachable(text)) if text.contains("refused"));
    timeout(PATIENCE, discovery.status.wait_for(doubtful)).await.unwrap().unwrap();
    discovery.hints.send(Hint::Lost(Generation(2))).await.unwrap();
    sleep(Duration::from_millis(500)).await;
    let still = discovery.topology.borrow().primary().unwrap().clone();
    assert_eq!((still.generation, &still.address), (Generation(2), &second.address));

    // It restarts, with no Sentinel to ask: another process, so another generation.
    let node = deployment.nodes.iter_mut().find(|node| node.address() == second.address).unwrap();
    node.kill();
    discovery.hints.send(Hint::Lost(Generation(2))).await.unwrap();
    let outage = unknown(&mut discovery, |outage| matches!(outage, Outage::Unverified(_))).await;
    assert!(outage.to_string().contains("refused"), "{outage}");
    let port = node.port;
    *node = Node::start(program, deployment.folder.path(), port, false, "save \"\"\n");
    let back = known(&mut discovery, |_| true).await;
    assert_eq!((back.generation, back.address), (Generation(3), second.address));
}

#[tokio::test]
async fn a_crash_that_takes_a_sentinel_along_is_followed() {
    let mut deployment = Deployment::start("valkey").await;
    let mut discovery = deployment.discover(deployment.config(3));
    known(&mut discovery, |it| it.generation == Generation(1)).await;
    deployment.sentinels.remove(0).kill();
    deployment.nodes[0].kill();
    discovery.hints.send(Hint::Lost(Generation(1))).await.unwrap();
    let second = known(&mut discovery, |it| it.generation > Generation(1)).await;
    assert_eq!((second.generation, second.config_epoch), (Generation(2), Some(1)));

    // The old primary comes back, still believing in itself: nobody follows it (probed all the same).
    let port = deployment.nodes[0].port;
    deployment.nodes[0] =
        Node::start(deployment.program, deployment.folder.path(), port, false, "save \"\"\n");
    discovery.hints.send(Hint::Lost(Generation(2))).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let still = discovery.topology.borrow().primary().unwrap().clone();
    assert_eq!((still.generation, &still.address), (Generation(2), &second.address));
}

#[tokio::test]
async fn each_misconfiguration_has_its_own_outage() {
    let folder = tempfile::tempdir().unwrap();
    let primary = Node::server("valkey", folder.path(), "requirepass datapw\n");
    let monitor = format!(
        "requirepass sentinelpw\nsentinel monitor mymaster 127.0.0.1 {} 1\nsentinel auth-pass mymaster datapw\n",
        primary.port
    );
    let sentinel = Node::start("valkey", folder.path(), free_port(), true, &monitor);
    let password = |text: &str| Some(Credentials { username: None, password: Secret::new(text) });
    let start = |name: &str, sentinel_password: Option<Credentials>, data_password: Option<Credentials>| {
        let config = SentinelConfig::new(vec![sentinel.address()], name);
        let logins = Logins { nodes: Login::new(data_password), sentinels: Login::new(sentinel_password) };
        discovery::spawn(
            "db",
            DiscoveryConfig::Sentinel(config),
            Duration::from_secs(3),
            logins,
            Dialers::default(),
        )
    };

    let mut right = start("mymaster", password("sentinelpw"), password("datapw"));
    assert!(known(&mut right, |_| true).await.server.is_some());
    // Clients bring the data password: whom Sentinel names is believed.
    let mut believed = start("mymaster", password("sentinelpw"), None);
    assert!(known(&mut believed, |_| true).await.server.is_none());

    for (mut wrong, expected) in [
        (start("mymaster", None, None), "requires a password (NOAUTH"),
        (start("mymaster", password("x"), None), "refuses the user or password (WRONGPASS"),
        (start("mymaster", password("sentinelpw"), password("x")), "check the upstream's user and password"),
    ] {
        let outage = unknown(&mut wrong, |outage| matches!(outage, Outage::Refused(_))).await.to_string();
        assert!(outage.contains(expected), "{outage}");
    }
    let mut misnamed = start("other", password("sentinelpw"), None);
    let outage = unknown(&mut misnamed, |outage| matches!(outage, Outage::UnknownName(_))).await.to_string();
    assert!(outage.contains("\"other\"") && outage.contains(&sentinel.port.to_string()), "{outage}");

    let elsewhere = |port| {
        let config = SentinelConfig::new(vec![Address::tcp("127.0.0.1", port)], "mymaster");
        discovery::spawn(
            "db",
            DiscoveryConfig::Sentinel(config),
            Duration::from_secs(3),
            Logins::default(),
            Dialers::default(),
        )
    };
    for (port, expected) in
        [(free_port(), "check that a server listens"), (primary.port, "requires a password")]
    {
        let mut lost = elsewhere(port);
        let outage = unknown(&mut lost, |outage| *outage != Outage::Starting).await.to_string();
        assert!(outage.contains(expected), "{outage}");
    }
    let plain = Node::server("redis", folder.path(), "");
    let mut lost = elsewhere(plain.port);
    let outage =
        unknown(&mut lost, |outage| matches!(outage, Outage::SentinelsUnreachable(_))).await.to_string();
    assert!(outage.contains("is no Sentinel"), "{outage}");
}

#[tokio::test]
async fn a_sentinel_user_who_may_only_ask_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let primary = Node::server("valkey", folder.path(), "");
    // The rules that Sentinel's documentation gives for clients: no SUBSCRIBE.
    let config = format!(
        "user app on >pw -@all +auth +hello +ping +sentinel|get-master-addr-by-name +sentinel|master \
         +sentinel|myid +sentinel|sentinels\nsentinel monitor mymaster 127.0.0.1 {} 1\n",
        primary.port
    );
    let sentinel = Node::start("valkey", folder.path(), free_port(), true, &config);
    let config = SentinelConfig::new(vec![sentinel.address()], "mymaster");
    let watcher = Credentials { username: Some("app".into()), password: Secret::new("pw") };
    let logins = Logins { sentinels: Login::new(Some(watcher)), ..Logins::default() };
    let mut discovery = discovery::spawn(
        "db",
        DiscoveryConfig::Sentinel(config),
        Duration::from_secs(3),
        logins,
        Dialers::default(),
    );
    known(&mut discovery, |_| true).await;
    assert!(!discovery.status.borrow().sentinels[0].subscribed);
}

#[tokio::test]
async fn names_ipv6_and_translated_addresses_are_dialled() {
    let folder = tempfile::tempdir().unwrap();
    let hidden = Node::server("valkey", folder.path(), "bind 127.0.0.1 -::1\n");
    let watch = |host: &str| {
        let config = format!(
            "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\nsentinel monitor mymaster {host} {} 1\n",
            hidden.port
        );
        Node::start("valkey", folder.path(), free_port(), true, &config)
    };
    let by_name = watch("localhost");
    let mut config = SentinelConfig::new(vec![Address::tcp("localhost", by_name.port)], "mymaster");
    let start = |config| {
        discovery::spawn(
            "db",
            DiscoveryConfig::Sentinel(config),
            Duration::from_secs(3),
            Logins::default(),
            Dialers::default(),
        )
    };
    assert_eq!(
        known(&mut start(config.clone()), |_| true).await.address,
        Address::tcp("localhost", hidden.port)
    );

    config.nat.insert(Address::tcp("localhost", hidden.port), hidden.address());
    assert_eq!(known(&mut start(config), |_| true).await.address, hidden.address());

    if TcpListener::bind("[::1]:0").is_ok() {
        let by_ipv6 = watch("::1");
        let config = SentinelConfig::new(vec![by_ipv6.address()], "mymaster");
        assert_eq!(known(&mut start(config), |_| true).await.address, Address::tcp("::1", hidden.port));
    }
}

#[tokio::test]
async fn a_fixed_address_is_verified_too() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::server("redis", folder.path(), "");
    let address = DiscoveryConfig::Fixed(node.address());
    let mut discovery =
        discovery::spawn("db", address, Duration::from_secs(3), Logins::default(), Dialers::default());
    assert_eq!(known(&mut discovery, |_| true).await.config_epoch, None);

    node.call(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]).await;
    discovery.hints.send(Hint::NotPrimary(Generation(1))).await.unwrap();
    unknown(&mut discovery, |outage| matches!(outage, Outage::Unverified(_))).await;
    node.call(&["REPLICAOF", "NO", "ONE"]).await;
    // What was connected while it was a replica is not used again.
    assert_eq!(known(&mut discovery, |_| true).await.generation, Generation(2));
}

#[tokio::test]
async fn both_servers_are_greeted_in_both_versions() {
    for program in ["valkey", "redis"] {
        let folder = tempfile::tempdir().unwrap();
        let rules =
            "user app on >pw ~* &* +@all -role\nuser narrow on >pw ~* -@all +get\nrequirepass secret\n";
        let node = Node::server(program, folder.path(), rules);
        let open = async |username: Option<&str>, password: Option<&str>, resp, database| {
            let credentials = password.map(|password| Credentials {
                username: username.map(str::to_owned),
                password: Secret::new(password),
            });
            let mut control = Control::new(Dialers::default().data.dial(&node.address()).await.unwrap());
            let greeting = Greeting::new(credentials.as_ref(), resp, database);
            let deadline = Instant::now() + Duration::from_secs(5);
            let greeted = greet(&mut control, &greeting, deadline).await?;
            let (mut stream, rest) = control.into_inner();
            assert!(rest.is_empty(), "{rest:?}");
            drop(tokio::io::AsyncWriteExt::shutdown(&mut stream).await);
            Ok::<_, GreetError>(greeted)
        };
        for resp in [Resp::V2, Resp::V3] {
            let greeted = open(None, Some("secret"), resp, 3).await.unwrap();
            assert_eq!(greeted.role, Some(Role::Primary { offset: Some(0) }));
            let server = greeted.server.unwrap();
            assert_eq!(server.server, program);
            assert!(server.version.contains('.') && server.modules.is_empty(), "{server:?}");

            let by_hello = open(Some("app"), Some("pw"), resp, 0).await.unwrap();
            assert_eq!(by_hello.role, Some(Role::Primary { offset: None }));
            // HELLO says it to everybody.
            let narrow = open(Some("narrow"), Some("pw"), resp, 0).await.unwrap();
            assert_eq!(narrow.role, Some(Role::Primary { offset: None }));

            let error = open(None, None, resp, 0).await.unwrap_err();
            assert!(
                matches!(&error, GreetError::AuthRequired(line) if line == "NOAUTH Authentication required."),
                "{error:?}"
            );
            let error = open(Some("app"), Some("bad"), resp, 0).await.unwrap_err();
            assert!(
                matches!(&error, GreetError::AuthRefused(line) if line.starts_with(b"WRONGPASS ")),
                "{error:?}"
            );
            let error = open(None, Some("secret"), resp, 999).await.unwrap_err();
            assert!(
                matches!(&error, GreetError::Select(line) if line == "ERR DB index is out of range"),
                "{error:?}"
            );
        }
        // No room for another client: said unasked, in place of the first reply.
        let mut held = Vec::new();
        let admin = Dialers::default().data.dial(&node.address()).await.unwrap();
        let mut admin = Control::new(admin);
        let soon = Instant::now() + Duration::from_secs(5);
        admin.call(&[b"AUTH", b"secret"], soon).await.unwrap();
        assert_eq!(
            admin.call(&[b"CONFIG", b"SET", b"maxclients", b"2"], soon).await.unwrap().text(),
            Some("OK")
        );
        // Connections of before may still count: the second client is in when it is told to authenticate, not to leave.
        let told = || {
            let mut stream = TcpStream::connect(("127.0.0.1", node.port)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"PING\r\n").unwrap();
            let mut line = [0; 64];
            let count = stream.read(&mut line).unwrap_or(0);
            (stream, String::from_utf8_lossy(&line[..count]).into_owned())
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (stream, line) = told();
            if line.starts_with("-NOAUTH") {
                held.push(stream);
                break;
            }
            assert!(Instant::now() < deadline, "the second client is not let in: {line}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let error = open(None, Some("secret"), Resp::V2, 0).await.unwrap_err();
        assert!(
            matches!(&error, GreetError::NotReady(line) if line == "ERR max number of clients reached"),
            "{error:?}"
        );
    }
}
