//! The checked configuration that respgate runs with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::written::Written;
use crate::discovery::config::DiscoveryConfig;
use crate::discovery::replicas::MAX_REPLICAS;
use crate::latency::config::LatencyConfig;
use crate::listener::ListenerConfig;
use crate::net::tls::Loaded;
use crate::net::tls::client::{ClientProfile, ClientSet};
use crate::net::tls::server::{ServerProfile, ServerSet};
use crate::operator::Target;
use crate::replica::Reads;
use crate::rotation::source::{Account, ControlToken};
use crate::tenant::config::TenantConfig;
use crate::tenant::users::UserConfig;
use crate::topology::Address;
use crate::upstream::config::UpstreamConfig;

/// The configuration that respgate runs with. It is complete and free of contradictions.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of worker threads, at least 1. The default is [`default_workers`](super::default_workers), or less if an
    /// upstream's limits would leave a worker without a connection.
    pub workers: usize,
    /// Address that serves health and metrics; `None` serves none.
    pub admin: Option<SocketAddr>,
    /// TLS of the admin listener; `None` speaks plain text.
    pub admin_tls: Option<Loaded<ServerProfile, ServerSet>>,
    /// Where and for whom respgate offers control.
    pub control: ControlConfig,
    /// The level and the form of the log.
    pub log: LogConfig,
    /// Time that running commands may take to finish after SIGTERM; zero ends them at once.
    pub drain_timeout: Duration,
    /// Time between SIGTERM and the drain, in which respgate still accepts clients.
    pub drain_delay: Duration,
    /// True if respgate is ready for systemd only once every upstream has a verified primary.
    pub ready_needs_primary: bool,
    /// Time within which the new process of an upgrade must be ready.
    pub upgrade_timeout: Duration,
    /// Time for which clients may stay connected to the old process after an upgrade.
    pub upgrade_drain_timeout: Duration,
    /// Interval at which respgate checks files for changes.
    pub reload_interval: Duration,
    /// The times of commands that respgate measures.
    pub latency: LatencyConfig,
    /// Bytes of requests and replies that may wait in respgate, all workers together.
    pub max_buffered: usize,
    /// The listeners, at least one. Their names and addresses are unique.
    pub listeners: Vec<ListenerConfig>,
    /// The tenants. Their names are unique.
    pub tenants: Vec<TenantConfig>,
    /// respgate's own users. If empty, clients authenticate to the upstream.
    pub users: Vec<UserConfig>,
    /// The upstreams, at least one. Their names are unique.
    pub upstreams: Vec<Upstream>,
    /// The keys of the configuration file.
    pub written: Written,
}

impl Config {
    /// Returns true if a client of this upstream may read from replicas, as its listener or a tenant says.
    pub fn reads_from_replicas(&self, upstream: &str) -> bool {
        let mut listeners = self.listeners.iter().filter(|listener| listener.upstream == upstream);
        listeners.any(|listener| listener.session.reads != Reads::Primary)
            || self.tenants.iter().any(|tenant| tenant.reads.is_some_and(|reads| reads != Reads::Primary))
    }

    /// Returns the greatest number of replicas from which clients of this upstream may read.
    pub fn read_replicas(&self, upstream: &Upstream) -> usize {
        match &upstream.discovery {
            _ if !self.reads_from_replicas(&upstream.config.name) => 0,
            DiscoveryConfig::Fixed(_) => upstream.replicas.len().min(MAX_REPLICAS),
            // Of a cluster, each shard has as many; its other limits are those of one shard, too.
            DiscoveryConfig::Sentinel(_) | DiscoveryConfig::Cluster(_) => MAX_REPLICAS,
        }
    }
}

/// One upstream: its connections, and how respgate finds its primary.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The settings of the connections.
    pub config: UpstreamConfig,
    /// The settings with which respgate finds the primary.
    pub discovery: DiscoveryConfig,
    /// The addresses of the replicas of a fixed upstream.
    pub replicas: Vec<Address>,
    /// respgate's own account at the nodes.
    pub account: Option<Account>,
    /// respgate's own account at the Sentinels, which is separate.
    pub sentinel_account: Option<Account>,
    /// TLS to data nodes; `None` speaks plain text.
    pub tls: Option<Loaded<ClientProfile, ClientSet>>,
    /// TLS to Sentinels; `None` speaks plain text.
    pub sentinel_tls: Option<Loaded<ClientProfile, ClientSet>>,
}

impl Upstream {
    /// Returns where the upstream is, and how respgate authenticates there.
    pub fn target(&self) -> Target {
        Target {
            discovery: self.discovery.clone(),
            account: self.account.clone(),
            sentinel_account: self.sentinel_account.clone(),
            tls: self.tls.clone(),
            sentinel_tls: self.sentinel_tls.clone(),
        }
    }
}

/// Where and for whom respgate offers control.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlConfig {
    /// The path of the control socket; `None` binds none.
    pub socket: Option<PathBuf>,
    /// The token for control through the admin listener; `None` permits no control there.
    pub token: Option<ControlToken>,
    /// True if `POST /shutdown` from loopback ends respgate.
    pub shutdown_endpoint: bool,
    /// The token for reading through the admin listener; `None` lets everybody read there.
    pub read_token: Option<ControlToken>,
}

/// The level and the form of the log, which goes to stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The form of a line.
    pub format: LogFormat,
    /// A filter in `tracing`'s syntax: a level, or levels by module.
    pub filter: String,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `Human` if stderr is a terminal, else `Json`.
    Auto,
    /// One readable line.
    Human,
    /// One JSON object a line.
    Json,
}
