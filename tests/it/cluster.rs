//! respgate in front of a cluster.

mod commands;
pub mod discovery;
mod doctor;
mod failures;
mod redirects;
mod replica_reads;
mod servers;
mod spread;
mod tls;
