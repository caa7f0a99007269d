//! Upgrades under load: no connection is refused, and no command fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::site::{Site, runs};
use crate::support::client::Client;
use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

const UPGRADES: usize = 10;
const CONNECTORS: usize = 2;
/// Time from one connect of a connector to its next.
const CONNECT_INTERVAL: Duration = Duration::from_millis(20);

/// Threads that connect, write, read and leave, about 100 times a second, and threads that keep a connection busy.
struct Load {
    ends: Arc<AtomicBool>,
    connects: Arc<AtomicUsize>,
    commands: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Every thread panics at the first refused connection and at the first failed command.
    fn start(address: SocketAddr) -> Self {
        let (ends, connects, commands) = (Arc::default(), Arc::default(), Arc::default());
        let mut load = Self { ends, connects, commands, threads: Vec::new() };
        for number in 0..CONNECTORS {
            let (ends, connects) = (load.ends.clone(), load.connects.clone());
            load.threads.push(thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    let mut client = Client::connect_to(address);
                    let value = format!("{}", connects.fetch_add(1, Ordering::Relaxed));
                    let key = format!("connector:{number}");
                    client.expect(&["SET", &key, &value], "+OK\r\n");
                    client.expect(&["GET", &key], &format!("${}\r\n{value}\r\n", value.len()));
                    thread::sleep(CONNECT_INTERVAL.saturating_sub(started.elapsed()));
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

    /// Ends the load, and fails if a thread has failed.
    fn finish(self) -> (usize, usize) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads {
            assert!(thread.join().is_ok(), "the load failed");
        }
        (self.connects.load(Ordering::Relaxed), self.commands.load(Ordering::Relaxed))
    }
}

/// Clients that were connected before an upgrade, in every state that an upgrade could break.
struct Settled {
    number: usize,
    blocked: Client,
    subscribed: Client,
    transaction: Client,
    idle: Client,
}

impl Settled {
    fn connect(site: &Site, server: &Server, number: usize) -> Self {
        let mut blocked = site.proxy.client();
        blocked.send_command(&["BLPOP", &format!("queue:{number}"), "0"]);
        let mut subscribed = site.proxy.client();
        assert!(subscribed.call(&["SUBSCRIBE", &format!("channel:{number}")]).starts_with(b"*3"));
        let mut transaction = site.proxy.client();
        transaction.expect(&["MULTI"], "+OK\r\n");
        transaction.expect(&["INCR", &format!("transaction:{number}")], "+QUEUED\r\n");
        let mut idle = site.proxy.client();
        idle.expect(&["PING"], "+PONG\r\n");
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
        self.idle.expect(&["PING"], "+PONG\r\n");
    }
}

#[test]
fn ten_upgrades_lose_nothing() {
    let server = Server::start(Flavor::Valkey);
    let mut site = Site::start("", &format!("redis://127.0.0.1:{}", server.port), "");
    let load = Load::start(site.proxy.address());
    let mut settled = Vec::new();
    let mut slowest = Duration::ZERO;
    for number in 0..UPGRADES {
        settled.push(Settled::connect(&site, &server, number));
        let started = Instant::now();
        site.upgrade();
        slowest = slowest.max(started.elapsed());
        settled[number].go_on(&mut site.proxy.client());
    }
    let (connects, commands) = load.finish();
    // The clients of each process were its own all the time, so every former process still runs.
    assert!(site.former().iter().all(|pid| runs(*pid)));
    let still = format!("still serves {} clients", 4 * UPGRADES);
    wait::until("the number of their clients", || site.proxy.http("/readyz").contains(&still));
    eprintln!(
        "{UPGRADES} upgrades, the slowest {slowest:?}; {connects} connects, none refused; {commands} commands on one connection, none failed; cut by the deadline: 0"
    );
    drop(settled);
    for pid in site.former().to_vec() {
        site.wait_for_end(pid);
    }
    wait::until("the end of the former processes", || !site.proxy.http("/readyz").contains("former process"));
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
