//! `respgate status`: shows a running respgate, from the `/status` of its control socket or its admin listener.
//!
//! `state` holds the document and reads it, `screen` writes it as text, and `watch` shows it again and again: on a
//! terminal with `watch/draw` and `watch/terminal`, else as text.

mod screen;
mod state;
pub mod watch;
mod words;

pub use state::Status;

use std::io;
use std::time::Duration;

use hyper::StatusCode;

use crate::admin_client::{Endpoint, get};

/// Time that the answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks a running respgate once.
///
/// # Errors
///
/// Returns an error if no respgate answers there, or if it does not let everybody read. The text says so, and
/// what to do.
pub fn look(endpoint: &Endpoint) -> Result<Status, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(ask(endpoint))
}

async fn ask(endpoint: &Endpoint) -> Result<Status, String> {
    let explained = |error: io::Error| {
        format!(
            "no respgate answers at {endpoint}: {error}; pass the address of its admin listener with --admin (the one it was \
             started with: --admin, or admin in the file). If it runs without an admin listener, use respgate doctor"
        )
    };
    let answer = get(endpoint, "/status", ANSWER_TIMEOUT).await.map_err(explained)?;
    if answer.status == StatusCode::UNAUTHORIZED {
        return Err(format!(
            "the respgate at {endpoint} lets only readers with a token read; use --config with the file that names its control-socket"
        ));
    }
    serde_json::from_str(&answer.body)
        .ok()
        .filter(|_| answer.status.is_success())
        .and_then(|document| Status::new(endpoint.clone(), document))
        .ok_or_else(|| {
            format!("the server at {endpoint} is not respgate, or an older version; check --admin, or open its /metrics")
        })
}
