//! Who acts on an upstream connection. Connections of different identities are never mixed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::secret::{Credentials, Secret};

/// How long a verified password is believed without asking the server again.
const BELIEVED: Duration = Duration::from_secs(60);
/// Identities remembered by one worker for one upstream; unused ones are forgotten first.
const REMEMBERED: usize = 4096;

/// A user of the upstream, as one password proved it.
#[derive(Debug)]
pub struct Identity {
    id: u64,
    credentials: Option<Credentials>,
    verified: Cell<Option<Instant>>,
}

impl Identity {
    /// Distinguishes identities within one worker and upstream.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What to authenticate with; `None` for the server's own default.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// The user's name, `default` where none was given.
    pub fn user(&self) -> &str {
        self.credentials.as_ref().and_then(|c| c.username.as_deref()).unwrap_or("default")
    }

    /// The server has just accepted the password.
    pub fn confirm(&self) {
        self.verified.set(Some(Instant::now()));
    }

    /// The server has refused the password: ask again next time.
    pub fn doubt(&self) {
        self.verified.set(None);
    }

    /// Whether the server accepted the password lately.
    pub fn believed(&self) -> bool {
        self.verified.get().is_some_and(|at| at.elapsed() < BELIEVED)
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
    pub fn new(own: Option<Credentials>) -> Self {
        let own = Rc::new(Identity { id: 0, credentials: own, verified: Cell::new(None) });
        Self { own, others: RefCell::default(), next: Cell::new(1) }
    }

    /// The configured identity.
    pub fn own(&self) -> &Rc<Identity> {
        &self.own
    }

    /// The identity of this user and password: a known one, or a new one that is yet to be verified. Passwords
    /// are compared in constant time.
    pub fn of(&self, username: Option<&str>, password: &[u8]) -> Rc<Identity> {
        let mut others = self.others.borrow_mut();
        let same = |identity: &&Rc<Identity>| {
            identity.credentials.as_ref().is_some_and(|known| {
                known.username.as_deref() == username && known.password.matches(password)
            })
        };
        if let Some(known) = std::iter::once(&self.own).chain(others.iter()).find(same) {
            return known.clone();
        }
        if others.len() >= REMEMBERED {
            others.retain(|identity| Rc::strong_count(identity) > 1);
        }
        let id = self.next.replace(self.next.get() + 1);
        let credentials =
            Credentials { username: username.map(str::to_owned), password: Secret::new(password) };
        let identity = Rc::new(Identity { id, credentials: Some(credentials), verified: Cell::new(None) });
        if others.len() < REMEMBERED {
            others.push(identity.clone());
        }
        identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_with_two_passwords_is_two_identities() {
        let identities = Identities::new(None);
        let first = identities.of(Some("app"), b"one");
        let second = identities.of(Some("app"), b"two");
        assert_ne!(first.id(), second.id());
        assert_eq!(identities.of(Some("app"), b"one").id(), first.id());
        assert_ne!(identities.of(None, b"one").id(), first.id());
    }

    #[test]
    fn the_configured_credentials_are_recognised() {
        let own = Credentials { username: Some("app".into()), password: Secret::new("one") };
        let identities = Identities::new(Some(own));
        assert_eq!(identities.of(Some("app"), b"one").id(), identities.own().id());
    }

    #[tokio::test(start_paused = true)]
    async fn belief_ends_after_a_minute() {
        let identities = Identities::new(None);
        let identity = identities.of(None, b"pw");
        assert!(!identity.believed());
        identity.confirm();
        assert!(identity.believed());
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(!identity.believed());
    }
}
