//! Who acts on an upstream connection. Connections of different identities are never mixed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::rotation::login::{Login, Newest, Principal};
use crate::secret::{Credentials, Secret};
use crate::topology::Generation;
use crate::upstream::connection::auth_backoff::Refusals;

/// How long a verified password is believed without asking the server again.
pub const BELIEVED: Duration = Duration::from_secs(60);
/// How long a refusal stands before an old connection's identity is tried again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Identities remembered by one worker for one upstream; unused ones are forgotten first.
const REMEMBERED: usize = 4096;
/// The longest password of an identity that is remembered, in bytes. Each client with a longer one has its own identity.
const LONGEST_REMEMBERED: usize = 16 * 1024;

/// A user of the upstream, as one password proved it.
#[derive(Debug)]
pub struct Identity {
    id: u64,
    kind: IdentityKind,
    verified: Cell<Option<Instant>>,
    /// When the server last refused the password.
    refused_at: Cell<Option<Instant>>,
    /// The server has accepted the password at least once.
    accepted: Cell<bool>,
    /// The server's last word on the password was a refusal.
    refused: Cell<bool>,
    /// When the server last let a connection in.
    let_in: Cell<Option<Instant>>,
    /// A connection is being opened to learn whether the server still lets the identity in.
    pub(in crate::upstream) asking: Cell<bool>,
    /// Whether the server refuses what respgate keeps for it.
    pub(in crate::upstream) refusals: Refusals,
    /// Connections that were begun until then are not used again once they are idle.
    outdated: Cell<Option<Instant>>,
    /// The primary that refused it the loading of scripts.
    may_not_load: Cell<Option<Generation>>,
}

/// What is to be done with a connection that is as old as it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum AgeFate {
    /// It ends: the server lets its identity in again.
    Ends,
    /// It stays: the server would not let its identity in again.
    Stays,
    /// It stays until the server has been asked whether it lets the identity in.
    AskFirst,
}

#[derive(Debug)]
enum IdentityKind {
    /// respgate itself, or one of its users, whatever the credentials are at the time.
    Kept {
        login: Login,
        /// What they were when it was last looked.
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

    /// Distinguishes identities within one worker and upstream.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What a new connection authenticates with; `None` for the server's own default.
    ///
    /// # Errors
    /// Why that is not known yet.
    pub fn credentials(&self) -> Newest {
        match &self.kind {
            IdentityKind::Kept { login, .. } => login.newest(),
            IdentityKind::Client(credentials) => Ok(Some(credentials.clone())),
        }
    }

    /// As [`Self::credentials`], but a password that a program prints is printed again first if it is older than its life.
    /// Waits for `patience` at most.
    ///
    /// # Errors
    /// Why they are not known yet.
    pub(in crate::upstream) async fn fresh_credentials(&self, patience: Duration) -> Newest {
        match &self.kind {
            IdentityKind::Kept { login, .. } => login.fresh_within(patience).await,
            IdentityKind::Client(_) => self.credentials(),
        }
    }

    /// The credentials that respgate keeps for it, if it does.
    pub(in crate::upstream) fn login(&self) -> Option<&Login> {
        match &self.kind {
            IdentityKind::Kept { login, .. } => Some(login),
            IdentityKind::Client(_) => None,
        }
    }

    /// Whether respgate keeps its credentials for a user of its own.
    pub(in crate::upstream) fn is_of_a_user(&self) -> bool {
        self.login().is_some_and(|login| *login.principal() != Principal::Own)
    }

    /// Whether the server has ever accepted credentials that respgate kept for it.
    pub(in crate::upstream) fn has_worked(&self) -> bool {
        self.login().is_some_and(Login::has_worked)
    }

    /// Whether respgate keeps credentials for it, none of which the server has ever accepted.
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

    /// What is to be done with a connection of this identity that was to be replaced at `due`.
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

    /// Whether the credentials that respgate keeps for it are others than when this was last asked.
    pub(in crate::upstream) fn has_new_credentials(&self) -> bool {
        let IdentityKind::Kept { login, seen } = &self.kind else { return false };
        let newest = login.newest();
        let before = seen.replace(newest.clone());
        newest.is_ok() && newest != before
    }

    /// Connections that were begun until now are not used again once they are idle.
    pub(in crate::upstream) fn outdate(&self) {
        self.outdated.set(Some(Instant::now()));
    }

    /// Until when connections were begun that are not used again.
    pub(in crate::upstream) fn outdated(&self) -> Option<Instant> {
        self.outdated.get()
    }

    /// Whether this primary has refused it the loading of scripts.
    pub(in crate::upstream) fn may_not_load(&self, generation: Generation) -> bool {
        self.may_not_load.get() == Some(generation)
    }

    /// This primary has refused it the loading of scripts.
    pub(in crate::upstream) fn note_may_not_load(&self, generation: Generation) {
        self.may_not_load.set(Some(generation));
    }

    /// The user's name, `default` where none was given.
    pub fn user(&self) -> String {
        let credentials = self.credentials().ok().flatten();
        credentials.map_or_else(|| "default".into(), |credentials| credentials.user().to_owned())
    }

    /// The server has just accepted the password.
    pub fn confirm(&self) {
        self.verified.set(Some(Instant::now()));
        self.accepted.set(true);
        self.refused.set(false);
        self.let_in.set(Some(Instant::now()));
    }

    /// The server has no password for this user any more, and lets everybody in: the identity stays accepted, and the next
    /// AUTH of a client is judged by the server itself.
    pub(in crate::upstream) fn note_needless_password(&self) {
        self.verified.set(None);
        self.refused.set(false);
        self.let_in.set(Some(Instant::now()));
    }

    /// The server has refused the password: ask again next time.
    pub fn note_refused(&self) {
        self.verified.set(None);
        self.refused_at.set(Some(Instant::now()));
        self.refused.set(true);
    }

    /// Whether the server accepted the password lately.
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
    /// `own`: the configured credentials.
    pub fn new(own: Login) -> Self {
        let own = Identity::new(0, IdentityKind::kept(own));
        Self { own, others: RefCell::default(), next: Cell::new(1) }
    }

    /// The configured identity.
    pub fn own(&self) -> &Rc<Identity> {
        &self.own
    }

    /// The identity of this user and password, which the server has accepted. Passwords are compared in constant time.
    pub fn of(&self, username: Option<&str>, password: &[u8]) -> Rc<Identity> {
        let identity = self.candidate(username, password);
        self.accept(&identity);
        identity
    }

    /// The identity of this user and password: a known one, or a new one, which is not kept until it is accepted, so
    /// that guesses take no room.
    pub fn candidate(&self, username: Option<&str>, password: &[u8]) -> Rc<Identity> {
        self.known(username, password).unwrap_or_else(|| {
            let username = username.map(str::to_owned);
            self.new_identity(IdentityKind::Client(Arc::new(Credentials {
                username,
                password: Secret::new(password),
            })))
        })
    }

    /// The server has accepted a candidate: others with its user and password are the same from now on.
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
    /// another one, and has not refused it since. To be asked behind the throttle of passwords only.
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

    /// The identity that acts with what respgate keeps for one of its users.
    pub fn kept(&self, login: &Login) -> Rc<Identity> {
        let is_same = |identity: &&Rc<Identity>| identity.login().is_some_and(|known| known.is(login));
        let known = self.others.borrow().iter().find(is_same).cloned();
        known.unwrap_or_else(|| {
            let identity = self.new_identity(IdentityKind::kept(login.clone()));
            self.accept(&identity);
            identity
        })
    }

    /// Those whose credentials respgate keeps for users of its own.
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
