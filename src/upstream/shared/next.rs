//! The connection that takes another's place.

use crate::upstream::connection::open::Connection;
use crate::upstream::room::SharedPermit;

/// The connection that takes another's place.
pub(in crate::upstream) struct NextConnection {
    /// `None` if the limits allow no second connection: the old one is closed first.
    pub(in crate::upstream) link: Option<Connection>,
    pub(in crate::upstream) permit: Option<SharedPermit>,
}
