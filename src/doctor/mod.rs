//! `respgate doctor`: tries everything that a configuration names, and reports what is wrong and how to fix it.
//!
//! Each step has a file of its own: `dns`, `tcp`, `tls`, `login`; then for a Sentinel `sentinel`, and for all Sentinels
//! together `agreement`; for a data server `server`, `role`, `database`, `clients`, `scripts`, `latency`, `users`; and
//! `listener` for the sockets of this machine. `peer` runs the steps from a name to a connection; `node` and `upstream`
//! put the steps in order. A step consists of a query with its own deadline, and a pure function that turns the answer
//! into a [`finding::Finding`]. `human` and `json` print the findings.

mod agreement;
mod clients;
mod database;
mod dns;
pub mod finding;
mod human;
mod json;
mod latency;
mod listener;
mod login;
mod node;
mod peer;
mod role;
mod scripts;
mod sentinel;
mod server;
mod sniff;
mod tcp;
mod tls;
mod upstream;
mod users;
mod words;

pub use human::{Style, show};
pub use json::{document, misconfigured};

use std::io;

use crate::config::Config;
use finding::Diagnosis;

/// The exit code if something is broken: `EX_UNAVAILABLE` of sysexits.
pub const BROKEN: u8 = 69;

/// Checks the whole configuration. It always ends: every step has a deadline of a few seconds. It checks all upstreams
/// at the same time, and so the Sentinels of an upstream, and then its nodes.
///
/// # Errors
///
/// Returns an error if the runtime cannot start.
pub fn run(config: &Config) -> io::Result<Diagnosis> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let diagnosis = runtime.block_on(examine(config));
    // A name look-up that hangs runs on a thread that nothing can stop.
    runtime.shutdown_background();
    Ok(diagnosis)
}

async fn examine(config: &Config) -> Diagnosis {
    let mut sections: Vec<_> = config.listeners.iter().map(listener::examine).collect();
    sections.extend(config.admin.map(listener::examine_admin));
    let upstreams = config.upstreams.iter().cloned().map(|upstream| {
        let refused = scripts::Refused::of(config, &upstream.config.name);
        let accounts =
            config.users.iter().filter_map(|user| Some((user.name.clone(), user.account.clone()?)));
        upstream::examine(upstream, accounts.collect(), refused)
    });
    sections.extend(concurrently(upstreams).await.into_iter().flatten());
    Diagnosis { sections }
}

/// Runs all futures at the same time and returns their results in the given order.
async fn concurrently<F>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let tasks: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        // A task ends early only by a panic; its result is then missing.
        results.extend(task.await);
    }
    results
}
