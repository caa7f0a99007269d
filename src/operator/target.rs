//! Where an upstream is: plain data, and what it takes to reach it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::discovery::config::DiscoveryConfig;
use crate::discovery::replicas::follow::SampledPlace;
use crate::discovery::room::DiscoveryRoom;
use crate::discovery::{self, Dialers, Discovery, Logins};
use crate::net::connect::Dialer;
use crate::net::tls::Loaded;
use crate::net::tls::client::{ClientProfile, ClientSet, ClientTls};
use crate::net::tls::slot::{Expiry, Leg, LegStatus, Legs};
use crate::rotation::login::Login;
use crate::rotation::source::Account;
use crate::rotation::{self, Source, Tallies, Tally, credentials};
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
        self.discovery == other.discovery
            && self.account == other.account
            && self.sentinel_account == other.sentinel_account
            && !self.has_other_tls(other)
            && !self.has_other_sentinel_tls(other)
    }
}

impl Target {
    /// Returns true if the target is a cluster.
    pub fn is_cluster(&self) -> bool {
        matches!(self.discovery, DiscoveryConfig::Cluster(_))
    }

    /// Returns how respgate finds the primary: `sentinel`, `cluster` or `fixed`.
    pub fn kind(&self) -> &'static str {
        match self.discovery {
            DiscoveryConfig::Sentinel(_) => "sentinel",
            DiscoveryConfig::Cluster(_) => "cluster",
            DiscoveryConfig::Fixed(_) => "fixed",
        }
    }

    /// Returns true if `other` has other TLS settings to the nodes.
    pub fn has_other_tls(&self, other: &Self) -> bool {
        profile(&self.tls) != profile(&other.tls)
    }

    /// Returns true if `other` has other TLS settings to the Sentinels.
    pub fn has_other_sentinel_tls(&self, other: &Self) -> bool {
        profile(&self.sentinel_tls) != profile(&other.sentinel_tls)
    }
}

fn profile(loaded: &Option<Loaded<ClientProfile, ClientSet>>) -> Option<&ClientProfile> {
    loaded.as_ref().map(|loaded| &loaded.profile)
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
            DiscoveryConfig::Cluster(config) => {
                let seeds: Vec<String> = config.seeds.iter().map(ToString::to_string).collect();
                write!(f, "the cluster of {}", seeds.join(", "))?;
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

/// What every target needs to be followed, and the lists that show what is followed.
#[derive(Clone, Default)]
pub struct TargetContext {
    /// The interval at which files are checked for changes.
    pub interval: Duration,
    /// Counts the changes of credentials and certificates.
    pub tallies: Tallies,
    /// Lists the certificates in use.
    pub legs: Legs,
}

/// A target that discovery follows. Dropping it ends all its tasks and connections.
pub struct Reach {
    /// Follows the primary.
    pub(super) discovery: Discovery,
    /// How workers reach the primary.
    pub(super) access: Access,
    /// Where its replicas are sampled.
    pub(super) sampled: SampledPlace,
    followed: Followed,
    /// The lists that name what is followed, once the target is in force.
    listed: Option<TargetContext>,
}

/// The tasks that follow credentials and certificates, and what shows their state.
#[derive(Default)]
struct Followed {
    tasks: JoinSet<()>,
    tallies: Vec<Tally>,
    legs: Vec<LegStatus>,
}

impl Reach {
    /// Lists what is followed.
    pub(super) fn put_in_force(&mut self, ctx: &TargetContext) {
        self.followed.tallies.iter().for_each(|tally| ctx.tallies.add(tally.clone()));
        self.followed.legs.iter().for_each(|leg| ctx.legs.add(leg.clone()));
        self.listed = Some(ctx.clone());
    }
}

impl Drop for Reach {
    fn drop(&mut self) {
        let Some(ctx) = &self.listed else { return };
        self.followed.tallies.iter().for_each(|tally| ctx.tallies.remove(tally));
        self.followed.legs.iter().for_each(|leg| ctx.legs.remove(leg));
    }
}

impl Target {
    /// Returns true if both name the same servers, whatever the credentials and TLS settings.
    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        match (&self.discovery, &other.discovery) {
            (DiscoveryConfig::Fixed(own), DiscoveryConfig::Fixed(other)) => own == other,
            (DiscoveryConfig::Sentinel(own), DiscoveryConfig::Sentinel(other)) => {
                own.primary_name == other.primary_name && own.seeds == other.seeds && own.nat == other.nat
            }
            (DiscoveryConfig::Cluster(own), DiscoveryConfig::Cluster(other)) => {
                own.seeds == other.seeds && own.nat == other.nat
            }
            _ => false,
        }
    }

    /// Starts to follow the target: its primary, and the files with credentials and certificates. `shown` names it in the log.
    pub(super) fn open(&self, config: &UpstreamConfig, shown: &str, ctx: &TargetContext) -> Reach {
        let (name, mut followed) = (&config.name, Followed::default());
        let logins = Logins {
            nodes: followed.login(self.account.as_ref(), "password", name, ctx.interval),
            sentinels: followed.login(
                self.sentinel_account.as_ref(),
                "sentinel-password",
                name,
                ctx.interval,
            ),
        };
        let mut dialer = |loaded: &Option<Loaded<ClientProfile, ClientSet>>, leg| Dialer {
            connect_timeout: config.connect_timeout,
            tls: loaded.as_ref().map(|loaded| followed.tls(loaded, leg, name, ctx.interval)),
            ..Dialer::default()
        };
        let dialers = Dialers {
            data: dialer(&self.tls, Leg::Upstream),
            sentinels: dialer(&self.sentinel_tls, Leg::Sentinel),
            room: DiscoveryRoom::new(config.max_open_of_discovery),
        };
        let access = Access { dialer: dialers.data.clone(), login: logins.nodes.clone() };
        let config_of = self.discovery.clone();
        let discovery =
            discovery::spawn(shown, config_of.clone(), config.ping_interval, logins.clone(), dialers.clone());
        let (topology, status) = (discovery.topology.clone(), discovery.status.clone());
        let sampled = SampledPlace { config: config_of, logins, dialers, topology, status };
        Reach { discovery, access, sampled, followed, listed: None }
    }
}

impl Followed {
    fn login(
        &mut self,
        account: Option<&Account>,
        what: &'static str,
        name: &str,
        interval: Duration,
    ) -> Login {
        let Some(account) = account else { return Login::new(None) };
        let (login, tally) = (credentials::begin(account), Tally::new(what, format!("upstreams.{name}")));
        self.tallies.push(tally.clone());
        self.tasks.spawn(credentials::keep(login.clone(), account.source.clone(), interval, tally));
        login
    }

    fn tls(
        &mut self,
        loaded: &Loaded<ClientProfile, ClientSet>,
        leg: Leg,
        name: &str,
        interval: Duration,
    ) -> ClientTls {
        let Loaded { profile, set } = loaded.clone();
        let (newest, seen) = watch::channel(set);
        let (names, paths, is_unverified) =
            (profile.names.clone(), profile.paths(), profile.dangerously_unverified);
        let what = if leg == Leg::Sentinel { "sentinel-certificates" } else { "certificates" };
        let tally = Tally::new(what, format!("upstreams.{name}"));
        let source = Source::new(paths, move || profile.load().map_err(|error| error.text));
        let adopt = move |set| {
            newest.send_replace(set);
        };
        self.tallies.push(tally.clone());
        self.legs.push(LegStatus { expiry: Expiry::of_client(leg, name, seen.clone()), is_unverified });
        self.tasks.spawn(rotation::follow(source, interval, tally, adopt));
        ClientTls::new(seen, names)
    }
}
