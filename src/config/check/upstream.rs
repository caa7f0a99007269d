//! Checks upstreams: their addresses, respgate's credentials, and the numbers of connections.

use std::collections::HashMap;
use std::ffi::OsString;
use std::time::Duration;

use super::super::model::Upstream;
use super::super::report::{Place, Report};
use super::super::schema::{
    ClusterDefaults, ClusterKeys, ConnectionDefaults, ConnectionKeys, CredentialDefaults, Credentials,
    DiscoveryDefaults, DiscoveryKeys, FailoverDefaults, FailoverKeys, ReplicaDefaults, ReplicaKeys,
    UpstreamKeys,
};
use super::super::setting::Setting;
use super::super::typed::Named;
use super::super::url::Target;
use super::super::value::Bytes;
use super::tls;
use crate::discovery::config::{ClusterConfig, DiscoveryConfig, SentinelConfig};
use crate::files;
use crate::replica::LagBound;
use crate::rotation::source::{Account, CredentialSource, NameSource, PasswordSource, SecretSource};
use crate::topology::Address;
use crate::upstream::config::{Pool, UpstreamConfig};

/// Number of connections that the shared lane keeps if only one of the two limits is typed.
const SHARED_RESERVE: usize = 64;

/// The smallest `max-age`. Connections with a shorter life would be replaced all the time.
const MIN_AGE: Duration = Duration::from_secs(1);

/// The smallest `max-lag`. respgate asks how far nodes are ten times a second.
const LEAST_LAG: Duration = Duration::from_millis(200);

type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

pub(super) fn check(upstream: Named<UpstreamKeys>, env: Env<'_>, report: &mut Report) -> Option<Upstream> {
    let Named { name, place: table, keys } = upstream;
    let UpstreamKeys {
        discovery: mut location,
        credentials,
        sentinel_credentials,
        tls: data,
        sentinel_tls: sentinel_leg,
        connections: mut bounds,
        failover,
        mut reads,
        cluster,
    } = keys;
    let mut url_username = Setting::Absent;
    let mut url_password = Setting::Absent;
    let mut url_database = Setting::Absent;
    let mut url_target = Setting::Absent;
    let mut scheme = false;
    match std::mem::take(&mut location.url) {
        Setting::Absent => {}
        Setting::Invalid => url_target = Setting::Invalid,
        Setting::Given(url, place) => {
            url_username = Setting::optional(url.username.map(NameSource::Given), &place);
            url_password = Setting::optional(url.password.map(PasswordSource::Held), &place);
            url_database = Setting::optional(url.database, &place);
            url_target = Setting::Given(url.target, place);
            scheme = url.tls;
        }
    }
    let username = choose(credentials.username, url_username, report);
    let password = choose(credentials.password.map(PasswordSource::Read), url_password, report);
    let database = choose(std::mem::take(&mut bounds.database), url_database, report);
    let account = account(username, password, credentials.refresh, NODES, env, report);

    let target = target(&mut location, url_target, &table, report);
    let nat = location.nat.value().cloned().unwrap_or_default();
    let errors = report.errors.len();
    if let (Some(Target::Fixed(Address::Unix(_))), Some(place)) = (&target, data.on.place()) {
        report.error(place, "a unix socket never leaves the machine and speaks plain text; leave it out");
    }
    let tls = tls::leg(&data, None, scheme, "", &nat, &table, report);
    let sentinel_tls = match &target {
        Some(target @ (Target::Fixed(_) | Target::Cluster { .. })) => {
            for place in sentinel_leg.on.place().into_iter().chain(sentinel_leg.places()) {
                report.error(place, asks_no_sentinels(&name, target));
            }
            None
        }
        _ => {
            let on = data.on.value().copied().unwrap_or(scheme);
            tls::leg(&sentinel_leg, Some(&data), on, "sentinel-", &nat, &table, report)
        }
    };
    let tls_is_invalid = report.errors.len() > errors;
    let replicas = std::mem::take(&mut reads.replicas);
    super::reads::warn_of_lag(&reads.max_lag, report);
    if let (Some(Target::Sentinels { .. }), Some(place)) = (&target, replicas.place()) {
        report.error(place, "the Sentinels name the replicas; leave it out");
    }
    if let Some(Target::Cluster { .. }) = target {
        super::cluster::check(&replicas, &bounds.pool, &database, report);
    }
    let (discovery, sentinel_account) = match target {
        Some(ref fixed @ Target::Fixed(ref address)) => {
            refuse_sentinel_keys(&name, fixed, &location, &sentinel_credentials, report);
            (Some(DiscoveryConfig::Fixed(address.clone())), None)
        }
        Some(ref cluster @ Target::Cluster { ref seeds }) => {
            refuse_sentinel_keys(&name, cluster, &location, &sentinel_credentials, report);
            let config = ClusterConfig {
                nat: location.nat.or(HashMap::new()),
                poll_interval: poll_interval(location.poll_interval, report),
                ..ClusterConfig::new(seeds.clone())
            };
            (Some(DiscoveryConfig::Cluster(config)), None)
        }
        Some(Target::Sentinels { seeds, primary_name }) => {
            let (config, account) =
                sentinel(location, sentinel_credentials, seeds, primary_name, env, report);
            (Some(DiscoveryConfig::Sentinel(config)), account)
        }
        None => {
            // The other keys are checked too, so that all errors show at once and not only after
            // the target is fixed.
            sentinel(location, sentinel_credentials, Vec::new(), String::new(), env, report);
            (None, None)
        }
    };
    let database = database.or(ConnectionDefaults::database());
    let config = connections(name, database, bounds, failover, (reads, cluster), report);
    let discovery = discovery.filter(|_| !tls_is_invalid)?;
    Some(Upstream {
        config,
        discovery,
        replicas: replicas.or(Vec::new()),
        account,
        sentinel_account,
        tls,
        sentinel_tls,
    })
}

/// Chooses between a key and the part of the URL that sets the same value: the one whose place has
/// precedence. If both are in one file, that is an error.
fn choose<T>(key: Setting<T>, in_url: Setting<T>, report: &mut Report) -> Setting<T> {
    match (key.place(), in_url.place()) {
        (Some(place @ Place::File { .. }), Some(Place::File { .. })) => {
            report.error(place, "the url says it too; leave one out");
            Setting::Invalid
        }
        (Some(place), Some(url_place)) if place.precedence() < url_place.precedence() => in_url,
        _ if key.is_absent() => in_url,
        _ => key,
    }
}

fn target(
    typed: &mut DiscoveryKeys,
    url: Setting<Target>,
    table: &Place,
    report: &mut Report,
) -> Option<Target> {
    let sentinels = std::mem::take(&mut typed.sentinels);
    let primary_name = std::mem::take(&mut typed.primary_name);
    let address = std::mem::take(&mut typed.address);
    let ways = [!url.is_absent(), !address.is_absent(), !sentinels.is_absent()];
    match ways.iter().filter(|given| **given).count() {
        0 => {
            report.error(
                &table.sub_key("url"),
                r#"is missing; say where the server is, as in url = "redis://db.example:6379""#,
            );
            return None;
        }
        1 => {}
        _ => {
            let place = sentinels.place().or(address.place()).or(url.place()).unwrap_or(table);
            report.error(place, "say where the server is in one way: url, or address, or sentinels");
            return None;
        }
    }
    if sentinels.is_absent() {
        if let Some(place) = primary_name.place() {
            report.error(place, "belongs to sentinels = […]; in a url it is the #name at the end");
        }
        return match (url, address) {
            (Setting::Given(target, _), _) => Some(target),
            (_, Setting::Given(address, _)) => Some(Target::Fixed(address)),
            _ => None,
        };
    }
    if primary_name.is_absent() {
        report.error(
            &table.sub_key("primary-name"),
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

fn asks_no_sentinels(name: &str, target: &Target) -> String {
    let what = if matches!(target, Target::Cluster { .. }) { "a cluster" } else { "at a fixed address" };
    format!("upstream {name} is {what} and asks no Sentinels; leave it out")
}

/// Refuses keys that only Sentinels use. If they come from the environment, it only warns, because
/// one environment may serve many configurations.
fn refuse_sentinel_keys(
    name: &str,
    target: &Target,
    typed: &DiscoveryKeys,
    credentials: &Credentials,
    report: &mut Report,
) {
    // A cluster is asked at intervals too, and its nodes may announce addresses that need a map.
    let is_fixed = matches!(target, Target::Fixed(_));
    let places = [
        credentials.username.place(),
        credentials.password.place(),
        credentials.refresh.place(),
        typed.nat.place().filter(|_| is_fixed),
        typed.poll_interval.place().filter(|_| is_fixed),
        typed.sentinel_timeout.place(),
        typed.switch.place(),
    ];
    for place in places.into_iter().flatten() {
        let text = asks_no_sentinels(name, target);
        match place {
            Place::Env(_) => report.warn(place, text),
            _ => report.error(place, text),
        }
    }
}

fn poll_interval(typed: Setting<Duration>, report: &mut Report) -> Duration {
    let least = Duration::from_millis(10);
    typed.at_least(least, "10ms", report).or(DiscoveryDefaults::poll_interval())
}

fn sentinel(
    typed: DiscoveryKeys,
    credentials: Credentials,
    seeds: Vec<Address>,
    primary_name: String,
    env: Env<'_>,
    report: &mut Report,
) -> (SentinelConfig, Option<Account>) {
    let Credentials { username, password, refresh } = credentials;
    let account = account(username, password.map(PasswordSource::Read), refresh, SENTINELS, env, report);
    let least = Duration::from_millis(10);
    let config = SentinelConfig {
        seeds,
        primary_name,
        nat: typed.nat.or(HashMap::new()),
        poll_interval: poll_interval(typed.poll_interval, report),
        timeout: typed
            .sentinel_timeout
            .at_least(least, "10ms", report)
            .or(DiscoveryDefaults::sentinel_timeout()),
        switch: typed.switch.or(DiscoveryDefaults::switch()),
    };
    (config, account)
}

/// The keys that hold an account's credentials, and the environment variable that can also give the
/// password.
#[derive(Clone, Copy)]
pub(super) struct Holder {
    /// Name or prefix of the password's keys.
    key: &'static str,
    variable: Option<&'static str>,
}

/// respgate's own account at an upstream's nodes.
const NODES: Holder = Holder { key: "password", variable: Some("RESPGATE_UPSTREAM_PASSWORD") };
/// respgate's own account at Sentinels.
const SENTINELS: Holder = Holder { key: "sentinel-password", variable: Some("RESPGATE_SENTINEL_PASSWORD") };
/// The account of one of respgate's users.
pub(super) const USERS: Holder = Holder { key: "upstream-password", variable: None };

/// Reads name and password. A name without a password is an error; a password without a name
/// belongs to the server's default user. It does not run a `password-command`, because a program
/// may have effects and take long.
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
        report.error(place, format!("belongs to {key}-command; files are read again whenever they change"));
    }
    let refresh =
        refresh.at_least(Duration::from_secs(1), "1s", report).or(CredentialDefaults::password_refresh());
    let (password, place) = match password {
        Setting::Given(password, place) => (password, place),
        Setting::Invalid => return None,
        Setting::Absent => {
            if let Some(place) = username.place() {
                let ways = match variable {
                    Some(variable) => format!("set {key}-file, {key}-env or {variable}"),
                    None => format!("set {key}-file, {key}-env or {key}-command"),
                };
                report.error(place, format!("a user needs a password; {ways}"));
            }
            return None;
        }
    };
    let name_place = username.place().cloned();
    let source = CredentialSource { username: username.value().cloned(), password, refresh };
    if let Some(place) = name_place
        && let Err(why) = source.name()
    {
        report.error(&place, why);
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
                .error(&place, format!("{program} is not there; name the program that prints the password"));
        }
        return Some(Account { credentials: None, source });
    }
    match source.read(env) {
        Ok(credentials) => {
            if let Some(warning) = read.warning() {
                report.warn(&place, warning);
            }
            Some(Account { credentials: Some(credentials), source })
        }
        Err(why) => {
            report.error(&place, why);
            None
        }
    }
}

fn connections(
    name: String,
    database: u32,
    typed: ConnectionKeys,
    failover: FailoverKeys,
    (reads, cluster): (ReplicaKeys, ClusterKeys),
    report: &mut Report,
) -> UpstreamConfig {
    use ConnectionDefaults as Builtin;
    let pool = typed.pool.or(Builtin::pool());
    let least = Duration::from_millis(1);
    let typed_connections = typed.max_connections.at_least(2, "2", report);
    let typed_leased = typed.max_leased.at_least(1, "1", report);
    let max_connections = match (&typed_connections, &typed_leased) {
        (Setting::Given(connections, _), _) => *connections,
        (_, Setting::Given(leased, _)) => {
            Builtin::max_connections().max(leased.saturating_add(SHARED_RESERVE))
        }
        _ => Builtin::max_connections(),
    };
    let max_leased = match &typed_leased {
        Setting::Given(leased, place) if *leased > max_connections => {
            report.error(
                place,
                format!("{leased} is more than max-connections, which is {max_connections}; raise that or lower this"),
            );
            max_connections
        }
        Setting::Given(leased, place) if *leased == max_connections && pool == Pool::Shared => {
            report.error(
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
        name,
        database,
        client_auth: typed.client_auth.or(Builtin::client_auth()),
        pool,
        max_connections,
        max_leased,
        // The start divides the limit of open files.
        max_open: usize::MAX,
        max_open_of_discovery: usize::MAX,
        lease_timeout: typed.lease_timeout.or(Builtin::lease_timeout()),
        lease_idle_timeout: typed
            .lease_idle_timeout
            .at_least(least, "1ms", report)
            .or(Builtin::lease_idle_timeout()),
        ping_interval: typed.ping_interval.or(Builtin::ping_interval()),
        replica_sampling: typed.replica_sampling.or(Builtin::replica_sampling()),
        lag_bound: LagBound {
            time: reads.max_lag.at_least(LEAST_LAG, "200ms", report).or(ReplicaDefaults::max_lag()),
            bytes: reads.max_lag_bytes.or(ReplicaDefaults::max_lag_bytes()).0 as u64,
        },
        read_your_writes: reads.read_your_writes.or(ReplicaDefaults::read_your_writes()),
        reads_in_hold: reads.reads_in_hold.or(ReplicaDefaults::reads_in_hold()),
        cross_slot_writes: cluster.cross_slot_writes.or(ClusterDefaults::cross_slot_writes()),
        availability_zone: reads.availability_zone.value().cloned(),
        max_age: match typed.max_age {
            Setting::Given(age, place) if !age.is_zero() && age < MIN_AGE => {
                report.error(&place, "must be at least 1s, or \"0s\" for no limit");
                Builtin::max_age()
            }
            typed => typed.or(Builtin::max_age()),
        },
        reauth: typed.reauth.or(Builtin::reauth()),
        connect_timeout: typed.connect_timeout.at_least(least, "1ms", report).or(Builtin::connect_timeout()),
        response_timeout: typed.response_timeout.or(Builtin::response_timeout()),
        hold_timeout: failover.hold_timeout.or(FailoverDefaults::hold_timeout()),
        hold_buffer: failover
            .hold_buffer
            .at_least(Bytes(64 * 1024), "64KiB", report)
            .or(FailoverDefaults::hold_buffer())
            .0,
        retry_reads: failover.retry_reads.or(FailoverDefaults::retry_reads()),
        retry_writes: failover.retry_writes.or(FailoverDefaults::retry_writes()),
        blocked_pop: failover.blocked_pop.or(FailoverDefaults::blocked_pop()),
    }
}
