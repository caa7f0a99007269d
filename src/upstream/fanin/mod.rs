//! Fan-in: the subscriptions of many sessions on one upstream connection for each worker and upstream user.
//!
//! [`table`] knows which session is subscribed to what, [`subscription`] is a session's side, [`drive`] opens the connection and
//! [`pump`] serves it. Published messages and confirmations are the only frames that respgate passes on in another RESP version
//! than the server's: both versions have the same form, but for the first byte.

mod announce;
pub(in crate::upstream) mod drive;
pub(in crate::upstream) mod fans;
mod link;
mod pump;
pub(in crate::upstream) mod sink;
pub mod subscription;
mod table;
