//! Every byte that a client makes respgate keep is counted, and whoever holds most goes first when the budget is spent.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::client::{Client, encode};
use crate::support::compare::Pair;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

const MIB: usize = 1 << 20;
/// What respgate itself, its allocator and its sockets' buffers may take beside the budget.
const BASE: usize = 48 * MIB;

/// respgate with a budget, in front of a server, which ends after it.
struct Stage {
    proxy: Proxy,
    server: Server,
}

fn start(flavor: Flavor, workers: usize, budget: usize, more: &str) -> Stage {
    let server = Server::start(flavor);
    let toml = format!(
        "[limits]\nmax-buffered = \"{}MiB\"\nmax-request = \"{}MiB\"\n[upstreams.main]\naddress = \"127.0.0.1:{}\"\n{more}",
        budget / MIB,
        budget / MIB,
        server.port
    );
    let mut proxy = Proxy::start_file(workers, &toml);
    proxy.allow_log("max-buffered is spent: respgate disconnects");
    Stage { proxy, server }
}

/// Runs a function when it is dropped, after a panic too.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Runs `attack` and returns the most memory that respgate had resident meanwhile, beyond what it began with.
fn resident_while(proxy: &Proxy, attack: impl FnOnce()) -> usize {
    let before = proxy.resident_bytes();
    let (done, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(proxy.resident_bytes(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        let _done = OnDrop(|| done.store(true, Ordering::Relaxed));
        attack();
    });
    most.into_inner().saturating_sub(before)
}

/// The attack ran against a proxy whose memory stayed within its budget, and which still serves others.
#[track_caller]
fn stays_within(proxy: &Proxy, budget: usize, attack: impl FnOnce()) {
    let most = resident_while(proxy, || {
        attack();
        wait::until("the attackers' requests to be read", || {
            let before = proxy.metric("respgate_buffered_bytes", &[]);
            thread::sleep(Duration::from_millis(50));
            proxy.metric("respgate_buffered_bytes", &[]) <= before
        });
    });
    let bound = budget + budget / 2 + BASE;
    assert!(
        most < bound,
        "{} MiB more than before are resident, {} MiB are allowed",
        most / MIB,
        bound / MIB
    );
    proxy.client().expect(&["ECHO", "others are served"], "$17\r\nothers are served\r\n");
}

/// What many clients send without waiting for an answer; one that is disconnected meanwhile has had its share.
fn send_all(proxy: &Proxy, clients: usize, bytes: &[u8]) -> Vec<TcpStream> {
    (0..clients)
        .map(|_| {
            let mut stream = TcpStream::connect(proxy.address()).expect("a connection");
            stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a limit");
            let _ = stream.write_all(bytes);
            stream
        })
        .collect()
}

#[test]
fn names_of_clients_are_counted() {
    const BUDGET: usize = 32 * MIB;
    for (flavor, workers) in [(Flavor::Valkey, 1), (Flavor::Redis, 2)] {
        let stage = start(flavor, workers, BUDGET, "");
        let name = "n".repeat(12 * MIB);
        for command in [&["CLIENT", "SETNAME", &name][..], &["CLIENT", "SETINFO", "LIB-NAME", &name]] {
            let request = encode(command);
            stays_within(&stage.proxy, BUDGET, || drop(send_all(&stage.proxy, 8, &request)));
        }
        wait::until("all memory to be given back", || {
            stage.proxy.metric("respgate_buffered_bytes", &[]) < 1e6
        });
    }
}

#[test]
fn prefixes_names_and_transactions_are_counted() {
    const BUDGET: usize = 32 * MIB;
    for (flavor, workers) in [(Flavor::Valkey, 2), (Flavor::Redis, 1)] {
        let stage = start(flavor, workers, BUDGET, "");
        for (clients, size) in [(10, 12 * MIB), (60, MIB - 100)] {
            let prefix = "p".repeat(size);
            let tracking =
                [encode(&["HELLO", "3"]), encode(&["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", &prefix])];
            stays_within(&stage.proxy, BUDGET, || drop(send_all(&stage.proxy, clients, &tracking.concat())));
        }
        let names: Vec<String> = (0..5000).map(|at| format!("{at:0>250}")).collect();
        let subscribe: Vec<&str> =
            ["SUBSCRIBE"].into_iter().chain(names.iter().map(String::as_str)).collect();
        stays_within(&stage.proxy, BUDGET, || drop(send_all(&stage.proxy, 40, &encode(&subscribe))));
        let body = encode(&["SET", "k", &"v".repeat(100_000)]).repeat(12);
        let transaction = [encode(&["MULTI"]), body].concat();
        stays_within(&stage.proxy, BUDGET, || drop(send_all(&stage.proxy, 40, &transaction)));
    }
}

/// Subscribers that do not read: what waits for them is counted by what is allocated.
#[test]
fn messages_for_subscribers_that_do_not_read_are_counted() {
    const BUDGET: usize = 64 * MIB;
    for workers in [1, 2] {
        let fan_in = "[tenants.all]\ndefault = true\npubsub = \"fan-in\"\n";
        let stage = start(Flavor::Valkey, workers, BUDGET, fan_in);
        let mut subscribers: Vec<Client> = (0..500).map(|_| stage.proxy.client()).collect();
        for subscriber in &mut subscribers {
            subscriber.send_command(&["SUBSCRIBE", "news"]);
            subscriber.reply();
        }
        let message = "m".repeat(100_000);
        stays_within(&stage.proxy, BUDGET, || {
            for _ in 0..40 {
                stage.server.run(&["PUBLISH", "news", &message]);
            }
            wait::until("the budget to hold", || {
                stage.proxy.metric("respgate_buffered_bytes", &[]) < BUDGET as f64
            });
        });
    }
}

/// Those who hold unfinished requests for ever are disconnected, and not the one who needs memory next.
#[test]
fn who_holds_most_is_disconnected_and_not_who_asks_next() {
    const BUDGET: usize = 64 * MIB;
    for (flavor, workers) in [(Flavor::Valkey, 1), (Flavor::Redis, 2)] {
        let stage = start(flavor, workers, BUDGET, "");
        let mut honest = stage.proxy.client();
        let value = "v".repeat(MIB);
        honest.expect(&["SET", "k", &value], "+OK\r\n");
        let unfinished = [&b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$300000\r\n"[..], &[b'x'; 240_000]].concat();
        let mut holders = Vec::new();
        stays_within(&stage.proxy, BUDGET, || {
            holders = send_all(&stage.proxy, 300, &unfinished);
            // Bytes that are kept weigh more than bytes that are needed for a moment. respgate looks once a second.
            thread::sleep(Duration::from_secs(3));
            for _ in 0..20 {
                honest.expect(&["SET", "k", &value], "+OK\r\n");
                assert_eq!(honest.call(&["GET", "k"]).len(), MIB + "$1048576\r\n\r\n".len());
            }
        });
        assert!(stage.proxy.metric("respgate_clients_closed_total", &["reason=\"memory\""]) > 0.0);
        drop(holders);
    }
}

/// A client is told why it goes, and the largest goes first.
#[test]
fn the_largest_client_goes_first_and_is_told_why() {
    let mut pair = Pair::start_file(
        Flavor::Valkey,
        "[limits]\nmax-buffered = \"32MiB\"\nmax-request = \"32MiB\"\n[upstreams.main]\nurl = \"URL\"\n",
    );
    pair.proxy.allow_log("max-buffered is spent: respgate disconnects");
    let part = |size: usize, bytes: usize| {
        [format!("*2\r\n$4\r\nECHO\r\n${size}\r\n").as_bytes(), &vec![b'x'; bytes]].concat()
    };
    let (mut small, mut large) = (pair.proxy.client(), pair.proxy.client());
    small.send(part(2 * MIB, MIB));
    wait::until("the first to be counted", || {
        pair.proxy.metric("respgate_buffered_bytes", &[]) >= MIB as f64
    });
    large.send(part(30 * MIB, 30 * MIB));
    let told = large.rest();
    let expected = b"-ERR respgate: the memory for clients is spent (max-buffered), and this client is among those that hold most of it\r\n";
    assert_eq!(told.escape_ascii().to_string(), expected.escape_ascii().to_string());
    small.send(vec![b'x'; MIB]);
    small.send("\r\n");
    assert_eq!(small.reply().len(), 2 * MIB + "$2097152\r\n\r\n".len());
}
