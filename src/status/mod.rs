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

use crate::admin_client::AdminClient;

/// Time that the answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks a running respgate once.
///
/// # Errors
///
/// Returns an error if no respgate answers there, or if the client may not read. The text says so, and what to do.
pub fn look(client: &AdminClient) -> Result<Status, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(ask(client))
}

async fn ask(client: &AdminClient) -> Result<Status, String> {
    let endpoint = &client.endpoint;
    let explained = |error: io::Error| {
        format!(
            "no respgate answers at {endpoint}: {error}; pass the address of its admin listener with --admin (the one it was \
             started with: --admin, or admin in the file), and --admin-ca if that listener speaks TLS. If it runs without an \
             admin listener, use respgate doctor"
        )
    };
    let answer = client.get("/status", ANSWER_TIMEOUT).await.map_err(explained)?;
    if answer.status == StatusCode::UNAUTHORIZED {
        return Err(match client.token {
            None => format!(
                "the respgate at {endpoint} lets only readers with a token read; pass the token with --token-file, or use \
                 --config with the file that names its control-socket"
            ),
            Some(_) => format!(
                "the respgate at {endpoint} does not take this token; --token-file must be its read-token-file or its \
                 control-token-file"
            ),
        });
    }
    serde_json::from_str(&answer.body)
        .ok()
        .filter(|_| answer.status.is_success())
        .and_then(|document| Status::new(endpoint.clone(), document))
        .ok_or_else(|| {
            format!("the server at {endpoint} is not respgate, or an older version; check --admin, or open its /metrics")
        })
}
