//! respgate in front of a cluster.

mod commands;
mod discovery;
mod doctor;
mod failures;
mod redirects;
mod servers;
mod spread;
mod tls;
