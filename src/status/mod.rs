//! `respgate status`: shows a running respgate on one screen, from its admin listener's answers.
//!
//! `samples` reads the metrics, `state` holds what they say, and `screen` formats it. Two readings of the
//! metrics 1 s apart give rates.

mod samples;
mod screen;
mod state;

pub use state::Status;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::metrics::declared;
use samples::Samples;

use crate::admin_client::{Endpoint, get};

/// Time between the two readings.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Time that one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Reads the metrics twice. Ends within about 10 s, whatever answers.
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
    runtime.block_on(async {
        let explained = |error: io::Error| {
            format!(
                "no respgate answers at {address}: {error}; pass the address of its admin listener with --admin (the one it was \
                 started with: --admin, or admin in the file). If it runs without an admin listener, use respgate doctor"
            )
        };
        let endpoint = Endpoint::Admin(address);
        let earlier = get(&endpoint, "/metrics", ANSWER_TIMEOUT).await.map_err(explained)?;
        let begun = Instant::now();
        tokio::time::sleep(SAMPLE_INTERVAL).await;
        let now = get(&endpoint, "/metrics", ANSWER_TIMEOUT).await.map_err(explained)?;
        let elapsed = begun.elapsed();
        let ready = get(&endpoint, "/readyz", ANSWER_TIMEOUT).await.map_err(explained)?;
        let failovers = get(&endpoint, "/failovers", ANSWER_TIMEOUT).await.map_err(explained)?;
        let now = Samples::parse(&now.body);
        if now.text(declared::BUILD_INFO.about.name, "version").is_none() {
            return Err(format!("the server at {address} is not respgate; check --admin"));
        }
        Ok(Status {
            address,
            ready: ready.status.is_success(),
            readiness: ready.body.lines().map(str::to_owned).collect(),
            earlier: Samples::parse(&earlier.body),
            now,
            elapsed,
            failovers: serde_json::from_str(&failovers.body).unwrap_or_default(),
        })
    })
}
