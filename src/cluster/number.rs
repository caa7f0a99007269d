//! The number of a shard.

/// Numbers a shard. A shard keeps its number for the whole life of the process, also when a failover gives it another primary, and
/// also while it serves no slot. No number is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardNumber(pub u32);
