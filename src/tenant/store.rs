//! Shares tenants' rates with other respgates, through one key per rate on an upstream.
//!
//! One task per upstream, on the main thread and with its own connection, asks for grants ahead of the clients,
//! about 40 times a second while a rate is used. The key holds the time, by the server's clock, up to which units
//! have been granted. A script advances it: that is atomic, exact over any window, and independent of the
//! proxies' clocks. Counters in windows (INCRBY) would need no script, but would let twice the rate pass around
//! the edge of a window. Each request contains the whole script: it is short, and it need not be loaded again on
//! another primary.
//!
//! While the server does not answer, or refuses, each respgate keeps to its part of the rate.

mod connection;
mod grace;
mod grant;
mod state;
mod task;

pub use state::{Store, StoreStatus};

use std::sync::{Arc, Mutex, PoisonError};

use super::Tenant;
use crate::upstream::UpstreamPlan;
use grant::PREFIX;
use state::Rated;
use task::spawn;

/// Holds all stores, one for each upstream that rates are shared through.
#[derive(Clone, Debug, Default)]
pub struct Stores(Arc<Mutex<Vec<Store>>>);

impl Stores {
    /// Shares the rates of these `tenants` through these `upstreams` from now on.
    pub fn follow(&self, upstreams: &[UpstreamPlan], tenants: &[Arc<Tenant>]) {
        let mut stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = std::mem::take(&mut *stores);
        let is_gone =
            |store: &&Store| !upstreams.iter().any(|upstream| upstream.config.name == store.upstream);
        // A task without rates ends.
        known.iter().filter(is_gone).for_each(|store| drop(store.rates.send_replace(Vec::new())));
        for upstream in upstreams {
            let name = &upstream.config.name;
            let rates = rated(name, tenants);
            let store = known.iter().find(|store| store.upstream == *name);
            if let Some(store) = store {
                store.rates.send_replace(rates.clone());
            }
            if !rates.is_empty() {
                stores.push(store.cloned().unwrap_or_else(|| spawn(upstream, rates)));
            }
        }
    }

    /// Returns the stores that share a rate now.
    pub fn all(&self) -> Vec<Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Returns the rates that `tenants` share through an upstream.
fn rated(upstream: &str, tenants: &[Arc<Tenant>]) -> Vec<Rated> {
    let sharing = tenants.iter().filter(|tenant| {
        tenant.config.limits.sharing.as_ref().is_some_and(|sharing| sharing.upstream == upstream)
    });
    sharing
        .flat_map(|tenant| {
            let name = &tenant.config.name;
            tenant.ledgers().map(move |(limit, ledger)| Rated {
                key: format!("{PREFIX}{{{name}}}:{}", limit.key()),
                ledger: ledger.clone(),
            })
        })
        .collect()
}
