//! Describes what a checked configuration would run, in a few lines for people.

use std::fmt::Write;

use super::model::{Config, Upstream};
use super::size::{show_bytes, show_duration};
use crate::discovery::config::DiscoveryConfig;
use crate::listener::{Bind, ListenerConfig};
use crate::net::tls::Loaded;
use crate::net::tls::client::ClientProfile;
use crate::replica::Reads;
use crate::rotation::source::Account;
use crate::session::config::AdminCommands;
use crate::upstream::config::{ClientAuth, Pool};

/// Returns one line for each listener and upstream, and one for the process.
pub fn describe(config: &Config) -> String {
    let mut text = String::new();
    for listener in &config.listeners {
        text.push_str(&describe_listener(listener));
    }
    for upstream in &config.upstreams {
        text.push_str(&describe_upstream(upstream));
    }
    let admin =
        config.admin.map_or_else(|| "no admin listener".to_owned(), |address| format!("admin on {address}"));
    let _ = writeln!(
        text,
        "process: {}, {admin}, at most {} buffered, drains within {}",
        count(config.workers, "worker"),
        show_bytes(config.max_buffered),
        show_duration(config.drain_timeout)
    );
    text
}

fn describe_listener(listener: &ListenerConfig) -> String {
    let bind = match &listener.bind {
        Bind::Tcp(address) => address.to_string(),
        Bind::Unix { path, mode } => format!("unix:{} (mode {mode:04o})", path.display()),
    };
    let tls = if listener.tls.is_some() { " with TLS" } else { "" };
    let admin = match listener.session.admin_commands {
        AdminCommands::Deny => "",
        AdminCommands::ReadOnly => ", read-only admin commands allowed",
        AdminCommands::Allow => ", admin commands allowed",
    };
    let reads = match listener.session.reads {
        Reads::Primary => "",
        Reads::OnRequest => ", reads from replicas on request",
        Reads::PreferReplica => ", reads from replicas or else the primary",
        Reads::Replica => ", reads from replicas only",
    };
    let tenant = listener.tenant.as_ref().map_or_else(String::new, |name| format!(", tenant {name}"));
    format!(
        "listener {}: {bind}{tls} -> upstream {}, up to {}, requests up to {}{admin}{reads}{tenant}\n",
        listener.name,
        listener.upstream,
        count(listener.max_clients, "client"),
        show_bytes(listener.session.request.max_request)
    )
}

fn describe_upstream(upstream: &Upstream) -> String {
    let config = &upstream.config;
    let place = match &upstream.discovery {
        DiscoveryConfig::Fixed(address) => address.to_string(),
        DiscoveryConfig::Sentinel(sentinel) => {
            let seeds: Vec<String> = sentinel.seeds.iter().map(ToString::to_string).collect();
            format!("primary {:?} of Sentinels {}", sentinel.primary_name, seeds.join(", "))
        }
        DiscoveryConfig::Cluster(cluster) => {
            let seeds: Vec<String> = cluster.seeds.iter().map(ToString::to_string).collect();
            format!("the cluster of {}", seeds.join(", "))
        }
    };
    let user = match &upstream.account {
        Some(Account { credentials: Some(credentials), .. }) => format!("as user {}", credentials.user()),
        Some(Account { source, .. }) => {
            let name = source.name().ok().flatten();
            format!("as user {}, whose password a program prints", name.as_deref().unwrap_or("default"))
        }
        None => "without a password".into(),
    };
    let auth = match config.client_auth {
        ClientAuth::Optional => "clients need no AUTH",
        ClientAuth::Required => "clients must AUTH",
    };
    let pool = match config.pool {
        Pool::Shared => "shared",
        Pool::Session => "one per session",
    };
    format!(
        "upstream {}: {place}{}, database {}, {user}, {auth}, connections {pool}, at most {} ({} leased)\n",
        config.name,
        describe_tls(upstream),
        config.database,
        config.max_connections,
        config.max_leased
    )
}

/// Describes an upstream's TLS. Returns an empty text if every leg speaks plain text.
fn describe_tls(upstream: &Upstream) -> String {
    fn shown<S>(leg: &Option<Loaded<ClientProfile, S>>) -> &'static str {
        match leg {
            None => "plain text",
            Some(leg) if leg.profile.dangerously_unverified => "TLS without verification",
            Some(_) => "verified TLS",
        }
    }
    let (data, sentinels) = (shown(&upstream.tls), shown(&upstream.sentinel_tls));
    match &upstream.discovery {
        _ if upstream.tls.is_none() && upstream.sentinel_tls.is_none() => String::new(),
        DiscoveryConfig::Sentinel(_) if data != sentinels => format!(", {data} (to Sentinels {sentinels})"),
        _ => format!(", {data}"),
    }
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
