//! Checks what respgate measures of the time of commands.

use std::hash::{BuildHasher, RandomState};

use super::super::report::Report;
use super::super::schema::{ProcessDefaults, ProcessKeys};
use super::super::setting::Setting;
use crate::latency::config::LatencyConfig;

/// The largest slow log, in commands.
const MAX_LENGTH: usize = 10_000;

/// Checks the keys of latency.
pub(super) fn check(keys: &ProcessKeys, report: &mut Report) -> LatencyConfig {
    if let Setting::Given(length, place) = &keys.slow_log_length
        && *length > MAX_LENGTH
    {
        report.error(place, format!("must be at most {MAX_LENGTH}, because respgate keeps them in memory"));
    }
    LatencyConfig {
        measure: keys.latency.clone().or(ProcessDefaults::latency()),
        slow_threshold: keys.slow_log_threshold.clone().or(ProcessDefaults::slow_log_threshold()),
        slow_length: keys.slow_log_length.clone().or(ProcessDefaults::slow_log_length()),
        arguments: keys.slow_log_arguments.clone().or(ProcessDefaults::slow_log_arguments()),
        hash_secret: hash_secret(),
    }
}

/// Returns a secret of random bytes of the system.
fn hash_secret() -> u128 {
    let half = || u128::from(RandomState::new().hash_one(0));
    half() << 64 | half()
}
