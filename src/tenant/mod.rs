//! Whose clients these are, what they may do, and how much.
//!
//! [`identity`] decides to which tenant a client belongs, [`limits`] how much it may use, [`policy`] which commands;
//! [`store`] shares limits with other respgates.

pub mod config;
pub mod figures;
pub mod identity;
pub mod limits;
pub mod policy;
pub mod store;
pub mod users;

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use self::config::TenantConfig;
use self::figures::Figures;
use self::identity::{Rules, TenantId};
use self::limits::config::LimitsConfig;
use self::limits::count::Count;
use self::limits::ledger::Ledger;
use self::limits::rate::{Batched, Shared};
use self::limits::refusal::Limit;
use self::users::Users;
use crate::upstream::turns::Share;

/// One tenant, as all workers see it.
#[derive(Debug)]
pub struct Tenant {
    /// What was configured.
    pub config: TenantConfig,
    /// Nothing about it is limited.
    pub unlimited: bool,
    /// Its clients.
    pub connections: Arc<Count>,
    /// Their unanswered commands, where they are limited.
    pub in_flight: Arc<Count>,
    /// Their leases.
    pub leased: Arc<Count>,
    /// Those in a blocking command.
    pub blocked: Arc<Count>,
    /// Those with subscriptions.
    pub subscribed: Arc<Count>,
    /// Those in a transaction.
    pub transactions: Arc<Count>,
    /// Their waiting bytes, where they are limited.
    pub buffered: Arc<Count>,
    commands: Option<Arc<Shared>>,
    bytes_in: Option<Arc<Shared>>,
    bytes_out: Option<Arc<Shared>>,
}

impl Tenant {
    /// A tenant without clients.
    pub fn new(config: TenantConfig) -> Arc<Self> {
        let limits = &config.limits;
        let rate = |rate: Option<_>| {
            rate.map(|rate| {
                Arc::new(match &limits.sharing {
                    Some(sharing) => Shared::among(rate, sharing.processes),
                    None => Shared::new(rate),
                })
            })
        };
        Arc::new(Self {
            unlimited: LimitsConfig { connections: None, ..limits.clone() }
                == LimitsConfig {
                    over_limit: limits.over_limit,
                    max_delay: limits.max_delay,
                    sharing: limits.sharing.clone(),
                    ..LimitsConfig::default()
                },
            connections: Count::new(limits.connections),
            in_flight: Count::new(limits.in_flight),
            leased: Count::new(limits.leased),
            blocked: Count::new(limits.blocked),
            subscribed: Count::new(limits.subscribed),
            transactions: Count::new(limits.transactions),
            buffered: Count::new(limits.buffered),
            commands: rate(limits.rates.commands),
            bytes_in: rate(limits.rates.bytes_in),
            bytes_out: rate(limits.rates.bytes_out),
            config,
        })
    }

    /// What counts for its rates that are shared with other respgates.
    fn ledgers(&self) -> impl Iterator<Item = (Limit, &Arc<Ledger>)> {
        let rates = [
            (Limit::Commands, &self.commands),
            (Limit::BytesIn, &self.bytes_in),
            (Limit::BytesOut, &self.bytes_out),
        ];
        rates.into_iter().filter_map(|(limit, rate)| Some((limit, rate.as_ref()?.ledger()?)))
    }
}

/// All tenants, and the rules that tell whose a client is. Shared by all workers.
#[derive(Clone, Debug)]
pub struct Tenants {
    /// By [`TenantId`].
    pub all: Vec<Arc<Tenant>>,
    /// Whose a client is.
    pub rules: Arc<Rules>,
    /// Who may authenticate; `None`: the upstream knows.
    pub users: Option<Arc<Users>>,
    /// Times are counted from here.
    pub epoch: Instant,
}

impl Tenants {
    /// From the configuration; names are unique.
    pub fn new(configs: &[TenantConfig], users: Option<Arc<Users>>) -> Self {
        Self {
            all: configs.iter().cloned().map(Tenant::new).collect(),
            rules: Arc::new(Rules::new(configs)),
            users,
            epoch: Instant::now(),
        }
    }

    /// The tenant of this name.
    pub fn find(&self, name: &str) -> Option<TenantId> {
        self.all.iter().position(|tenant| tenant.config.name == name).map(TenantId)
    }
}

/// A tenant as one worker sees it.
#[derive(Debug)]
pub struct Desk {
    /// What all workers share.
    pub tenant: Arc<Tenant>,
    /// For whom its clients ask where others wait.
    pub share: Share,
    /// What this worker counts of it.
    pub figures: Figures,
    commands: Option<Batched>,
    bytes_in: Option<Batched>,
    bytes_out: Option<Batched>,
}

impl Desk {
    /// A worker's.
    pub fn new(id: TenantId, tenant: &Arc<Tenant>) -> Rc<Self> {
        let batched = |shared: &Option<Arc<Shared>>| shared.clone().map(Batched::new);
        Rc::new(Self {
            tenant: tenant.clone(),
            share: Share { owner: Some(id.0), due: tenant.config.due },
            figures: Figures::default(),
            commands: batched(&tenant.commands),
            bytes_in: batched(&tenant.bytes_in),
            bytes_out: batched(&tenant.bytes_out),
        })
    }
}
