//! Connections to replicas, for sessions that read from them.
//!
//! [`reads`] is what sessions see: it knows the replicas and picks one. Each replica is a `node` with lanes of its own. A lane has one
//! connection in its life (`drive`): when that ends, for whatever reason, the reads that it owes go to another replica or to the
//! primary's lane in their order, and no client notices. `terms` decides whether a replica may serve, and `pick` which one does.

pub mod counters;
mod drive;
pub mod lane;
mod node;
mod pick;
pub mod reads;
pub mod server;
mod terms;
mod waiting;
