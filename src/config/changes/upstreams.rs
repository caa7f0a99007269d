//! Compares the upstreams of two versions.

use crate::config::{Config, Upstream};
use crate::operator::Target;
use crate::upstream::config::UpstreamConfig;

/// The differences of one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamChange {
    /// The older version had no upstream of this name.
    Added,
    /// The newer version has no upstream of this name.
    Removed,
    /// At least one aspect differs.
    Changed(Vec<&'static str>),
}

/// Lists the keys of an upstream that apply to its present connections, each with its field.
macro_rules! live {
    ($($key:literal: $($field:ident).+),* $(,)?) => {
        /// Returns the keys that differ.
        fn differing(old: &UpstreamConfig, new: &UpstreamConfig) -> Vec<&'static str> {
            let all = [$(($key, old.$($field).+ != new.$($field).+)),*];
            all.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
        }
    };
}

live! {
    "database": database,
    "max-connections": max_connections,
    "max-leased": max_leased,
    "lease-timeout": lease_timeout,
    "lease-idle-timeout": lease_idle_timeout,
    "ping-interval": ping_interval,
    "replica-sampling": replica_sampling,
    "max-age": max_age,
    "reauth": reauth,
    "connect-timeout": connect_timeout,
    "response-timeout": response_timeout,
    "hold-timeout": hold_timeout,
    "hold-buffer": hold_buffer,
    "retry-reads": retry_reads,
    "retry-writes": retry_writes,
    "blocked-pop": blocked_pop,
    "max-lag": lag_bound.time,
    "max-lag-bytes": lag_bound.bytes,
    "read-your-writes": read_your_writes,
    "reads-in-hold": reads_in_hold,
    "cross-slot-writes": cross_slot_writes,
    "availability-zone": availability_zone,
}

/// Returns the changed upstreams, by name.
pub(super) fn changes(now: &Config, next: &Config) -> Vec<(String, UpstreamChange)> {
    let name = |upstream: &Upstream| upstream.config.name.clone();
    let removed = now.upstreams.iter().filter(|old| find(next, &old.config.name).is_none());
    let removed = removed.map(|old| (name(old), UpstreamChange::Removed));
    let others = next.upstreams.iter().filter_map(|new| {
        let change = match find(now, &new.config.name) {
            None => UpstreamChange::Added,
            Some(old) => UpstreamChange::Changed(aspects(old, new)?),
        };
        Some((name(new), change))
    });
    removed.chain(others).collect()
}

/// Returns the aspects that differ; `None` if there is none.
fn aspects(old: &Upstream, new: &Upstream) -> Option<Vec<&'static str>> {
    let (before, after) = (old.target(), new.target());
    let all = [
        ("address or discovery", before.discovery != after.discovery),
        ("credentials", before.account != after.account),
        ("Sentinels' credentials", before.sentinel_account != after.sentinel_account),
        ("TLS", before.has_other_tls(&after)),
        ("Sentinels' TLS", before.has_other_sentinel_tls(&after)),
        ("replicas", old.replicas != new.replicas),
    ];
    let mut differing_aspects: Vec<_> =
        all.into_iter().filter_map(|(aspect, differs)| differs.then_some(aspect)).collect();
    differing_aspects.extend(differing(&old.config, &new.config));
    (!differing_aspects.is_empty()).then_some(differing_aspects)
}

/// Returns the changed keys of upstreams that need a restart.
pub(super) fn restarts(now: &Config, next: &Config) -> Vec<String> {
    let both = now.upstreams.iter().filter_map(|old| Some((old, find(next, &old.config.name)?)));
    let keys = both.flat_map(|(before, after)| {
        let (old, new) = (&before.config, &after.config);
        let all = [("client-auth", old.client_auth != new.client_auth), ("pool", old.pool != new.pool)];
        all.into_iter()
            .filter(|(_, differs)| *differs)
            .map(|(key, _)| format!("upstreams.{}.{key}", old.name))
    });
    keys.collect()
}

fn find<'a>(config: &'a Config, name: &str) -> Option<&'a Upstream> {
    config.upstreams.iter().find(|upstream| upstream.config.name == name)
}

impl Config {
    /// Replaces the settings of a newer version that need a restart by the present ones.
    pub fn keep_restart_settings(&self, next: &mut Self) {
        for new in &mut next.upstreams {
            if let Some(old) = find(self, &new.config.name) {
                (new.config.client_auth, new.config.pool) = (old.config.client_auth, old.config.pool);
            }
        }
    }

    /// Returns the upstreams of a newer version that have another address, credentials or TLS settings, or that are looked for in
    /// another way: respgate switches them. `present` returns where an upstream is, because an operator may have switched it.
    pub fn moved_upstreams<'a>(
        &self,
        next: &'a Self,
        present: &dyn Fn(&str) -> Option<Target>,
    ) -> Vec<&'a Upstream> {
        let is_moved =
            |new: &&Upstream| find(self, &new.config.name).is_some_and(|old| is_moved(old, new, present));
        next.upstreams.iter().filter(is_moved).collect()
    }

    /// Takes over the address, credentials and TLS settings of an upstream that respgate has switched.
    pub fn take_over_target(&mut self, name: &str, next: &Self) {
        let new = next.upstreams.iter().find(|upstream| upstream.config.name == name);
        let old = self.upstreams.iter_mut().find(|upstream| upstream.config.name == name);
        if let (Some(old), Some(new)) = (old, new) {
            let config = UpstreamConfig {
                ping_interval: new.config.ping_interval,
                connect_timeout: new.config.connect_timeout,
                ..old.config.clone()
            };
            *old = Upstream { config, ..new.clone() };
        }
    }
}

fn is_moved(old: &Upstream, new: &Upstream, present: &dyn Fn(&str) -> Option<Target>) -> bool {
    let paces = |config: &UpstreamConfig| (config.ping_interval, config.connect_timeout);
    old.target() != new.target() && present(&new.config.name).is_none_or(|present| present != new.target())
        || paces(&old.config) != paces(&new.config)
}
