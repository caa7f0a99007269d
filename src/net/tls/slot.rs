//! A leg's profile and its present set. Handshakes read the newest set; the task that rotates
//! certificates writes it.

use std::time::SystemTime;

use tokio::sync::watch;

use super::client::ClientSet;
use super::server::ServerSet;

/// The kind of connection that a set is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Leg {
    /// Connections from clients to respgate.
    Listener,
    /// Connections to the admin listener.
    Admin,
    /// Connections from respgate to data nodes.
    Upstream,
    /// Connections from respgate to Sentinels.
    Sentinel,
}

impl Leg {
    /// Returns the leg's name in logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Admin => "admin",
            Self::Upstream => "upstream",
            Self::Sentinel => "sentinel",
        }
    }
}

/// One leg's profile, and the set that its handshakes use.
pub struct Slot<P, S> {
    /// The leg on which the set is used.
    pub leg: Leg,
    /// The listener's or upstream's name.
    pub name: String,
    /// The paths and rules, which are read again when files change.
    pub profile: P,
    /// The set in use.
    pub set: watch::Sender<S>,
}

/// The expiry of respgate's own certificates on one leg.
#[derive(Clone)]
pub struct Expiry {
    /// The leg on which the certificates are used.
    pub leg: Leg,
    /// The listener's or upstream's name.
    pub name: String,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Server(watch::Receiver<ServerSet>),
    Client(watch::Receiver<ClientSet>),
}

impl Expiry {
    /// Returns the earliest expiry of the chain's certificates; `None` if respgate shows no
    /// certificate on this leg.
    pub fn not_after(&self) -> Option<SystemTime> {
        match &self.source {
            Source::Server(set) => Some(set.borrow().not_after),
            Source::Client(set) => set.borrow().not_after,
        }
    }
}

impl<P> Slot<P, ServerSet> {
    /// Returns the expiry of the listener's certificates.
    pub fn expiry(&self) -> Expiry {
        Expiry { leg: self.leg, name: self.name.clone(), source: Source::Server(self.set.subscribe()) }
    }
}

impl<P> Slot<P, ClientSet> {
    /// Returns the expiry of respgate's own certificates for servers.
    pub fn expiry(&self) -> Expiry {
        Expiry { leg: self.leg, name: self.name.clone(), source: Source::Client(self.set.subscribe()) }
    }
}
