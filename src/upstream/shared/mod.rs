//! The shared lane: connections that carry the commands of many sessions, in order.

pub(in crate::upstream) mod batch;
pub(in crate::upstream) mod drive;
pub mod fair;
pub mod lane;
pub(in crate::upstream) mod lanes;
pub(in crate::upstream) mod next;
pub(in crate::upstream) mod probation;
pub(in crate::upstream) mod pump;
pub mod queue;
pub(in crate::upstream) mod replace;
