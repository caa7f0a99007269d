//! The leased lane: connections that one session has to itself for a time, and those that wait for one.

pub(in crate::upstream) mod history;
pub(in crate::upstream) mod idle;
pub mod lease;
pub(in crate::upstream) mod pool;
pub mod state;
