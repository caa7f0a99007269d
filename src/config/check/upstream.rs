//! Checks upstreams: where they are, who respgate is to them, and how many connections they get.

use std::collections::HashMap;
use std::ffi::OsString;
use std::time::Duration;

use super::super::Upstream;
use super::super::report::{Place, Report};
use super::super::tls::{DATA, SENTINEL};
use super::super::typed::{Setting, TypedUpstream};
use super::super::url::Target;
use super::super::value::Bytes;
use super::tls;
use crate::discovery::config::{DiscoveryConfig, SentinelConfig};
use crate::files;
use crate::rotation::source::{Account, CredentialSource, NameSource, PasswordSource, SecretSource};
use crate::topology::Address;
use crate::upstream::config::{Pool, UpstreamConfig};

/// Connections that the shared lane keeps when only one of the two limits is typed.
const SHARED_RESERVE: usize = 64;

/// Connections that live shorter than this would be made all the time.
const MIN_AGE: Duration = Duration::from_secs(1);

/// How often a program is asked for a password, unless it is typed: tokens of cloud providers live for 15 minutes or
/// more.
const REFRESH: Duration = Duration::from_secs(600);

type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

pub(super) fn check(mut typed: TypedUpstream, env: Env<'_>, report: &mut Report) -> Option<Upstream> {
    let mut url_username = Setting::Absent;
    let mut url_password = Setting::Absent;
    let mut url_database = Setting::Absent;
    let mut url_target = Setting::Absent;
    let mut scheme = false;
    match std::mem::take(&mut typed.url) {
        Setting::Absent => {}
        Setting::Faulty => url_target = Setting::Faulty,
        Setting::Given(url, place) => {
            url_username = Setting::optional(url.username.map(NameSource::Given), &place);
            url_password = Setting::optional(url.password.map(PasswordSource::Held), &place);
            url_database = Setting::optional(url.database, &place);
            url_target = Setting::Given(url.target, place);
            scheme = url.tls;
        }
    }
    let username = choose(std::mem::take(&mut typed.username), url_username, report);
    let password =
        choose(std::mem::take(&mut typed.password).map(PasswordSource::Read), url_password, report);
    let database = choose(std::mem::take(&mut typed.database), url_database, report);
    let refresh = std::mem::take(&mut typed.password_refresh);
    let account = account(username, password, refresh, NODES, env, report);

    let target = target(&mut typed, url_target, report);
    let nat = typed.nat.value().cloned().unwrap_or_default();
    let data = std::mem::take(&mut typed.tls);
    let sentinel_leg = std::mem::take(&mut typed.sentinel_tls);
    let table = typed.place.clone();
    let faults = report.faults.len();
    if let (Some(Target::Fixed(Address::Unix(_))), Some(place)) = (&target, data.on.place()) {
        report.fault(place, "a unix socket never leaves the machine and speaks plain text; leave it out");
    }
    let tls = tls::leg(&data, None, scheme, &DATA, &nat, &table, report);
    let sentinel_tls = match &target {
        Some(Target::Fixed(_)) => {
            for place in sentinel_leg.on.place().into_iter().chain(sentinel_leg.places()) {
                report.fault(place, asks_no_sentinels(&typed.name));
            }
            None
        }
        _ => {
            let on = data.on.value().copied().unwrap_or(scheme);
            tls::leg(&sentinel_leg, Some(&data), on, &SENTINEL, &nat, &table, report)
        }
    };
    let tls_is_faulty = report.faults.len() > faults;
    let (discovery, sentinel_account) = match target {
        Some(Target::Fixed(address)) => {
            refuse_sentinel_keys(&typed, report);
            (Some(DiscoveryConfig::Fixed(address)), None)
        }
        Some(Target::Sentinels { seeds, primary_name }) => {
            let (config, account) = sentinel(&mut typed, seeds, primary_name, env, report);
            (Some(DiscoveryConfig::Sentinel(config)), account)
        }
        None => {
            // What else is wrong should be known now, not when the target is mended.
            sentinel(&mut typed, Vec::new(), String::new(), env, report);
            (None, None)
        }
    };
    let config = connections(typed, report);
    let config = UpstreamConfig { database: database.or(0), ..config };
    let discovery = discovery.filter(|_| !tls_is_faulty)?;
    Some(Upstream { config, discovery, account, sentinel_account, tls, sentinel_tls })
}

/// Of a key and a part of the URL that say the same thing, the one whose place wins; within one file, neither.
fn choose<T>(key: Setting<T>, in_url: Setting<T>, report: &mut Report) -> Setting<T> {
    match (key.place(), in_url.place()) {
        (Some(place @ Place::File { .. }), Some(Place::File { .. })) => {
            report.fault(place, "the url says it too; leave one out");
            Setting::Faulty
        }
        (Some(place), Some(url_place)) if place.precedence() < url_place.precedence() => in_url,
        _ if key.is_absent() => in_url,
        _ => key,
    }
}

fn target(typed: &mut TypedUpstream, url: Setting<Target>, report: &mut Report) -> Option<Target> {
    let sentinels = std::mem::take(&mut typed.sentinels);
    let primary_name = std::mem::take(&mut typed.primary_name);
    let address = std::mem::take(&mut typed.address);
    let ways = [!url.is_absent(), !address.is_absent(), !sentinels.is_absent()];
    match ways.iter().filter(|given| **given).count() {
        0 => {
            report.fault(
                &typed.place.sub_key("url"),
                r#"is missing; say where the server is, as in url = "redis://db.example:6379""#,
            );
            return None;
        }
        1 => {}
        _ => {
            let place = sentinels.place().or(address.place()).or(url.place()).unwrap_or(&typed.place);
            report.fault(place, "say where the server is in one way: url, or address, or sentinels");
            return None;
        }
    }
    if sentinels.is_absent() {
        if let Some(place) = primary_name.place() {
            report.fault(place, "belongs to sentinels = […]; in a url it is the #name at the end");
        }
        return match (url, address) {
            (Setting::Given(target, _), _) => Some(target),
            (_, Setting::Given(address, _)) => Some(Target::Fixed(address)),
            _ => None,
        };
    }
    if primary_name.is_absent() {
        report.fault(
            &typed.place.sub_key("primary-name"),
            r#"is missing; say which primary the Sentinels should be asked for, as in "mymaster""#,
        );
    }
    match (sentinels, primary_name) {
        (Setting::Given(seeds, _), Setting::Given(primary_name, _)) => {
            Some(Target::Sentinels { seeds, primary_name })
        }
        _ => None,
    }
}

fn asks_no_sentinels(name: &str) -> String {
    format!("upstream {name} is at a fixed address and asks no Sentinels; leave it out")
}

/// Keys that only Sentinels have a use for. From the environment they are no more than doubtful: one environment
/// may serve many configurations.
fn refuse_sentinel_keys(typed: &TypedUpstream, report: &mut Report) {
    let places = [
        typed.sentinel_username.place(),
        typed.sentinel_password.place(),
        typed.sentinel_password_refresh.place(),
        typed.nat.place(),
        typed.poll_interval.place(),
        typed.sentinel_timeout.place(),
        typed.switch.place(),
    ];
    for place in places.into_iter().flatten() {
        let text = asks_no_sentinels(&typed.name);
        match place {
            Place::Env(_) => report.warn(place, text),
            _ => report.fault(place, text),
        }
    }
}

fn sentinel(
    typed: &mut TypedUpstream,
    seeds: Vec<crate::topology::Address>,
    primary_name: String,
    env: Env<'_>,
    report: &mut Report,
) -> (SentinelConfig, Option<Account>) {
    let username = std::mem::take(&mut typed.sentinel_username);
    let password = std::mem::take(&mut typed.sentinel_password).map(PasswordSource::Read);
    let refresh = std::mem::take(&mut typed.sentinel_password_refresh);
    let account = account(username, password, refresh, SENTINELS, env, report);
    let builtin = SentinelConfig::new(seeds, primary_name);
    let least = Duration::from_millis(10);
    let config = SentinelConfig {
        nat: std::mem::take(&mut typed.nat).or(HashMap::new()),
        poll_interval: std::mem::take(&mut typed.poll_interval)
            .at_least(least, "10ms", report)
            .or(builtin.poll_interval),
        timeout: std::mem::take(&mut typed.sentinel_timeout)
            .at_least(least, "10ms", report)
            .or(builtin.timeout),
        switch: std::mem::take(&mut typed.switch).or(builtin.switch),
        ..builtin
    };
    (config, account)
}

/// Whose credentials are read: their keys, and what else can give the password.
#[derive(Clone, Copy)]
pub(super) struct Holder {
    /// What the password's keys begin with.
    key: &'static str,
    variable: Option<&'static str>,
}

/// respgate's own, at an upstream's nodes.
const NODES: Holder = Holder { key: "password", variable: Some("RESPGATE_UPSTREAM_PASSWORD") };
/// respgate's own, at Sentinels.
const SENTINELS: Holder = Holder { key: "sentinel-password", variable: Some("RESPGATE_SENTINEL_PASSWORD") };
/// Those of one of respgate's users.
pub(super) const USERS: Holder = Holder { key: "upstream-password", variable: None };

/// Reads name and password. A name without a password is a fault; a password without a name is the default user's.
/// A program is not run: it may have effects, and take its time.
pub(super) fn account(
    username: Setting<NameSource>,
    password: Setting<PasswordSource>,
    refresh: Setting<Duration>,
    Holder { key, variable }: Holder,
    env: Env<'_>,
    report: &mut Report,
) -> Option<Account> {
    let runs = matches!(password.value(), Some(PasswordSource::Read(SecretSource::Command(_))));
    if let (Some(place), false) = (refresh.place(), runs) {
        report.fault(place, format!("belongs to {key}-command; files are read again whenever they change"));
    }
    let refresh = refresh.at_least(Duration::from_secs(1), "1s", report).or(REFRESH);
    let (password, place) = match password {
        Setting::Given(password, place) => (password, place),
        Setting::Faulty => return None,
        Setting::Absent => {
            if let Some(place) = username.place() {
                let ways = match variable {
                    Some(variable) => format!("set {key}-file, {key}-env or {variable}"),
                    None => format!("set {key}-file, {key}-env or {key}-command"),
                };
                report.fault(place, format!("a user needs a password; {ways}"));
            }
            return None;
        }
    };
    let name_place = username.place().cloned();
    let source = CredentialSource { username: username.value().cloned(), password, refresh };
    if let Some(place) = name_place
        && let Err(why) = source.name()
    {
        report.fault(&place, why);
        return None;
    }
    let PasswordSource::Read(read) = &source.password else {
        return Some(Account { credentials: source.read(env).ok(), source });
    };
    if let SecretSource::Command(words) = read {
        if let Some(program) = words.first()
            && program.contains('/')
            && !files::metadata(std::path::Path::new(program)).is_ok_and(|data| data.is_file())
        {
            report
                .fault(&place, format!("{program} is not there; name the program that prints the password"));
        }
        return Some(Account { credentials: None, source });
    }
    match source.read(env) {
        Ok(credentials) => {
            if let Some(doubt) = read.doubt() {
                report.warn(&place, doubt);
            }
            Some(Account { credentials: Some(credentials), source })
        }
        Err(why) => {
            report.fault(&place, why);
            None
        }
    }
}

fn connections(typed: TypedUpstream, report: &mut Report) -> UpstreamConfig {
    let builtin = UpstreamConfig::new(typed.name);
    let pool = typed.pool.or(builtin.pool);
    let least = Duration::from_millis(1);
    let typed_connections = typed.max_connections.at_least(2, "2", report);
    let typed_leased = typed.max_leased.at_least(1, "1", report);
    let max_connections = match (&typed_connections, &typed_leased) {
        (Setting::Given(connections, _), _) => *connections,
        (_, Setting::Given(leased, _)) => builtin.max_connections.max(leased.saturating_add(SHARED_RESERVE)),
        _ => builtin.max_connections,
    };
    let max_leased = match &typed_leased {
        Setting::Given(leased, place) if *leased > max_connections => {
            report.fault(
                place,
                format!("{leased} is more than max-connections, which is {max_connections}; raise that or lower this"),
            );
            max_connections
        }
        Setting::Given(leased, place) if *leased == max_connections && pool == Pool::Shared => {
            report.fault(
                place,
                format!(
                    "{leased} of {max_connections} max-connections leaves none to share; lower it, raise that, or \
                     set pool = \"session\""
                ),
            );
            *leased
        }
        Setting::Given(leased, _) => *leased,
        _ => max_connections - (max_connections / 4).clamp(1, SHARED_RESERVE),
    };
    UpstreamConfig {
        client_auth: typed.client_auth.or(builtin.client_auth),
        pool,
        max_connections,
        max_leased,
        lease_wait: typed.lease_wait.or(builtin.lease_wait),
        lease_idle: typed.lease_idle.at_least(least, "1ms", report).or(builtin.lease_idle),
        ping_interval: typed.ping_interval.or(builtin.ping_interval),
        max_age: match typed.max_age {
            Setting::Given(age, place) if !age.is_zero() && age < MIN_AGE => {
                report.fault(&place, "must be at least 1s, or \"0s\" for no limit");
                builtin.max_age
            }
            typed => typed.or(builtin.max_age),
        },
        reauth: typed.reauth.or(builtin.reauth),
        connect_timeout: typed.connect_timeout.at_least(least, "1ms", report).or(builtin.connect_timeout),
        response_timeout: typed.response_timeout.or(builtin.response_timeout),
        hold_timeout: typed.hold_timeout.or(builtin.hold_timeout),
        hold_buffer: typed
            .hold_buffer
            .at_least(Bytes(64 * 1024), "64KiB", report)
            .or(Bytes(builtin.hold_buffer))
            .0,
        retry_reads: typed.retry_reads.or(builtin.retry_reads),
        retry_writes: typed.retry_writes.or(builtin.retry_writes),
        blocked_pop: typed.blocked_pop.or(builtin.blocked_pop),
        ..builtin
    }
}
