//! File descriptors when there are few.

use crate::support::client::Client;
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

on_both_servers!(clients_never_take_the_last_descriptors, workers: [1, 2]);

/// Clients that want every descriptor are turned away in the server's words, and the others are served by new
/// connections as before.
fn clients_never_take_the_last_descriptors(flavor: Flavor, workers: usize) {
    let server = Server::start(flavor);
    let upstream = format!("redis://127.0.0.1:{}", server.port);
    let limited = ["sh", "-c", "ulimit -n 240; exec \"$@\"", "sh"];
    let flags = ["--upstream", &upstream];
    let mut proxy = Proxy::launch_under(&limited, free_port(), workers, &flags);
    proxy.allow_log("respgate refuses clients: it keeps the remaining file descriptors");
    proxy.wait_until_ready();
    let (mut served, mut refused) = (Vec::new(), 0);
    for _ in 0..300 {
        let Ok(mut client) = Client::try_connect(proxy.address()) else { break };
        client.send("PING\r\n");
        match client.try_reply() {
            Ok(reply) if reply == b"+PONG\r\n" => served.push(client),
            Ok(reply) => {
                assert_eq!(reply, b"-ERR max number of clients reached\r\n");
                refused += 1;
            }
            // The reset of a refused client may overtake the words.
            Err(_) => refused += 1,
        }
    }
    assert!(served.len() >= 40 && refused >= 100, "{} served, {refused} refused", served.len());
    let descriptors = || proxy.descriptors();
    assert!(descriptors() < 240 - 66, "{} descriptors", descriptors());
    assert!(proxy.http("/livez").starts_with("HTTP/1.1 200"));
    assert!(proxy.http("/readyz").starts_with("HTTP/1.1 200"));
    // Leases, and a shared connection of its own for another database.
    let (blocked, others) = served.split_at_mut(5);
    for (at, client) in blocked.iter_mut().enumerate() {
        client.send(format!("BLPOP list{at} 20\r\n"));
    }
    for client in others.iter_mut() {
        client.expect(&["EVAL", "return 7", "0"], ":7\r\n");
    }
    others[0].expect(&["SELECT", "3"], "+OK\r\n");
    others[0].expect(&["SET", "k", "v"], "+OK\r\n");
    for (at, client) in blocked.iter_mut().enumerate() {
        others[1].expect(&["RPUSH", &format!("list{at}"), "x"], ":1\r\n");
        client.expect_reply(&format!("*2\r\n$5\r\nlist{at}\r\n$1\r\nx\r\n"));
    }
    // Who leaves makes room.
    served.clear();
    wait::until("a place", || {
        let Ok(mut client) = Client::try_connect(proxy.address()) else { return false };
        client.send("PING\r\n");
        client.try_reply().is_ok_and(|reply| reply == b"+PONG\r\n")
    });
}

/// A limit that leaves nothing for clients is a fault of the start.
#[test]
fn a_limit_that_is_too_low_is_said() {
    let script = "ulimit -n 100; exec \"$@\"";
    let output = std::process::Command::new("sh")
        .args(["-c", script, "sh", &crate::support::proxy::binary(), "--upstream", "redis://127.0.0.1:1"])
        .args(["--listen", "127.0.0.1:0", "--workers", "1"])
        .output()
        .expect("respgate");
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(71), "{log}");
    assert!(log.contains("only 100 files may be open, and respgate keeps"), "{log}");
}
