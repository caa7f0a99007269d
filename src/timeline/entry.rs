//! The timeline of one failover, as JSON and as a log line.

use std::time::{Duration, SystemTime};

use crate::cluster::ShardNumber;
use crate::topology::Generation;

/// Records one failover. Durations count from the first sign.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// The shard of a cluster whose primary changed; `None` if the upstream is none.
    pub shard: Option<ShardNumber>,
    /// Wall-clock time of the first sign.
    pub began: SystemTime,
    /// The first sign.
    pub sign: String,
    /// Address of the former primary.
    pub from: String,
    /// Address of the new primary.
    pub to: String,
    /// Generation of the new primary.
    pub generation: Generation,
    /// When commands began to wait.
    pub held: Option<Duration>,
    /// When a newer primary was named. respgate writes nothing to the former primary from then on.
    pub named: Option<Duration>,
    /// When the new primary itself confirmed that it is the primary.
    pub verified: Option<Duration>,
    /// When the first reply of the new primary came; `None` if no client sent a command for 3 s.
    pub first_success: Option<Duration>,
    /// True if the former primary had answered every request when respgate left it, so that no
    /// acknowledged write was in doubt.
    pub drained: bool,
    /// Number of clients whose commands waited.
    pub clients_held: u64,
    /// Number of commands sent again.
    pub resent: u64,
    /// Number of writes answered with OUTCOMEUNKNOWN.
    pub unknown: u64,
    /// Number of sessions whose connection state moved to the new primary.
    pub migrated: u64,
}

impl Timeline {
    /// Returns true if the former primary had answered every request before a newer one took over,
    /// so that no acknowledged write can be lost.
    pub fn lossless(&self) -> bool {
        // Without `held` before `named`, commands went to the former primary until the moment of
        // the switch, and some of their replies may be missing.
        self.drained && self.unknown == 0 && self.held.is_some_and(|held| Some(held) < self.named)
    }

    /// Returns the timeline as a JSON object.
    pub fn json(&self, upstream: &str) -> serde_json::Value {
        let began = self.began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        serde_json::json!({
            "upstream": upstream,
            "shard": self.shard.map(|shard| shard.0),
            "began_unix_ms": millis(Some(began)),
            "sign": self.sign,
            "from": self.from,
            "to": self.to,
            "generation": self.generation.0,
            "held_ms": millis(self.held),
            "named_ms": millis(self.named),
            "verified_ms": millis(self.verified),
            "first_success_ms": millis(self.first_success),
            "lossless": self.lossless(),
            "clients_held": self.clients_held,
            "resent": self.resent,
            "unknown": self.unknown,
            "migrated": self.migrated,
            "transplanted": self.migrated, // The deprecated name, for one more version.
        })
    }

    /// Writes the timeline as one log line.
    pub fn log(&self, upstream: &str) {
        tracing::info!(
            upstream,
            shard = self.shard.map(|shard| shard.0),
            from = self.from,
            to = self.to,
            sign = self.sign,
            held_ms = millis(self.held),
            named_ms = millis(self.named),
            verified_ms = millis(self.verified),
            first_success_ms = millis(self.first_success),
            lossless = self.lossless(),
            clients_held = self.clients_held,
            resent = self.resent,
            unknown = self.unknown,
            migrated = self.migrated,
            "failover complete"
        );
    }
}

fn millis(at: Option<Duration>) -> Option<u64> {
    at.map(|at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX))
}
