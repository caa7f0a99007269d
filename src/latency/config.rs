//! The settings of latency measurements.

use std::time::Duration;

/// The measurements of commands that are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Nothing. There is no slow log either.
    Off,
    /// The times of each route class, and slow commands.
    On,
    /// As `On`, and the times of each command.
    Commands,
}

/// How the slow log shows keys and arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShownArguments {
    /// It shows the length of the key and the beginning of its hash, and no other argument.
    Redact,
    /// It shows the beginning of each argument, except those of commands that carry passwords.
    Show,
}

/// The settings of latency measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyConfig {
    /// The measurements that are on.
    pub measure: Measure,
    /// A command that takes at least this long is put into the slow log.
    pub slow_threshold: Duration,
    /// The number of commands that the slow log holds; 0 turns it off.
    pub slow_length: usize,
    /// How the slow log shows keys and arguments.
    pub arguments: ShownArguments,
    /// The secret with which keys are hashed, the same on all workers. It makes it hard to guess a key from its hash.
    pub hash_secret: u128,
}

impl LatencyConfig {
    /// Returns the settings with the secret of `other`: a reload changes no hash.
    pub fn hashed_as(self, other: Self) -> Self {
        Self { hash_secret: other.hash_secret, ..self }
    }
}

impl Default for LatencyConfig {
    fn default() -> Self {
        Self {
            measure: Measure::On,
            slow_threshold: Duration::from_millis(100),
            slow_length: 128,
            arguments: ShownArguments::Redact,
            hash_secret: 0,
        }
    }
}
