//! A configuration as typed: every setting may be absent, and knows where it stands. The keys of each table come from
//! [`super::schema`]. [`super::check`] makes a [`super::Config`] of it.

use std::fmt::Debug;

use super::report::{Place, Report};
use super::schema::{
    LimitKeys, ListenerKeys, LogKeys, ProcessKeys, ServerTlsKeys, SessionKeys, TenantKeys, UpstreamKeys,
    UserKeys,
};
use super::written::Written;
use crate::session::config::AdminCommands;

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
    pub process: ProcessKeys,
    pub log: LogKeys,
    /// For listeners that do not say otherwise.
    pub limits: LimitKeys,
    /// From flags and the environment: for every listener, whatever the file says.
    pub overrides: Overrides,
    /// From flags and the environment: for every TCP listener that has no TLS keys of its own.
    pub tls: ServerTlsKeys,
    pub listeners: Vec<Named<ListenerKeys>>,
    pub tenants: Vec<Named<TenantKeys>>,
    pub users: Vec<Named<UserKeys>>,
    pub upstreams: Vec<Named<UpstreamKeys>>,
}

/// What flags and the environment say for every listener.
#[derive(Debug, Default)]
pub struct Overrides {
    pub sessions: SessionKeys,
    pub admin_commands: Setting<AdminCommands>,
}

/// A table with a name of the user's choice.
#[derive(Debug)]
pub struct Named<K> {
    pub name: String,
    /// Where it begins.
    pub place: Place,
    pub keys: K,
}

impl<K: Default> Named<K> {
    /// A table of which nothing is said yet.
    pub fn new(name: impl Into<String>, place: Place) -> Self {
        Self { name: name.into(), place, keys: K::default() }
    }
}

impl Typed {
    /// The upstream that flags speak of, and that listeners without an `upstream` key use: `main`, or else the
    /// only one.
    pub fn usual_upstream(&mut self) -> Option<&mut Named<UpstreamKeys>> {
        let only = self.upstreams.len() == 1;
        self.upstreams.iter_mut().find(|upstream| only || upstream.name == "main")
    }
}
