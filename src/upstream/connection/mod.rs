//! The common parts of all upstream connections: the identity that each acts as, how it is opened and authenticated, and the scripts that the
//! server must have.

pub(in crate::upstream) mod auth_backoff;
pub mod identities;
pub mod identity;
pub mod ids;
pub mod open;
pub(in crate::upstream) mod open_replica;
pub(in crate::upstream) mod probe;
pub mod reauth;
pub mod scripts;
pub(in crate::upstream) mod server;
