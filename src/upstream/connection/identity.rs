//! Identities: the user that an upstream connection acts as, and the password that proved it. Sessions of different identities
//! never share a connection.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::rotation::login::{Login, Newest, Principal};
use crate::secret::Credentials;
use crate::topology::Generation;
use crate::upstream::connection::auth_backoff::Refusals;

/// The time for which a password that the server accepted is believed without asking the server again.
pub const BELIEVED: Duration = Duration::from_secs(60);
/// The time after a refusal before the server is asked again about the identity of an old connection.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// One user of the upstream with one password.
#[derive(Debug)]
pub struct Identity {
    id: u64,
    kind: IdentityKind,
    verified: Cell<Option<Instant>>,
    /// When the server last refused the password.
    refused_at: Cell<Option<Instant>>,
    /// True if the server has accepted the password at least once.
    accepted: Cell<bool>,
    /// True if the server refused the password when it was asked last.
    refused: Cell<bool>,
    /// When the server last accepted a connection of this identity.
    let_in: Cell<Option<Instant>>,
    /// True while a connection is being opened to learn whether the server still accepts the identity.
    pub(in crate::upstream) asking: Cell<bool>,
    /// The server's refusal of the credentials that respgate keeps for it.
    pub(in crate::upstream) refusals: Refusals,
    /// Idle connections that were begun at or before this time are not used again: they have former credentials.
    outdated: Cell<Option<Instant>>,
    /// The primary that refused SCRIPT LOAD to this identity.
    may_not_load: Cell<Option<Generation>>,
    /// The name of the server's user, as the server said it on a connection without AUTH.
    named: RefCell<Option<String>>,
    /// True if the server denies CLIENT SETNAME to the identity.
    naming_denied: Cell<bool>,
}

/// The fate of a connection that has reached `max-age`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum AgeFate {
    /// The connection ends: the server accepts its identity on a new one.
    Ends,
    /// The connection stays: the server would refuse its identity on a new one.
    Stays,
    /// The connection stays until the server was asked whether it accepts the identity.
    AskFirst,
}

#[derive(Debug)]
pub(super) enum IdentityKind {
    /// respgate itself, or one of its own users. The credentials may change.
    Kept {
        login: RefCell<Login>,
        /// The credentials at the last call of [`Identity::has_new_credentials`].
        seen: RefCell<Newest>,
    },
    /// A client that sent AUTH.
    Client(Arc<Credentials>),
}

impl IdentityKind {
    /// Returns the kind of an identity whose credentials respgate keeps.
    pub(super) fn kept(login: Login) -> Self {
        let seen = RefCell::new(login.newest());
        Self::Kept { login: RefCell::new(login), seen }
    }
}

impl Identity {
    pub(super) fn new(id: u64, kind: IdentityKind) -> Rc<Self> {
        Rc::new(Self {
            id,
            kind,
            verified: Cell::default(),
            refused_at: Cell::default(),
            accepted: Cell::default(),
            refused: Cell::default(),
            let_in: Cell::default(),
            asking: Cell::default(),
            refusals: Refusals::default(),
            outdated: Cell::default(),
            may_not_load: Cell::default(),
            named: RefCell::default(),
            naming_denied: Cell::default(),
        })
    }

    /// Returns true if the server has denied CLIENT SETNAME to the identity. respgate does not send it again, because each
    /// attempt would add an entry to the server's ACL log.
    pub fn is_naming_denied(&self) -> bool {
        self.naming_denied.get()
    }

    /// Takes note that the server denies CLIENT SETNAME to the identity.
    pub fn deny_naming(&self) {
        self.naming_denied.set(true);
    }

    /// Returns the identity's number, unique within one worker and upstream.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the credentials for a new connection; `None` sends no AUTH.
    ///
    /// # Errors
    /// Returns the reason why respgate does not know the credentials yet.
    pub fn credentials(&self) -> Newest {
        match &self.kind {
            IdentityKind::Kept { login, .. } => login.borrow().newest(),
            IdentityKind::Client(credentials) => Ok(Some(credentials.clone())),
        }
    }

    /// Returns the credentials for a new connection. If `password-command` prints the password and the last one is older than its
    /// life, the program runs first; the call waits for `timeout` at most.
    ///
    /// # Errors
    /// Returns the reason why respgate does not know the credentials yet.
    pub(in crate::upstream) async fn fresh_credentials(&self, timeout: Duration) -> Newest {
        match self.login() {
            Some(login) => login.fresh_within(timeout).await,
            None => self.credentials(),
        }
    }

    /// Returns the credentials that respgate keeps for the identity; `None` if a client brought them.
    pub(in crate::upstream) fn login(&self) -> Option<Login> {
        match &self.kind {
            IdentityKind::Kept { login, .. } => Some(login.borrow().clone()),
            IdentityKind::Client(_) => None,
        }
    }

    /// Replaces the login of an identity whose credentials respgate keeps, because another server is the primary.
    pub(in crate::upstream) fn set_login(&self, newest: Login) {
        let IdentityKind::Kept { login, seen } = &self.kind else { return };
        if login.borrow().is(&newest) {
            return;
        }
        let _ = seen.replace(newest.newest());
        self.accepted.set(newest.has_worked());
        login.replace(newest);
        self.verified.set(None);
        self.refused.set(false);
        self.refused_at.set(None);
        self.named.replace(None);
    }

    /// Returns true if respgate keeps the credentials for a user of its own.
    pub(in crate::upstream) fn is_of_a_user(&self) -> bool {
        self.login().is_some_and(|login| *login.principal() != Principal::Own)
    }

    /// Returns true if the server has ever accepted credentials that respgate kept for the identity.
    pub(in crate::upstream) fn has_worked(&self) -> bool {
        self.login().is_some_and(|login| login.has_worked())
    }

    /// Returns true if respgate keeps credentials for the identity, and the server has never accepted any.
    pub(in crate::upstream) fn never_worked(&self) -> bool {
        matches!(self.credentials(), Ok(Some(_))) && self.login().is_some() && !self.has_worked()
    }

    /// Returns true if the server has accepted credentials of this identity at least once.
    pub(in crate::upstream) fn was_accepted(&self) -> bool {
        self.accepted.get() || self.has_worked()
    }

    /// Returns true if a client authenticated itself as a user of the server.
    pub fn is_of_a_client(&self) -> bool {
        matches!(self.kind, IdentityKind::Client(_))
    }

    /// Returns true if a client brought the password, and the server refused it when it was asked last. Connections that
    /// are open stay authenticated; a session that needs a new one can only get it with another password.
    pub fn is_dead(&self) -> bool {
        self.refused.get() && matches!(self.kind, IdentityKind::Client(_))
    }

    /// Returns what becomes of a connection of this identity that reached `max-age` at `due`.
    pub(in crate::upstream) fn fate_at_max_age(&self, due: Instant) -> AgeFate {
        let is_client = matches!(self.kind, IdentityKind::Client(_));
        if self.refused.get() {
            let just_refused = self.refused_at.get().is_some_and(|at| at.elapsed() < ASK_AGAIN);
            return if just_refused || !is_client { AgeFate::Stays } else { AgeFate::AskFirst };
        }
        let sure = !is_client || self.let_in.get().is_some_and(|at| at >= due);
        if sure { AgeFate::Ends } else { AgeFate::AskFirst }
    }

    /// Returns true if the server has let the identity in after `moment`.
    pub(in crate::upstream) fn was_let_in_after(&self, moment: Instant) -> bool {
        self.let_in.get().is_some_and(|at| at > moment)
    }

    /// Returns true if the server refused the newest credentials when it was asked last.
    pub(in crate::upstream) fn is_refused(&self) -> bool {
        self.refused.get()
    }

    /// Returns true if the credentials that respgate keeps have changed since the last call.
    pub(in crate::upstream) fn has_new_credentials(&self) -> bool {
        let IdentityKind::Kept { login, seen } = &self.kind else { return false };
        let newest = login.borrow().newest();
        let before = seen.replace(newest.clone());
        newest.is_ok() && newest != before
    }

    /// Makes connections that were begun until now unusable once they are idle.
    pub(in crate::upstream) fn outdate(&self) {
        self.outdated.set(Some(Instant::now()));
    }

    /// Returns the time up to which connections were begun that are not used again.
    pub(in crate::upstream) fn outdated(&self) -> Option<Instant> {
        self.outdated.get()
    }

    /// Returns true if this primary has refused SCRIPT LOAD to the identity.
    pub(in crate::upstream) fn may_not_load(&self, generation: Generation) -> bool {
        self.may_not_load.get() == Some(generation)
    }

    /// Takes note that this primary has refused SCRIPT LOAD to the identity.
    pub(in crate::upstream) fn note_may_not_load(&self, generation: Generation) {
        self.may_not_load.set(Some(generation));
    }

    /// Returns the user's name. Without credentials, it is the name that the server said, or else `default`.
    pub fn user(&self) -> String {
        match self.credentials().ok().flatten() {
            Some(credentials) => credentials.user().to_owned(),
            None => self.named.borrow().clone().unwrap_or_else(|| "default".into()),
        }
    }

    /// Takes note of the user as whom the server authenticates a connection without AUTH.
    pub(in crate::upstream) fn note_user(&self, name: String) {
        self.named.replace(Some(name));
    }

    /// Takes note that the server has accepted the password just now.
    pub fn confirm(&self) {
        self.verified.set(Some(Instant::now()));
        self.accepted.set(true);
        self.refused.set(false);
        self.let_in.set(Some(Instant::now()));
    }

    /// Takes note that the server has no password for this user any more and accepts everybody. The identity stays accepted; the
    /// server itself judges the next AUTH of a client.
    pub(in crate::upstream) fn note_needless_password(&self) {
        self.verified.set(None);
        self.refused.set(false);
        self.let_in.set(Some(Instant::now()));
    }

    /// Takes note that the server has refused the password. It is asked again next time.
    pub fn note_refused(&self) {
        self.verified.set(None);
        self.refused_at.set(Some(Instant::now()));
        self.refused.set(true);
    }

    /// Returns true if the server accepted the password within [`BELIEVED`].
    pub fn believed(&self) -> bool {
        self.verified.get().is_some_and(|at| at.elapsed() < BELIEVED)
    }

    /// Takes note that a client has proved the password, or that respgate keeps it.
    pub(super) fn note_accepted(&self) {
        self.accepted.set(true);
    }

    /// Returns the credentials that a client brought; `None` if respgate keeps them.
    pub(super) fn brought(&self) -> Option<&Credentials> {
        match &self.kind {
            IdentityKind::Client(credentials) => Some(credentials),
            IdentityKind::Kept { .. } => None,
        }
    }

    /// Returns true if the server has refused the password since `at`.
    pub(super) fn refused_since(&self, at: Instant) -> bool {
        self.refused_at.get().is_some_and(|refused| refused >= at)
    }
}

#[cfg(test)]
mod tests;
