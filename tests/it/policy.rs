//! What becomes of requests that were sent and not answered when the primary dies, as the upstream's policy says.

use std::time::Duration;

use crate::support::client::Client;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

const UNKNOWN: &str = "-OUTCOMEUNKNOWN ";

/// A server at a fixed address, and respgate with these keys in front of it.
fn start(flavor: Flavor, keys: &str) -> (Server, Proxy) {
    let server = Server::start(flavor);
    let proxy =
        Proxy::start_file(1, &format!("[upstreams.main]\naddress = \"127.0.0.1:{}\"\n{keys}\n", server.port));
    (server, proxy)
}

/// Sends each request on a connection of its own while the server sleeps, kills the server and starts it anew, and
/// gives the replies: each request was sent once to a server that died before it could answer.
fn across_a_crash(server: &mut Server, proxy: &mut Proxy, requests: &[&[&str]]) -> Vec<String> {
    proxy.allow_log("respgate lost a shared upstream connection");
    // A server that starts slowly is down for longer than respgate waits with that line.
    proxy.allow_log("no primary: cannot connect");
    let mut clients: Vec<Client> = requests.iter().map(|_| proxy.client()).collect();
    clients[0].expect(&["SET", "warm", "1"], "+OK\r\n");
    let mut sleeper = server.client();
    sleeper.send_command(&["DEBUG", "SLEEP", "60"]);
    let before = proxy.metric("respgate_upstream_writes_total", &[]);
    let sent = proxy.metric("respgate_commands_total", &["shared"]);
    for (client, request) in clients.iter_mut().zip(requests) {
        client.send_command(request);
    }
    let all = sent + requests.len() as f64;
    wait::until("all requests to be sent", || {
        proxy.metric("respgate_commands_total", &["shared"]) >= all
            && proxy.metric("respgate_upstream_writes_total", &[]) > before
    });
    // The lane puts a write off for a few turns of its worker; each scrape takes at least one.
    for _ in 0..20 {
        proxy.metric("respgate_commands_total", &[]);
    }
    for client in &mut clients {
        client.expect_silence(Duration::from_millis(1));
    }
    server.restart(&[]);
    clients.iter_mut().map(|client| String::from_utf8_lossy(&client.reply()).into_owned()).collect()
}

const REQUESTS: [&[&str]; 6] = [
    &["SET", "set", "1"],
    &["SADD", "sadd", "a"],
    &["INCR", "incr"],
    &["SET", "nx", "1", "NX"],
    &["RPUSH", "rpush", "a"],
    &["GET", "set"],
];

on_both_servers!(no_write_is_sent_again_by_default);

fn no_write_is_sent_again_by_default(flavor: Flavor) {
    let (mut server, mut proxy) = start(flavor, "");
    let replies = across_a_crash(&mut server, &mut proxy, &REQUESTS);
    assert!(replies[..5].iter().all(|reply| reply.starts_with(UNKNOWN)), "{replies:?}");
    assert_eq!(replies[5], "$-1\r\n");
    assert_eq!(server.run_text(&["DBSIZE"]), ":0\r\n");
}

on_both_servers!(writes_with_the_same_reply_are_sent_again_where_allowed);

fn writes_with_the_same_reply_are_sent_again_where_allowed(flavor: Flavor) {
    let (mut server, mut proxy) = start(flavor, "retry-writes = \"same-reply\"");
    let replies = across_a_crash(&mut server, &mut proxy, &REQUESTS);
    assert_eq!(replies[0], "+OK\r\n");
    assert!(replies[1..5].iter().all(|reply| reply.starts_with(UNKNOWN)), "{replies:?}");
    assert_eq!(server.run_text(&["DBSIZE"]), ":1\r\n");
}

on_both_servers!(idempotent_writes_are_sent_again_where_allowed);

fn idempotent_writes_are_sent_again_where_allowed(flavor: Flavor) {
    let (mut server, mut proxy) = start(flavor, "retry-writes = \"idempotent\"");
    let replies = across_a_crash(&mut server, &mut proxy, &REQUESTS);
    assert_eq!(replies[..2], ["+OK\r\n", ":1\r\n"]);
    assert!(replies[2..5].iter().all(|reply| reply.starts_with(UNKNOWN)), "{replies:?}");
    assert_eq!(server.run_text(&["DBSIZE"]), ":2\r\n");
}

on_both_servers!(reads_are_not_sent_again_where_that_is_forbidden);

fn reads_are_not_sent_again_where_that_is_forbidden(flavor: Flavor) {
    let (mut server, mut proxy) = start(flavor, "retry-reads = false");
    let replies = across_a_crash(&mut server, &mut proxy, &[&["GET", "a"], &["MGET", "a", "b"]]);
    let lost = "-ERR respgate: the connection to the primary was lost before this read was answered (retry-reads is off)\r\n";
    assert_eq!(replies, [lost, lost]);
    assert_eq!(proxy.metric("respgate_commands_resent_total", &[]), 0.0);
    assert_eq!(proxy.metric("respgate_outcome_unknown_total", &[]), 0.0);
}

/// While there is no primary, commands wait within `hold-buffer`; one more fails at once, whichever way it would go, and
/// those that wait are done when the primary is back.
#[test]
fn commands_wait_within_the_hold_buffer() {
    let (mut server, mut proxy) = start(Flavor::Valkey, "hold-buffer = \"64KiB\"");
    proxy.allow_log("no primary");
    proxy.allow_log("respgate lost a shared upstream connection");
    proxy.client().expect(&["SET", "warm", "1"], "+OK\r\n");
    server.crash();
    let big = "x".repeat(60 * 1024);
    let mut first = proxy.client();
    first.send_command(&["SET", "a", &big]);
    let mut second = proxy.client();
    second.send_command(&["BLPOP", "list", "0"]);
    wait::until("both to be held", || proxy.metric("respgate_clients_held", &[]) == 2.0);
    for request in [["SET", "b", &big], ["BLPOP", &big, "0"]] {
        let refused = String::from_utf8(proxy.client().call(&request)).unwrap();
        assert!(
            refused.starts_with("-ERR respgate: no primary to send to, and waiting commands fill"),
            "{refused}"
        );
    }
    // Small ones have room, until a flood takes it; who waits already is not refused.
    let mut third = proxy.client();
    third.send_command(&["SET", "c", "1"]);
    wait::until("a third to be held", || proxy.metric("respgate_clients_held", &[]) == 3.0);
    for _ in 0..1000 {
        third.send_command(&["INCR", "d"]);
    }
    wait::until("the room to be taken", || {
        let mut late = proxy.client();
        late.deadline(Duration::from_millis(100));
        late.send_command(&["SET", "e", "1"]);
        late.try_reply().is_ok_and(|reply| reply.starts_with(b"-ERR respgate: no primary"))
    });
    server.restart(&[]);
    first.expect_reply("+OK\r\n");
    third.expect_reply("+OK\r\n");
    for count in 1..=1000 {
        third.expect_reply(&format!(":{count}\r\n"));
    }
    proxy.client().expect(&["RPUSH", "list", "v"], ":1\r\n");
    second.expect_reply("*2\r\n$4\r\nlist\r\n$1\r\nv\r\n");
    wait::until("nobody to be held", || proxy.metric("respgate_clients_held", &[]) == 0.0);
}

#[test]
fn a_blocked_pop_ends_or_goes_on_as_it_is_told() {
    for continues in [false, true] {
        let keys = if continues { "blocked-pop = \"continue\"" } else { "" };
        let (mut server, mut proxy) = start(Flavor::Valkey, keys);
        proxy.allow_log("no primary");
        let (mut endless, mut limited) = (proxy.client(), proxy.client());
        endless.send_command(&["BLPOP", "a", "0"]);
        limited.send_command(&["BLPOP", "b", "60"]);
        wait::until("both to be blocked", || server.info("clients", "blocked_clients") == 2);
        server.restart(&[]);
        if continues {
            wait::until("both to be blocked again", || server.info("clients", "blocked_clients") == 2);
            server.run(&["RPUSH", "a", "v"]);
            server.run(&["RPUSH", "b", "v"]);
            endless.expect_reply("*2\r\n$1\r\na\r\n$1\r\nv\r\n");
            limited.expect_reply("*2\r\n$1\r\nb\r\n$1\r\nv\r\n");
        } else {
            let reply = String::from_utf8(endless.reply()).unwrap();
            assert!(reply.starts_with(UNKNOWN), "{reply}");
            limited.expect_reply("*-1\r\n");
        }
    }
}
