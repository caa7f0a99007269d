//! Holds the certificates in use on every leg. Handshakes read the newest set; the task that
//! rotates certificates writes it.

use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::config::{Config, Upstream};
use crate::net::tls::Loaded;
use crate::net::tls::accept::ServerTls;
use crate::net::tls::certificate::shown_span;
use crate::net::tls::client::{ClientProfile, ClientSet, ClientTls};
use crate::net::tls::plain_acceptor::PlainAcceptor;
use crate::net::tls::server::{ServerProfile, ServerSet};
use crate::net::tls::slot::{Expiry, Leg, Slot};
use crate::rotation::{self, Source, Tally};

/// Time between two warnings about a certificate that expires soon.
const WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// A certificate whose remaining validity is shorter than this expires soon.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Holds all certificate sets of the process.
#[derive(Default)]
pub struct Certificates {
    /// The sets of the listeners.
    pub servers: Vec<Slot<ServerProfile, ServerSet>>,
    /// The sets of the upstreams and their Sentinels.
    pub clients: Vec<Slot<ClientProfile, ClientSet>>,
}

impl Certificates {
    /// Takes over the sets that the check of the configuration has loaded.
    pub fn of(config: &Config) -> Self {
        let servers = config.listeners.iter().filter_map(|listener| {
            let Loaded { profile, set } = listener.tls.clone()?;
            let set = watch::channel(set).0;
            Some(Slot { leg: Leg::Listener, name: listener.name.clone(), profile, set })
        });
        let admin = config.admin_tls.clone().map(|Loaded { profile, set }| Slot {
            leg: Leg::Admin,
            name: "admin".into(),
            profile,
            set: watch::channel(set).0,
        });
        let servers = servers.chain(admin);
        let clients = config.upstreams.iter().flat_map(|upstream| {
            let legs = [(Leg::Upstream, &upstream.tls), (Leg::Sentinel, &upstream.sentinel_tls)];
            legs.into_iter().filter_map(|(leg, loaded)| {
                let Loaded { profile, set } = loaded.clone()?;
                Some(Slot { leg, name: upstream.config.name.clone(), profile, set: watch::channel(set).0 })
            })
        });
        Self { servers: servers.collect(), clients: clients.collect() }
    }

    /// Returns the TLS settings of a listener; `None` if it speaks plain text.
    pub fn listener(&self, name: &str) -> Option<ServerTls> {
        let slot = self.servers.iter().find(|slot| slot.leg == Leg::Listener && slot.name == name)?;
        Some(ServerTls::new(slot.set.subscribe(), slot.profile.handshake_timeout))
    }

    /// Returns the TLS settings of the admin listener; `None` if it speaks plain text.
    pub fn admin(&self) -> Option<PlainAcceptor> {
        let slot = self.servers.iter().find(|slot| slot.leg == Leg::Admin)?;
        Some(PlainAcceptor::new(slot.set.subscribe(), slot.profile.handshake_timeout))
    }

    /// Returns the TLS settings of an upstream's leg; `None` if it speaks plain text.
    pub fn client(&self, leg: Leg, upstream: &Upstream) -> Option<ClientTls> {
        let slot = self.clients.iter().find(|slot| slot.leg == leg && slot.name == upstream.config.name)?;
        Some(ClientTls::new(slot.set.subscribe(), slot.profile.names.clone()))
    }

    /// Starts to reload every set when its files change. Handshakes that begin after a reload use
    /// the new set. If a new set cannot be used, respgate logs that and keeps the old one. Returns
    /// one tally of reload outcomes per set.
    pub fn rotate(&self, interval: Duration) -> Vec<Tally> {
        let mut tallies = Vec::new();
        for slot in &self.servers {
            let (profile, set) = (slot.profile.clone(), slot.set.clone());
            let load = move || {
                let before = set.borrow().clone();
                profile.load(Some(&before)).map_err(|error| error.text)
            };
            tallies.push(follow(slot, Source::new(slot.profile.paths(), load), interval));
        }
        for slot in &self.clients {
            let profile = slot.profile.clone();
            let load = move || profile.load().map_err(|error| error.text);
            tallies.push(follow(slot, Source::new(slot.profile.paths(), load), interval));
        }
        tokio::spawn(warn_before_expiry(self.expiries()));
        tallies
    }

    /// Returns when each certificate expires, for metrics.
    pub fn expiries(&self) -> Vec<Expiry> {
        self.servers
            .iter()
            .map(Slot::<_, ServerSet>::expiry)
            .chain(self.clients.iter().map(Slot::<_, ClientSet>::expiry))
            .collect()
    }
}

fn follow<P, S: Send + Sync + 'static>(slot: &Slot<P, S>, source: Source<S>, interval: Duration) -> Tally {
    let of = match slot.leg {
        Leg::Listener => format!("listeners.{}", slot.name),
        Leg::Admin => slot.name.clone(),
        Leg::Upstream | Leg::Sentinel => format!("upstreams.{}", slot.name),
    };
    let what = if slot.leg == Leg::Sentinel { "sentinel-certificates" } else { "certificates" };
    let (tally, set) = (Tally::new(what, of), slot.set.clone());
    let adopt = move |newest| {
        set.send_replace(newest);
    };
    tokio::spawn(rotation::follow(source, interval, tally.clone(), adopt));
    tally
}

/// Warns once a day about certificates that expire soon.
async fn warn_before_expiry(expiries: Vec<Expiry>) {
    let mut days = tokio::time::interval(WARNING_INTERVAL);
    loop {
        days.tick().await;
        for expiry in &expiries {
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
