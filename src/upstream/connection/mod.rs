//! What every upstream connection needs: who acts on it, how it is opened and authenticated, and what the server must be told and asked.

pub(in crate::upstream) mod auth_backoff;
pub mod identity;
pub(in crate::upstream) mod learn;
pub mod open;
pub mod reauth;
pub mod scripts;
