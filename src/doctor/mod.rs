//! `respgate doctor`: tries everything that a configuration names, and reports what is wrong and how to fix it.
//!
//! Each step has a file of its own: `dns`, `tcp`, `tls`, `login`; then for a Sentinel `sentinel`, and for all Sentinels
//! together `agreement`; for a data server `server`, `role`, `reads`, `database`, `clients`, `scripts`, `latency`, `users`; and
//! `listener` for the sockets of this machine. `reach` runs the steps from a name to a connection with a `peer`; `node` and `upstream`
//! put the steps in order. A step consists of a query with its own deadline, and a pure function that turns the answer
//! into a [`finding::Finding`]. `human` and `json` print the findings.

mod account;
mod agreement;
mod clients;
mod cluster;
mod concurrently;
mod database;
mod dns;
pub mod finding;
mod human;
mod json;
mod latency;
mod listener;
mod login;
mod loopback;
mod node;
mod peer;
mod reach;
mod reads;
mod refused;
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

pub use finding::BROKEN;
pub use human::{Style, show};
pub use json::{document, misconfigured};

use std::io;

use crate::config::Config;
use concurrently::concurrently;
use finding::Diagnosis;
use refused::RefusedCommands;

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
        let refused = RefusedCommands::of(config, &upstream.config.name);
        let accounts =
            config.users.iter().filter_map(|user| Some((user.name.clone(), user.account.clone()?)));
        let reads = config.reads_from_replicas(&upstream.config.name);
        upstream::examine(upstream, accounts.collect(), refused, reads)
    });
    sections.extend(concurrently(upstreams).await.into_iter().flatten());
    Diagnosis { sections }
}
