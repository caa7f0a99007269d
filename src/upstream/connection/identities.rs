//! The identities that one worker knows for one upstream: the configured one, those of respgate's own users, and those of clients
//! that sent AUTH.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use crate::rotation::login::Login;
use crate::secret::{Credentials, Secret};
use crate::upstream::connection::identity::{BELIEVED, Identity, IdentityKind};

/// The number of identities that one worker remembers for one upstream. It forgets unused ones first.
const REMEMBERED: usize = 4096;
/// The longest password of an identity that is remembered, in bytes. Each client with a longer password has its own identity.
const LONGEST_REMEMBERED: usize = 16 * 1024;

/// The identities that one worker knows for one upstream.
pub struct Identities {
    own: Rc<Identity>,
    others: RefCell<Vec<Rc<Identity>>>,
    next: Cell<u64>,
    /// Connections that were begun at or before this time are not used again, whatever their identity: certificates have changed.
    outdated: Cell<Option<Instant>>,
}

impl Identities {
    /// Creates the identities of one worker. `own`: the configured credentials.
    pub fn new(own: Login) -> Self {
        let own = Identity::new(0, IdentityKind::kept(own));
        Self { own, others: RefCell::default(), next: Cell::new(1), outdated: Cell::default() }
    }

    /// Makes connections of this identity (`None`: of all) that were begun until now unusable once they are idle.
    pub(in crate::upstream) fn outdate(&self, identity: Option<&Identity>) {
        match identity {
            Some(identity) => identity.outdate(),
            None => self.outdated.set(Some(Instant::now())),
        }
    }

    /// Returns true if a connection of `identity` that was begun at `began` has former credentials or certificates.
    pub(in crate::upstream) fn is_outdated(&self, identity: &Identity, began: Instant) -> bool {
        identity.outdated().max(self.outdated.get()).is_some_and(|until| began <= until)
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
        candidate.note_accepted();
        let is_long = |credentials: &Credentials| credentials.password.expose().len() > LONGEST_REMEMBERED;
        let id = candidate.id();
        let mut others = self.others.borrow_mut();
        if candidate.brought().is_some_and(is_long)
            || id == self.own.id()
            || others.iter().any(|known| known.id() == id)
        {
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
        let is_same = |identity: &&Rc<Identity>| identity.brought().is_some_and(same);
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

    fn new_identity(&self, kind: IdentityKind) -> Rc<Identity> {
        Identity::new(self.next.replace(self.next.get() + 1), kind)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rotation::login::Principal;

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
    async fn what_was_begun_before_a_change_is_outdated_by_it() {
        let identities = Identities::new(Login::default());
        let (own, other) = (identities.own().clone(), identities.of(None, b"x"));
        let outdated = |began| (identities.is_outdated(&own, began), identities.is_outdated(&other, began));
        let began = Instant::now();
        assert_eq!(outdated(began), (false, false));
        identities.outdate(Some(&own));
        assert_eq!(outdated(began), (true, false));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(outdated(Instant::now()), (false, false));
        identities.outdate(None);
        let certified = Instant::now();
        assert_eq!(outdated(certified), (true, true));
        tokio::time::advance(Duration::from_secs(1)).await;
        identities.outdate(Some(&own));
        assert_eq!(outdated(certified), (true, true), "a later change does not undo an earlier one");
        assert_eq!(outdated(Instant::now() + Duration::from_secs(1)), (false, false));
    }
}
