//! Limits how much of respgate and of the server a tenant, and each of its clients, may use. No I/O; time is
//! passed in.

pub mod config;
pub mod count;
pub mod ledger;
pub mod member;
pub mod rate;
pub mod refusal;
pub mod shared_rate;
