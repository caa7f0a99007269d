//! Identities: the user that an upstream connection acts as, and the password that proved it. Sessions of different identities
//! never share a connection.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::rotation::login::{Login, Newest, Principal};
use crate::secret::{Credentials, Secret};
use crate::topology::Generation;
use crate::upstream::connection::auth_backoff::Refusals;

/// The time for which a password that the server accepted is believed without asking the server again.
pub const BELIEVED: Duration = Duration::from_secs(60);
/// The time after a refusal before the server is asked again about the identity of an old connection.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// The number of identities that one worker remembers for one upstream. It forgets unused ones first.
const REMEMBERED: usize = 4096;
/// The longest password of an identity that is remembered, in bytes. Each client with a longer password has its own identity.
const LONGEST_REMEMBERED: usize = 16 * 1024;

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
    /// Idle connections that were begun at or before this time are not used again: their credentials are of the past.
    outdated: Cell<Option<Instant>>,
    /// The primary that refused SCRIPT LOAD to this identity.
    may_not_load: Cell<Option<Generation>>,
}

/// What becomes of a connection that has reached `max-age`.
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
enum IdentityKind {
    /// respgate itself, or one of its own users. The credentials may change.
    Kept {
        login: Login,
        /// The credentials at the last call of [`Identity::has_new_credentials`].
        seen: RefCell<Newest>,
    },
    /// A client that sent AUTH.
    Client(Arc<Credentials>),
}

impl IdentityKind {
    fn kept(login: Login) -> Self {
        let seen = RefCell::new(login.newest());
        Self::Kept { login, seen }
    }
}

impl Identity {
    fn new(id: u64, who: IdentityKind) -> Rc<Self> {
        Rc::new(Self {
            id,
            kind: who,
            verified: Cell::default(),
            refused_at: Cell::default(),
            accepted: Cell::default(),
            refused: Cell::default(),
            let_in: Cell::default(),
            asking: Cell::default(),
            refusals: Refusals::default(),
            outdated: Cell::default(),
            may_not_load: Cell::default(),
        })
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
            IdentityKind::Kept { login, .. } => login.newest(),
            IdentityKind::Client(credentials) => Ok(Some(credentials.clone())),
        }
    }

    /// Returns the credentials for a new connection. If `password-command` prints the password and the last one is older than its
    /// life, the program runs first; the call waits for `patience` at most.
    ///
    /// # Errors
    /// Returns the reason why respgate does not know the credentials yet.
    pub(in crate::upstream) async fn fresh_credentials(&self, patience: Duration) -> Newest {
        match &self.kind {
            IdentityKind::Kept { login, .. } => login.fresh_within(patience).await,
            IdentityKind::Client(_) => self.credentials(),
        }
    }

    /// Returns the credentials that respgate keeps for the identity; `None` if a client brought them.
    pub(in crate::upstream) fn login(&self) -> Option<&Login> {
        match &self.kind {
            IdentityKind::Kept { login, .. } => Some(login),
            IdentityKind::Client(_) => None,
        }
    }

    /// Returns true if respgate keeps the credentials for a user of its own.
    pub(in crate::upstream) fn is_of_a_user(&self) -> bool {
        self.login().is_some_and(|login| *login.principal() != Principal::Own)
    }

    /// Returns true if the server has ever accepted credentials that respgate kept for the identity.
    pub(in crate::upstream) fn has_worked(&self) -> bool {
        self.login().is_some_and(Login::has_worked)
    }

    /// Returns true if respgate keeps credentials for the identity, and the server has never accepted any.
    pub(in crate::upstream) fn never_worked(&self) -> bool {
        matches!(self.credentials(), Ok(Some(_))) && self.login().is_some() && !self.has_worked()
    }

    /// Returns true if the server has accepted credentials of this identity at least once.
    pub(in crate::upstream) fn was_accepted(&self) -> bool {
        self.accepted.get() || self.has_worked()
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
            let lately = self.refused_at.get().is_some_and(|at| at.elapsed() < ASK_AGAIN);
            return if lately || !is_client { AgeFate::Stays } else { AgeFate::AskFirst };
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
        let newest = login.newest();
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

    /// Returns the user's name; `default` where none was given.
    pub fn user(&self) -> String {
        let credentials = self.credentials().ok().flatten();
        credentials.map_or_else(|| "default".into(), |credentials| credentials.user().to_owned())
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

    /// Returns true if the server has refused the password since `at`.
    fn refused_since(&self, at: Instant) -> bool {
        self.refused_at.get().is_some_and(|doubted| doubted >= at)
    }
}

/// The identities that one worker knows for one upstream.
pub struct Identities {
    own: Rc<Identity>,
    others: RefCell<Vec<Rc<Identity>>>,
    next: Cell<u64>,
}

impl Identities {
    /// Creates the identities of one worker. `own`: the configured credentials.
    pub fn new(own: Login) -> Self {
        let own = Identity::new(0, IdentityKind::kept(own));
        Self { own, others: RefCell::default(), next: Cell::new(1) }
    }

    /// Returns the configured identity.
    pub fn own(&self) -> &Rc<Identity> {
        &self.own
    }

    /// Returns the identity of this user and password, which the server has accepted. Compares passwords in constant time.
    pub fn of(&self, username: Option<&str>, password: &[u8]) -> Rc<Identity> {
        let identity = self.candidate(username, password);
        self.accept(&identity);
        identity
    }

    /// Returns the identity of this user and password. A new one is not remembered before [`Identities::accept`], so that guessed
    /// passwords take no memory.
    pub fn candidate(&self, username: Option<&str>, password: &[u8]) -> Rc<Identity> {
        self.known(username, password).unwrap_or_else(|| {
            let username = username.map(str::to_owned);
            self.new_identity(IdentityKind::Client(Arc::new(Credentials {
                username,
                password: Secret::new(password),
            })))
        })
    }

    /// Remembers a candidate that the server has accepted: from now on it is found by its user and password.
    pub fn accept(&self, candidate: &Rc<Identity>) {
        candidate.accepted.set(true);
        let short = match &candidate.kind {
            IdentityKind::Client(credentials) => credentials.password.expose().len() <= LONGEST_REMEMBERED,
            IdentityKind::Kept { .. } => true,
        };
        let mut others = self.others.borrow_mut();
        if !short || candidate.id == self.own.id || others.iter().any(|known| known.id == candidate.id) {
            return;
        }
        if others.len() >= REMEMBERED {
            others.retain(|identity| Rc::strong_count(identity) > 1);
        }
        if others.len() < REMEMBERED {
            others.push(candidate.clone());
        }
    }

    /// Returns true if the server accepted this password within [`BELIEVED`], of this worker or, at the time `elsewhere`, of
    /// another worker, and has not refused it since. Only the code behind the throttle of passwords may call this.
    pub fn believes(&self, username: Option<&str>, password: &[u8], elsewhere: Option<Instant>) -> bool {
        let known = self.known(username, password);
        let mut known = known.iter();
        known.clone().any(|identity| identity.believed())
            || elsewhere.is_some_and(|at| {
                at.elapsed() < BELIEVED && known.all(|identity| !identity.refused_since(at))
            })
    }

    fn known(&self, username: Option<&str>, password: &[u8]) -> Option<Rc<Identity>> {
        let same =
            |known: &Credentials| known.username.as_deref() == username && known.password.matches(password);
        if self.own.credentials().ok().flatten().is_some_and(|known| same(&known)) {
            return Some(self.own.clone());
        }
        let is_same =
            |identity: &&Rc<Identity>| matches!(&identity.kind, IdentityKind::Client(known) if same(known));
        self.others.borrow().iter().find(is_same).cloned()
    }

    /// Returns the identity of the credentials that respgate keeps for one of its own users.
    pub fn kept(&self, login: &Login) -> Rc<Identity> {
        let is_same = |identity: &&Rc<Identity>| identity.login().is_some_and(|known| known.is(login));
        let known = self.others.borrow().iter().find(is_same).cloned();
        known.unwrap_or_else(|| {
            let identity = self.new_identity(IdentityKind::kept(login.clone()));
            self.accept(&identity);
            identity
        })
    }

    /// Returns the identities whose credentials respgate keeps for users of its own.
    pub(in crate::upstream) fn of_users(&self) -> Vec<Rc<Identity>> {
        self.others.borrow().iter().filter(|identity| identity.is_of_a_user()).cloned().collect()
    }

    fn new_identity(&self, who: IdentityKind) -> Rc<Identity> {
        Identity::new(self.next.replace(self.next.get() + 1), who)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_with_two_passwords_is_two_identities() {
        let identities = Identities::new(Login::new(None));
        let first = identities.of(Some("app"), b"one");
        let second = identities.of(Some("app"), b"two");
        assert_ne!(first.id(), second.id());
        assert_eq!(identities.of(Some("app"), b"one").id(), first.id());
        assert_ne!(identities.of(None, b"one").id(), first.id());
    }

    #[test]
    fn the_configured_credentials_are_recognised() {
        let own = Credentials { username: Some("app".into()), password: Secret::new("one") };
        let identities = Identities::new(Login::new(Some(own)));
        assert_eq!(identities.of(Some("app"), b"one").id(), identities.own().id());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_for_a_user_is_nobody_else_s() {
        let identities = Identities::new(Login::default());
        let credentials =
            |password: &str| Credentials { username: Some("app".into()), password: Secret::new(password) };
        let shop = Login::new(Some(credentials("one"))).elsewhere(Principal::User("shop".into()));
        let identity = identities.kept(&shop);
        assert_eq!(identities.kept(&shop).id(), identity.id());
        assert_ne!(identities.kept(&shop.elsewhere(Principal::User("other".into()))).id(), identity.id());
        assert_ne!(
            identities.of(Some("app"), b"one").id(),
            identity.id(),
            "a client that knows the password"
        );
        assert_eq!(identities.of_users().len(), 2);
        assert!(!identity.has_new_credentials());
        shop.replace(credentials("two"));
        assert!(identity.has_new_credentials());
        assert!(!identity.has_new_credentials());
        assert_eq!(identity.credentials().unwrap().unwrap().password.expose(), b"two");
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_ends_only_if_another_is_to_be_had() {
        let identities = Identities::new(Login::default());
        let identity = identities.of(None, b"pw");
        identity.confirm();
        tokio::time::advance(Duration::from_secs(1)).await;
        let due = Instant::now();
        assert_eq!(identity.fate_at_max_age(due), AgeFate::AskFirst);
        identity.note_refused();
        assert_eq!(identity.fate_at_max_age(due), AgeFate::Stays);
        assert!(identity.is_dead());
        tokio::time::advance(ASK_AGAIN).await;
        assert_eq!(identity.fate_at_max_age(due), AgeFate::AskFirst);
        identity.note_needless_password();
        assert_eq!(identity.fate_at_max_age(due), AgeFate::Ends);
        assert!(!identity.is_dead() && identity.was_accepted() && !identity.believed());
        let own = identities.own();
        assert_eq!(own.fate_at_max_age(due), AgeFate::Ends);
        own.note_refused();
        assert_eq!(own.fate_at_max_age(due), AgeFate::Stays);
        assert!(!own.is_dead());
    }

    #[tokio::test(start_paused = true)]
    async fn belief_ends_after_a_minute() {
        let identities = Identities::new(Login::new(None));
        let identity = identities.of(None, b"pw");
        assert!(!identity.believed());
        identity.confirm();
        assert!(identity.believed());
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(!identity.believed());
    }
}
