//! Follows the configuration file while respgate runs. Applies the changes that can take effect at
//! once, and logs those that need a restart.
//!
//! respgate reads and checks the whole file by the same rules as at the start. A file with an error
//! changes nothing. Users are replaced before the workers learn of the change, so that a removed
//! user can no longer log in once sessions have been told.

pub mod plan;
pub mod upstreams;

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use crate::admin::ListenerView;
use crate::admin::security::TlsStatus;
use crate::certificates::Certificates;
use crate::config::changes::Changes;
use crate::config::flags::Flags;
use crate::config::report::{Finding, Report};
use crate::config::{self, Config, Written};
use crate::descriptors::Capacity;
use crate::drain::Draining;
use crate::latency::config::LatencyConfig;
use crate::listener::set::{Listeners, Prepared};
use crate::logs::LogFilter;
use crate::net::budget::Budget;
use crate::net::listening::InheritedSockets;
use crate::operator::{Operators, PreparedSwitch};
use crate::rotation::{self, NotAdopted, Prompter, Prompts, Source, Tallies, Tally};
use crate::systemd::Notifier;
use crate::tenant::Tenants;
use crate::tenant::store::Stores;
use crate::tenant::users::accounts::Accounts;
use crate::worker::{Update, Worker};
use upstreams::Upstreams;

/// The parts of the process that a reload changes.
pub struct ReloadTargets {
    /// The credentials with which users' clients log in to servers.
    pub accounts: Accounts,
    /// The tenants in force. The admin listener reads them too.
    pub tenants: watch::Sender<Tenants>,
    /// The upstreams in force.
    pub upstreams: Upstreams,
    /// The connections that share rates.
    pub stores: Stores,
    /// The workers, which serve the clients.
    pub workers: Vec<Worker>,
    /// Switches the upstreams whose addresses have changed.
    pub operators: Operators,
    /// The listeners in force.
    pub listeners: Listeners,
    /// The certificates in use.
    pub certificates: Certificates,
    /// Says whether listeners may accept clients.
    pub draining: Draining,
    /// The bytes that all clients may hold together.
    pub budget: Arc<Budget>,
    /// The filter of the log.
    pub log: LogFilter,
    /// What the admin listener shows of TLS and of listeners.
    pub security: watch::Sender<TlsStatus>,
    /// What the admin listener shows of the listeners.
    pub listener_views: watch::Sender<Vec<ListenerView>>,
    /// What is measured of commands. The admin listener reads it too.
    pub latency: watch::Sender<LatencyConfig>,
    /// The number of clients that may be connected.
    pub capacity: Capacity,
    /// Lowers the limits of a configuration to those of the process. Returns the number of clients that may be connected.
    pub share_descriptors: fn(&mut Config) -> io::Result<usize>,
}

/// Reads the configuration file at each SIGHUP, and tells the service manager when that begins and ends.
///
/// # Errors
/// Returns an error if the system does not register the signal handler.
pub fn on_hangup(prompter: Prompter, notifier: Notifier) -> std::io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            tracing::info!("SIGHUP: respgate reads the configuration again");
            notifier.reloading();
            prompter.read_now().await;
            notifier.ready();
        }
    });
    Ok(())
}

/// Follows the configuration file if `flags` name one. `config` is the configuration that the file
/// gave at the start. Each of the `prompts` makes respgate read the file at once, and `tallies`
/// receive the outcome of each change. Returns the file's tally, or `None` if there is no file.
pub fn follow(
    flags: Flags,
    config: Config,
    targets: ReloadTargets,
    prompts: Prompts,
    tallies: &Tallies,
) -> Option<Tally> {
    let Some(path) = flags.config.clone() else {
        // Nothing changes without a file, but listeners accept only while their set lives.
        tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(targets);
        });
        return None;
    };
    let (interval, tally) = (config.reload_interval, Tally::new("configuration", path.display().to_string()));
    let load = move || match config::load(&flags, &|name| std::env::var_os(name)) {
        (Some(config), report) => Ok((config, report.warnings)),
        (None, report) => Err(errors(&report)),
    };
    let state =
        ReloadState { seen: config.written.clone(), config, targets, tally: tally.clone(), warnings: None };
    let state = Arc::new(Mutex::new(state));
    let adopt = move |(config, warnings), _| {
        let state = state.clone();
        async move { state.lock().await.adopt(config, warnings).await }
    };
    let counted = tally.clone();
    tokio::spawn(async move {
        rotation::follow_promptly(Source::new(vec![path], load), interval, counted, prompts, adopt).await;
    });
    tallies.add(tally.clone());
    Some(tally)
}

/// Joins all errors of the report in one line.
fn errors(report: &Report) -> String {
    let errors: Vec<_> = report.errors.iter().map(ToString::to_string).collect();
    errors.join("; ")
}

struct ReloadState {
    /// The configuration in force.
    config: Config,
    targets: ReloadTargets,
    tally: Tally,
    /// The keys and values that the file held when it was last read.
    seen: Written,
    /// The warnings of the last read. `None` before the first reload: the start has logged the
    /// file's first warnings.
    warnings: Option<Vec<Finding>>,
}

impl ReloadState {
    /// Applies `next`. Returns true if the file holds other keys or values than before. The watcher
    /// compared only the file's bytes, so the same keys and values may come twice.
    ///
    /// Checks everything that can fail before it changes anything: the targets of switches, and the sockets of listeners. Then it
    /// switches, and puts the rest in force.
    ///
    /// # Errors
    /// Returns why `next` cannot be applied. Nothing has changed then, but for the upstreams that the text names as switched.
    async fn adopt(&mut self, mut next: Config, warnings: Vec<Finding>) -> Result<bool, NotAdopted> {
        // Only warnings that the last version of the file did not have are logged.
        let known = self.warnings.replace(warnings.clone()).unwrap_or(warnings);
        for warning in self.warnings.iter().flatten().filter(|warning| !known.contains(warning)) {
            tracing::warn!("{warning}");
        }
        if next.written == self.seen {
            return Ok(false);
        }
        let clients = (self.targets.share_descriptors)(&mut next)
            .map_err(|error| NotAdopted::ForNow(error.to_string()))?;
        let changes = Changes::between(&self.config, &next);
        self.config.keep_restart_settings(&mut next);
        let switches = self.prepare_switches(&next).await.map_err(NotAdopted::ForGood)?;
        let prepared = self.targets.listeners.prepare(&next.listeners, &mut InheritedSockets::default());
        let prepared = prepared.map_err(NotAdopted::ForNow)?;
        self.switch(switches, &next).await.map_err(NotAdopted::ForGood)?;
        for upstream in &next.upstreams {
            // A new one is where the file says.
            let _ = self.targets.operators.configured(&upstream.config.name, upstream.target()).await;
        }
        self.seen.clone_from(&next.written);
        if changes.any_at_once() {
            self.config.take_over(next);
            self.targets.capacity.set_limit(clients);
            if changes.log_level {
                self.set_log_level();
            }
            self.apply(prepared).await;
            tracing::info!(%changes, "the new configuration is in force");
        }
        if !changes.restart.is_empty() && self.tally.outcomes().restart[..] != changes.restart[..] {
            let keys = changes.restart.join(", ");
            tracing::warn!(
                keys,
                "changed keys need a restart: until then respgate keeps their former values"
            );
        }
        self.tally.postponed(&changes.restart);
        Ok(true)
    }

    /// Checks the targets of the upstreams that `next` has elsewhere.
    async fn prepare_switches(&self, next: &Config) -> Result<Vec<(String, PreparedSwitch)>, String> {
        let mut checks = JoinSet::new();
        let present = |name: &str| self.targets.operators.target(name).ok();
        for upstream in self.config.moved_upstreams(next, &present) {
            let (operators, upstream) = (self.targets.operators.clone(), upstream.clone());
            checks.spawn(async move {
                let (name, target) = (upstream.config.name.clone(), upstream.target());
                let shown = target.to_string();
                match operators.prepare_configured(&upstream.config, target).await {
                    Ok(prepared) => Ok((name, prepared)),
                    Err(why) => Err(format!(
                        "upstream '{name}' stays where it is, because {shown} cannot take over: {why}"
                    )),
                }
            });
        }
        let mut prepared = Vec::with_capacity(checks.len());
        while let Some(checked) = checks.join_next().await {
            prepared.push(checked.map_err(|error| error.to_string())??);
        }
        Ok(prepared)
    }

    /// Switches upstreams to the targets of `next`, one after the other. Stops at the first that fails.
    async fn switch(&mut self, switches: Vec<(String, PreparedSwitch)>, next: &Config) -> Result<(), String> {
        let mut switched: Vec<String> = Vec::new();
        for (name, prepared) in switches {
            match self.targets.operators.carry_out(prepared).await {
                Ok(done) => {
                    tracing::info!(
                        upstream = name,
                        to = done.to,
                        commands_waited_ms = done.held.as_millis(),
                        missing_commands = done.missing_commands.join(", "),
                        "the upstream is switched, because the configuration says so"
                    );
                    self.config.take_over_target(&name, next);
                    // If a later switch fails, even the former file is one to apply.
                    self.seen = Written::default();
                    switched.push(name);
                }
                Err(why) => {
                    let others = match &switched[..] {
                        [] => String::new(),
                        done => format!("; upstream {} is switched already", done.join(", ")),
                    };
                    return Err(format!("upstream '{name}' stays where it is: {why}{others}"));
                }
            }
        }
        Ok(())
    }

    fn set_log_level(&self) {
        if let Err(error) = self.targets.log.set(&self.config.log.filter) {
            tracing::error!(error, "respgate could not change the log level");
        }
    }

    async fn apply(&mut self, prepared: Prepared) {
        let Self { config, targets, .. } = self;
        let ReloadTargets { accounts, tenants, upstreams, stores, workers, listeners, certificates, .. } =
            targets;
        targets.budget.set_limit(config.max_buffered);
        let next = tenants.borrow().reconfigured(&config.tenants, &listeners.tenants(&prepared));
        let removed = upstreams.follow(&config.upstreams, !next.all.is_empty());
        if let Some(users) = &next.users {
            // Users first: a removed user must not log in again after a worker has ended its
            // sessions.
            users.replace(accounts.follow(&config.users, &upstreams.names()));
        }
        stores.follow(&upstreams.plans(), &next.all);
        certificates.follow_listeners(&config.listeners);
        let update = Update {
            tenants: next.clone(),
            listeners: plan::listeners(|name| upstreams.number(name), &prepared, certificates),
            upstreams: upstreams.plans(),
            latency: config.latency,
        };
        let mut adopting = JoinSet::new();
        for worker in workers.iter() {
            let (worker, update) = (worker.clone(), update.clone());
            adopting.spawn(async move { worker.adopt(update).await });
        }
        while adopting.join_next().await.is_some() {}
        // Workers must know a new listener before it accepts.
        listeners.commit(prepared, workers, &targets.draining);
        for upstream in removed {
            tokio::spawn(upstream.end(workers.clone(), config.drain_timeout));
        }
        // First the listeners, then the tenants: their version makes the metrics of what is gone disappear.
        targets.security.send_replace(plan::tls_status(config, listeners, certificates));
        targets.listener_views.send_replace(plan::listener_views(config, listeners));
        targets.latency.send_replace(config.latency);
        upstreams.publish();
        tenants.send_replace(next);
    }
}
