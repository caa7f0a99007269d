//! respgate's own users: clients authenticate to it, and it to the server as it is configured to.

pub mod attempts;
pub mod hash;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argon2::password_hash::rand_core::{OsRng, RngCore};
use blake2::digest::{FixedOutput, KeyInit, Update, consts::U32};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::attempts::{Attempts, Source};
use self::hash::PasswordHash;
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

/// What each user's password must hash to.
type Roll = HashMap<String, PasswordHash>;

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
    pub fn new(configs: &[UserConfig], parallel: usize) -> Option<Arc<Self>> {
        let any = configs.first()?;
        let mut key = [0; 64];
        OsRng.fill_bytes(&mut key);
        Some(Arc::new(Self {
            roll: Mutex::new(Arc::new(roll(configs))),
            nobody: any.password.clone(),
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
    pub fn replace(&self, configs: &[UserConfig]) {
        *self.roll.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(roll(configs));
    }

    /// Whether there is such a user.
    pub fn knows(&self, name: &str) -> bool {
        self.roll().contains_key(name)
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
    ) -> Result<String, Refused> {
        let name = std::str::from_utf8(name).unwrap_or_default();
        let roll = self.roll();
        let found = roll.get_key_value(name);
        let digest = found.map(|(name, hash)| self.digest(name, password, hash));
        if let Some(((name, _), digest)) = found.zip(digest)
            && self.believed(&digest)
        {
            return Ok(name.clone());
        }
        // Counted before it is checked, so that many at once are as few as one after the other.
        if let Some(wait) = self.attempts(|attempts, now| attempts.begin(source, now)) {
            return Err(Refused::TooSoon(wait));
        }
        let _waiting = self.waiting.clone().try_acquire_owned().map_err(|_| Refused::Busy)?;
        let Ok(running) = self.running.clone().acquire_owned().await else { return Err(Refused::Busy) };
        let hash = found.map_or(&self.nobody, |(_, hash)| hash).clone();
        let secret = Secret::new(password);
        let right = tokio::task::spawn_blocking(move || {
            let right = hash.matches(secret.expose());
            drop(running);
            right
        });
        match (right.await, found.zip(digest)) {
            // Meanwhile there may be no such user any more, or another password.
            (Ok(true), Some(((name, hash), digest))) if self.roll().get(name) == Some(hash) => {
                self.attempts(|attempts, _| attempts.succeeded(source));
                self.believe(digest);
                Ok(name.clone())
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

fn roll(configs: &[UserConfig]) -> Roll {
    configs.iter().map(|user| (user.name.clone(), user.password.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Source = Source::Unknown;

    fn users() -> Arc<Users> {
        let user = |name: &str, password: &[u8]| UserConfig {
            name: name.into(),
            password: PasswordHash::quick(password),
        };
        Users::new(&[user("app", b"secret"), user("default", b"other")], 2).unwrap()
    }

    #[tokio::test]
    async fn only_the_right_password_of_the_right_user() {
        let users = users();
        assert_eq!(users.clone().verify(HERE, b"app", b"secret").await, Ok("app".into()));
        assert_eq!(users.clone().verify(HERE, b"app", b"secret").await, Ok("app".into()), "believed");
        for (name, password) in
            [(&b"app"[..], &b"other"[..]), (b"nobody", b"secret"), (b"", b""), (b"\xff", b"secret")]
        {
            let source = Source::Uid(name.len() as u32 * 100 + password.len() as u32);
            assert_eq!(users.clone().verify(source, name, password).await, Err(Refused::Wrong));
        }
        assert!(!format!("{users:?}").contains("argon2"));
    }

    #[tokio::test]
    async fn the_roll_is_replaced_and_nothing_old_is_believed() {
        let users = users();
        let verify =
            |name: &'static [u8], password: &'static [u8]| users.clone().verify(HERE, name, password);
        assert!(verify(b"app", b"secret").await.is_ok());
        assert!(verify(b"default", b"other").await.is_ok());
        let user = |name: &str, hash| UserConfig { name: name.into(), password: hash };
        let first = users.roll().get("default").unwrap().clone();
        users.replace(&[user("app", PasswordHash::quick(b"changed"))]);
        assert_eq!(verify(b"app", b"secret").await, Err(Refused::Wrong));
        assert_eq!(verify(b"default", b"other").await, Err(Refused::Wrong));
        assert_eq!(verify(b"app", b"changed").await, Ok("app".into()));
        assert!(users.knows("app") && !users.knows("default"));
        users.replace(&[user("default", first)]);
        assert_eq!(verify(b"default", b"other").await, Ok("default".into()));
        users.replace(&[]);
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
        users.replace(&[]);
        drop(busy);
        assert_eq!(checked.await.unwrap(), Err(Refused::Wrong));
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
