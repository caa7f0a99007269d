//! Authenticates respgate's own users. A client authenticates to respgate, and respgate to the server: as itself,
//! or with the credentials that are configured for the user.

pub mod accounts;
mod attempts;
pub mod hash;
mod hashers;
pub mod source;
mod table;
pub mod throttle;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::hash::PasswordHash;
use self::hashers::Hashers;
use self::source::Source;
use self::throttle::{Attempt, AuthDecision, Digest, Throttle, TooSoon};
use crate::net::tls::certificate::CertificateIdentity;
use crate::rotation::login::Login;
use crate::rotation::source::Account;
use crate::secret::Secret;
use crate::tenant::members::CertificateRule;

/// How long a right password is not hashed again after its last use, so that a storm of connections costs little.
const BELIEVED: Duration = Duration::from_secs(300);

/// Configures a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserConfig {
    /// The name that clients authenticate as.
    pub name: String,
    /// The hash of the user's password.
    pub password: PasswordHash,
    /// The names in client certificates that authenticate as the user.
    pub certificates: Vec<CertificateRule>,
    /// The server credentials of the user's clients; `None` for respgate's own.
    pub account: Option<Account>,
}

/// Describes a user, with the server credentials of its clients.
#[derive(Debug)]
pub struct User {
    /// The name that clients authenticate as.
    pub name: String,
    /// The hash of the user's password.
    pub password: PasswordHash,
    /// The names in client certificates that authenticate as the user.
    pub certificates: Vec<CertificateRule>,
    /// The logins by upstream. Empty if the user's clients use respgate's own.
    pub logins: Vec<(Arc<str>, Login)>,
}

impl User {
    /// Returns true if a verified client certificate authenticates as this user.
    pub fn has_certificate(&self, names: &CertificateIdentity) -> bool {
        self.certificates.iter().any(|rule| rule.matches(names))
    }

    /// Returns the login of the user's clients at this upstream; `None` if they use respgate's own.
    pub fn login(&self, upstream: &str) -> Option<&Login> {
        self.logins.iter().find(|(name, _)| **name == *upstream).map(|(_, login)| login)
    }
}

/// Says why a client is not authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The user does not exist, or has another password.
    Wrong,
    /// Too many wrong passwords came from the client's source. Holds the wait in milliseconds.
    TooSoon(TooSoon),
    /// The limit of passwords that wait to be checked is reached.
    Busy,
}

/// Maps names to users.
type UsersByName = BTreeMap<String, Arc<User>>;

/// Holds all users, for all workers.
pub struct Users {
    by_name: Mutex<Arc<UsersByName>>,
    /// The hash to check for an unknown user, so that the check takes as long as for a known one.
    decoy: PasswordHash,
    throttle: Arc<Throttle>,
    hashers: Hashers,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("names", &self.by_name().keys()).finish_non_exhaustive()
    }
}

impl Users {
    /// Creates the users; `None` if there are none. At most `threads` passwords are hashed at once, and never
    /// more than 4.
    ///
    /// # Errors
    /// Returns an error if the system refuses a thread.
    pub fn new(users: Vec<Arc<User>>, threads: usize) -> io::Result<Option<Arc<Self>>> {
        let Some(first) = users.first() else { return Ok(None) };
        Ok(Some(Arc::new(Self {
            decoy: first.password.clone(),
            by_name: Mutex::new(Arc::new(by_name(users))),
            throttle: Arc::default(),
            hashers: Hashers::start(threads)?,
        })))
    }

    /// Returns the throttle that precedes every check.
    pub fn throttle(&self) -> Arc<Throttle> {
        self.throttle.clone()
    }

    /// Replaces the users. Passwords that are being checked must match the new users. Earlier wrong passwords
    /// still count.
    pub fn replace(&self, users: Vec<Arc<User>>) {
        *self.by_name.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(by_name(users));
    }

    /// Returns the user of this name.
    pub fn find(&self, name: &str) -> Option<Arc<User>> {
        self.by_name().get(name).cloned()
    }

    /// Returns the user that a verified client certificate authenticates as. A certificate that names two users
    /// authenticates as neither.
    pub fn of_certificate(&self, names: &CertificateIdentity) -> Option<Arc<User>> {
        let by_name = self.by_name();
        let mut named = by_name.values().filter(|user| user.has_certificate(names));
        match (named.next(), named.next()) {
            (Some(user), None) => Some(user.clone()),
            _ => None,
        }
    }

    /// Returns all users, by name.
    pub fn all(&self) -> Vec<Arc<User>> {
        self.by_name().values().cloned().collect()
    }

    fn by_name(&self) -> Arc<UsersByName> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Checks a password, on another thread if it must be hashed. Dropping the future is safe.
    ///
    /// # Errors
    /// Returns [`Refused`] if the client is not authenticated.
    pub async fn verify(
        self: Arc<Self>,
        source: Source,
        name: &[u8],
        password: &[u8],
    ) -> Result<Arc<User>, Refused> {
        // No user has a longer password. Check an empty one in its place, so that nothing long is copied or
        // hashed.
        let fits = password.len() <= hash::LONGEST_PASSWORD;
        let password = if fits { password } else { b"" };
        let known = std::str::from_utf8(name).ok().filter(|_| fits).and_then(|name| self.find(name));
        let hash = known.as_ref().map_or(&self.decoy, |user| &user.password);
        let digest = self.throttle.digest([b"", name, hash.as_bytes()], password);
        let attempt = Attempt { source, realm: "", user: name, digest };
        let remembered = || known.is_some() && self.is_remembered(&digest);
        let check = async || {
            let secret = Secret::new(password);
            match self.hashers.matches(self.throttle.network(source), hash.clone(), secret).await {
                Some(true) if known.is_some() => AuthDecision::Right,
                Some(_) => AuthDecision::Wrong(Arc::default()),
                None => AuthDecision::Undecided(Arc::default()),
            }
        };
        match self.throttle.judge(attempt, remembered, check).await.map_err(Refused::TooSoon)? {
            AuthDecision::Right => {}
            AuthDecision::Wrong(_) => return Err(Refused::Wrong),
            AuthDecision::Inapplicable(_) | AuthDecision::Undecided(_) => return Err(Refused::Busy),
        }
        // The user may have been removed or changed while the password was hashed.
        let now = known.as_ref().and_then(|user| self.find(&user.name));
        let user = now.filter(|user| user.password == *hash).ok_or(Refused::Wrong)?;
        self.throttle.remember(digest, BELIEVED);
        Ok(user)
    }

    /// Returns true if this password was right recently. The digest covers the hash, too, so a user with another
    /// password does not match.
    fn is_remembered(&self, digest: &Digest) -> bool {
        self.throttle.remembered(digest).is_some_and(|at| at.elapsed() < BELIEVED)
    }
}

fn by_name(users: Vec<Arc<User>>) -> UsersByName {
    users.into_iter().map(|user| (user.name.clone(), user)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Source = Source::Unknown;

    fn user(name: &str, password: PasswordHash) -> Arc<User> {
        Arc::new(User { name: name.into(), password, certificates: Vec::new(), logins: Vec::new() })
    }

    fn users() -> Arc<Users> {
        let user = |name: &str, password: &[u8]| user(name, PasswordHash::quick(password));
        Users::new(vec![user("app", b"secret"), user("default", b"other")], 2).unwrap().unwrap()
    }

    #[tokio::test]
    async fn only_the_right_password_of_the_right_user() {
        let users = users();
        assert_eq!(users.clone().verify(HERE, b"app", b"secret").await.unwrap().name, "app");
        assert_eq!(users.clone().verify(HERE, b"app", b"secret").await.unwrap().name, "app", "believed");
        for (name, password) in
            [(&b"app"[..], &b"other"[..]), (b"nobody", b"secret"), (b"", b""), (b"\xff", b"secret")]
        {
            let source = Source::Uid(name.len() as u32 * 100 + password.len() as u32);
            let refused = users.clone().verify(source, name, password).await.map(|user| user.name.clone());
            assert_eq!(refused, Err(Refused::Wrong));
        }
        assert!(!format!("{users:?}").contains("argon2"));
    }

    #[tokio::test]
    async fn users_are_replaced_and_old_passwords_are_refused() {
        let users = users();
        let verify = async |name: &'static [u8], password: &'static [u8]| {
            users.clone().verify(HERE, name, password).await.map(|user| user.name.clone())
        };
        assert!(verify(b"app", b"secret").await.is_ok());
        assert!(verify(b"default", b"other").await.is_ok());
        let first = users.find("default").unwrap();
        users.replace(vec![user("app", PasswordHash::quick(b"changed"))]);
        assert_eq!(verify(b"app", b"secret").await, Err(Refused::Wrong));
        assert_eq!(verify(b"default", b"other").await, Err(Refused::Wrong));
        assert_eq!(verify(b"app", b"changed").await, Ok("app".into()));
        assert!(users.find("app").is_some() && users.find("default").is_none());
        users.replace(vec![first]);
        assert_eq!(verify(b"default", b"other").await, Ok("default".into()));
        users.replace(Vec::new());
        assert_eq!(verify(b"default", b"other").await, Err(Refused::Wrong));
    }

    #[tokio::test]
    async fn a_user_removed_during_the_check_is_not_let_in() {
        let slow = PasswordHash::with_memory(b"secret", 64 * 1024);
        let users = Users::new(vec![user("app", slow)], 1).unwrap().unwrap();
        let mut checked = std::pin::pin!(users.clone().verify(HERE, b"app", b"secret"));
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut checked).await.is_err());
        users.replace(Vec::new());
        assert_eq!(checked.await.map(|user| user.name.clone()), Err(Refused::Wrong));
    }

    #[tokio::test]
    async fn guesses_are_slowed_down_and_remembered_passwords_are_not() {
        let users = users();
        assert!(users.clone().verify(HERE, b"app", b"secret").await.is_ok());
        let mut refused = None;
        for number in 0..10_u8 {
            if let Err(Refused::TooSoon(wait)) = users.clone().verify(HERE, b"app", &[number]).await {
                refused = Some(wait);
            }
        }
        assert!(refused.is_some_and(|TooSoon(wait)| wait > 0));
        assert!(users.clone().verify(HERE, b"app", b"secret").await.is_ok());
        assert!(users.clone().verify(Source::Uid(7), b"default", b"other").await.is_ok(), "elsewhere");
    }

    #[tokio::test]
    async fn a_certificate_that_names_two_users_authenticates_as_neither() {
        let certified = |name: &str, rule: &str| {
            Arc::new(User {
                name: name.into(),
                password: PasswordHash::quick(b"secret"),
                certificates: vec![CertificateRule::parse(rule).unwrap()],
                logins: Vec::new(),
            })
        };
        let users = vec![certified("shop", "CN:shop"), certified("batch", "DNS:batch.example")];
        let users = Users::new(users, 1).unwrap().unwrap();
        let found = |common_name: &str, dns: &str| {
            let names = CertificateIdentity {
                common_name: Some(common_name.into()),
                dns: vec![dns.into()],
                ..CertificateIdentity::default()
            };
            users.of_certificate(&names).map(|user| user.name.clone())
        };
        assert_eq!(found("shop", "other.example").as_deref(), Some("shop"));
        assert_eq!(found("other", "BATCH.example").as_deref(), Some("batch"));
        assert_eq!(found("shopping", "x.batch.example"), None, "names are compared as a whole");
        assert_eq!(found("shop", "batch.example"), None);
    }

    /// No password is longer than 4096 bytes, and a longer one is neither copied nor hashed whole.
    #[tokio::test]
    async fn a_password_that_is_too_long_is_wrong() {
        let users = Users::new(vec![user("app", PasswordHash::quick(b""))], 1).unwrap().unwrap();
        assert!(users.clone().verify(HERE, b"app", b"").await.is_ok());
        let long = vec![0; hash::LONGEST_PASSWORD + 1];
        assert_eq!(users.clone().verify(HERE, b"app", &long).await.err(), Some(Refused::Wrong));
    }
}
