//! The certificates in use on every leg. Handshakes read the newest set; whoever rotates them writes it.

use tokio::sync::watch;

use crate::config::{Config, Upstream};
use crate::net::tls::Loaded;
use crate::net::tls::accept::ServerTls;
use crate::net::tls::client::{ClientProfile, ClientSet, ClientTls};
use crate::net::tls::server::{ServerProfile, ServerSet};
use crate::net::tls::slot::{Expiry, Leg, Slot};

/// All sets of the process.
#[derive(Default)]
pub struct Certificates {
    /// Of listeners.
    pub servers: Vec<Slot<ServerProfile, ServerSet>>,
    /// Of upstreams and their Sentinels.
    pub clients: Vec<Slot<ClientProfile, ClientSet>>,
}

impl Certificates {
    /// Takes over what the configuration's check has read.
    pub fn of(config: &Config) -> Self {
        let servers = config.listeners.iter().filter_map(|listener| {
            let Loaded { profile, set } = listener.tls.clone()?;
            let set = watch::channel(set).0;
            Some(Slot { leg: Leg::Listener, name: listener.name.clone(), profile, set })
        });
        let clients = config.upstreams.iter().flat_map(|upstream| {
            let legs = [(Leg::Upstream, &upstream.tls), (Leg::Sentinel, &upstream.sentinel_tls)];
            legs.into_iter().filter_map(|(leg, loaded)| {
                let Loaded { profile, set } = loaded.clone()?;
                Some(Slot { leg, name: upstream.config.name.clone(), profile, set: watch::channel(set).0 })
            })
        });
        Self { servers: servers.collect(), clients: clients.collect() }
    }

    /// TLS of a listener; `None` speaks plain text.
    pub fn listener(&self, name: &str) -> Option<ServerTls> {
        let slot = self.servers.iter().find(|slot| slot.name == name)?;
        Some(ServerTls::new(slot.set.subscribe(), slot.profile.handshake_timeout))
    }

    /// TLS of an upstream's leg; `None` speaks plain text.
    pub fn client(&self, leg: Leg, upstream: &Upstream) -> Option<ClientTls> {
        let slot = self.clients.iter().find(|slot| slot.leg == leg && slot.name == upstream.config.name)?;
        Some(ClientTls::new(slot.set.subscribe(), slot.profile.names.clone()))
    }

    /// Until when certificates count, for metrics.
    pub fn expiries(&self) -> Vec<Expiry> {
        self.servers
            .iter()
            .map(Slot::<_, ServerSet>::expiry)
            .chain(self.clients.iter().map(Slot::<_, ClientSet>::expiry))
            .collect()
    }
}
