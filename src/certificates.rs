//! Holds the certificates that respgate shows to clients. Handshakes read the newest set; the task that
//! rotates certificates writes it. Those for servers belong to their upstream (`operator/target.rs`).

use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::config::Config;
use crate::listener::ListenerConfig;
use crate::net::tls::Loaded;
use crate::net::tls::accept::ServerTls;
use crate::net::tls::certificate::shown_span;
use crate::net::tls::plain_acceptor::PlainAcceptor;
use crate::net::tls::server::{ServerProfile, ServerSet};
use crate::net::tls::slot::{Leg, LegStatus, Legs, Slot};
use crate::rotation::{self, Source, Tallies, Tally};

/// Time between two warnings about a certificate that expires soon.
const WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// A certificate whose remaining validity is shorter than this expires soon.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Holds the certificate sets of the listeners and of the admin listener.
pub struct Certificates {
    /// The sets of the listeners.
    servers: Vec<Followed>,
    /// The set of the admin listener.
    admin: Option<Followed>,
    interval: Duration,
    tallies: Tallies,
    /// All legs that speak TLS, those of upstreams included.
    legs: Legs,
}

/// A set that is loaded again when its files change, until this is dropped.
struct Followed {
    slot: Slot<ServerProfile, ServerSet>,
    task: AbortHandle,
    tally: Tally,
    tallies: Tallies,
    leg: LegStatus,
    legs: Legs,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
        self.tallies.remove(&self.tally);
        self.legs.remove(&self.leg);
    }
}

impl Certificates {
    /// Takes over the sets that the check of the configuration has loaded, and loads each again when its files change.
    /// Handshakes that begin afterwards use the new set. If a new set cannot be used, respgate logs that and keeps the old one.
    /// `tallies` receive the outcomes, and `legs` list the sets.
    pub fn follow(config: &Config, tallies: &Tallies, legs: &Legs) -> Self {
        let mut certificates = Self {
            servers: Vec::new(),
            admin: None,
            interval: config.reload_interval,
            tallies: tallies.clone(),
            legs: legs.clone(),
        };
        let admin = config.admin_tls.as_ref();
        certificates.admin = admin
            .map(|Loaded { profile, set }| certificates.follow_server(Leg::Admin, "admin", profile, set));
        certificates.follow_listeners(&config.listeners);
        tokio::spawn(warn_before_expiry(legs.clone()));
        certificates
    }

    /// Takes over the sets of these listeners. A listener whose paths and rules are unchanged keeps its set. Other listeners' sets
    /// are given up.
    pub fn follow_listeners(&mut self, listeners: &[ListenerConfig]) {
        let mut former = std::mem::take(&mut self.servers);
        for listener in listeners {
            let Some(Loaded { profile, set }) = &listener.tls else { continue };
            let same = |known: &Followed| known.slot.name == listener.name && known.slot.profile == *profile;
            self.servers.push(match former.iter().position(same) {
                Some(at) => former.swap_remove(at),
                None => self.follow_server(Leg::Listener, &listener.name, profile, set),
            });
        }
    }

    fn follow_server(&self, leg: Leg, name: &str, profile: &ServerProfile, set: &ServerSet) -> Followed {
        let set = watch::channel(set.clone()).0;
        let load = {
            let (profile, set) = (profile.clone(), set.clone());
            move || {
                let before = set.borrow().clone();
                profile.load(Some(&before)).map_err(|error| error.text)
            }
        };
        let slot = Slot { leg, name: name.to_owned(), profile: profile.clone(), set };
        self.follow_slot(Source::new(profile.paths(), load), slot)
    }

    /// Returns the TLS settings of a listener; `None` if it speaks plain text.
    pub fn listener(&self, name: &str) -> Option<ServerTls> {
        let slot = self.servers.iter().map(|known| &known.slot).find(|slot| slot.name == name)?;
        Some(ServerTls::new(slot.set.subscribe(), slot.profile.handshake_timeout))
    }

    /// Returns the TLS settings of the admin listener; `None` if it speaks plain text.
    pub fn admin(&self) -> Option<PlainAcceptor> {
        let slot = &self.admin.as_ref()?.slot;
        Some(PlainAcceptor::new(slot.set.subscribe(), slot.profile.handshake_timeout))
    }

    /// Returns all legs that speak TLS, those of upstreams included.
    pub fn legs(&self) -> Legs {
        self.legs.clone()
    }

    /// Loads the set of a slot again when its files change.
    fn follow_slot(&self, source: Source<ServerSet>, slot: Slot<ServerProfile, ServerSet>) -> Followed {
        let of = match slot.leg {
            Leg::Admin => slot.name.clone(),
            _ => format!("listeners.{}", slot.name),
        };
        let (tally, set) = (Tally::new("certificates", of), slot.set.clone());
        let adopt = move |newest| {
            set.send_replace(newest);
        };
        let task = tokio::spawn(rotation::follow(source, self.interval, tally.clone(), adopt)).abort_handle();
        self.tallies.add(tally.clone());
        let leg = LegStatus { expiry: slot.expiry(), is_unverified: false };
        self.legs.add(leg.clone());
        Followed { slot, task, tally, tallies: self.tallies.clone(), leg, legs: self.legs.clone() }
    }
}

/// Warns once a day about certificates that expire soon.
async fn warn_before_expiry(legs: Legs) {
    let mut days = tokio::time::interval(WARNING_INTERVAL);
    loop {
        days.tick().await;
        for expiry in &legs.expiries() {
            let (leg, name) = (expiry.leg.label(), &expiry.name);
            match expiry.not_after().map(|end| end.duration_since(SystemTime::now())) {
                Some(Err(_)) => tracing::error!(leg, name, "the certificate has expired: renew it"),
                Some(Ok(left)) if left < EXPIRES_SOON => {
                    tracing::warn!(leg, name, "the certificate expires in {}: renew it", shown_span(left));
                }
                _ => {}
            }
        }
    }
}
