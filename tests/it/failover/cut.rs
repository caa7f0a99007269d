//! A reply that is cut off at any byte: whatever follows, nobody is handed another's reply.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::support::scripted::{Said, Scripted, as_primary};

/// The reply to `GET <tag>`.
fn tagged(tag: &str) -> Vec<u8> {
    format!("${}\r\n{tag}\r\n", tag.len()).into_bytes()
}

/// Two clients share a connection. It ends after each number of bytes of a reply in turn; both go on asking for their
/// own tags.
#[test]
fn replies_cut_at_every_byte_reach_nobody_else() {
    let whole = tagged("one-0000").len();
    let cut = Arc::new(AtomicUsize::new(usize::MAX));
    let next = Arc::clone(&cut);
    let node = Scripted::start(move |command| {
        if let Some(reply) = as_primary(command) {
            return Said::Bytes(reply);
        }
        let reply = tagged(&command[1]);
        match next.swap(usize::MAX, Ordering::Relaxed) {
            usize::MAX => Said::Bytes(reply),
            at => Said::Last(reply[..at].to_vec()),
        }
    });
    let mut proxy = Proxy::start(&format!("redis://127.0.0.1:{}", node.port));
    proxy.allow_log("\"WARN\"");
    let mut clients = [("one", proxy.client()), ("two", proxy.client())];
    for number in 0..200 {
        cut.store(number % whole, Ordering::Relaxed);
        let tags: Vec<String> = clients.iter().map(|(name, _)| format!("{name}-{number:04}")).collect();
        for ((_, client), tag) in clients.iter_mut().zip(&tags) {
            client.send_command(&["GET", tag]);
        }
        for ((_, client), tag) in clients.iter_mut().zip(&tags) {
            // A read is sent again.
            client.expect_reply(&String::from_utf8_lossy(&tagged(tag)));
        }
    }
}
