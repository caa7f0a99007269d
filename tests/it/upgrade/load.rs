//! Upgrades under load: no connection is refused, and no command fails.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::site::{Site, runs};
use crate::support::client::Client;
use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::servers::{Flavor, Server};
use crate::support::{signal, wait};

const UPGRADES: usize = 10;
/// Connects that are due each second.
const CONNECTS_PER_SECOND: u32 = 100;
/// The least rate, in connects each second, with which the test says something. A busy machine may not reach the one above.
const LEAST_RATE: f64 = 60.0;
/// Connects that each process serves, at least.
const CONNECTS_PER_UPGRADE: u32 = 40;
/// Threads that connect. A connect that takes long does not delay those of the other threads.
const CONNECTORS: usize = 8;

/// Threads that connect, write, read and leave, 100 times a second together, and one that keeps a connection busy.
struct Load {
    started: Instant,
    ends: Arc<AtomicBool>,
    connects: Arc<AtomicU32>,
    commands: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

/// What a load has done.
struct Done {
    connects: u32,
    /// Connects each second.
    rate: f64,
    /// Commands on the busy connection.
    commands: usize,
}

impl Load {
    /// Every thread panics at the first refused connection and at the first failed command.
    fn start(address: SocketAddr) -> Self {
        let started = Instant::now();
        let (ends, connects, commands) = (Arc::default(), Arc::default(), Arc::default());
        let mut load = Self { started, ends, connects, commands, threads: Vec::new() };
        let next = Arc::new(AtomicU32::new(0));
        for connector in 0..CONNECTORS {
            let (ends, connects, next) = (load.ends.clone(), load.connects.clone(), next.clone());
            load.threads.push(thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    // The time of each connect is fixed, so a slow moment is caught up with.
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let due = started + Duration::from_secs(1) / CONNECTS_PER_SECOND * number;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    connect_once(address, connector, number);
                    connects.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        let (ends, commands) = (load.ends.clone(), load.commands.clone());
        load.threads.push(thread::spawn(move || {
            let mut client = Client::connect_to(address);
            let mut count = 0;
            while !ends.load(Ordering::Relaxed) {
                count += 1;
                client.expect(&["INCR", "busy"], &format!(":{count}\r\n"));
                commands.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        }));
        load
    }

    /// Waits until `count` more connects have succeeded.
    fn wait_for_connects(&self, count: u32) {
        let before = self.connects.load(Ordering::Relaxed);
        wait::until("connects", || self.connects.load(Ordering::Relaxed) >= before + count);
    }

    /// Ends the load, and fails if a thread has failed.
    fn finish(self) -> Done {
        self.ends.store(true, Ordering::Relaxed);
        let elapsed = self.started.elapsed();
        let connects = self.connects.load(Ordering::Relaxed);
        for thread in self.threads {
            assert!(thread.join().is_ok(), "the load failed");
        }
        let rate = f64::from(connects) / elapsed.as_secs_f64();
        Done { connects, rate, commands: self.commands.load(Ordering::Relaxed) }
    }
}

/// Connects, writes a number, reads it again, and leaves: one write and mostly one read.
fn connect_once(address: SocketAddr, connector: usize, number: u32) {
    let mut stream = TcpStream::connect(address).expect("a connection that is not refused");
    stream.set_read_timeout(Some(wait::PATIENCE)).expect("a time limit");
    stream.set_nodelay(true).expect("no delay");
    let value = number.to_string();
    let (length, key) = (value.len(), format!("connector:{connector}"));
    let name = format!("${}\r\n{key}\r\n", key.len());
    let set = format!("*3\r\n$3\r\nSET\r\n{name}${length}\r\n{value}\r\n");
    let get = format!("*2\r\n$3\r\nGET\r\n{name}");
    stream.write_all(format!("{set}{get}").as_bytes()).expect("a write");
    let expected = format!("+OK\r\n${length}\r\n{value}\r\n");
    let mut reply = vec![0; expected.len()];
    stream.read_exact(&mut reply).expect("a whole reply");
    assert_eq!(String::from_utf8_lossy(&reply), expected);
}

/// Clients that were connected before an upgrade, in every state that an upgrade could break.
struct Settled {
    number: usize,
    blocked: Client,
    subscribed: Client,
    transaction: Client,
    idle: Vec<Client>,
}

/// Idle clients for each upgrade.
const IDLE: usize = 5;
/// All clients that are connected before each upgrade.
const SETTLED: usize = 3 + IDLE;
/// Those of them that a drain must cut at its deadline: the blocked client, and the one with an open transaction.
const BUSY: usize = 2;

impl Settled {
    fn connect(site: &Site, server: &Server, number: usize) -> Self {
        let mut blocked = site.proxy.client();
        blocked.send_command(&["BLPOP", &format!("queue:{number}"), "0"]);
        let mut subscribed = site.proxy.client();
        assert!(subscribed.call(&["SUBSCRIBE", &format!("channel:{number}")]).starts_with(b"*3"));
        let mut transaction = site.proxy.client();
        transaction.expect(&["MULTI"], "+OK\r\n");
        transaction.expect(&["INCR", &format!("transaction:{number}")], "+QUEUED\r\n");
        let mut idle: Vec<_> = (0..IDLE).map(|_| site.proxy.client()).collect();
        idle.iter_mut().for_each(|client| client.expect(&["PING"], "+PONG\r\n"));
        wait::until("a blocked client", || server.info("clients", "blocked_clients") == 1);
        Self { number, blocked, subscribed, transaction, idle }
    }

    /// Each of them goes on.
    fn go_on(&mut self, other: &mut Client) {
        let number = self.number;
        let (queue, channel) = (format!("queue:{number}"), format!("channel:{number}"));
        other.expect(&["RPUSH", &queue, "x"], ":1\r\n");
        self.blocked.expect_reply(&format!("*2\r\n${}\r\n{queue}\r\n$1\r\nx\r\n", queue.len()));
        other.expect(&["PUBLISH", &channel, "x"], ":1\r\n");
        let message = format!("*3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n$1\r\nx\r\n", channel.len());
        self.subscribed.expect_reply(&message);
        self.transaction.expect(&["EXEC"], "*1\r\n:1\r\n");
        self.idle.iter_mut().for_each(|client| client.expect(&["PING"], "+PONG\r\n"));
    }

    /// They are busy again when the deadline comes.
    fn get_busy(&mut self) {
        self.blocked.send_command(&["BLPOP", &format!("queue:{}", self.number), "0"]);
        self.transaction.expect(&["MULTI"], "+OK\r\n");
    }
}

#[test]
fn ten_upgrades_lose_nothing() {
    let server = Server::start(Flavor::Valkey);
    let url = format!("redis://127.0.0.1:{}", server.port);
    let mut site = Site::start("drain-timeout = \"1s\"", &url, "");
    site.proxy.allow_log("drain-timeout has passed");
    let load = Load::start(site.proxy.address());
    let mut settled = Vec::new();
    let mut slowest = Duration::ZERO;
    for number in 0..UPGRADES {
        settled.push(Settled::connect(&site, &server, number));
        let started = Instant::now();
        site.upgrade();
        slowest = slowest.max(started.elapsed());
        settled[number].go_on(&mut site.proxy.client());
        load.wait_for_connects(CONNECTS_PER_UPGRADE);
    }
    let done = load.finish();
    // The clients of each process were its own all the time, so every former process still runs.
    assert!(site.former().iter().all(|pid| runs(*pid)));
    let still = format!("still serves {} clients", SETTLED * UPGRADES);
    wait::until("the number of their clients", || site.proxy.http("/readyz").contains(&still));

    // A signal begins what upgrade-drain-timeout begins: all former processes drain, and cut who is still busy.
    settled.iter_mut().for_each(Settled::get_busy);
    wait::until("blocked clients", || server.info("clients", "blocked_clients") == UPGRADES as u64);
    let former = site.former().to_vec();
    former.iter().for_each(|pid| signal::send("TERM", *pid));
    for pid in former {
        site.wait_for_end(pid);
    }
    wait::until("the end of the former processes", || !site.proxy.http("/readyz").contains("former process"));
    let cut = cut_by_the_deadline(&site.proxy.log());
    let Done { connects, rate, commands } = done;
    eprintln!(
        "{UPGRADES} upgrades, the slowest {slowest:?}; {connects} connects, {rate:.0} each second, none refused; \
         {commands} commands on one connection, none failed; {} clients stayed with their processes; \
         cut by the deadline: {cut}",
        SETTLED * UPGRADES
    );
    assert!(rate >= LEAST_RATE, "only {rate:.0} connects each second");
    assert_eq!(cut, UPGRADES * BUSY);
}

/// Returns the number of clients that were still busy at the deadline, in all processes.
fn cut_by_the_deadline(log: &str) -> usize {
    let lines = log.lines().filter(|line| line.contains("drain-timeout has passed"));
    let clients = lines.map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of the log");
        line["clients"].as_u64().and_then(|clients| clients.try_into().ok()).unwrap_or(0_usize)
    });
    clients.sum()
}

/// Both processes follow the new primary, whichever of them is serving.
#[test]
fn a_failover_in_the_middle() {
    let deployment = Deployment::start(&Plan { replicas: 1, ..Plan::new(Flavor::Valkey) });
    deployment.wait_until_redundant();
    let mut site = Site::start("", &deployment.url(), "");
    site.proxy.allow_log("\"WARN\"");
    let mut before = site.proxy.client();
    before.expect(&["SET", "k", "before"], "+OK\r\n");
    let address = site.proxy.address();
    let ends = Arc::new(AtomicBool::new(false));
    let connector = thread::spawn({
        let ends = ends.clone();
        move || {
            let mut connects = 0;
            while !ends.load(Ordering::Relaxed) {
                // Reads wait for the new primary, and are repeated there.
                Client::connect_to(address).expect(&["EXISTS", "nothing"], ":0\r\n");
                connects += 1;
                thread::sleep(Duration::from_millis(10));
            }
            connects
        }
    });
    assert_eq!(deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]), "+OK\r\n");
    site.upgrade();
    wait::until("the failover", || {
        site.proxy.log().contains("failover") && before.call(&["SET", "k", "after"]) == b"+OK\r\n"
    });
    wait::until("the new primary to have the write", || {
        site.proxy.client().call(&["GET", "k"]) == b"$5\r\nafter\r\n"
    });
    before.expect(&["GET", "k"], "$5\r\nafter\r\n");
    ends.store(true, Ordering::Relaxed);
    assert!(connector.join().expect("no refused connection, no failed read") > 0);
}
