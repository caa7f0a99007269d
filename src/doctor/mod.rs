//! `respgate doctor`: walks everything that a configuration names, for real, and says what is wrong and how to mend it.
//!
//! One file for each step: `dns`, `tcp`, `tls`, `login`, then for a Sentinel `sentinel` and for all of them together
//! `agreement`, for a data server `server`, `role`, `database`, `clients`, `latency`, `users`; and `listener` for this machine's
//! own side. `peer` leads from a name to a connection, `node` and `upstream` put the steps in order. Each step is a
//! question with its own deadline, and a pure function that makes a [`finding::Finding`] of the answer. `human` and
//! `json` show them.

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

/// Something is broken: `EX_UNAVAILABLE` of sysexits.
pub const BROKEN: u8 = 69;

/// Walks the whole configuration. Ends by itself: every step has a deadline of a few seconds, upstreams are walked at
/// the same time, and so are an upstream's Sentinels and then its nodes.
///
/// # Errors
///
/// When the runtime cannot be started.
pub fn run(config: &Config) -> io::Result<Diagnosis> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let diagnosis = runtime.block_on(examine(config));
    // A name look-up that hangs is on a thread that nothing can end.
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

/// Runs all at once, and gives the results in the given order.
async fn concurrently<F>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let tasks: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        // A task ends early only by a panic, which ends the program's usefulness anyway.
        results.extend(task.await);
    }
    results
}
