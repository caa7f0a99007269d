//! Sentinels that say what is not so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::support::port::free_port;
use crate::support::scripted::{Said, Scripted, as_primary, as_sentinel};

/// How long they lie. The rule is tested for a whole minute in `discovery`, on a clock of the test's own.
const LIE: Duration = Duration::from_secs(8);

/// What the lying node says.
type Answer = fn(&AtomicBool, &[String]) -> Vec<u8>;

/// The bound: discovery asks a node five times a second at most, and less and less often; a lane, or a session with a
/// connection of its own, dials some ten times at first and then about twice a second.
fn most(lanes: usize) -> usize {
    let seconds = LIE.as_secs() as usize;
    5 * seconds + lanes * (10 + 3 * seconds)
}

/// Two Sentinels of three name a node that says it is a replica, or refuses whatever is written to it, while clients
/// press: commands wait, few connections are made, and none to the node that only the third one names.
#[test]
fn a_lie_costs_a_bounded_number_of_connections() {
    let _turn = Turn::wait();
    let lies: [(Answer, &str); 2] = [(replica, "replica"), (refuses, "refuses")];
    thread::scope(|scope| {
        for (answer, what) in lies {
            scope.spawn(move || lie(answer, what));
        }
    });
}

fn lie(answer: Answer, what: &str) {
    let lies = Arc::new(AtomicBool::new(true));
    let lying = Arc::clone(&lies);
    let node = Scripted::start(move |command| Said::Bytes(answer(&lying, command)));
    let other =
        Scripted::start(|command| Said::Bytes(as_primary(command).unwrap_or_else(|| b"+OK\r\n".to_vec())));
    let sentinels = [(node.port, 'a'), (node.port, 'b'), (other.port, 'c')].map(|(port, id)| {
        Scripted::start(move |command| {
            let own_id = command.get(1).is_some_and(|word| word.eq_ignore_ascii_case("MYID"));
            let id = format!("$40\r\n{}\r\n", id.to_string().repeat(40)).into_bytes();
            Said::Bytes(if own_id { id } else { as_sentinel(command, port, 1) })
        })
    });
    let hosts: Vec<String> =
        sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
    let url = format!("redis-sentinel://{}/0#{NAME}", hosts.join(","));
    let mut proxy = Proxy::launch(free_port(), 1, &["--upstream", &url]);
    proxy.allow_log("\"WARN\"");
    let mut clients: Vec<_> = (0..8).map(|_| proxy.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        // The last one on a connection of its own.
        client.send_command(if number < 7 { &["SET", "k", "v"][..] } else { &["BLPOP", "k", "0"] });
    }
    clients[0].expect_silence(LIE);
    let dials = node.accepted();
    let questions: Vec<usize> = sentinels.iter().map(Scripted::accepted).collect();
    eprintln!("{what}: {dials} connections to the node, {questions:?} to the Sentinels in {LIE:?}");
    assert!(dials <= most(2), "{what}: {dials} connections to the node in {LIE:?}, more than {}", most(2));
    assert!(questions.iter().all(|count| *count <= 4), "{what}: {questions:?} connections to the Sentinels");
    assert_eq!(other.accepted(), 0, "{what}: the minority's node was dialled");
    // It comes true, and what has waited is answered.
    lies.store(false, Ordering::Relaxed);
    clients.iter_mut().for_each(|client| client.expect_reply("+OK\r\n"));
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
