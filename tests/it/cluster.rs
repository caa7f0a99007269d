//! respgate in front of a cluster.

mod commands;
mod descriptors;
pub mod discovery;
mod doctor;
mod failures;
mod redirects;
mod replica_reads;
mod servers;
mod shard_channels;
mod spread;
mod switch;
mod switch_reads;
mod switch_refused;
mod switch_state;
mod tls;
