//! A leg's profile and its present set. Handshakes read the newest set; the task that rotates
//! certificates writes it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Returns the expiry of the certificates that respgate shows to servers.
    pub fn of_client(leg: Leg, name: &str, set: watch::Receiver<ClientSet>) -> Self {
        Self { leg, name: name.to_owned(), source: Source::Client(set) }
    }

    /// Returns true if both are about the same set.
    fn is(&self, other: &Self) -> bool {
        match (&self.source, &other.source) {
            (Source::Server(own), Source::Server(other)) => own.same_channel(other),
            (Source::Client(own), Source::Client(other)) => own.same_channel(other),
            _ => false,
        }
    }

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

/// One leg that respgate serves or uses now.
#[derive(Clone)]
pub struct LegStatus {
    /// When respgate's own certificates expire.
    pub expiry: Expiry,
    /// True if respgate does not verify the server.
    pub is_unverified: bool,
}

/// Lists all legs that speak TLS now. Clones share one state.
#[derive(Clone, Default)]
pub struct Legs(Arc<Mutex<Vec<LegStatus>>>);

impl Legs {
    /// Adds a leg.
    pub fn add(&self, leg: LegStatus) {
        self.lock().push(leg);
    }

    /// Removes a leg that is no longer used.
    pub fn remove(&self, leg: &LegStatus) {
        self.lock().retain(|known| !known.expiry.is(&leg.expiry));
    }

    /// Returns when each certificate expires.
    pub fn expiries(&self) -> Vec<Expiry> {
        self.lock().iter().map(|leg| leg.expiry.clone()).collect()
    }

    /// Returns the legs on which respgate does not verify the server, such as `upstream main`.
    pub fn unverified(&self) -> Vec<String> {
        let legs = self.lock();
        let unverified = legs.iter().filter(|leg| leg.is_unverified).map(|leg| &leg.expiry);
        unverified.map(|expiry| format!("{} {}", expiry.leg.label(), expiry.name)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<LegStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
