//! Whose clients these are, and what they may do.

pub mod config;
pub mod policy;
