//! How an upstream's servers are reached. It changes when an operator or a reload switches the upstream to another address.

use crate::net::connect::Dialer;
use crate::rotation::login::Login;

/// How an upstream's servers are reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Dials the connections.
    pub dialer: Dialer,
    /// respgate's own credentials at the servers.
    pub login: Login,
}
