//! The state that the task of a store shares with the rest of respgate.

use std::sync::Arc;

use tokio::sync::watch;

use crate::tenant::limits::ledger::Ledger;

/// Describes how tenants' rates are shared through one upstream, for the admin interface.
#[derive(Clone, Debug)]
pub struct Store {
    /// The upstream's name.
    pub upstream: String,
    pub(super) status: watch::Sender<StoreStatus>,
    /// The rates to share. The task ends when there are none.
    pub(super) rates: watch::Sender<Vec<Rated>>,
}

/// Names a rate that is to be shared.
#[derive(Clone, Debug)]
pub(super) struct Rated {
    pub(super) key: String,
    pub(super) ledger: Arc<Ledger>,
}

/// Says whether rates are shared now.
#[derive(Clone, Debug, Default)]
pub struct StoreStatus {
    /// Why each respgate keeps to its own part; `None` while rates are shared.
    pub error: Option<Arc<str>>,
    /// How often sharing has ended.
    pub fallbacks: u64,
    /// True if the error has been logged.
    pub(super) logged: bool,
}

impl Store {
    /// Returns whether rates are shared now.
    pub fn status(&self) -> StoreStatus {
        self.status.borrow().clone()
    }
}
