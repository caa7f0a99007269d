//! Compares the upstreams of two versions, as far as they can change while respgate runs.

use crate::config::Config;
use crate::upstream::config::UpstreamConfig;

/// Lists the live keys of an upstream, each with its field.
macro_rules! live {
    ($($key:literal: $field:ident),* $(,)?) => {
        /// Returns the live keys that differ.
        fn differing(old: &UpstreamConfig, new: &UpstreamConfig) -> Vec<&'static str> {
            let all = [$(($key, old.$field != new.$field)),*];
            all.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
        }

        /// Takes over the live settings of a newer version.
        pub(super) fn take_over(config: &mut UpstreamConfig, next: &UpstreamConfig) {
            $(config.$field = next.$field;)*
        }

        /// The live keys.
        #[cfg(test)]
        pub(super) const KEYS: &[&str] = &[$($key),*];
    };
}

live! {
    "max-connections": max_connections,
    "max-leased": max_leased,
    "lease-timeout": lease_timeout,
    "lease-idle-timeout": lease_idle_timeout,
    "max-age": max_age,
    "reauth": reauth,
    "response-timeout": response_timeout,
    "hold-timeout": hold_timeout,
    "hold-buffer": hold_buffer,
    "retry-reads": retry_reads,
    "retry-writes": retry_writes,
    "blocked-pop": blocked_pop,
}

/// Returns the upstreams of both versions whose live keys differ, by name.
pub(super) fn changes(now: &Config, next: &Config) -> Vec<(String, Vec<&'static str>)> {
    let changes = now.upstreams.iter().filter_map(|old| {
        let (name, old) = (&old.config.name, &old.config);
        let new = next.upstreams.iter().find(|new| new.config.name == *name)?;
        let keys = differing(old, &new.config);
        (!keys.is_empty()).then(|| (name.clone(), keys))
    });
    changes.collect()
}
