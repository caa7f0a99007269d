//! Knows what the primary has said of itself.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::time::Instant;

use crate::command::learned::Learned;
use crate::topology::ServerInfo;
use crate::upstream::connection::identity::Identity;

/// The primary's statements about itself to this worker.
#[derive(Default)]
pub(in crate::upstream) struct ServerFacts {
    info: RefCell<Option<Rc<ServerInfo>>>,
    /// True if the server wants clients of the configured identity to authenticate themselves.
    auth_required: Cell<bool>,
    /// True while that is not known: respgate has no credentials, and discovery has not been greeted yet.
    auth_unclear: Cell<bool>,
    learned: RefCell<Option<Rc<Learned>>>,
    /// True if the server has one user only, and the time until which that counts.
    one_user: Cell<Option<(Instant, bool)>>,
}

impl ServerFacts {
    /// Returns what the server says of itself in its greeting; `None` before the first greeting.
    pub(in crate::upstream) fn info(&self) -> Option<Rc<ServerInfo>> {
        self.info.borrow().clone()
    }

    /// Takes note of what the server said of itself in its greeting.
    pub(in crate::upstream) fn set_info(&self, info: ServerInfo) {
        *self.info.borrow_mut() = Some(Rc::new(info));
    }

    /// Returns true if the server wants clients of the configured identity to authenticate themselves.
    pub(in crate::upstream) fn is_auth_required(&self) -> bool {
        self.auth_required.get()
    }

    /// Takes note that the server refused a connection without AUTH. It means that clients must authenticate only if respgate
    /// has no credentials for `identity`.
    pub(in crate::upstream) fn note_auth_required(&self, identity: &Identity) {
        if identity.login().is_some_and(|login| matches!(login.newest(), Ok(None))) {
            self.auth_required.set(true);
        }
    }

    /// Returns true if respgate must open a connection to learn whether clients have to authenticate.
    pub(in crate::upstream) fn is_auth_unclear(&self) -> bool {
        self.auth_unclear.get()
    }

    /// Takes note that a connection was opened or refused, which shows whether clients have to authenticate.
    pub(in crate::upstream) fn clear_auth_unclear(&self) {
        self.auth_unclear.set(false);
    }

    /// Forgets what another primary has said. `auth_unclear`: it is not known whether clients have to authenticate.
    pub(in crate::upstream) fn forget(&self, auth_unclear: bool) {
        self.auth_required.set(false);
        self.auth_unclear.set(auth_unclear);
        self.learned.take();
        self.one_user.take();
    }

    /// Returns the server's description of commands that the static table lacks, once the server has been asked.
    pub(in crate::upstream) fn learned(&self) -> Option<Rc<Learned>> {
        self.learned.borrow().clone()
    }

    /// Takes note of the server's description of its commands.
    pub(in crate::upstream) fn set_learned(&self, learned: Learned) {
        *self.learned.borrow_mut() = Some(Rc::new(learned));
    }

    /// Returns true if the server has one user only. Returns `None` if it has not been asked lately.
    pub(in crate::upstream) fn has_one_user(&self) -> Option<bool> {
        self.one_user.get().filter(|(until, _)| Instant::now() < *until).map(|(_, one)| one)
    }

    /// Takes note of whether the server has one user only. The answer counts until `until`.
    pub(in crate::upstream) fn set_one_user(&self, one: bool, until: Instant) {
        self.one_user.set(Some((until, one)));
    }
}
