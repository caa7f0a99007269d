//! Starting servers, respgate and raw clients, and waiting for them.

#[macro_use]
pub mod variants;

pub mod certificates;
pub mod client;
#[allow(dead_code, reason = "not every binary of tests has a cluster")]
pub mod cluster;
pub mod compare;
pub mod deployment;
pub mod forwarder;
pub mod place;
pub mod port;
pub mod proxy;
pub mod read;
pub mod scripted;
pub mod servers;
pub mod signal;
pub mod tls;
pub mod tree;
pub mod wait;
