//! Sentinels that say what is not so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::support::port::free_port;
use crate::support::scripted::{Said, Scripted, as_primary, as_sentinel};

/// How long it lies. The rule is tested for a whole minute in `discovery`, on a clock of the test's own.
const LIE: Duration = Duration::from_secs(8);

/// The only Sentinel names a node that says it is a replica, or refuses whatever is written to it, while clients
/// press: commands wait, and few connections are made.
#[test]
fn a_lie_costs_a_bounded_number_of_connections() {
    let lies = Arc::new(AtomicBool::new(true));
    let node = |answer: fn(&AtomicBool, &[String]) -> Vec<u8>| {
        let lies = Arc::clone(&lies);
        Scripted::start(move |command| Said::Bytes(answer(&lies, command)))
    };
    for (node, what) in [(node(replica), "replica"), (node(refuses), "refuses")] {
        let port = node.port;
        let sentinel = Scripted::start(move |command| Said::Bytes(as_sentinel(command, port, 1)));
        let url = format!("redis-sentinel://127.0.0.1:{}/0#{NAME}", sentinel.port);
        let mut proxy = Proxy::launch(free_port(), 1, &["--upstream", &url]);
        proxy.allow_log("\"WARN\"");
        lies.store(true, Ordering::Relaxed);
        let mut clients: Vec<_> = (0..8).map(|_| proxy.client()).collect();
        for client in &mut clients {
            client.send_command(&["SET", "k", "v"]);
        }
        clients[0].expect_silence(LIE);
        let (dials, questions) = (node.accepted(), sentinel.accepted());
        eprintln!("{what}: {dials} connections to the node, {questions} to the Sentinel in {LIE:?}");
        // Some 5 a second for the probes, and as many for each worker's connection.
        assert!(dials <= 120, "{what}: {dials} connections to the node in {LIE:?}");
        assert!(questions <= 4, "{what}: {questions} connections to the Sentinel in {LIE:?}");
        // It comes true, and what has waited is answered.
        lies.store(false, Ordering::Relaxed);
        clients.iter_mut().for_each(|client| client.expect_reply("+OK\r\n"));
    }
}

fn refuses(lies: &AtomicBool, command: &[String]) -> Vec<u8> {
    match as_primary(command) {
        Some(reply) => reply,
        None if lies.load(Ordering::Relaxed) => {
            b"-READONLY You can't write against a read only replica.\r\n".to_vec()
        }
        None => b"+OK\r\n".to_vec(),
    }
}

fn replica(lies: &AtomicBool, command: &[String]) -> Vec<u8> {
    match command[0].to_uppercase().as_str() {
        "ROLE" if lies.load(Ordering::Relaxed) => {
            b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:1\r\n$9\r\nconnected\r\n:0\r\n".to_vec()
        }
        _ => refuses(lies, command),
    }
}
