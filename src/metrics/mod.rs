//! Declares the metrics of respgate, and what a worker counts.
//!
//! [`declared`] names every metric. A worker counts in plain cells ([`Counters`]). When the metrics
//! endpoint is read, the admin listener asks each worker for a [`Snapshot`] and publishes the sums
//! through the `metrics` crate. The data path touches no atomic.

pub mod counters;
pub mod declared;
mod gauged;
mod local;

pub use counters::{Counters, Snapshot};
pub use gauged::Gauged;
pub use local::LocalCounter;
