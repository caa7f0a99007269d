//! respgate's own users: clients authenticate to it, and it to the server as itself or as is configured for the user.

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

/// All users, for all workers.
pub struct Users {
    all: BTreeMap<String, Arc<User>>,
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
        f.debug_struct("Users").field("names", &self.all.keys()).finish_non_exhaustive()
    }
}

impl Users {
    /// `None` without any. At most `parallel` passwords are hashed at once.
    pub fn new(users: Vec<User>, parallel: usize) -> Option<Arc<Self>> {
        let nobody = users.first()?.password.clone();
        let mut key = [0; 64];
        OsRng.fill_bytes(&mut key);
        Some(Arc::new(Self {
            all: users.into_iter().map(|user| (user.name.clone(), Arc::new(user))).collect(),
            nobody,
            known: Mutex::default(),
            key,
            attempts: Mutex::default(),
            running: Arc::new(Semaphore::new(parallel.max(1))),
            waiting: Arc::new(Semaphore::new(WAITING)),
            epoch: Instant::now(),
        }))
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<User>> {
        self.all.values()
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
        let digest = self.digest(name, password);
        let found = self.all.get(name);
        if let Some(user) = found
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
        let hash = found.map_or(&self.nobody, |user| &user.password).clone();
        let secret = Secret::new(password);
        let right = tokio::task::spawn_blocking(move || {
            let right = hash.matches(secret.expose());
            drop(running);
            right
        });
        match (right.await, found) {
            (Ok(true), Some(user)) => {
                self.attempts(|attempts, _| attempts.succeeded(source));
                self.believe(digest);
                Ok(user.clone())
            }
            _ => Err(Refused::Wrong),
        }
    }

    fn attempts<T>(&self, act: impl FnOnce(&mut Attempts, u64) -> T) -> T {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        act(&mut self.attempts.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    fn digest(&self, name: &str, password: &[u8]) -> [u8; 32] {
        let mut mac = <Mac as KeyInit>::new((&self.key).into());
        mac.update(&(name.len() as u64).to_le_bytes());
        mac.update(name.as_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Source = Source::Unknown;

    fn users() -> Arc<Users> {
        let user = |name: &str, password: &[u8]| User {
            name: name.into(),
            password: PasswordHash::quick(password),
            logins: Vec::new(),
        };
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
