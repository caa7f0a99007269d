//! `respgate status`: shows a running respgate, from the `/status` of its admin listener.
//!
//! `state` holds the document and reads it, `screen` writes it as text, and `watch` shows it again and again: on a
//! terminal with `watch/draw` and `watch/terminal`, else as text.

mod screen;
mod state;
pub mod watch;
mod words;

pub use state::Status;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::admin_client::{Endpoint, get};

/// Time that the answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks a running respgate once.
///
/// # Errors
///
/// Returns an error if no respgate's admin listener answers at that address. The text says so, and
/// what to do.
pub fn look(address: SocketAddr) -> Result<Status, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(ask(address))
}

async fn ask(address: SocketAddr) -> Result<Status, String> {
    let explained = |error: io::Error| {
        format!(
            "no respgate answers at {address}: {error}; pass the address of its admin listener with --admin (the one it was \
             started with: --admin, or admin in the file). If it runs without an admin listener, use respgate doctor"
        )
    };
    let answer = get(&Endpoint::Admin(address), "/status", ANSWER_TIMEOUT).await.map_err(explained)?;
    serde_json::from_str(&answer.body)
        .ok()
        .filter(|_| answer.status.is_success())
        .and_then(|document| Status::new(address, document))
        .ok_or_else(|| {
            format!("the server at {address} is not respgate, or an older version; check --admin, or open its /metrics")
        })
}
