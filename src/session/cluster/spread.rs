//! Says which commands concern several shards of a cluster, and how the replies of their parts become one. No I/O.

use crate::command::Spec;
use crate::upstream::config::CrossSlotWrites;

/// How a command that concerns several shards is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// Each slot gets the keys, or shard channels, that it has. `step` is 2 if a value follows each key.
    Keys {
        /// The number of words before the keys: the name, and that of the subcommand.
        head: usize,
        /// Distance between keys, in arguments.
        step: usize,
        /// How the replies become one.
        joint: Joint,
    },
    /// Every shard that serves slots gets the whole request.
    Shards(Joint),
    /// One shard after the other gets the request: SCAN.
    Scan,
}

/// How the replies to the parts of a command become one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joint {
    /// Arrays with some elements for each key, in the order of the keys of the whole request.
    Elements {
        /// The number of elements for each key.
        each: usize,
    },
    /// Integers, which are added.
    Sum,
    /// The same reply of each part: the first one stands for all.
    Same,
    /// Arrays, which follow each other.
    Concatenation,
    /// Arrays of 0 and 1: 1 if it is 1 everywhere.
    Everywhere,
    /// The first reply that is not null, from this part on.
    Any {
        /// The index of the part that is asked first.
        from: usize,
    },
}

impl Spread {
    /// Returns how a command is divided in a cluster; `None` for a command that goes to one shard. `writes` says whether MSET may be
    /// divided.
    pub(super) fn of(spec: &Spec, writes: CrossSlotWrites) -> Option<Self> {
        let keys = |joint| Some(Self::Keys { head: 1, step: 1, joint });
        match spec.name {
            "MGET" => keys(Joint::Elements { each: 1 }),
            "DEL" | "EXISTS" | "TOUCH" | "UNLINK" => keys(Joint::Sum),
            "MSET" if writes == CrossSlotWrites::Split => {
                Some(Self::Keys { head: 1, step: 2, joint: Joint::Same })
            }
            "PUBSUB|SHARDNUMSUB" => Some(Self::Keys { head: 2, step: 1, joint: Joint::Elements { each: 2 } }),
            "DBSIZE" => Some(Self::Shards(Joint::Sum)),
            "KEYS" | "PUBSUB|SHARDCHANNELS" => Some(Self::Shards(Joint::Concatenation)),
            "RANDOMKEY" => Some(Self::Shards(Joint::Any { from: 0 })),
            "SCRIPT|EXISTS" => Some(Self::Shards(Joint::Everywhere)),
            "FLUSHALL" | "FLUSHDB" | "FUNCTION|DELETE" | "FUNCTION|FLUSH" | "FUNCTION|LOAD"
            | "FUNCTION|RESTORE" | "SCRIPT|FLUSH" | "SCRIPT|LOAD" => Some(Self::Shards(Joint::Same)),
            "SCAN" => Some(Self::Scan),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Flags, lookup};

    fn of(name: &str, writes: CrossSlotWrites) -> Option<Spread> {
        Spread::of(lookup(name.as_bytes()).unwrap(), writes)
    }

    #[test]
    fn writes_that_are_one_step_are_divided_only_on_demand() {
        assert_eq!(of("MSET", CrossSlotWrites::Refuse), None);
        assert!(of("MSET", CrossSlotWrites::Split).is_some());
        for name in ["MSETNX", "RENAME", "SINTERSTORE", "GET", "EVAL", "INFO", "HSCAN"] {
            assert_eq!(of(name, CrossSlotWrites::Split), None, "{name}");
        }
    }

    #[test]
    fn only_commands_with_keys_are_divided_by_keys() {
        for name in [
            "MGET",
            "DEL",
            "UNLINK",
            "EXISTS",
            "TOUCH",
            "MSET",
            "KEYS",
            "DBSIZE",
            "SCAN",
            "FLUSHALL",
            "RANDOMKEY",
        ] {
            let keyed = lookup(name.as_bytes()).unwrap().flags.contains(Flags::KEYED);
            let spread = of(name, CrossSlotWrites::Split).unwrap();
            assert_eq!(keyed, matches!(spread, Spread::Keys { .. }), "{name}");
        }
    }
}
