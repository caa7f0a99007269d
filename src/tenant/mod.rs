//! Groups clients into tenants, and applies each tenant's policy and limits.
//!
//! [`identity`] decides to which tenant a client belongs, [`limits`] how much it may use, and [`policy`] which
//! commands it may run. [`store`] shares limits with other respgates.

pub mod config;
pub mod figures;
pub mod identity;
pub mod limits;
pub mod members;
pub mod policy;
pub mod store;
pub mod users;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use self::config::TenantConfig;
use self::figures::Figures;
use self::identity::{Rules, TenantId};
use self::limits::config::LimitsConfig;
use self::limits::count::Count;
use self::limits::ledger::Ledger;
use self::limits::rate::Rate;
use self::limits::refusal::Limit;
use self::limits::shared_rate::{Batched, Shared};
use self::users::Users;
use self::users::throttle::Throttle;
use crate::replica::answered_writes::AnsweredWrites;
use crate::upstream::shared::fair::fair_queue::Share;

/// Holds one tenant, as all workers share it.
#[derive(Debug)]
pub struct Tenant {
    /// Identifies the tenant wherever its name would be too long, and stays the same when its configuration
    /// changes. Never reused for another tenant.
    pub number: usize,
    /// The tenant's configuration.
    pub config: TenantConfig,
    /// True if no limit applies, except the one on connections.
    pub unlimited: bool,
    /// The number of its clients.
    pub connections: Arc<Count>,
    /// The number of its clients' unanswered commands. Counted only where it is limited.
    pub in_flight: Arc<Count>,
    /// The number of its clients' leases.
    pub leased: Arc<Count>,
    /// The number of its clients in a blocking command.
    pub blocked: Arc<Count>,
    /// The number of its clients with subscriptions.
    pub subscribed: Arc<Count>,
    /// The number of its clients in a transaction.
    pub transactions: Arc<Count>,
    /// The bytes that wait for its clients. Counted only where they are limited.
    pub buffered: Arc<Count>,
    /// When its clients' newest write was answered, where reads from replicas show it.
    pub answered: Arc<AnsweredWrites>,
    commands: Option<Arc<Shared>>,
    bytes_in: Option<Arc<Shared>>,
    bytes_out: Option<Arc<Shared>>,
}

impl Tenant {
    /// Creates a tenant without clients.
    pub fn new(number: usize, config: TenantConfig) -> Arc<Self> {
        let limits = &config.limits;
        let rate = |rate: Option<Rate>| rate.map(|rate| Arc::new(shared(rate, limits)));
        Arc::new(Self {
            number,
            unlimited: unlimited(limits),
            connections: Count::new(limits.connections),
            in_flight: Count::new(limits.in_flight),
            leased: Count::new(limits.leased),
            blocked: Count::new(limits.blocked),
            subscribed: Count::new(limits.subscribed),
            transactions: Count::new(limits.transactions),
            buffered: Count::new(limits.buffered),
            answered: Arc::default(),
            commands: rate(limits.rates.commands),
            bytes_in: rate(limits.rates.bytes_in),
            bytes_out: rate(limits.rates.bytes_out),
            config,
        })
    }

    /// Returns the same tenant with another configuration, from `now` on. Its clients stay counted, and what they
    /// have used of its rates still counts.
    fn reconfigured(&self, config: TenantConfig, now: u64) -> Arc<Self> {
        let (limits, before) = (&config.limits, &self.config.limits);
        let count = |count: &Arc<Count>, limit| {
            count.set_limit(limit);
            count.clone()
        };
        let rate = |rate: Option<Rate>, known: &Option<Arc<Shared>>, was: Option<Rate>| match (rate, known) {
            (Some(_), Some(known)) if rate == was && limits.sharing == before.sharing => Some(known.clone()),
            (Some(rate), Some(known)) => Some(Arc::new(shared(rate, limits).following(known, now))),
            (rate, _) => rate.map(|rate| Arc::new(shared(rate, limits))),
        };
        Arc::new(Self {
            number: self.number,
            unlimited: unlimited(limits),
            connections: count(&self.connections, limits.connections),
            in_flight: count(&self.in_flight, limits.in_flight),
            leased: count(&self.leased, limits.leased),
            blocked: count(&self.blocked, limits.blocked),
            subscribed: count(&self.subscribed, limits.subscribed),
            transactions: count(&self.transactions, limits.transactions),
            buffered: count(&self.buffered, limits.buffered),
            answered: self.answered.clone(),
            commands: rate(limits.rates.commands, &self.commands, before.rates.commands),
            bytes_in: rate(limits.rates.bytes_in, &self.bytes_in, before.rates.bytes_in),
            bytes_out: rate(limits.rates.bytes_out, &self.bytes_out, before.rates.bytes_out),
            config,
        })
    }

    /// Returns the ledgers of its rates that are shared with other respgates.
    fn ledgers(&self) -> impl Iterator<Item = (Limit, &Arc<Ledger>)> {
        let rates = [
            (Limit::Commands, &self.commands),
            (Limit::BytesIn, &self.bytes_in),
            (Limit::BytesOut, &self.bytes_out),
        ];
        rates.into_iter().filter_map(|(limit, rate)| Some((limit, rate.as_ref()?.ledger()?)))
    }
}

/// Returns the state of a rate, shared with other respgates if `limits` says so.
fn shared(rate: Rate, limits: &LimitsConfig) -> Shared {
    match &limits.sharing {
        Some(sharing) => Shared::among(rate, sharing.processes),
        None => Shared::new(rate),
    }
}

/// Returns true if no limit is set, except the one on connections. `over_limit`, `max_delay` and `sharing` limit
/// nothing by themselves.
fn unlimited(limits: &LimitsConfig) -> bool {
    LimitsConfig { connections: None, ..limits.clone() }
        == LimitsConfig {
            over_limit: limits.over_limit,
            max_delay: limits.max_delay,
            sharing: limits.sharing.clone(),
            ..LimitsConfig::default()
        }
}

/// Holds all tenants and the rules that assign clients to them. Shared by all workers.
#[derive(Clone, Debug)]
pub struct Tenants {
    /// The tenants, indexed by [`TenantId`].
    pub all: Vec<Arc<Tenant>>,
    /// The tenants that listeners name, by the listeners' numbers.
    pub listeners: Arc<HashMap<usize, TenantId>>,
    /// The rules that assign clients to tenants.
    pub rules: Arc<Rules>,
    /// respgate's own users; `None` if the upstream checks passwords.
    pub users: Option<Arc<Users>>,
    /// The throttle that precedes every check of a password, by respgate or by the upstream.
    pub throttle: Arc<Throttle>,
    /// The start of tenant time.
    pub epoch: Instant,
    /// How often the tenants or the users have been replaced.
    pub version: u64,
    /// The number of the next new tenant.
    next: usize,
}

impl Tenants {
    /// Creates the tenants of a configuration with unique names. `listeners` holds the number of each
    /// listener, and the name of its tenant.
    pub fn new(
        configs: &[TenantConfig],
        listeners: &[(usize, Option<&str>)],
        users: Option<Arc<Users>>,
    ) -> Self {
        let empty = Self {
            all: Vec::new(),
            listeners: Arc::default(),
            rules: Arc::default(),
            throttle: users.as_ref().map_or_else(Arc::default, |users| users.throttle()),
            users,
            epoch: Instant::now(),
            version: 0,
            next: 0,
        };
        empty.reconfigured(configs, listeners)
    }

    /// Returns the tenants of a new configuration. A tenant with the name of an earlier one continues it. A
    /// tenant whose configuration is unchanged is the same object.
    pub fn reconfigured(&self, configs: &[TenantConfig], listeners: &[(usize, Option<&str>)]) -> Self {
        let now = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut next = self.next;
        let tenant = |config: &TenantConfig| match self.all.iter().find(|old| old.config.name == config.name)
        {
            Some(old) if old.config == *config => old.clone(),
            Some(old) => old.reconfigured(config.clone(), now),
            None => {
                next += 1;
                Tenant::new(next - 1, config.clone())
            }
        };
        let find = |name: &str| configs.iter().position(|config| config.name == name).map(TenantId);
        Self {
            all: configs.iter().map(tenant).collect(),
            listeners: Arc::new(
                listeners.iter().filter_map(|(number, name)| Some((*number, name.and_then(find)?))).collect(),
            ),
            rules: Arc::new(Rules::new(configs)),
            users: self.users.clone(),
            throttle: self.throttle.clone(),
            epoch: self.epoch,
            version: self.version + 1,
            next,
        }
    }
}

/// Holds a tenant as one worker sees it.
#[derive(Debug)]
pub struct WorkerTenant {
    /// The part that all workers share.
    pub tenant: Arc<Tenant>,
    /// The scheduler identity under which the tenant's clients queue for a lane.
    pub share: Share,
    /// This worker's counts of the tenant, kept across configurations.
    pub figures: Rc<Figures>,
    commands: Option<Batched>,
    bytes_in: Option<Batched>,
    bytes_out: Option<Batched>,
}

impl WorkerTenant {
    /// Creates one worker's view of a tenant.
    pub fn new(tenant: &Arc<Tenant>) -> Rc<Self> {
        Self::counting(tenant, Rc::default())
    }

    /// Returns the worker's view of the same tenant with another configuration. The counts go on.
    pub fn reconfigured(&self, tenant: &Arc<Tenant>) -> Rc<Self> {
        Self::counting(tenant, self.figures.clone())
    }

    fn counting(tenant: &Arc<Tenant>, figures: Rc<Figures>) -> Rc<Self> {
        let batched = |shared: &Option<Arc<Shared>>| shared.clone().map(Batched::new);
        Rc::new(Self {
            tenant: tenant.clone(),
            share: Share { owner: Some(tenant.number), config: tenant.config.share },
            figures,
            commands: batched(&tenant.commands),
            bytes_in: batched(&tenant.bytes_in),
            bytes_out: batched(&tenant.bytes_out),
        })
    }
}
