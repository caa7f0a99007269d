//! The parts of the process that the admin listener reads.

use std::sync::Arc;

use tokio::sync::watch;

use super::security::TlsStatus;
use crate::discovery::DiscoveryStatus;
use crate::drain::FormerProcess;
use crate::logs::LogLimit;
use crate::net::budget::Budget;
use crate::rotation::Tallies;
use crate::rotation::login::Login;
use crate::tenant::Tenants;
use crate::tenant::store::Stores;
use crate::timeline::Timelines;
use crate::topology::Topology;
use crate::worker::Worker;

/// The sources about the process as a whole.
#[derive(Clone)]
pub struct Sources {
    /// State of TLS.
    pub security: TlsStatus,
    /// The tenants in force.
    pub tenants: watch::Receiver<Tenants>,
    /// The connections through which rates are shared.
    pub stores: Stores,
    /// The outcomes of reloads: the configuration, certificates and passwords.
    pub reloads: Tallies,
    /// The process that this one has replaced, as long as it runs.
    pub former: watch::Receiver<Option<FormerProcess>>,
    /// The workers, which count.
    pub workers: Vec<Worker>,
    /// The byte budget of all clients.
    pub budget: Arc<Budget>,
    /// The limit of log lines, which counts the suppressed ones.
    pub logs: LogLimit,
}

/// The sources about one upstream.
#[derive(Clone)]
pub struct View {
    /// The upstream's name.
    pub name: String,
    /// Discovery's newest result.
    pub topology: watch::Receiver<Topology>,
    /// What discovery knows of the Sentinels.
    pub discovery: watch::Receiver<DiscoveryStatus>,
    /// The credentials with which respgate logs in to the upstream.
    pub login: Login,
    /// The upstream's failovers.
    pub timelines: Timelines,
}
