//! The configuration file, followed while respgate runs: what can change at once is applied, what needs a restart is
//! said.
//!
//! The file is read and checked whole, by the same rules as at the start. One with a fault changes nothing. Users are
//! replaced before the workers hear of it, so that nobody logs in as one who was removed when sessions have been told.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinSet;

use crate::config::changes::Changes;
use crate::config::flags::Flags;
use crate::config::report::{Finding, Report};
use crate::config::{self, Config, Written};
use crate::rotation::{self, Source, Tallies, Tally};
use crate::tenant::Tenants;
use crate::tenant::store::Stores;
use crate::tenant::users::accounts::Accounts;
use crate::upstream::UpstreamPlan;
use crate::worker::Worker;

/// What a reload reaches.
pub struct Reach {
    /// Who users' clients are to servers.
    pub accounts: Accounts,
    /// The tenants in force; the admin side sees them too.
    pub tenants: watch::Sender<Tenants>,
    /// Where rates can be shared.
    pub upstreams: Vec<UpstreamPlan>,
    /// Where they are.
    pub stores: Stores,
    /// Who serves clients.
    pub workers: Vec<Worker>,
}

/// Whoever asks for the file to be read at once, with SIGHUP.
///
/// # Errors
/// The system refuses to hand the signal over.
pub fn on_hangup() -> std::io::Result<Arc<Notify>> {
    let asked = Arc::new(Notify::new());
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn({
        let asked = asked.clone();
        async move {
            while hangups.recv().await.is_some() {
                tracing::info!("SIGHUP: the configuration is read again");
                asked.notify_one();
            }
        }
    });
    Ok(asked)
}

/// Follows the file that the `flags` name, if they do, from `config` on, which came of it; `tallies` are told what
/// becomes of its changes.
pub fn follow(flags: Flags, config: Config, reach: Reach, asked: Arc<Notify>, tallies: &Tallies) {
    let Some(path) = flags.config.clone() else { return };
    let (interval, tally) = (config.reload_interval, Tally::new("configuration", path.display().to_string()));
    let load = move || match config::load(&flags, &|name| std::env::var_os(name)) {
        (Some(config), report) => Ok((config, report.warnings)),
        (None, report) => Err(faults(&report)),
    };
    let state =
        ReloadState { seen: config.written.clone(), config, reach, tally: tally.clone(), warnings: None };
    let state = Arc::new(Mutex::new(state));
    let adopt = move |(config, warnings), _| {
        let state = state.clone();
        async move { state.lock().await.adopt(config, warnings).await }
    };
    let counted = tally.clone();
    tokio::spawn(async move {
        rotation::follow_promptly(Source::new(vec![path], load), interval, counted, &asked, adopt).await;
    });
    tallies.add(tally);
}

/// All faults in one line.
fn faults(report: &Report) -> String {
    let faults: Vec<_> = report.faults.iter().map(ToString::to_string).collect();
    faults.join("; ")
}

struct ReloadState {
    /// What is in force.
    config: Config,
    reach: Reach,
    tally: Tally,
    /// What the file held when it was last read.
    seen: Written,
    /// Those of the file as it was last; `None`: those of the start have been logged by whoever started this.
    warnings: Option<Vec<Finding>>,
}

impl ReloadState {
    /// Whether the file holds other keys or values than before. Its content was looked at before it was read, so the same
    /// version may come twice.
    async fn adopt(&mut self, next: Config, warnings: Vec<Finding>) -> bool {
        let known = self.warnings.replace(warnings.clone()).unwrap_or(warnings);
        for warning in self.warnings.iter().flatten().filter(|warning| !known.contains(warning)) {
            tracing::warn!("{warning}");
        }
        let differs = next.written != self.seen;
        self.seen.clone_from(&next.written);
        let changes = Changes::between(&self.config, &next);
        if changes.any_at_once() {
            self.config.take_over(next);
            self.apply().await;
            tracing::info!(%changes, "the configuration has changed, and is in force");
        }
        if !changes.restart.is_empty() && self.tally.outcomes().restart[..] != changes.restart[..] {
            let keys = changes.restart.join(", ");
            tracing::warn!(
                keys,
                "the configuration has changes that need a restart: until then these keys stay as they were"
            );
        }
        self.tally.postponed(&changes.restart);
        differs
    }

    async fn apply(&mut self) {
        let Reach { accounts, tenants, upstreams, stores, workers } = &mut self.reach;
        let next = tenants.borrow().reconfigured(&self.config.tenants, &self.config.listener_tenants());
        if let Some(users) = &next.users {
            users.replace(accounts.follow(&self.config.users));
        }
        stores.follow(upstreams, &next.all);
        let mut adopting = JoinSet::new();
        for worker in workers {
            let (worker, next) = (worker.clone(), next.clone());
            adopting.spawn(async move { worker.adopt(next).await });
        }
        while adopting.join_next().await.is_some() {}
        tenants.send_replace(next);
    }
}
