//! respgate's own users: clients authenticate to it, and it to the server as itself or as is configured for the user.

pub mod accounts;
pub mod attempts;
pub mod hash;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argon2::password_hash::rand_core::{OsRng, RngCore};
use blake2::digest::{FixedOutput, KeyInit, Update, consts::U32};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::attempts::{Attempts, Source};
use self::hash::PasswordHash;
use crate::rotation::login::Login;
use crate::rotation::source::Account;
use crate::secret::Secret;

type Mac = blake2::Blake2bMac<U32>;

/// A password that was found right is not hashed again for so long, so that a storm of connections costs little.
const BELIEVED: Duration = Duration::from_secs(300);
/// Right passwords remembered.
const REMEMBERED: usize = 4096;
/// Sessions that may wait for their password to be checked.
const WAITING: usize = 1024;

/// A user as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserConfig {
    /// What clients authenticate as.
    pub name: String,
    /// What its password must hash to.
    pub password: PasswordHash,
    /// Who its clients are to the server; `None`: who respgate itself is.
    pub account: Option<Account>,
}

/// A user, and who its clients are to servers.
#[derive(Debug)]
pub struct User {
    /// What clients authenticate as.
    pub name: String,
    /// What its password must hash to.
    pub password: PasswordHash,
    /// By upstream; none where its clients are who respgate itself is.
    pub logins: Vec<(Arc<str>, Login)>,
}

impl User {
    /// Who its clients are to the servers of this upstream, if not who respgate itself is.
    pub fn login(&self, upstream: &str) -> Option<&Login> {
        self.logins.iter().find(|(name, _)| **name == *upstream).map(|(_, login)| login)
    }
}

/// Why a client is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No such user, or not its password.
    Wrong,
    /// Too many wrong ones came from there: the wait, in milliseconds.
    TooSoon(u64),
    /// More passwords wait to be checked than may.
    Busy,
}

/// The users by name.
type Roll = BTreeMap<String, Arc<User>>;

/// All users, for all workers.
pub struct Users {
    roll: Mutex<Arc<Roll>>,
    /// Checked where there is no such user, so that this takes as long.
    nobody: PasswordHash,
    /// When each right password was last hashed, by its keyed digest. The key is this process's alone.
    known: Mutex<HashMap<[u8; 32], Instant>>,
    key: [u8; 64],
    attempts: Mutex<Attempts>,
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    epoch: Instant,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("names", &self.roll().keys()).finish_non_exhaustive()
    }
}

impl Users {
    /// `None` without any. At most `parallel` passwords are hashed at once.
    pub fn new(users: Vec<Arc<User>>, parallel: usize) -> Option<Arc<Self>> {
        let nobody = users.first()?.password.clone();
        let mut key = [0; 64];
        OsRng.fill_bytes(&mut key);
        Some(Arc::new(Self {
            roll: Mutex::new(Arc::new(roll(users))),
            nobody,
            known: Mutex::default(),
            key,
            attempts: Mutex::default(),
            running: Arc::new(Semaphore::new(parallel.max(1))),
            waiting: Arc::new(Semaphore::new(WAITING)),
            epoch: Instant::now(),
        }))
    }

    /// From now on these are the users. Passwords that are being checked are held against the new ones; wrong ones that
    /// came before count on.
    pub fn replace(&self, users: Vec<Arc<User>>) {
        *self.roll.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(roll(users));
    }

    /// The user of this name.
    pub fn find(&self, name: &str) -> Option<Arc<User>> {
        self.roll().get(name).cloned()
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<Arc<User>> {
        self.roll().values().cloned().collect()
    }

    fn roll(&self) -> Arc<Roll> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Checks a password, on a thread of its own if it must be hashed.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn verify(
        self: Arc<Self>,
        source: Source,
        name: &[u8],
        password: &[u8],
    ) -> Result<Arc<User>, Refused> {
        let name = std::str::from_utf8(name).unwrap_or_default();
        let found = self.find(name);
        let digest = found.as_ref().map(|user| self.digest(name, password, &user.password));
        if let Some((user, digest)) = found.as_ref().zip(digest)
            && self.believed(&digest)
        {
            return Ok(user.clone());
        }
        // Counted before it is checked, so that many at once are as few as one after the other.
        if let Some(wait) = self.attempts(|attempts, now| attempts.begin(source, now)) {
            return Err(Refused::TooSoon(wait));
        }
        let _waiting = self.waiting.clone().try_acquire_owned().map_err(|_| Refused::Busy)?;
        let Ok(running) = self.running.clone().acquire_owned().await else { return Err(Refused::Busy) };
        let hash = found.as_ref().map_or(&self.nobody, |user| &user.password).clone();
        let secret = Secret::new(password);
        let right = tokio::task::spawn_blocking(move || {
            let right = hash.matches(secret.expose());
            drop(running);
            right
        });
        let found = found.as_ref().zip(digest);
        match (right.await, found, self.find(name)) {
            // Meanwhile there may be no such user any more, or another password.
            (Ok(true), Some((known, digest)), Some(user)) if user.password == known.password => {
                self.attempts(|attempts, _| attempts.succeeded(source));
                self.believe(digest);
                Ok(user)
            }
            _ => Err(Refused::Wrong),
        }
    }

    fn attempts<T>(&self, act: impl FnOnce(&mut Attempts, u64) -> T) -> T {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        act(&mut self.attempts.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    /// Another hash, of another password perhaps, makes another digest: what was believed of it is forgotten.
    fn digest(&self, name: &str, password: &[u8], hash: &PasswordHash) -> [u8; 32] {
        let mut mac = <Mac as KeyInit>::new((&self.key).into());
        for part in [name.as_bytes(), hash.as_bytes()] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.update(password);
        mac.finalize_fixed().into()
    }

    fn believed(&self, digest: &[u8; 32]) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(digest).is_some_and(|at| at.elapsed() < BELIEVED)
    }

    fn believe(&self, digest: [u8; 32]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, at| at.elapsed() < BELIEVED);
        }
        if known.len() < REMEMBERED {
            known.insert(digest, Instant::now());
        }
    }
}

fn roll(users: Vec<Arc<User>>) -> Roll {
    users.into_iter().map(|user| (user.name.clone(), user)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Source = Source::Unknown;

    fn user(name: &str, password: PasswordHash) -> Arc<User> {
        Arc::new(User { name: name.into(), password, logins: Vec::new() })
    }

    fn users() -> Arc<Users> {
        let user = |name: &str, password: &[u8]| user(name, PasswordHash::quick(password));
        Users::new(vec![user("app", b"secret"), user("default", b"other")], 2).unwrap()
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
    async fn the_roll_is_replaced_and_nothing_old_is_believed() {
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
    async fn who_is_removed_while_a_password_is_checked_is_not_let_in() {
        let users = users();
        let busy = users.running.clone().acquire_many_owned(2).await.unwrap();
        let checked = tokio::spawn(users.clone().verify(HERE, b"app", b"secret"));
        while users.waiting.available_permits() == WAITING {
            tokio::task::yield_now().await;
        }
        users.replace(Vec::new());
        drop(busy);
        assert_eq!(checked.await.unwrap().map(|user| user.name.clone()), Err(Refused::Wrong));
    }

    #[tokio::test]
    async fn guesses_are_slowed_down_and_the_believed_are_not() {
        let users = users();
        assert!(users.clone().verify(HERE, b"app", b"secret").await.is_ok());
        let mut refused = None;
        for _ in 0..20 {
            if let Err(Refused::TooSoon(wait)) = users.clone().verify(HERE, b"app", b"guess").await {
                refused = Some(wait);
            }
        }
        assert!(refused.is_some_and(|wait| wait > 0));
        assert!(users.clone().verify(HERE, b"app", b"secret").await.is_ok());
        assert!(users.clone().verify(Source::Uid(7), b"default", b"other").await.is_ok(), "elsewhere");
    }
}
