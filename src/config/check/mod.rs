//! Turns the typed configuration into a checked one: fills in defaults, reads passwords, and
//! refuses contradictions.

mod cluster;
mod control;
mod latency;
mod limits;
mod listener;
mod reads;
mod size;
mod tenant;
mod tls;
mod upstream;
mod user;

use std::ffi::OsString;
use std::time::Duration;

use super::model::{Config, LogConfig, Upstream};
use super::report::{Place, Report};
use super::schema::{LimitDefaults, LogDefaults, ProcessDefaults, TenantKeys};
use super::setting::Setting;
use super::typed::{Named, Typed};
use crate::replica::Reads;
use crate::tenant::config::TenantConfig;
use crate::tenant::users::UserConfig;
use crate::upstream::config::Pool;
use size::LEAST_SIZE;

/// Makes a configuration of what the user typed, and reports every error. It may return a
/// configuration even if there are errors; the caller must not run that one. `default_workers` is the
/// default of `workers`.
pub fn check(
    mut typed: Typed,
    env: &dyn Fn(&str) -> Option<OsString>,
    default_workers: usize,
    report: &mut Report,
) -> Option<Config> {
    let usual = typed.usual_upstream().map(|upstream| upstream.name.clone());
    let places: Vec<(String, Place)> =
        typed.upstreams.iter().map(|upstream| (upstream.name.clone(), upstream.place.clone())).collect();
    let names: Vec<String> = typed.upstreams.iter().map(|upstream| upstream.name.clone()).collect();
    let about_upstreams = |place: &Place| place.key().starts_with("upstream");
    if names.is_empty() && !report.errors.iter().any(|error| about_upstreams(&error.place)) {
        match &typed.file {
            Some(file) => report.error(
                &file.first_line("upstreams"),
                r#"the file names no upstream; add [upstreams.main] with url = "redis://127.0.0.1:6379""#,
            ),
            None => report.error(
                &Place::Flag("--upstream"),
                "is missing; say where the server is, as in --upstream redis://127.0.0.1:6379, or name a file with --config",
            ),
        }
    }

    let upstreams: Vec<Upstream> = std::mem::take(&mut typed.upstreams)
        .into_iter()
        .filter_map(|typed| upstream::check(typed, env, report))
        .collect();
    let max_buffered = typed.limits.max_buffered.clone().at_least(LEAST_SIZE, "1KiB", report);
    let max_buffered = max_buffered.or(LimitDefaults::max_buffered()).0;
    let bounds =
        listener::Bounds { defaults: &typed.limits.sessions, overrides: &typed.overrides, max_buffered };
    bounds.check_defaults(report);
    let stores = limits::Stores { names: &names, usual: usual.as_deref() };
    let reading =
        |tenant: &&Named<TenantKeys>| tenant.keys.reads.value().is_some_and(|reads| *reads != Reads::Primary);
    let readers: Vec<Place> = typed
        .tenants
        .iter()
        .filter(reading)
        .filter_map(|tenant| tenant.keys.reads.place().cloned())
        .collect();
    reads::warn_of_tenants(&readers, &upstreams, report);
    let mut tenants: Vec<TenantConfig> = tenant::check_all(typed.tenants, stores, report);
    let users = user::check_all(typed.users, &mut tenants, env, report);
    let listeners = listener::check_all(
        typed.listeners,
        &typed.tls,
        &bounds,
        &listener::Named {
            tenants: &tenants,
            users: &users,
            names: &names,
            usual: usual.as_deref(),
            checked: &upstreams,
        },
        &typed.process.admin,
        typed.file.as_ref(),
        report,
    );
    let control = control::check(&typed.process, report);
    let admin_tls = control::admin_tls(&typed.process, typed.file.as_ref(), report);
    let latency = latency::check(&typed.process, report);
    let workers =
        workers(typed.process.workers.at_least(1, "1", report), default_workers, &upstreams, report);
    for (name, place) in &places {
        if let Some(upstream) = upstreams.iter().find(|upstream| upstream.config.name == *name) {
            warn_about_room_for_users(upstream, &users, workers, place, report);
        }
    }
    Some(Config {
        workers,
        admin: typed.process.admin.value().copied(),
        admin_tls,
        control,
        log: LogConfig {
            format: typed.log.format.or(LogDefaults::format()),
            filter: typed.log.level.or(LogDefaults::level()).0,
        },
        drain_timeout: typed.process.drain_timeout.or(ProcessDefaults::drain_timeout()),
        drain_delay: typed.process.drain_delay.or(ProcessDefaults::drain_delay()),
        ready_needs_primary: typed.process.ready_needs_primary.or(ProcessDefaults::ready_needs_primary()),
        upgrade_timeout: typed
            .process
            .upgrade_timeout
            .at_least(Duration::from_secs(1), "1s", report)
            .or(ProcessDefaults::upgrade_timeout()),
        upgrade_drain_timeout: typed
            .process
            .upgrade_drain_timeout
            .or(ProcessDefaults::upgrade_drain_timeout()),
        reload_interval: typed
            .process
            .reload_interval
            .at_least(Duration::from_millis(100), "100ms", report)
            .or(ProcessDefaults::reload_interval()),
        latency,
        max_buffered,
        listeners,
        tenants,
        users,
        upstreams,
        written: typed.written,
    })
    .filter(|_| report.errors.is_empty())
}

/// Returns the number of workers. Every worker needs a connection of each lane to each upstream. A
/// typed number that is larger than the upstreams' limits allow is an error; `default` is lowered instead.
fn workers(typed: Setting<usize>, default: usize, upstreams: &[Upstream], report: &mut Report) -> usize {
    let most = |upstream: &Upstream| {
        let config = &upstream.config;
        match config.pool {
            // The lanes split `max_connections`. The smaller part limits the workers.
            Pool::Shared => config.max_leased.min(config.max_connections - config.max_leased),
            Pool::Session => config.max_connections,
        }
    };
    // An upstream that allows no connection at all is skipped: its own check reports that error.
    let tightest =
        upstreams.iter().filter(|upstream| most(upstream) > 0).min_by_key(|upstream| most(upstream));
    match (typed, tightest) {
        (Setting::Given(workers, place), Some(upstream)) if workers > most(upstream) => {
            let config = &upstream.config;
            report.error(
                &place,
                format!(
                    "{workers} workers are too many for upstream {}: of its {} connections, {} may be leased, and \
                     every worker needs one to lease and one to share; raise max-connections and max-leased, or \
                     lower workers",
                    config.name, config.max_connections, config.max_leased
                ),
            );
            workers
        }
        (Setting::Given(workers, _), _) => workers,
        (_, tightest) => tightest.map_or(default, |upstream| default.min(most(upstream))).max(1),
    }
}

/// Warns if the shared connections may not suffice for the users: each user with credentials of its
/// own needs one shared connection per worker while its clients are active.
fn warn_about_room_for_users(
    upstream: &Upstream,
    users: &[UserConfig],
    workers: usize,
    place: &Place,
    report: &mut Report,
) {
    let config = &upstream.config;
    let users = users.iter().filter(|user| user.account.is_some()).count();
    let room = (config.max_connections / workers).saturating_sub(config.max_leased / workers).max(1);
    if config.pool == Pool::Shared && users > 0 && users + 1 > room {
        report.warn(
            &place.sub_key("max-connections"),
            format!(
                "{users} users with credentials of their own, and respgate's, may need {} shared connections of each \
                 worker, which has room for {room} (max-connections less max-leased, over {workers}); beyond that, \
                 commands fail while all are in use; raise max-connections by {}",
                users + 1,
                (users + 1 - room) * workers
            ),
        );
    }
}
