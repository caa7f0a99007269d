//! Passwords that are guessed: from elsewhere, from beside a client that knows it, and from thousands of networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// Of the password `secret`, with little work.
const QUICK: &str =
    "$argon2id$v=19$m=8,t=1,p=1$2Huxnavx+f1swty09zxDRQ$RGYSCL3JgwR3INUYOxAuE1y5+1bBWgCYaWYxn2ZPdXQ";
/// Of some password, with the usual 19 MiB.
const USUAL: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$iArroSHG8LwEAE7v5/stug$Ia3Z0DJB80Xn1XExqxGqGO7rkTkktxY6g0ZfD7KMpRs";

const WRONG: &[u8] = b"-WRONGPASS ";
const TOO_SOON: &[u8] = b"-ERR respgate: too many wrong passwords came from this address; retry in ";

/// Who knows the users.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Users {
    Respgate,
    Server,
}

/// A server and respgate, whose user `app` has the password `secret`. Clients of `behind` say where they come from.
struct Stage {
    proxy: Proxy,
    server: Server,
    behind: u16,
}

impl Stage {
    fn set(flavor: Flavor, workers: usize, users: Users) -> Self {
        Self::with_hash(flavor, workers, users, QUICK)
    }

    fn with_hash(flavor: Flavor, workers: usize, users: Users, hash: &str) -> Self {
        let server = Server::start(flavor);
        server.run(&["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all"]);
        let behind = free_port();
        let own = match users {
            Users::Respgate => format!("[users.app]\npassword-hash = \"{hash}\"\n"),
            Users::Server => String::new(),
        };
        let file = format!(
            "[listeners.behind]\naddress = \"127.0.0.1:{behind}\"\nproxy-protocol = [\"127.0.0.0/8\"]\n\
             [upstreams.main]\nurl = \"redis://127.0.0.1:{}\"\nclient-auth = \"required\"\n{own}",
            server.port
        );
        Self { proxy: Proxy::start_file(workers, &file), server, behind }
    }

    fn from(&self, source: impl Into<IpAddr>) -> Client {
        let mut client = Client::connect(self.behind);
        client.send(match source.into() {
            IpAddr::V4(source) => format!("PROXY TCP4 {source} 192.0.2.1 1000 6379\r\n"),
            IpAddr::V6(source) => format!("PROXY TCP6 {source} 2001:db8::1 1000 6379\r\n"),
        });
        client
    }

    fn throttled(&self) -> f64 {
        self.proxy.metric("respgate_auth_throttled_total", &[])
    }
}

/// The /64 of this number within one IPv6 /48.
fn v6(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xbad, number, 0, 0, 0, 1)
}

/// Sends AUTHs until one is answered with OK; returns how long that took.
#[track_caller]
fn let_in(client: &mut Client) -> Duration {
    let began = Instant::now();
    wait::until("the right password to be let in", || {
        let reply = client.call(&["AUTH", "app", "secret"]);
        assert!(reply == b"+OK\r\n" || reply.starts_with(TOO_SOON), "{}", reply.escape_ascii());
        reply == b"+OK\r\n"
    });
    began.elapsed()
}

fn each(users: Users, test: impl Fn(Stage)) {
    for flavor in Flavor::ALL {
        for workers in [1, 2] {
            test(Stage::set(flavor, workers, users));
        }
    }
}

/// While a user's password is known to respgate, another address learns no more about it than before: it has five guesses, and
/// then ten in a second that only the right password would pass.
fn guess_from_elsewhere(stage: Stage) {
    let address = stage.proxy.address();
    let mut known = stage.proxy.client();
    known.expect(&["AUTH", "app", "secret"], "+OK\r\n");
    let (wrong, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let guesses = AtomicUsize::new(0);
    let before = stage.server.info("stats", "total_connections_received");
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                let mut guesser = Client::connect_from(Ipv4Addr::new(127, 0, 0, 9), address);
                while !stop.load(Ordering::Relaxed) {
                    let number = guesses.fetch_add(1, Ordering::Relaxed).to_string();
                    let reply = guesser.call(&["AUTH", "app", &number]);
                    let counted = reply.starts_with(WRONG);
                    assert!(counted || reply.starts_with(TOO_SOON), "{}", reply.escape_ascii());
                    wrong.fetch_add(usize::from(counted), Ordering::Relaxed);
                }
            });
        }
        // Nobody else notices; the password is still known, whoever asks.
        for _ in 0..50 {
            known.expect(&["AUTH", "app", "secret"], "+OK\r\n");
            stage.proxy.client().expect(&["AUTH", "app", "secret"], "+OK\r\n");
            stage.from(Ipv4Addr::new(198, 51, 100, 7)).expect(&["AUTH", "app", "secret"], "+OK\r\n");
            thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
    });
    // 5 at once, then after 0.1 s, 0.2 s, 0.4 s, …
    let doublings = (began.elapsed().as_millis() / 100 + 1).ilog2() as usize;
    let (wrong, guesses) = (wrong.into_inner(), guesses.into_inner());
    assert!((5..=6 + doublings).contains(&wrong), "{wrong} of {guesses} guesses in {:?}", began.elapsed());
    assert!(stage.throttled() > 0.0);
    let dialled = stage.server.info("stats", "total_connections_received") - before;
    assert!(dialled <= wrong as u64 + 10, "{dialled} connections for {wrong} guesses");
}

#[test]
fn guessing_from_elsewhere_own_users() {
    each(Users::Respgate, guess_from_elsewhere);
}

#[test]
fn guessing_from_elsewhere_the_server_s_users() {
    each(Users::Server, guess_from_elsewhere);
}

/// Sidecars behind one address: one guesses without a pause, the other knows the password and gets in soon.
fn guess_beside(stage: Stage) {
    let here = Ipv4Addr::new(198, 51, 100, 7);
    stage.from(Ipv4Addr::new(203, 0, 113, 1)).expect(&["AUTH", "app", "secret"], "+OK\r\n");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut neighbour = stage.from(here);
            while !stop.load(Ordering::Relaxed) {
                assert!(neighbour.call(&["AUTH", "app", "guess"]).starts_with(b"-"));
            }
        });
        wait::until("the guesser to be slowed down", || stage.throttled() > 0.0);
        for _ in 0..5 {
            let waited = let_in(&mut stage.from(here));
            assert!(waited < Duration::from_secs(2), "{waited:?}");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn guessing_beside_a_client_own_users() {
    each(Users::Respgate, guess_beside);
}

#[test]
fn guessing_beside_a_client_the_server_s_users() {
    each(Users::Server, guess_beside);
}

/// More IPv6 networks than an IPv6 /50 has, each with a wrong password. New addresses are let in at once; within the guessers' own
/// network they wait for a turn.
#[test]
fn thousands_of_networks_lock_nobody_out() {
    for (flavor, workers, users) in [(Flavor::Valkey, 2, Users::Respgate), (Flavor::Redis, 1, Users::Server)]
    {
        let mut stage = Stage::set(flavor, workers, users);
        // Some guessers leave before their header has been read.
        stage.proxy.allow_log("without a valid PROXY header");
        let offend = |numbers: std::ops::Range<u16>| {
            for at in numbers.clone().step_by(400) {
                let mut clients: Vec<_> =
                    (at..numbers.end.min(at + 400)).map(|number| stage.from(v6(number))).collect();
                clients.iter_mut().for_each(|client| client.send("AUTH app guess\r\n"));
                // A reply: they have been read.
                assert!(
                    clients.iter_mut().next_back().is_some_and(|client| client.reply().starts_with(b"-"))
                );
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| offend(0..8225));
            scope.spawn(|| offend(8225..16_450));
        });
        for source in [IpAddr::from([192, 0, 2, 77]), "2001:db8:900d::1".parse().expect("an address")] {
            stage.from(source).expect(&["AUTH", "app", "secret"], "+OK\r\n");
        }
        stage.proxy.client().expect(&["AUTH", "app", "secret"], "+OK\r\n");
        assert!(let_in(&mut stage.from(v6(20_000))) < Duration::from_secs(5));
        assert!(let_in(&mut stage.from(v6(0))) < Duration::from_secs(5), "an offender that learnt it");
        assert!(stage.throttled() > 0.0, "{users:?}");
    }
}

/// A pool that reconnects sends the right password many times at once, before any server has said that it is right.
#[test]
fn a_cold_storm_of_one_right_password_is_let_in() {
    for users in [Users::Respgate, Users::Server] {
        each(users, |stage| {
            let before = stage.server.info("stats", "total_connections_received");
            let mut clients: Vec<_> = (0..100).map(|_| stage.proxy.client()).collect();
            clients.iter_mut().for_each(|client| client.send("AUTH app secret\r\nPING\r\n"));
            clients.iter_mut().for_each(|client| client.replies_are(&["+OK\r\n", "+PONG\r\n"]));
            assert_eq!(stage.throttled(), 0.0);
            let dialled = stage.server.info("stats", "total_connections_received") - before;
            assert!(dialled < 20, "{dialled} connections for one password");
        });
    }
}

on_both_servers!(a_server_without_a_password_answers_itself);

/// A server without a password says so, as often as it is asked: that is no guess.
fn a_server_without_a_password_answers_itself(flavor: Flavor) {
    let server = Server::start(flavor);
    let proxy = Proxy::start(&format!("redis://127.0.0.1:{}", server.port));
    let (mut through, mut direct) = (proxy.client(), server.client());
    for _ in 0..12 {
        let reply = direct.call(&["AUTH", "x"]);
        assert!(reply.starts_with(b"-ERR AUTH <password> called without any password configured"));
        assert_eq!(through.call(&["AUTH", "x"]), reply);
    }
    assert_eq!(proxy.metric("respgate_auth_throttled_total", &[]), 0.0);
}

/// Hashing takes the memory of its few threads, however many addresses send passwords.
#[test]
fn hashing_memory_is_bounded() {
    for (flavor, workers) in [(Flavor::Valkey, 1), (Flavor::Redis, 2)] {
        let stage = Stage::with_hash(flavor, workers, Users::Respgate, USUAL);
        let before = stage.proxy.resident_bytes();
        let mib = |bytes: usize| bytes / (1 << 20);
        for sources in [40, 300] {
            let mut clients: Vec<_> = (0..sources)
                .map(|number| stage.from(Ipv4Addr::from_bits(0x0a00_0000 + number * 256)))
                .collect();
            clients.iter_mut().for_each(|client| client.send("AUTH app guess\r\n"));
            for client in &mut clients {
                client.deadline(Duration::from_secs(60));
                let reply = client.reply();
                assert!(reply.starts_with(WRONG), "{}", reply.escape_ascii());
                let grown = stage.proxy.resident_bytes().saturating_sub(before);
                assert!(mib(grown) < 19 * workers + 20, "{} MiB more after {sources} addresses", mib(grown));
            }
        }
    }
}

/// A client that leaves a long pipeline of wrong passwords is not served to its end, at a tenth of a second each, whoever checks them.
#[test]
fn a_pipeline_of_a_client_that_left_ends() {
    // A session reads 64 KiB ahead, so it does not read the end of the longer pipeline.
    for (users, passwords) in
        [(Users::Respgate, 400), (Users::Server, 400), (Users::Respgate, 4000), (Users::Server, 4000)]
    {
        let stage = Stage::set(Flavor::Valkey, 1, users);
        let mut client = stage.proxy.client();
        let wrong = crate::support::client::encode(&["AUTH", "app", "wrong"]);
        client.send(wrong.repeat(passwords));
        client.end_writes();
        let gone = || (stage.proxy.metric("respgate_clients", &[]) == 0.0).then_some(());
        wait::until_some("the session to end", Duration::from_secs(8), gone);
    }
}
