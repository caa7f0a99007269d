//! The RESP protocol: the scanner of requests, the scanner of replies, and the client of the control plane.

pub mod control;
pub mod error_line;
pub mod greeting;
pub mod pubsub;
pub mod reply;
pub mod request;
pub mod server_error;
pub mod value;
pub mod write;

/// The protocol version that a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Resp {
    /// RESP2, in which every connection starts.
    #[default]
    V2,
    /// RESP3, after `HELLO 3`.
    V3,
}
