//! Keeps the tenants of one worker, and finds a client's tenant.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use crate::tenant::figures::Counted;
use crate::tenant::identity::{Rules, TenantId};
use crate::tenant::users::Users;
use crate::tenant::users::throttle::Throttle;
use crate::tenant::{Tenant, Tenants, WorkerTenant};

/// Holds the tenants as one worker's sessions see them.
#[derive(Debug)]
pub struct WorkerTenants {
    index: RefCell<Rc<TenantIndex>>,
    users: Option<Arc<Users>>,
    throttle: Arc<Throttle>,
    /// The origin of tenant time.
    pub(super) epoch: Instant,
}

/// Finds a client's tenant in one configuration.
#[derive(Debug)]
pub(super) struct TenantIndex {
    /// The worker's tenants, indexed by [`TenantId`].
    pub(super) tenants: Vec<Rc<WorkerTenant>>,
    pub(super) rules: Arc<Rules>,
    /// The tenants that listeners name, by the listeners' numbers.
    pub(super) listeners: Arc<HashMap<usize, TenantId>>,
}

impl TenantIndex {
    /// Builds the index. `known` holds the worker's tenants so far; one whose configuration has not changed is
    /// kept.
    fn new(tenants: &Tenants, known: &[Rc<WorkerTenant>]) -> Rc<Self> {
        let worker_tenant =
            |tenant: &Arc<Tenant>| match known.iter().find(|d| d.tenant.number == tenant.number) {
                Some(worker_tenant) if Arc::ptr_eq(&worker_tenant.tenant, tenant) => worker_tenant.clone(),
                Some(worker_tenant) => worker_tenant.reconfigured(tenant),
                None => WorkerTenant::new(tenant),
            };
        Rc::new(Self {
            tenants: tenants.all.iter().map(worker_tenant).collect(),
            rules: tenants.rules.clone(),
            listeners: tenants.listeners.clone(),
        })
    }
}

impl WorkerTenants {
    /// Creates the tenants of one worker.
    pub fn new(tenants: &Tenants) -> Rc<Self> {
        Rc::new(Self {
            index: RefCell::new(TenantIndex::new(tenants, &[])),
            users: tenants.users.clone(),
            throttle: tenants.throttle.clone(),
            epoch: tenants.epoch,
        })
    }

    /// Takes over a new configuration's tenants. The caller must then tell the sessions.
    pub fn adopt(&self, tenants: &Tenants) {
        let next = TenantIndex::new(tenants, &self.index().tenants);
        *self.index.borrow_mut() = next;
    }

    /// Returns true if there is any tenant.
    pub(super) fn has_tenants(&self) -> bool {
        !self.index().tenants.is_empty()
    }

    pub(super) fn index(&self) -> Rc<TenantIndex> {
        self.index.borrow().clone()
    }

    /// Returns respgate's own users; `None` if the upstream checks passwords.
    pub fn users(&self) -> Option<Arc<Users>> {
        self.users.clone()
    }

    /// Returns the throttle that precedes every check of a password.
    pub fn throttle(&self) -> Arc<Throttle> {
        self.throttle.clone()
    }

    /// Returns this worker's counts, each with the tenant's number.
    pub fn figures(&self) -> Vec<(usize, Counted)> {
        let index = self.index();
        index
            .tenants
            .iter()
            .map(|worker_tenant| (worker_tenant.tenant.number, worker_tenant.figures.snapshot()))
            .collect()
    }
}
