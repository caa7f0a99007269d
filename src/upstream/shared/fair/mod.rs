//! Chooses the next sender when sessions want more than a shared connection carries.

pub mod fair_queue;
pub mod scheduler;
pub(in crate::upstream) mod window;
