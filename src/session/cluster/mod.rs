//! A session in front of a cluster: it sends each command to the shard that serves the slot of the command's keys.
//!
//! Commands to one shard run in the order in which the client sent them. Commands to different shards have no order among them, as with
//! every client of a cluster. So a slow shard delays only its own commands, and the replies behind theirs.
//!
//! A command that concerns several shards is divided into parts, and their replies become one: `spread` says which commands these are,
//! `split` and `divide` divide them, `join` makes one reply of those to the parts, and `cursor` is the cursor of SCAN. `gather` is one such command
//! under way, and `send_parts` what a session does with it.

mod aside;
mod cursor;
mod divide;
mod gather;
mod gathers;
mod join;
mod lanes;
mod lease;
mod place;
mod reads;
mod send;
mod send_parts;
mod shard_channels;
mod split;
mod spread;

pub(super) use self::aside::NEEDS_OWN;
pub(super) use self::gathers::Gathers;
pub(super) use self::lanes::ClusterLanes;
pub(super) use self::lease::{LeaseTarget, NO_TRACKING};
pub(super) use self::place::Place;
