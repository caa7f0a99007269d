//! Who acts on an upstream connection. Connections of different identities are never mixed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::rotation::login::{Login, Newest};
use crate::secret::{Credentials, Secret};

/// How long a verified password is believed without asking the server again.
const BELIEVED: Duration = Duration::from_secs(60);
/// Identities remembered by one worker for one upstream; unused ones are forgotten first.
const REMEMBERED: usize = 4096;

/// A user of the upstream, as one password proved it.
#[derive(Debug)]
pub struct Identity {
    id: u64,
    who: Who,
    verified: Cell<Option<Instant>>,
}

#[derive(Debug)]
enum Who {
    /// respgate itself, whatever its credentials are at the time.
    Own(Login),
    /// A client that sent AUTH.
    Client(Arc<Credentials>),
}

impl Identity {
    /// Distinguishes identities within one worker and upstream.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What a new connection authenticates with; `None` for the server's own default.
    ///
    /// # Errors
    /// Why that is not known yet.
    pub fn credentials(&self) -> Newest {
        match &self.who {
            Who::Own(login) => login.newest(),
            Who::Client(credentials) => Ok(Some(credentials.clone())),
        }
    }

    /// The configured credentials, if it acts with those.
    pub(super) fn own_login(&self) -> Option<&Login> {
        match &self.who {
            Who::Own(login) => Some(login),
            Who::Client(_) => None,
        }
    }

    /// The user's name, `default` where none was given.
    pub fn user(&self) -> String {
        let credentials = self.credentials().ok().flatten();
        credentials.map_or_else(|| "default".into(), |credentials| credentials.user().to_owned())
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
    pub fn new(own: Login) -> Self {
        let own = Rc::new(Identity { id: 0, who: Who::Own(own), verified: Cell::new(None) });
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
            identity.credentials().ok().flatten().is_some_and(|known| {
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
        let who = Who::Client(Arc::new(credentials));
        let identity = Rc::new(Identity { id, who, verified: Cell::new(None) });
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
