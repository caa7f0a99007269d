//! Commands that wait for a primary: how many may, how long, and what becomes of those whose client leaves.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{Client, encode};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

const NO_PRIMARY: &str = "-ERR respgate: no primary to send to for ";
const NO_ROOM: &str = "-ERR respgate: no primary to send to, and waiting commands fill hold-buffer";

/// A server at a fixed address, and respgate with these keys in front of it.
fn start(workers: usize, keys: &str) -> (Server, Proxy) {
    let server = Server::start(Flavor::Valkey);
    let toml = format!("[upstreams.main]\naddress = \"127.0.0.1:{}\"\n{keys}\n", server.port);
    let mut proxy = Proxy::start_file(workers, &toml);
    proxy.allow_log("no primary");
    proxy.allow_log("respgate lost a shared upstream connection");
    (server, proxy)
}

fn held(proxy: &Proxy) -> f64 {
    proxy.metric("respgate_clients_held", &[])
}

/// Whoever waits gets an error that says why when the time is up, keeps the connection, and is served when the primary
/// is back. The memory is given back.
#[test]
fn a_hold_that_runs_out_fails_commands_and_keeps_clients() {
    let (mut server, proxy) = start(2, "hold-timeout = \"1s\"");
    let big = "x".repeat(60 * 1024);
    let mut clients: Vec<Client> = (0..32).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.expect(&["SET", "warm", &big], "+OK\r\n"));
    let mut pinned = proxy.client();
    pinned.expect(&["MULTI"], "+OK\r\n");
    let before = proxy.metric("respgate_buffered_bytes", &[]);
    server.crash();
    let crashed = Instant::now();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send_command(&["SET", &format!("k{number}"), &big]);
    }
    wait::until("all to be held", || held(&proxy) >= 32.0);
    // What the pinned client's lost connection had allocated does not count any more.
    assert!(proxy.metric("respgate_buffered_bytes", &[]) >= 32.0 * 60.0 * 1024.0);
    for client in &mut clients {
        let reply = String::from_utf8(client.reply()).unwrap();
        assert!(reply.starts_with(NO_PRIMARY) && reply.contains("refused"), "{reply}");
    }
    let took = crashed.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
    wait::until("nobody to be held", || held(&proxy) == 0.0);
    wait::until("the memory to be given back", || {
        proxy.metric("respgate_buffered_bytes", &[]) <= before + 64.0 * 1024.0
    });
    // Now they fail at once.
    let again = Instant::now();
    let reply = String::from_utf8(clients[0].call(&["GET", "k0"])).unwrap();
    assert!(reply.starts_with(NO_PRIMARY) && again.elapsed() < Duration::from_millis(500), "{reply}");
    // What a transaction had queued cannot be kept without a primary: its client must know.
    assert!(String::from_utf8_lossy(&pinned.rest()).is_empty());
    server.restart(&[]);
    for client in &mut clients {
        wait::until("a client to be served again", || client.call(&["SET", "k", "v"]) == b"+OK\r\n");
    }
    assert_eq!(server.run_text(&["DBSIZE"]), ":1\r\n", "nothing that failed was done");
    assert!(proxy.metric("respgate_hold_expired_total", &[]) >= 33.0, "they are counted");
}

/// A frozen server takes commands and does not answer: what it has been sent ends with `response-timeout`, what comes
/// after waits for `hold-timeout`.
#[test]
fn a_frozen_primary_is_given_up_and_taken_back() {
    let keys = "hold-timeout = \"1s\"\nresponse-timeout = \"1s\"\nconnect-timeout = \"300ms\"";
    let (server, mut proxy) = start(1, keys);
    proxy.allow_log("\"WARN\"");
    let (mut writer, mut reader) = (proxy.client(), proxy.client());
    writer.expect(&["SET", "k", "v"], "+OK\r\n");
    server.signal("STOP");
    writer.send_command(&["INCR", "n"]);
    reader.send_command(&["GET", "k"]);
    let unknown = String::from_utf8(writer.reply()).unwrap();
    assert!(unknown.starts_with("-OUTCOMEUNKNOWN "), "{unknown}");
    reader.expect_reply("-ERR respgate: the primary did not reply within response-timeout\r\n");
    let reply = String::from_utf8(writer.call(&["INCR", "n"])).unwrap();
    assert!(reply.starts_with(NO_PRIMARY), "{reply}");
    server.signal("CONT");
    // Unknown was the right word: it was in the socket, and ran.
    wait::until("the first INCR to run", || server.run_text(&["GET", "n"]) == "$1\r\n1\r\n");
    // It is dialled again within a second; what is refused until then does not run.
    wait::until("the primary to be taken back", || match writer.call(&["INCR", "n"]) {
        refused if refused.starts_with(NO_PRIMARY.as_bytes()) => false,
        reply => {
            assert_eq!(reply, b":2\r\n");
            true
        }
    });
    reader.expect(&["GET", "k"], "$1\r\nv\r\n");
}

#[test]
fn without_a_hold_commands_fail_at_once() {
    let (mut server, proxy) = start(1, "hold-timeout = \"0s\"");
    // A lane that must be opened first is no reason to fail.
    for _ in 0..3 {
        let mut client = proxy.client();
        client.expect(&["SELECT", "3"], "+OK\r\n");
        client.expect(&["SET", "k", "v"], "+OK\r\n");
    }
    proxy.client().expect(&["BLPOP", "list", "0.01"], "*-1\r\n");
    server.crash();
    let mut client = proxy.client();
    wait::until("commands to fail at once", || client.call(&["GET", "k"]).starts_with(NO_PRIMARY.as_bytes()));
    server.restart(&[]);
    wait::until("commands to be served again", || client.call(&["SET", "k", "v"]) == b"+OK\r\n");
}

/// What a client asked for that has left meanwhile is not done.
#[test]
fn a_client_that_leaves_while_it_is_held_is_forgotten() {
    let (mut server, proxy) = start(2, "");
    proxy.client().expect(&["SET", "warm", "1"], "+OK\r\n");
    let mut pinned = proxy.client();
    pinned.expect(&["MULTI"], "+OK\r\n");
    pinned.expect(&["SET", "queued", "1"], "+QUEUED\r\n");
    server.crash();
    let mut leaving: Vec<Client> = (0..10).map(|_| proxy.client()).collect();
    for (number, client) in leaving.iter_mut().enumerate() {
        match number % 3 {
            0 => client.send_command(&["SET", &format!("shared{number}"), "1"]),
            1 => client.send_command(&["EVAL", "return redis.call('set', 'script', '1')", "0"]),
            _ => client.send_command(&["BLPOP", "list", "0"]),
        }
    }
    let mut staying = proxy.client();
    staying.send_command(&["SET", "staying", "1"]);
    pinned.send_command(&["EXEC"]);
    wait::until("all to be held", || held(&proxy) == 12.0);
    drop(leaving);
    drop(pinned);
    wait::until("those that left to be forgotten", || held(&proxy) == 1.0);
    server.restart(&[]);
    staying.expect_reply("+OK\r\n");
    proxy.client().expect(&["RPUSH", "list", "v"], ":1\r\n");
    proxy.client().expect(&["DBSIZE"], ":2\r\n");
}

const BUDGET: usize = 4 * 1024 * 1024;
const FLOODERS: usize = 96;
const WRITES: usize = 8;
const SIZE: usize = 60 * 1024;

/// Far more is sent than may wait: memory stays within the budget, those for whom there is no room are told so at
/// once, and all that waits is done afterwards.
#[test]
fn a_flood_during_a_hold_stays_within_its_budget() {
    let (mut server, proxy) = start(2, &format!("hold-buffer = \"{BUDGET}B\""));
    let clients: Vec<Client> = (0..FLOODERS).map(|_| proxy.client()).collect();
    let resident = proxy.resident_bytes();
    server.crash();
    let mut first = proxy.client();
    first.send_command(&["SET", "first", "sign"]);
    wait::until("the crash to be noticed", || proxy.http("/readyz").starts_with("HTTP/1.1 503"));
    let threads: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(number, mut client)| {
            thread::spawn(move || {
                let write = encode(&["SET", &format!("flood:{number}"), &"x".repeat(SIZE)]);
                let all = write.repeat(WRITES);
                let mut replies = Vec::new();
                thread::scope(|scope| {
                    let mut writer = client.writer();
                    scope.spawn(move || writer.send(&all));
                    for _ in 0..WRITES {
                        replies.push(String::from_utf8_lossy(&client.reply()).into_owned());
                    }
                });
                replies
            })
        })
        .collect();
    wait::until("the room to be taken", || {
        proxy.metric("respgate_commands_refused_total", &[]) > 0.0 && held(&proxy) > 0.0
    });
    let mut most = (0.0_f64, 0);
    for _ in 0..20 {
        let buffered = proxy.metric("respgate_buffered_bytes", &[]);
        most = (most.0.max(buffered), most.1.max(proxy.resident_bytes()));
        thread::sleep(Duration::from_millis(20));
    }
    let waiting = held(&proxy);
    eprintln!("{waiting} held, {} bytes buffered, {} more resident", most.0, most.1.saturating_sub(resident));
    // Each worker's share may be passed by what one read brings. A client that is refused may be in the middle of its next
    // request, which takes at most 128 KiB by capacity and does not wait.
    let refused = FLOODERS - waiting as usize;
    let bound = BUDGET + 4 * 64 * 1024 + refused * 128 * 1024;
    assert!(most.0 <= bound as f64, "{} bytes are buffered", most.0);
    assert!(most.1 <= resident + BUDGET + 12 * 1024 * 1024, "{} bytes, from {resident}", most.1);
    server.restart(&[]);
    first.expect_reply("+OK\r\n");
    let replies: Vec<Vec<String>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let (mut done, mut refused) = (0, 0);
    for reply in replies.iter().flatten() {
        match reply.as_str() {
            "+OK\r\n" => done += 1,
            reply if reply.starts_with(NO_ROOM) => refused += 1,
            reply => panic!("{reply}"),
        }
    }
    assert_eq!(done + refused, FLOODERS * WRITES);
    // Who once waits has all that it sends done.
    let served =
        replies.iter().filter(|replies| replies.last().is_some_and(|last| last == "+OK\r\n")).count();
    eprintln!("{done} done, {refused} refused, {served} of {FLOODERS} clients served");
    assert!(served as f64 + 1.0 >= waiting && done >= BUDGET / SIZE / 2, "{done} done");
    assert!(refused > 0);
    wait::until("nobody to be held", || held(&proxy) == 0.0);
}
