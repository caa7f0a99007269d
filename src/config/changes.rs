//! Compares two versions of the configuration. Does no I/O.
//!
//! The schema calls the keys live that can change while respgate runs. Every other changed key needs a restart and is listed
//! by its name in the file.

mod listeners;
mod upstreams;

use std::fmt;

use super::Config;
use super::schema::{self, Reload};
use crate::tenant::config::TenantConfig;
use crate::tenant::users::UserConfig;
pub use listeners::ListenerChange;
pub use upstreams::UpstreamChange;

/// The differences between two versions. Printed, they show names and never values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The changed users, by name.
    pub users: Vec<(String, UserChange)>,
    /// The changed tenants, by name.
    pub tenants: Vec<(String, TenantChange)>,
    /// True if the order of the tenants differs. The order matters because the first of several
    /// matching certificate rules decides.
    pub tenant_order: bool,
    /// The changed listeners, by name.
    pub listeners: Vec<(String, ListenerChange)>,
    /// The changed upstreams, by name.
    pub upstreams: Vec<(String, UpstreamChange)>,
    /// True if the level of the log differs.
    pub log_level: bool,
    /// True if `max-buffered` differs.
    pub max_buffered: bool,
    /// True if what is measured of commands, or the slow log, differs.
    pub latency: bool,
    /// The changed keys that need a restart. They are compared with the configuration of the start.
    pub restart: Vec<String>,
}

/// The differences of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserChange {
    /// The older version had no user of this name.
    Added,
    /// The newer version has no user of this name.
    Removed,
    /// At least one aspect differs.
    Changed(Vec<UserAspect>),
}

/// An aspect of a user that can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserAspect {
    /// The password, or the hash of the same password.
    Password,
    /// The names in certificates that authenticate as the user.
    Certificates,
    /// The source of the credentials with which the user's clients log in to the server.
    Account,
}

/// The differences of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantChange {
    /// The older version had no tenant of this name.
    Added,
    /// The newer version has no tenant of this name.
    Removed,
    /// At least one aspect differs.
    Changed(Vec<Aspect>),
}

/// An aspect of a tenant that can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// The rules that decide which clients belong to the tenant.
    Members,
    /// The limits on what the tenant's clients may use.
    Limits,
    /// The commands, keys and channels that the tenant's clients may use.
    Policy,
    /// The weight or priority.
    Share,
    /// The way in which messages reach the tenant's subscribers.
    Pubsub,
    /// The nodes that answer the reads of the tenant's clients.
    Reads,
}

impl Changes {
    /// Compares the configuration in force, `now`, with that of the file, `next`. Both were made
    /// with the same flags.
    pub fn between(now: &Config, next: &Config) -> Self {
        let own_users = now.has_own_users();
        Self {
            users: if own_users { user_changes(now, next) } else { Vec::new() },
            tenants: tenant_changes(&now.tenants, &next.tenants),
            tenant_order: reordered(&now.tenants, &next.tenants),
            listeners: listeners::changes(&now.listeners, &next.listeners),
            upstreams: upstreams::changes(now, next),
            log_level: now.log.filter != next.log.filter,
            max_buffered: now.max_buffered != next.max_buffered,
            latency: now.latency != next.latency.hashed_as(now.latency),
            restart: restarts(now, next, own_users),
        }
    }

    /// Returns true if a change takes effect at once.
    pub fn any_at_once(&self) -> bool {
        let Self { users, tenants, tenant_order, listeners, upstreams, .. } = self;
        let names = users.is_empty() && tenants.is_empty() && listeners.is_empty() && upstreams.is_empty();
        !names || *tenant_order || self.log_level || self.max_buffered || self.latency
    }
}

impl Config {
    /// Returns true if clients authenticate to respgate. respgate decides that at its start.
    pub fn has_own_users(&self) -> bool {
        self.written.holds("users")
    }

    /// Takes over the live settings of a newer version. The other settings stay as they were at the
    /// start. respgate has switched the upstreams that are elsewhere in the newer version.
    pub fn take_over(&mut self, mut next: Self) {
        self.keep_restart_settings(&mut next);
        self.listeners = next.listeners;
        self.upstreams = next.upstreams;
        if self.has_own_users() {
            self.users = next.users;
        }
        self.tenants = next.tenants;
        self.log.filter = next.log.filter;
        self.max_buffered = next.max_buffered;
        self.latency = next.latency.hashed_as(self.latency);
    }
}

fn user_changes(now: &Config, next: &Config) -> Vec<(String, UserChange)> {
    let removed = now
        .users
        .iter()
        .filter(|old| !next.users.iter().any(|new| new.name == old.name))
        .map(|old| (old.name.clone(), UserChange::Removed));
    let others = next.users.iter().filter_map(|new| {
        let change = match now.users.iter().find(|old| old.name == new.name) {
            None => UserChange::Added,
            Some(old) if old != new => UserChange::Changed(user_aspects(old, new)),
            Some(_) => return None,
        };
        Some((new.name.clone(), change))
    });
    removed.chain(others).collect()
}

fn user_aspects(old: &UserConfig, new: &UserConfig) -> Vec<UserAspect> {
    let UserConfig { name: _, password, certificates, account } = old;
    let all = [
        (UserAspect::Password, *password != new.password),
        (UserAspect::Certificates, *certificates != new.certificates),
        (UserAspect::Account, *account != new.account),
    ];
    all.into_iter().filter_map(|(aspect, differs)| differs.then_some(aspect)).collect()
}

fn tenant_changes(now: &[TenantConfig], next: &[TenantConfig]) -> Vec<(String, TenantChange)> {
    let removed = now
        .iter()
        .filter(|old| !next.iter().any(|new| new.name == old.name))
        .map(|old| (old.name.clone(), TenantChange::Removed));
    let others = next.iter().filter_map(|new| {
        let change = match now.iter().find(|old| old.name == new.name) {
            None => TenantChange::Added,
            Some(old) if old != new => TenantChange::Changed(aspects(old, new)),
            Some(_) => return None,
        };
        Some((new.name.clone(), change))
    });
    removed.chain(others).collect()
}

fn aspects(old: &TenantConfig, new: &TenantConfig) -> Vec<Aspect> {
    let TenantConfig { name: _, members, limits, share, policy, pubsub, reads } = old;
    let all = [
        (Aspect::Members, *members != new.members),
        (Aspect::Limits, *limits != new.limits),
        (Aspect::Policy, *policy != new.policy),
        (Aspect::Share, *share != new.share),
        (Aspect::Pubsub, *pubsub != new.pubsub),
        (Aspect::Reads, *reads != new.reads),
    ];
    all.into_iter().filter_map(|(aspect, differs)| differs.then_some(aspect)).collect()
}

fn reordered(now: &[TenantConfig], next: &[TenantConfig]) -> bool {
    let common = |of: &[TenantConfig], others: &[TenantConfig]| -> Vec<String> {
        let known = |tenant: &&TenantConfig| others.iter().any(|other| other.name == tenant.name);
        of.iter().filter(known).map(|tenant| tenant.name.clone()).collect()
    };
    common(now, next) != common(next, now)
}

fn restarts(now: &Config, next: &Config, own_users: bool) -> Vec<String> {
    let mut keys: Vec<String> = now.written.differences(&next.written);
    // Upstreams come, go and change while respgate runs, so they are compared with those in force.
    keys.retain(|key| schema::reload(key) == Reload::Restart && !key.starts_with("upstreams."));
    keys.extend(upstreams::restarts(now, next));
    // The first user makes clients authenticate to respgate instead of the server; the removal of
    // the last user reverts that.
    if own_users != next.has_own_users() {
        keys.push("users".into());
    }
    // The default of `workers` is lowered where the limits of an upstream allow fewer.
    if next.workers < now.workers && !keys.iter().any(|key| key == "workers") {
        keys.push("workers".into());
    }
    keys.sort();
    keys
}

impl fmt::Display for Changes {
    /// Prints what changes at once, as `user app added; tenant shop: limits, policy`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users = self.users.iter().map(|(name, change)| match change {
            UserChange::Added => format!("user {name} added"),
            UserChange::Removed => format!("user {name} removed"),
            UserChange::Changed(aspects) => {
                let aspects: Vec<_> = aspects.iter().map(|aspect| aspect.shown()).collect();
                format!("user {name}: {}", aspects.join(", "))
            }
        });
        let tenants = self.tenants.iter().map(|(name, change)| match change {
            TenantChange::Added => format!("tenant {name} added"),
            TenantChange::Removed => format!("tenant {name} removed"),
            TenantChange::Changed(aspects) => {
                let aspects: Vec<_> = aspects.iter().map(|aspect| aspect.shown()).collect();
                format!("tenant {name}: {}", aspects.join(", "))
            }
        });
        let order = self.tenant_order.then(|| "the order of tenants".to_owned());
        let listeners = self.listeners.iter().map(|(name, change)| match change {
            ListenerChange::Added => format!("listener {name} added"),
            ListenerChange::Removed => format!("listener {name} removed"),
            ListenerChange::Changed(aspects) => format!("listener {name}: {}", aspects.join(", ")),
        });
        let upstreams = self.upstreams.iter().map(|(name, change)| match change {
            UpstreamChange::Added => format!("upstream {name} added"),
            UpstreamChange::Removed => format!("upstream {name} removed"),
            UpstreamChange::Changed(aspects) => format!("upstream {name}: {}", aspects.join(", ")),
        });
        let level = self.log_level.then(|| "log level".to_owned());
        let latency = self.latency.then(|| "latency".to_owned());
        let memory = self.max_buffered.then(|| "max-buffered".to_owned());
        let all: Vec<_> = users
            .chain(tenants)
            .chain(order)
            .chain(listeners)
            .chain(upstreams)
            .chain(level)
            .chain(memory)
            .chain(latency)
            .collect();
        f.write_str(&all.join("; "))
    }
}

impl UserAspect {
    fn shown(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Certificates => "certificates",
            Self::Account => "upstream credentials",
        }
    }
}

impl Aspect {
    fn shown(self) -> &'static str {
        match self {
            Self::Members => "members",
            Self::Limits => "limits",
            Self::Policy => "policy",
            Self::Share => "weight or priority",
            Self::Pubsub => "pubsub",
            Self::Reads => "reads",
        }
    }
}

#[cfg(test)]
mod tests;
