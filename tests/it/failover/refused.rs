//! A transaction that the server discards because it is not the primary any more.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::support::client::encode;
use crate::support::scripted::{Said, Scripted, as_primary};

/// What valkey and redis say to EXEC on a node that was demoted after MULTI: valkey to a client that understands
/// redirections, and both to any other.
const REFUSALS: [&str; 2] = [
    "-REDIRECT 127.0.0.1:1\r\n",
    "-EXECABORT Transaction discarded because of: READONLY You can't write against a read only replica.\r\n",
];

/// A command was refused when it was to be queued, and EXEC was sent already: the server discards the transaction.
#[test]
fn a_transaction_refused_while_it_was_queued_runs_on_the_next_connection() {
    let queued = AtomicUsize::new(0);
    let node = Scripted::start(move |command| {
        Said::Bytes(match command[0].to_uppercase().as_str() {
            "MULTI" | "WATCH" => b"+OK\r\n".to_vec(),
            "INCR" if queued.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) => {
                b"-READONLY You can't write against a read only replica.\r\n".to_vec()
            }
            "INCR" => b"+QUEUED\r\n".to_vec(),
            // On the connection that was refused, nobody listens any more.
            "EXEC" => b"*2\r\n:7\r\n:8\r\n".to_vec(),
            _ => as_primary(command).unwrap_or_else(|| b"+OK\r\n".to_vec()),
        })
    });
    let mut proxy = Proxy::start(&format!("redis://127.0.0.1:{}", node.port));
    proxy.allow_log("\"WARN\"");
    let mut client = proxy.client();
    let transaction = [&["MULTI"][..], &["INCR", "k"], &["INCR", "k"], &["EXEC"]].map(encode);
    client.send(transaction.concat());
    client.replies_are(&["+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", "*2\r\n:7\r\n:8\r\n"]);
}

/// It did not run, so it is sent again whole; unless a key was watched, which may have changed.
#[test]
fn a_refused_transaction_runs_on_the_next_connection() {
    for refusal in REFUSALS {
        let execs = AtomicUsize::new(0);
        let node = Scripted::start(move |command| {
            Said::Bytes(match command[0].to_uppercase().as_str() {
                "MULTI" | "WATCH" => b"+OK\r\n".to_vec(),
                "INCR" => b"+QUEUED\r\n".to_vec(),
                // Every other one is refused.
                "EXEC" if execs.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => refusal.into(),
                "EXEC" => b"*1\r\n:7\r\n".to_vec(),
                _ => as_primary(command).unwrap_or_else(|| b"+OK\r\n".to_vec()),
            })
        });
        let mut proxy = Proxy::start(&format!("redis://127.0.0.1:{}", node.port));
        proxy.allow_log("\"WARN\"");
        let mut client = proxy.client();
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["INCR", "k"], "+QUEUED\r\n");
        client.expect(&["EXEC"], "*1\r\n:7\r\n");
        client.expect(&["WATCH", "k"], "+OK\r\n");
        client.expect(&["MULTI"], "+OK\r\n");
        client.expect(&["INCR", "k"], "+QUEUED\r\n");
        client.expect(&["EXEC"], "*-1\r\n");
    }
}
