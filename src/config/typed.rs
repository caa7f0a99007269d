//! A configuration as typed: every setting may be absent, and knows where it stands. [`super::check`] makes a
//! [`super::Config`] of it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::LogFormat;
use super::address::ListenAddress;
use super::report::{Place, Report};
use super::tls::{TypedClientTls, TypedServerTls};
use super::url::UpstreamUrl;
use super::value::{Bytes, LogLevel, Mode};
use super::written::Written;
use crate::discovery::config::SwitchRule;
use crate::rotation::source::{NameSource, SecretSource};
use crate::session::config::AdminCommands;
use crate::tenant::config::Pubsub;
use crate::tenant::identity::CertificateRule;
use crate::tenant::limits::config::OverLimit;
use crate::tenant::policy::config::{Rule, Scripts};
use crate::tenant::users::hash::PasswordHash;
use crate::topology::Address;
use crate::upstream::config::{BlockedPop, ClientAuth, Pool, Reauth, RetryWrites};
use crate::upstream::shared::fair::fair_queue::Priority;

/// One setting.
#[derive(Clone, Debug, Default)]
pub enum Setting<T> {
    /// Not typed: the default holds.
    #[default]
    Absent,
    /// Typed, and reported as a fault already: what depends on it says nothing more.
    Faulty,
    /// Typed.
    Given(T, Place),
}

impl<T> Setting<T> {
    /// Typed if there is a value.
    pub fn optional(value: Option<T>, place: &Place) -> Self {
        value.map_or(Self::Absent, |value| Self::Given(value, place.clone()))
    }

    /// Not typed at all.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Typed, and wrong.
    pub fn is_faulty(&self) -> bool {
        matches!(self, Self::Faulty)
    }

    /// The value, if it was typed and is right.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Given(value, _) => Some(value),
            _ => None,
        }
    }

    /// Where it was typed, if it is right.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Given(_, place) => Some(place),
            _ => None,
        }
    }

    /// The value, or the default.
    pub fn or(self, default: T) -> T {
        match self {
            Self::Given(value, _) => value,
            _ => default,
        }
    }

    /// The value, or the type's own default.
    pub fn or_default(self) -> T
    where
        T: Default,
    {
        self.or(T::default())
    }

    /// The same setting with its value converted.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Setting<U> {
        match self {
            Self::Absent => Setting::Absent,
            Self::Faulty => Setting::Faulty,
            Self::Given(value, place) => Setting::Given(convert(value), place),
        }
    }

    /// Takes the other's place where it was typed.
    pub fn override_with(&mut self, other: Self) {
        if !other.is_absent() {
            *self = other;
        }
    }

    /// This setting, or where it was not typed, the wider one.
    pub fn or_else(&self, wider: &Self) -> Self
    where
        T: Clone,
    {
        if self.is_absent() { wider.clone() } else { self.clone() }
    }

    /// Refuses a value below `least`, shown as `least_shown`.
    pub fn at_least(self, least: T, least_shown: &str, report: &mut Report) -> Self
    where
        T: PartialOrd,
    {
        match self {
            Self::Given(value, place) if value < least => {
                report.fault(&place, format!("must be at least {least_shown}"));
                Self::Faulty
            }
            other => other,
        }
    }
}

/// A whole configuration.
#[derive(Debug, Default)]
pub struct Typed {
    /// The file, if there is one.
    pub file: Option<Place>,
    /// Its keys.
    pub written: Written,
    pub workers: Setting<usize>,
    pub admin: Setting<SocketAddr>,
    pub drain_timeout: Setting<Duration>,
    pub reload_interval: Setting<Duration>,
    pub log_format: Setting<LogFormat>,
    pub log_level: Setting<LogLevel>,
    pub max_buffered: Setting<Bytes>,
    /// For listeners that do not say otherwise.
    pub limits: TypedLimits,
    /// From flags and the environment: for every listener, whatever the file says.
    pub overrides: TypedLimits,
    /// From flags and the environment: for every TCP listener that has no TLS keys of its own.
    pub tls: TypedServerTls,
    pub listeners: Vec<TypedListener>,
    pub tenants: Vec<TypedTenant>,
    pub users: Vec<TypedUser>,
    pub upstreams: Vec<TypedUpstream>,
}

/// The bounds and permissions of sessions.
#[derive(Debug, Default)]
pub struct TypedLimits {
    pub max_clients: Setting<usize>,
    pub connects_per_second: Setting<u32>,
    pub connects_burst: Setting<u32>,
    pub connects_exempt: Setting<Vec<IpNet>>,
    pub max_request: Setting<Bytes>,
    pub max_bulk: Setting<Bytes>,
    pub max_args: Setting<u32>,
    pub max_inline: Setting<Bytes>,
    pub max_reply_buffer: Setting<Bytes>,
    pub max_pipeline: Setting<usize>,
    pub write_timeout: Setting<Duration>,
    pub idle_timeout: Setting<Duration>,
    pub transaction_timeout: Setting<Duration>,
    pub first_command_timeout: Setting<Duration>,
    pub command_timeout: Setting<Duration>,
    pub slow_reader_soft: Setting<Bytes>,
    pub slow_reader_soft_time: Setting<Duration>,
    pub keepalive: Setting<Duration>,
    pub admin_commands: Setting<AdminCommands>,
}

/// One listener.
#[derive(Debug)]
pub struct TypedListener {
    pub name: String,
    pub place: Place,
    pub address: Setting<ListenAddress>,
    pub mode: Setting<Mode>,
    pub upstream: Setting<String>,
    pub tenant: Setting<String>,
    pub proxy_protocol: Setting<Vec<IpNet>>,
    pub tls: TypedServerTls,
    pub limits: TypedLimits,
}

/// One tenant.
#[derive(Debug)]
pub struct TypedTenant {
    pub name: String,
    pub place: Place,
    pub certificates: Setting<Vec<CertificateRule>>,
    pub users: Setting<Vec<String>>,
    pub networks: Setting<Vec<IpNet>>,
    pub uids: Setting<Vec<u32>>,
    pub client_names: Setting<Vec<String>>,
    pub default: Setting<bool>,
    pub limits: TypedQuota,
    pub commands: Setting<Vec<Rule>>,
    pub key_prefixes: Setting<Vec<Box<[u8]>>>,
    pub channel_prefixes: Setting<Vec<Box<[u8]>>>,
    pub read_only: Setting<bool>,
    pub scripts: Setting<Scripts>,
    pub weight: Setting<usize>,
    pub priority: Setting<Priority>,
    pub pubsub: Setting<Pubsub>,
}

/// One of respgate's own users.
#[derive(Debug)]
pub struct TypedUser {
    pub name: String,
    pub place: Place,
    pub password: Setting<PasswordHash>,
    pub tenant: Setting<String>,
    pub upstream_username: Setting<NameSource>,
    pub upstream_password: Setting<SecretSource>,
    pub upstream_password_refresh: Setting<Duration>,
}

/// How much a tenant may use.
#[derive(Debug)]
pub struct TypedQuota {
    pub over_limit: Setting<OverLimit>,
    pub max_delay: Setting<Duration>,
    pub shared_by: Setting<usize>,
    pub shared_upstream: Setting<String>,
    pub rates: TypedRates,
    pub client_rates: TypedRates,
    pub connections: Setting<usize>,
    pub in_flight: Setting<usize>,
    pub leased: Setting<usize>,
    pub blocked: Setting<usize>,
    pub subscribed: Setting<usize>,
    pub transactions: Setting<usize>,
    pub max_request: Setting<Bytes>,
    pub max_buffered: Setting<Bytes>,
}

/// Rates of a tenant, or of each of its clients.
#[derive(Debug)]
pub struct TypedRates {
    pub commands: Setting<usize>,
    pub commands_burst: Setting<usize>,
    pub bytes_in: Setting<Bytes>,
    pub bytes_in_burst: Setting<Bytes>,
    pub bytes_out: Setting<Bytes>,
    pub bytes_out_burst: Setting<Bytes>,
}

/// One upstream.
#[derive(Debug)]
pub struct TypedUpstream {
    pub name: String,
    pub place: Place,
    pub url: Setting<UpstreamUrl>,
    pub address: Setting<Address>,
    pub sentinels: Setting<Vec<Address>>,
    pub primary_name: Setting<String>,
    pub database: Setting<u32>,
    pub username: Setting<NameSource>,
    pub password: Setting<SecretSource>,
    pub password_refresh: Setting<Duration>,
    pub reauth: Setting<Reauth>,
    pub sentinel_username: Setting<NameSource>,
    pub sentinel_password: Setting<SecretSource>,
    pub tls: TypedClientTls,
    pub sentinel_tls: TypedClientTls,
    pub sentinel_password_refresh: Setting<Duration>,
    pub nat: Setting<HashMap<Address, Address>>,
    pub poll_interval: Setting<Duration>,
    pub sentinel_timeout: Setting<Duration>,
    pub switch: Setting<SwitchRule>,
    pub client_auth: Setting<ClientAuth>,
    pub pool: Setting<Pool>,
    pub max_connections: Setting<usize>,
    pub max_leased: Setting<usize>,
    pub lease_wait: Setting<Duration>,
    pub lease_idle: Setting<Duration>,
    pub ping_interval: Setting<Duration>,
    pub max_age: Setting<Duration>,
    pub connect_timeout: Setting<Duration>,
    pub response_timeout: Setting<Duration>,
    pub hold_timeout: Setting<Duration>,
    pub hold_buffer: Setting<Bytes>,
    pub retry_reads: Setting<bool>,
    pub retry_writes: Setting<RetryWrites>,
    pub blocked_pop: Setting<BlockedPop>,
}

impl TypedListener {
    /// A listener of which nothing is said yet.
    pub fn new(name: impl Into<String>, place: Place) -> Self {
        Self {
            name: name.into(),
            place,
            address: Setting::Absent,
            mode: Setting::Absent,
            upstream: Setting::Absent,
            tenant: Setting::Absent,
            proxy_protocol: Setting::Absent,
            tls: TypedServerTls::default(),
            limits: TypedLimits::default(),
        }
    }
}

impl TypedUpstream {
    /// An upstream of which nothing is said yet.
    pub fn new(name: impl Into<String>, place: Place) -> Self {
        Self {
            name: name.into(),
            place,
            url: Setting::Absent,
            address: Setting::Absent,
            sentinels: Setting::Absent,
            primary_name: Setting::Absent,
            database: Setting::Absent,
            username: Setting::Absent,
            password: Setting::Absent,
            password_refresh: Setting::Absent,
            reauth: Setting::Absent,
            sentinel_username: Setting::Absent,
            sentinel_password: Setting::Absent,
            tls: TypedClientTls::default(),
            sentinel_tls: TypedClientTls::default(),
            sentinel_password_refresh: Setting::Absent,
            nat: Setting::Absent,
            poll_interval: Setting::Absent,
            sentinel_timeout: Setting::Absent,
            switch: Setting::Absent,
            client_auth: Setting::Absent,
            pool: Setting::Absent,
            max_connections: Setting::Absent,
            max_leased: Setting::Absent,
            lease_wait: Setting::Absent,
            lease_idle: Setting::Absent,
            ping_interval: Setting::Absent,
            max_age: Setting::Absent,
            connect_timeout: Setting::Absent,
            response_timeout: Setting::Absent,
            hold_timeout: Setting::Absent,
            hold_buffer: Setting::Absent,
            retry_reads: Setting::Absent,
            retry_writes: Setting::Absent,
            blocked_pop: Setting::Absent,
        }
    }
}

impl Typed {
    /// The upstream that flags speak of, and that listeners without an `upstream` key use: `main`, or else the
    /// only one.
    pub fn usual_upstream(&mut self) -> Option<&mut TypedUpstream> {
        let only = self.upstreams.len() == 1;
        self.upstreams.iter_mut().find(|upstream| only || upstream.name == "main")
    }
}
