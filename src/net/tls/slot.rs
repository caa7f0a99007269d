//! A leg's profile and the set in use: handshakes read the newest set, whoever rotates it writes.

use std::time::SystemTime;

use tokio::sync::watch;

use super::client::ClientSet;
use super::server::ServerSet;

/// Where a set is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Leg {
    /// Clients to respgate.
    Listener,
    /// respgate to data nodes.
    Upstream,
    /// respgate to Sentinels.
    Sentinel,
}

impl Leg {
    /// As logs and metrics name it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Upstream => "upstream",
            Self::Sentinel => "sentinel",
        }
    }
}

/// One leg's profile, and the set that its handshakes use.
pub struct Slot<P, S> {
    /// Where it is used.
    pub leg: Leg,
    /// The listener's or upstream's name.
    pub name: String,
    /// What is read again when files change.
    pub profile: P,
    /// The set in use.
    pub set: watch::Sender<S>,
}

/// Until when a leg's own certificates count.
#[derive(Clone)]
pub struct Expiry {
    /// Where they are used.
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
    /// The end of the first certificate of the chain to run out; `None` if respgate shows no certificate there.
    pub fn not_after(&self) -> Option<SystemTime> {
        match &self.source {
            Source::Server(set) => Some(set.borrow().not_after),
            Source::Client(set) => set.borrow().not_after,
        }
    }
}

impl<P> Slot<P, ServerSet> {
    /// Until when the listener's certificates count.
    pub fn expiry(&self) -> Expiry {
        Expiry { leg: self.leg, name: self.name.clone(), source: Source::Server(self.set.subscribe()) }
    }
}

impl<P> Slot<P, ClientSet> {
    /// Until when respgate's own certificates for servers count.
    pub fn expiry(&self) -> Expiry {
        Expiry { leg: self.leg, name: self.name.clone(), source: Source::Client(self.set.subscribe()) }
    }
}
