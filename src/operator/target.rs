//! Where an upstream is: plain data, and what it takes to reach it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::discovery::config::DiscoveryConfig;
use crate::discovery::replicas::SampledPlace;
use crate::discovery::{self, Dialers, Discovery, Logins};
use crate::net::connect::Dialer;
use crate::net::tls::Loaded;
use crate::net::tls::client::{ClientProfile, ClientSet, ClientTls};
use crate::rotation::login::Login;
use crate::rotation::source::Account;
use crate::rotation::{self, Source, Tally, credentials};
use crate::upstream::access::Access;
use crate::upstream::config::UpstreamConfig;

/// Where an upstream is, and how respgate authenticates there.
#[derive(Clone, Debug)]
pub struct Target {
    /// How respgate finds the primary.
    pub discovery: DiscoveryConfig,
    /// respgate's own account at the nodes.
    pub account: Option<Account>,
    /// respgate's own account at the Sentinels.
    pub sentinel_account: Option<Account>,
    /// TLS to the nodes; `None` speaks plain text.
    pub tls: Option<Loaded<ClientProfile, ClientSet>>,
    /// TLS to the Sentinels; `None` speaks plain text.
    pub sentinel_tls: Option<Loaded<ClientProfile, ClientSet>>,
}

impl PartialEq for Target {
    /// Returns true if both name the same servers, the same sources of credentials and the same TLS settings. What the files
    /// hold does not count, because it may rotate.
    fn eq(&self, other: &Self) -> bool {
        let profile = |loaded: &Option<Loaded<ClientProfile, ClientSet>>| {
            loaded.as_ref().map(|loaded| loaded.profile.clone())
        };
        self.discovery == other.discovery
            && self.account == other.account
            && self.sentinel_account == other.sentinel_account
            && profile(&self.tls) == profile(&other.tls)
            && profile(&self.sentinel_tls) == profile(&other.sentinel_tls)
    }
}

impl fmt::Display for Target {
    /// Writes the address without any credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.discovery {
            DiscoveryConfig::Fixed(address) => write!(f, "{address}")?,
            DiscoveryConfig::Sentinel(config) => {
                let seeds: Vec<String> = config.seeds.iter().map(ToString::to_string).collect();
                write!(f, "{} of the Sentinels {}", config.primary_name, seeds.join(", "))?;
            }
        }
        if self.tls.is_some() { f.write_str(" with TLS") } else { Ok(()) }
    }
}

/// Why the target holds the data of the present server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataProof {
    /// The target must continue the replication history of the present server, which respgate checks.
    Replication,
    /// The operator states that the data was copied, or is not needed.
    Stated,
}

/// Checks where an upstream is switched to, given where it is now. It reads files.
pub type TargetParser = Arc<dyn Fn(&SwitchRequest, &Target) -> Result<Target, String> + Send + Sync>;

/// A request to switch an upstream, as an operator spells it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SwitchRequest {
    /// Where the upstream is from now on. May hold a password.
    pub url: String,
    /// respgate's own user there.
    pub username: Option<String>,
    /// The file with its password.
    pub password_file: Option<String>,
    /// The file with the authorities that sign the servers' certificates.
    pub ca: Option<String>,
    /// The name in the servers' certificates.
    pub server_name: Option<String>,
}

impl fmt::Debug for SwitchRequest {
    /// Leaves the URL out, because it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwitchRequest").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A target that discovery follows. Dropping it ends all its tasks and connections.
pub struct Reach {
    /// Follows the primary.
    pub discovery: Discovery,
    /// How workers reach the primary.
    pub access: Access,
    /// Where its replicas are sampled.
    pub(super) sampled: SampledPlace,
    /// The tasks that follow credentials and certificates.
    _tasks: JoinSet<()>,
}

impl Reach {
    /// Starts discovery as `config` says. Its log lines call the upstream `name`. The caller follows credentials and certificates.
    pub fn begin(
        name: &str,
        config: DiscoveryConfig,
        ping_interval: Duration,
        logins: Logins,
        dialers: Dialers,
    ) -> Self {
        let access = Access { dialer: dialers.data.clone(), login: logins.nodes.clone() };
        let discovery =
            discovery::spawn(name, config.clone(), ping_interval, logins.clone(), dialers.clone());
        let (topology, status) = (discovery.topology.clone(), discovery.status.clone());
        let sampled = SampledPlace { config, logins, dialers, topology, status };
        Self { discovery, access, sampled, _tasks: JoinSet::new() }
    }
}

impl Target {
    /// Starts to follow the target: its primary, and the files with credentials and certificates.
    pub(super) fn open(&self, config: &UpstreamConfig, interval: Duration) -> Reach {
        let mut tasks = JoinSet::new();
        let name = &config.name;
        // Its log lines say that they are not about the upstream's address in the configuration.
        let shown = format!("{name} ({self})");
        let logins = Logins {
            nodes: login(self.account.as_ref(), "password", name, interval, &mut tasks),
            sentinels: login(self.sentinel_account.as_ref(), "sentinel-password", name, interval, &mut tasks),
        };
        let mut dialer = |loaded: &Option<Loaded<ClientProfile, ClientSet>>, what| Dialer {
            connect_timeout: config.connect_timeout,
            tls: loaded.as_ref().map(|loaded| tls(loaded, what, name, interval, &mut tasks)),
            ..Dialer::default()
        };
        let dialers = Dialers {
            data: dialer(&self.tls, "certificates"),
            sentinels: dialer(&self.sentinel_tls, "sentinel-certificates"),
        };
        let reach = Reach::begin(&shown, self.discovery.clone(), config.ping_interval, logins, dialers);
        Reach { _tasks: tasks, ..reach }
    }
}

fn login(
    account: Option<&Account>,
    what: &'static str,
    name: &str,
    interval: Duration,
    tasks: &mut JoinSet<()>,
) -> Login {
    let Some(account) = account else { return Login::new(None) };
    let login = credentials::begin(account);
    let tally = Tally::new(what, format!("upstreams.{name}"));
    tasks.spawn(credentials::keep(login.clone(), account.source.clone(), interval, tally));
    login
}

fn tls(
    loaded: &Loaded<ClientProfile, ClientSet>,
    what: &'static str,
    name: &str,
    interval: Duration,
    tasks: &mut JoinSet<()>,
) -> ClientTls {
    let Loaded { profile, set } = loaded.clone();
    let (newest, seen) = watch::channel(set);
    let (names, paths) = (profile.names.clone(), profile.paths());
    let source = Source::new(paths, move || profile.load().map_err(|error| error.text));
    let adopt = move |set| {
        newest.send_replace(set);
    };
    tasks.spawn(rotation::follow(source, interval, Tally::new(what, format!("upstreams.{name}")), adopt));
    ClientTls::new(seen, names)
}
