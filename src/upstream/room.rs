//! Limits the shared connections of one worker: those of lanes and those of fan-in together.

use crate::resp::error_line::ErrorLine;
use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use super::config::LiveConfig;

/// The room for shared connections.
pub(super) struct SharedRoom {
    config: Rc<LiveConfig>,
    open: Rc<Cell<usize>>,
    /// Closes a connection that no session uses. Returns false if all are in use.
    close_unused: OnceCell<Box<dyn Fn() -> bool>>,
}

/// Room for one shared connection. Dropping it frees the room.
pub(super) struct SharedPermit(Rc<Cell<usize>>);

impl SharedRoom {
    pub(super) fn new(config: Rc<LiveConfig>) -> Self {
        Self { config, open: Rc::default(), close_unused: OnceCell::new() }
    }

    fn limit(&self) -> usize {
        self.config.get().max_shared()
    }

    /// Takes room for one more shared connection; `None` if the limit is reached.
    pub(super) fn take(&self) -> Option<SharedPermit> {
        (self.open.get() < self.limit()).then(|| {
            self.open.set(self.open.get() + 1);
            SharedPermit(self.open.clone())
        })
    }

    /// Sets what [`Self::close_unused`] calls.
    pub(super) fn on_close_unused(&self, close: impl Fn() -> bool + 'static) {
        let _ = self.close_unused.set(Box::new(close));
    }

    /// Closes a shared connection that no session uses, to make room. Returns false if all are in use.
    pub(super) fn close_unused(&self) -> bool {
        self.close_unused.get().is_some_and(|close| close())
    }

    /// Returns the error line, for a command that needs one more shared connection than the limit allows.
    pub(super) fn limit_error(&self) -> ErrorLine {
        format!(
            "-ERR respgate: upstream '{}' has all {} shared connections of this worker open (one per user, database and protocol version, and one per user for fan-in); raise max-connections",
            self.config.name,
            self.limit()
        )
        .into_bytes()
        .into()
    }
}

impl Drop for SharedPermit {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
