//! The RESP protocol: request scanner, reply scanner, and the small client of the control plane.

pub mod control;
pub mod greeting;
pub mod pubsub;
pub mod reply;
pub mod request;
pub mod value;
pub mod write;

/// The protocol version that a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Resp {
    /// RESP2, every connection's start.
    #[default]
    V2,
    /// RESP3, after `HELLO 3`.
    V3,
}
