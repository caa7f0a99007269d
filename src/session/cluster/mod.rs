//! A session in front of a cluster: it sends each command to the shard that serves the slot of the command's keys.
//!
//! Commands to one shard run in the order in which the client sent them. Commands to different shards have no order among them, as with
//! every client of a cluster. So a slow shard delays only its own commands, and the replies behind theirs.

mod aside;
mod lanes;
mod lease;
mod place;
mod send;

pub(super) use self::lanes::ClusterLanes;
pub(super) use self::lease::LeaseTarget;
pub(super) use self::place::Place;
