//! Finds what an operator should know: the lines of `/readyz` and the warnings of `/status`.

use std::time::SystemTime;

use tokio::time::Instant;

use super::security::TlsStatus;
use super::sources::{ListenerView, Sources, View};
use super::warning::{Severity, Warning};
use crate::cluster::ClusterTopology;
use crate::discovery::sentinel_table::SentinelState;
use crate::drain::FormerProcess;
use crate::metrics::counters::sum;
use crate::metrics::{Snapshot, declared};
use crate::operator::{PauseStatus, SwitchStatus};
use crate::rotation::{Tallies, Tally};
use crate::tenant::store::Stores;
use crate::tenant::users::Users;
use crate::topology::Topology;

/// The part of a limit from which a warning says that it is nearly reached.
const NEARLY: f64 = 0.9;
/// The greatest number of shards that warnings name.
const NAMED_SHARDS: usize = 8;
/// The seconds of replication lag from which a replica gets a warning.
const LAGGING: f64 = 10.0;

/// Returns the warning that a former process still serves clients after an upgrade.
pub(super) fn of_upgrade(sources: &Sources) -> Option<Warning> {
    let FormerProcess { pid, clients } = (*sources.former.borrow())?;
    Some(Warning::new(
        Severity::Info,
        "upgrade",
        format!("the former process {pid} still serves {clients} clients"),
        "it ends when they have left, or at the end of its drain-timeout",
    ))
}

/// Returns the warnings about a pause and a switch under way: clients wait because an operator wants it. Without `counts`, they do not say
/// who the operator is and how many clients wait.
pub(super) fn of_orders(view: &View, counts: Option<&Snapshot>) -> Vec<Warning> {
    let subject = format!("upstream {}", view.name);
    let ordered = view.ordered.borrow();
    let more = |by: &str| {
        let held = counts.map(|counts| sum(counts, &declared::CLIENTS_HELD.about));
        held.map_or_else(String::new, |held| format!("; ordered by {by}, {held} clients wait"))
    };
    let mut warnings = Vec::new();
    if let Some(SwitchStatus { to, since, by }) = &ordered.switching {
        let since = since.elapsed().as_secs();
        warnings.push(Warning::new(
            Severity::Warning,
            &subject,
            format!("an operator switches it to {to}, and commands have waited for {since} s{}", more(by)),
            "wait: commands go on within 5 s, at the new server or at the present one",
        ));
    }
    if let Some(PauseStatus { since, until, by, .. }) = &ordered.paused {
        let left = until.saturating_duration_since(Instant::now()).as_secs();
        let timeout = view.limits.borrow().hold_timeout;
        let (severity, failing) = match since.elapsed() >= timeout {
            true => (
                Severity::Critical,
                format!("; commands fail, because hold-timeout ({} s) has passed", timeout.as_secs()),
            ),
            false => (Severity::Warning, String::new()),
        };
        let since = since.elapsed().as_secs();
        warnings.push(Warning::new(
            severity,
            &subject,
            format!(
                "paused by an operator {since} s ago; the pause ends by itself in {left} s{failing}{}",
                more(by)
            ),
            "end it with respgate ctl resume",
        ));
    }
    warnings
}

/// Returns the warnings about an upstream's primary and about refused credentials.
pub(super) fn of_upstream(view: &View, users: Option<&Users>) -> Vec<Warning> {
    let subject = format!("upstream {}", view.name);
    let mut warnings = Vec::new();
    let cluster = view.cluster.borrow().clone().filter(|cluster| cluster.home().is_some());
    match &*view.topology.borrow() {
        // Each shard of a cluster has its own warning.
        _ if cluster.is_some() => {}
        Topology::Known(_) => {}
        Topology::Failing(_, sign) if sign.is_ordered() => {}
        Topology::Failing(primary, sign) => warnings.push(Warning::new(
            Severity::Warning,
            &subject,
            format!("primary {} is about to change: {sign}", primary.address),
            "wait: commands are held until the new primary is verified, for hold-timeout at most",
        )),
        Topology::Unknown(outage) => warnings.push(Warning::new(
            Severity::Critical,
            &subject,
            outage.to_string(),
            "look at the primary and the Sentinels; respgate doctor tests each of them",
        )),
    }
    warnings.extend(cluster.iter().flat_map(|cluster| of_shards(cluster, &subject)));
    let ordered = view.ordered.borrow();
    if let Some(to) = &ordered.switched {
        warnings.push(Warning::new(
            Severity::Info,
            &subject,
            format!("an operator has switched it to {to} until the next start; change its url in the configuration too"),
            "change the url of the upstream in the configuration",
        ));
    }
    let login = view.access.borrow().login.clone();
    let users = users.into_iter().flat_map(Users::all).collect::<Vec<_>>();
    for login in users.iter().filter_map(|user| user.login(&view.name)).chain([&login]) {
        if let Some(said) = login.refusal() {
            warnings.push(Warning::new(
                Severity::Critical,
                &subject,
                format!("the server refuses {}: {said}", login.principal()),
                "correct the password in the configuration, or the user in the server's ACL",
            ));
        }
    }
    warnings
}

/// Returns the warnings about the shards of a cluster that serve slots and have no primary.
fn of_shards(cluster: &ClusterTopology, subject: &str) -> Vec<Warning> {
    let serving = cluster.shards.iter().filter(|shard| cluster.slots.serves(shard.number));
    let lost = serving.filter_map(|shard| {
        let why = match &shard.topology {
            Topology::Unknown(outage) => outage.to_string(),
            Topology::Failing(_, sign) if !sign.is_ordered() => sign.to_string(),
            Topology::Known(_) | Topology::Failing(..) => return None,
        };
        Some(format!("shard {} has no primary: {why}", shard.number.0))
    });
    let warn = |text| {
        let remedy = "commands for its slots wait, for hold-timeout at most; look at its nodes, or run respgate doctor";
        Warning::new(Severity::Critical, subject, text, remedy)
    };
    let mut warnings: Vec<Warning> = lost.take(NAMED_SHARDS).map(warn).collect();
    let unserved: usize =
        cluster.slots.ranges().filter(|(_, owner)| owner.is_none()).map(|(range, _)| range.len()).sum();
    if unserved > 0 {
        warnings.push(warn(format!("{unserved} slots of the cluster belong to no node")));
    }
    warnings
}

/// Returns the warning that the limit of open files leaves few connections to the shards of a cluster.
fn of_open_files(view: &View, subject: &str) -> Option<Warning> {
    let cluster = view.cluster.borrow().clone()?;
    let text = view.limits.borrow().short_of_files(cluster.shards.len())?;
    let remedy = "raise it (ulimit -n, LimitNOFILE=), or lower max-clients; until then connections to some shards are closed for others";
    Some(Warning::new(Severity::Warning, subject, text, remedy))
}

/// Returns the warnings about files and credentials that respgate reads again.
pub(super) fn of_reloads(reloads: &Tallies) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for tally in reloads.all() {
        let (Tally { kind, name, .. }, outcomes) = (&tally, tally.outcomes());
        let mut warn = |severity, text: String, remedy: &str| {
            warnings.push(Warning::new(severity, &**name, text, remedy));
        };
        if !outcomes.restart.is_empty() {
            let keys = outcomes.restart.join(", ");
            warn(
                Severity::Info,
                format!("the newest {kind} needs a restart for {keys}"),
                "restart respgate when it suits",
            );
        }
        if let Some(stuck) = outcomes.stuck {
            warn(
                Severity::Warning,
                format!("respgate does not see changes of its {kind}: {stuck}"),
                "look at the file system or the program that it names",
            );
        }
        if let Some(error) = outcomes.error {
            warn(
                Severity::Warning,
                format!("respgate cannot use the newest {kind}: {error}"),
                "correct it; respgate keeps the former version meanwhile",
            );
        }
    }
    warnings
}

/// Returns the warnings about rates that are not shared.
pub(super) fn of_stores(stores: &Stores) -> Vec<Warning> {
    let all = stores.all();
    let failing = all.iter().filter_map(|store| Some((store, store.status().error?)));
    let warnings = failing.map(|(store, error)| {
        Warning::new(
            Severity::Warning,
            format!("upstream {}", store.upstream),
            format!("rates of tenants are not shared: {error}"),
            "each respgate keeps to its own part of the rates until the server answers",
        )
    });
    warnings.collect()
}

/// Returns the warnings about TLS.
pub(super) fn of_tls(tls: &TlsStatus) -> Vec<Warning> {
    tls.warnings(SystemTime::now())
}

/// Returns the warnings that only `/status` shows: Sentinels, replicas, and leases near their limit.
pub(super) fn of_details(view: &View, counts: &Snapshot) -> Vec<Warning> {
    let subject = format!("upstream {}", view.name);
    let mut warnings = of_sentinels(view, &subject);
    let replication = view.sampled().unwrap_or_default();
    for replica in &replication.replicas {
        let address = &replica.address;
        if let Some(link) = replica.link.as_ref().filter(|link| *link != "connected") {
            warnings.push(Warning::new(
                Severity::Warning,
                &subject,
                format!("replica {address} has no connection to the primary ({link})"),
                "look at the replica's log; until it is connected, no failover should choose it",
            ));
        }
        if let Some(lag) = replica.lag.map(|lag| lag.as_secs_f64()).filter(|lag| *lag >= LAGGING) {
            warnings.push(Warning::new(
                Severity::Warning,
                &subject,
                format!("replica {address} is {lag:.0} s behind"),
                "a failover to it would lose that time's writes; look at its load and the network",
            ));
        }
    }
    warnings.extend(of_open_files(view, &subject));
    let leases = sum(counts, &declared::CLIENTS_PINNED.about);
    warnings.extend(nearly(
        &subject,
        "leased connections",
        leases,
        view.limits.borrow().max_leased,
        "max-leased",
    ));
    let waiting = sum(counts, &declared::LEASE_WAITING.about);
    if waiting > 0 {
        warnings.push(Warning::new(
            Severity::Warning,
            &subject,
            format!("{waiting} sessions wait for a leased connection"),
            "raise max-leased, or reduce blocked, subscribed and transactional clients",
        ));
    }
    warnings
}

fn of_sentinels(view: &View, subject: &str) -> Vec<Warning> {
    let status = view.discovery.borrow();
    let mut warnings = Vec::new();
    for sentinel in &status.sentinels {
        if let SentinelState::Failed(error) = &sentinel.state {
            warnings.push(Warning::new(
                Severity::Warning,
                subject,
                error.text(),
                "the other Sentinels still decide; bring this one back",
            ));
        }
    }
    if let Some(uncertainty) =
        status.uncertainty.as_ref().filter(|_| view.topology.borrow().primary().is_some())
    {
        warnings.push(Warning::new(
            Severity::Warning,
            subject,
            format!("the Sentinels confirm no primary now: {uncertainty}"),
            "respgate keeps the primary that it verified; look at the Sentinels",
        ));
    }
    warnings
}

/// Returns a warning for each listener that is nearly full.
pub(super) fn of_listeners(listeners: &[ListenerView]) -> Vec<Warning> {
    let near = listeners.iter().filter_map(|listener| {
        let subject = format!("listener {}", listener.name);
        nearly(&subject, "clients", listener.connected() as u64, listener.max_clients(), "max-clients")
    });
    near.collect()
}

fn nearly(subject: &str, what: &str, used: u64, limit: usize, key: &str) -> Option<Warning> {
    let full = used >= limit as u64;
    (used as f64 >= NEARLY * limit as f64).then(|| {
        let severity = if full { Severity::Critical } else { Severity::Warning };
        Warning::new(
            severity,
            subject,
            format!("{used} of {limit} {what} are in use"),
            format!("raise {key}, or find who uses them"),
        )
    })
}
