//! Clients that leave in the middle of everything, and servers that do: nobody else is handed what was theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{Client, encode};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

const LASTS: Duration = Duration::from_secs(1);

on_both_servers!(departures_under_load_shift_no_reply);

/// Half of the clients leave before their replies have come, or in the middle of one, with a reset or without; the
/// server's connections are closed now and then. The others check that every reply is theirs.
fn departures_under_load_shift_no_reply(flavor: Flavor) {
    let server = Server::start(flavor);
    let mut proxy = Proxy::start_with(&format!("redis://127.0.0.1:{}", server.port), 2, &[]);
    proxy.allow_log("lost a shared upstream connection");
    proxy.allow_log("no primary");
    let large = "x".repeat(100_000);
    proxy.client().expect(&["SET", "large", &large], "+OK\r\n");
    let (port, stop) = (proxy.port, Arc::new(AtomicBool::new(false)));
    let run = |work: fn(u16, usize, &AtomicBool)| {
        move |number: usize, stop: Arc<AtomicBool>| thread::spawn(move || work(port, number, &stop))
    };
    let (leaving, staying) = (run(leave), run(stay));
    let threads: Vec<_> = (0..4)
        .flat_map(|number| [leaving(number, Arc::clone(&stop)), staying(number, Arc::clone(&stop))])
        .collect();
    let start = Instant::now();
    while start.elapsed() < LASTS {
        thread::sleep(Duration::from_millis(150));
        server.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("a client"));
    wait::until("all to be gone", || proxy.metric("respgate_clients", &[]) == 0.0);
    wait::until("the memory to be given back", || proxy.metric("respgate_buffered_bytes", &[]) == 0.0);
    assert!(proxy.metric("respgate_upstream_connections", &["shared"]) <= 4.0);
}

fn leave(port: u16, number: usize, stop: &AtomicBool) {
    let mut turn = number;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let mut client = Client::connect(port);
        let tag = format!("theirs-{number}-{turn}");
        for _ in 0..8 {
            client.send_command(&["ECHO", &tag]);
            client.send_command(&["SET", &tag, &tag]);
            client.send_command(&["GET", "large"]);
        }
        match turn % 4 {
            // Unread input makes the close a reset.
            0 => {}
            1 => drop(client.try_reply()),
            2 => client.end_writes(),
            _ => client.send_command(&["BLPOP", &tag, "0"]),
        }
    }
}

fn stay(port: u16, number: usize, stop: &AtomicBool) {
    let tags: Vec<String> = (0..8).map(|part| format!("mine-{number}-{part}")).collect();
    let mut client = Client::connect(port);
    for tag in &tags {
        // A write whose connection is closed just then is of unknown outcome.
        wait::until("a write", || client.call(&["SET", tag, tag]) == b"+OK\r\n");
    }
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut client = Client::connect(port);
        for _ in 0..10 {
            turn += 1;
            let asked: Vec<&String> = (0..5).map(|step| &tags[(turn * step + turn) % tags.len()]).collect();
            let requests: Vec<u8> = asked.iter().flat_map(|tag| encode(&["GET", tag])).collect();
            client.send(requests);
            client.send_command(&["INCR", "counter"]);
            for tag in asked {
                client.expect_reply(&format!("${}\r\n{tag}\r\n", tag.len()));
            }
            let count = client.reply();
            assert!(
                count.starts_with(b":") || count.starts_with(b"-OUTCOMEUNKNOWN "),
                "{}",
                count.escape_ascii()
            );
        }
    }
}

on_both_servers!(a_refused_auth_in_a_pipeline_has_its_own_reply);

/// The server answers each request with its own error or reply, whatever stands before and behind a refused AUTH.
fn a_refused_auth_in_a_pipeline_has_its_own_reply(flavor: Flavor) {
    let server = Server::start_with(flavor, &["--requirepass", "right"]);
    let mut proxy = Proxy::start(&format!("redis://default:right@127.0.0.1:{}", server.port));
    proxy.allow_log("holds a password");
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    // Five wrong passwords of one user are answered before a source is slowed down.
    for _ in 0..5 {
        client.send("GET k\r\nAUTH wrong\r\nGET k\r\nAUTH nobody wrong\r\nAUTH right\r\nGET k\r\n");
        client.expect_reply("$1\r\nv\r\n");
        assert!(client.reply().starts_with(b"-WRONGPASS "));
        client.expect_reply("$1\r\nv\r\n");
        assert!(client.reply().starts_with(b"-WRONGPASS "));
        client.replies_are(&["+OK\r\n", "$1\r\nv\r\n"]);
    }
}
