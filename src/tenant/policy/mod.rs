//! Which commands a tenant may run, and on which keys and channels.

pub mod config;
