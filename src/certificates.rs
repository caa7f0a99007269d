//! Holds the certificates in use on every leg. Handshakes read the newest set; the task that
//! rotates certificates writes it.

use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::config::{Config, Upstream};
use crate::listener::ListenerConfig;
use crate::net::tls::Loaded;
use crate::net::tls::accept::ServerTls;
use crate::net::tls::certificate::shown_span;
use crate::net::tls::client::{ClientProfile, ClientSet, ClientTls};
use crate::net::tls::plain_acceptor::PlainAcceptor;
use crate::net::tls::server::{ServerProfile, ServerSet};
use crate::net::tls::slot::{Expiry, Leg, Slot};
use crate::rotation::{self, Source, Tallies, Tally};

/// Time between two warnings about a certificate that expires soon.
const WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// A certificate whose remaining validity is shorter than this expires soon.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Holds all certificate sets of the process.
pub struct Certificates {
    /// The sets of the listeners.
    servers: Vec<Followed<ServerProfile, ServerSet>>,
    /// The set of the admin listener.
    admin: Option<Followed<ServerProfile, ServerSet>>,
    /// The sets of the upstreams and their Sentinels.
    clients: Vec<Followed<ClientProfile, ClientSet>>,
    expiries: watch::Sender<Vec<Expiry>>,
    interval: Duration,
    tallies: Tallies,
}

/// A set that is loaded again when its files change, until this is dropped.
struct Followed<P, S> {
    slot: Slot<P, S>,
    task: AbortHandle,
    tally: Tally,
    tallies: Tallies,
}

impl<P, S> Drop for Followed<P, S> {
    fn drop(&mut self) {
        self.task.abort();
        self.tallies.remove(&self.tally);
    }
}

impl Certificates {
    /// Takes over the sets that the check of the configuration has loaded, and loads each again when its files change.
    /// Handshakes that begin afterwards use the new set. If a new set cannot be used, respgate logs that and keeps the old one.
    /// `tallies` receive the outcomes.
    pub fn follow(config: &Config, tallies: &Tallies) -> Self {
        let (interval, tallies) = (config.reload_interval, tallies.clone());
        let clients = config.upstreams.iter().flat_map(|upstream| {
            let legs = [(Leg::Upstream, &upstream.tls), (Leg::Sentinel, &upstream.sentinel_tls)];
            legs.into_iter().filter_map(|(leg, loaded)| {
                let Loaded { profile, set } = loaded.clone()?;
                Some(Slot { leg, name: upstream.config.name.clone(), profile, set: watch::channel(set).0 })
            })
        });
        let clients = clients.map(|slot| {
            let profile = slot.profile.clone();
            let load = move || profile.load().map_err(|error| error.text);
            follow(Source::new(slot.profile.paths(), load), slot, interval, &tallies)
        });
        let clients = clients.collect();
        let mut certificates = Self {
            servers: Vec::new(),
            admin: None,
            clients,
            expiries: watch::Sender::default(),
            interval,
            tallies,
        };
        let admin = config.admin_tls.as_ref();
        certificates.admin = admin
            .map(|Loaded { profile, set }| certificates.follow_server(Leg::Admin, "admin", profile, set));
        certificates.follow_listeners(&config.listeners);
        tokio::spawn(warn_before_expiry(certificates.expiries.subscribe()));
        certificates
    }

    /// Takes over the sets of these listeners. A listener whose paths and rules are unchanged keeps its set. Other listeners' sets
    /// are given up.
    pub fn follow_listeners(&mut self, listeners: &[ListenerConfig]) {
        let mut former = std::mem::take(&mut self.servers);
        for listener in listeners {
            let Some(Loaded { profile, set }) = &listener.tls else { continue };
            let same = |known: &Followed<ServerProfile, ServerSet>| {
                known.slot.name == listener.name && known.slot.profile == *profile
            };
            self.servers.push(match former.iter().position(same) {
                Some(at) => former.swap_remove(at),
                None => self.follow_server(Leg::Listener, &listener.name, profile, set),
            });
        }
        drop(former);
        self.expiries.send_replace(self.expiries());
    }

    fn follow_server(
        &self,
        leg: Leg,
        name: &str,
        profile: &ServerProfile,
        set: &ServerSet,
    ) -> Followed<ServerProfile, ServerSet> {
        let set = watch::channel(set.clone()).0;
        let load = {
            let (profile, set) = (profile.clone(), set.clone());
            move || {
                let before = set.borrow().clone();
                profile.load(Some(&before)).map_err(|error| error.text)
            }
        };
        let slot = Slot { leg, name: name.to_owned(), profile: profile.clone(), set };
        follow(Source::new(profile.paths(), load), slot, self.interval, &self.tallies)
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

    /// Returns the TLS settings of an upstream's leg; `None` if it speaks plain text.
    pub fn client(&self, leg: Leg, upstream: &Upstream) -> Option<ClientTls> {
        let mut slots = self.clients.iter().map(|known| &known.slot);
        let slot = slots.find(|slot| slot.leg == leg && slot.name == upstream.config.name)?;
        Some(ClientTls::new(slot.set.subscribe(), slot.profile.names.clone()))
    }

    /// Returns the legs on which respgate does not verify the server, such as `upstream main`.
    pub fn unverified(&self) -> Vec<String> {
        let slots = self.clients.iter().map(|known| &known.slot);
        let unverified = slots.filter(|slot| slot.profile.dangerously_unverified);
        unverified.map(|slot| format!("{} {}", slot.leg.label(), slot.name)).collect()
    }

    /// Returns when each certificate expires, for metrics.
    pub fn expiries(&self) -> Vec<Expiry> {
        self.servers
            .iter()
            .chain(&self.admin)
            .map(|known| known.slot.expiry())
            .chain(self.clients.iter().map(|known| known.slot.expiry()))
            .collect()
    }
}

fn follow<P, S: Send + Sync + 'static>(
    source: Source<S>,
    slot: Slot<P, S>,
    interval: Duration,
    tallies: &Tallies,
) -> Followed<P, S> {
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
    let task = tokio::spawn(rotation::follow(source, interval, tally.clone(), adopt)).abort_handle();
    tallies.add(tally.clone());
    Followed { slot, task, tally, tallies: tallies.clone() }
}

/// Warns once a day about certificates that expire soon.
async fn warn_before_expiry(newest: watch::Receiver<Vec<Expiry>>) {
    let mut days = tokio::time::interval(WARNING_INTERVAL);
    loop {
        days.tick().await;
        let expiries = newest.borrow().clone();
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
