//! Throttles checks of clients' passwords. Every check goes through it, and so does every look into a cache of
//! right passwords.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argon2::password_hash::rand_core::{OsRng, RngCore};
use blake2::digest::{FixedOutput, KeyInit, Update, consts::U32};
use tokio::sync::watch;
use tokio::time::Instant;

use super::attempts::{Accounts, Admission, Attempts, Charged};
use super::source::Source;

type Mac = blake2::Blake2bMac<U32>;

/// Limit of a remembered password, in bytes. A longer one is never remembered.
const LONGEST_REMEMBERED: usize = 16 * 1024;
/// Number of right passwords that are remembered.
const REMEMBERED: usize = 4096;

/// A keyed hash of a user and a password. The key is random for each process.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// Describes one AUTH.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    /// Where the attempt comes from.
    pub source: Source,
    /// The upstream whose user it is; empty for respgate's own users.
    pub realm: &'a str,
    /// The user name.
    pub user: &'a [u8],
    /// The digest by [`Throttle::digest`].
    pub digest: Digest,
}

/// Says what a check of a password found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthDecision {
    /// The password is right.
    Right,
    /// The password is wrong. Holds the server's error line, or is empty.
    Wrong(Arc<[u8]>),
    /// The server refused the AUTH for another reason. Holds its error line. No password was guessed, but the
    /// check cost a connection, so the pace stays charged.
    Inapplicable(Arc<[u8]>),
    /// The password could not be checked. Holds the error line that says why, or is empty.
    Undecided(Arc<[u8]>),
}

/// The attempt was refused because of too many wrong passwords before. Holds the time to wait, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSoon(pub u64);

/// Throttles password checks. All workers share one.
pub struct Throttle {
    key: [u8; 64],
    hasher: RandomState,
    state: Mutex<ThrottleState>,
    epoch: Instant,
}

#[derive(Default)]
struct ThrottleState {
    attempts: Attempts,
    /// Checks under way, by pair and digest. Attempts with the same password wait for their result.
    pending: HashMap<(u64, Digest), watch::Receiver<Option<AuthDecision>>>,
    /// When each right password was last known to be right.
    right: HashMap<Digest, Instant>,
}

impl Default for Throttle {
    fn default() -> Self {
        let mut key = [0; 64];
        OsRng.fill_bytes(&mut key);
        Self { key, hasher: RandomState::new(), state: Mutex::default(), epoch: Instant::now() }
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Throttle")
    }
}

/// Says what comes next for an attempt.
enum Next<'a> {
    Accepted,
    Follow(watch::Receiver<Option<AuthDecision>>),
    Lookup { at: u64, retry_in: u64, charge: Charge<'a> },
    Check { at: u64, check: Check<'a> },
}

impl Throttle {
    /// Returns the digest of a user, whom `names` identify, with a password. A password that is too long to be
    /// remembered gets a new digest each time.
    pub fn digest(&self, names: [&[u8]; 3], password: &[u8]) -> Digest {
        let mut mac = <Mac as KeyInit>::new((&self.key).into());
        if password.len() > LONGEST_REMEMBERED {
            let mut unique = [0; 32];
            OsRng.fill_bytes(&mut unique);
            return Digest(unique);
        }
        for name in names {
            mac.update(&(name.len() as u64).to_le_bytes());
            mac.update(name);
        }
        mac.update(password);
        Digest(mac.finalize_fixed().into())
    }

    /// Checks a password: first by `known`, which returns true if the password is known to be right, then by
    /// `verify`, which is expensive. Neither is called more often than [`Attempts`] permits. If the same password
    /// of the same source and user comes many times at once, `verify` is called once for all.
    ///
    /// Dropping the future is safe. Its charges stay.
    ///
    /// # Errors
    /// Returns [`TooSoon`] if the password was not checked, or only compared with the known ones.
    pub async fn judge(
        &self,
        attempt: Attempt<'_>,
        known: impl Fn() -> bool,
        verify: impl AsyncFnOnce() -> AuthDecision,
    ) -> Result<AuthDecision, TooSoon> {
        loop {
            match self.next(&attempt, known())? {
                Next::Accepted => return Ok(AuthDecision::Right),
                Next::Follow(mut leader) => {
                    let decision = leader.wait_for(Option::is_some).await;
                    if let Some(decision) = decision.ok().and_then(|decision| decision.clone()) {
                        return Ok(decision);
                    }
                    // The client that ran the check has left before the result. Try again.
                }
                Next::Lookup { at, retry_in, charge } => {
                    self.wait_until(at).await;
                    if known() {
                        charge.give_back(Charged::Everything);
                        return Ok(AuthDecision::Right);
                    }
                    return Err(TooSoon(retry_in));
                }
                Next::Check { at, check } => {
                    self.wait_until(at).await;
                    let decision = if known() { AuthDecision::Right } else { verify().await };
                    check.finish(decision.clone());
                    return Ok(decision);
                }
            }
        }
    }

    fn next(&self, attempt: &Attempt<'_>, known: bool) -> Result<Next<'_>, TooSoon> {
        let accounts = Accounts::new(attempt.source, (attempt.realm, attempt.user), &self.hasher);
        let place = (accounts.pair, attempt.digest);
        let now = self.now();
        let mut state = self.state();
        // An attempt with the same password is under way. Its result tells a guesser nothing more.
        if let Some(leader) = state.pending.get(&place) {
            return Ok(Next::Follow(leader.clone()));
        }
        let admission = state.attempts.admit(&accounts, known, now);
        let charge = Charge { throttle: self, accounts, admission };
        match admission {
            Admission::Accepted => Ok(Next::Accepted),
            Admission::Refused(wait) => Err(TooSoon(wait)),
            Admission::Lookup { at, retry_in } => Ok(Next::Lookup { at, retry_in, charge }),
            Admission::Check(at) => {
                let (decision, followers) = watch::channel(None);
                state.pending.insert(place, followers);
                Ok(Next::Check { at, check: Check { charge, place, decision } })
            }
        }
    }

    /// Returns a hash of the source's network, or of the source itself if it has no network.
    pub fn network(&self, source: Source) -> u64 {
        match source.network() {
            Some(network) => self.hasher.hash_one(network),
            None => self.hasher.hash_one(source),
        }
    }

    /// Remembers that this password is right, for `for_at_most` at most.
    pub fn remember(&self, digest: Digest, for_at_most: Duration) {
        let mut state = self.state();
        if state.right.len() >= REMEMBERED && !state.right.contains_key(&digest) {
            state.right.retain(|_, at| at.elapsed() < for_at_most);
            let oldest = state.right.iter().min_by_key(|(_, at)| **at).map(|(digest, _)| *digest);
            if let Some(oldest) = oldest.filter(|_| state.right.len() >= REMEMBERED) {
                state.right.remove(&oldest);
            }
        }
        state.right.insert(digest, Instant::now());
    }

    /// Returns when this password was last remembered to be right. Only for code that [`Throttle::judge`] calls.
    pub fn remembered(&self, digest: &Digest) -> Option<Instant> {
        self.state().right.get(digest).copied()
    }

    fn state(&self) -> MutexGuard<'_, ThrottleState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn wait_until(&self, at: u64) {
        if at > self.now() {
            tokio::time::sleep_until(self.epoch + Duration::from_millis(at)).await;
        }
    }
}

/// Holds the charges of one attempt.
struct Charge<'a> {
    throttle: &'a Throttle,
    accounts: Accounts,
    admission: Admission,
}

impl Charge<'_> {
    fn give_back(&self, what: Charged) {
        let now = self.throttle.now();
        self.throttle.state().attempts.give_back(&self.accounts, self.admission, what, now);
    }
}

/// Represents a check under way. If it is dropped without a result, its charges stay, and one of the attempts
/// that wait for it checks again.
struct Check<'a> {
    charge: Charge<'a>,
    place: (u64, Digest),
    decision: watch::Sender<Option<AuthDecision>>,
}

impl Check<'_> {
    fn finish(self, decision: AuthDecision) {
        match decision {
            AuthDecision::Right | AuthDecision::Undecided(_) => self.charge.give_back(Charged::Everything),
            AuthDecision::Inapplicable(_) => self.charge.give_back(Charged::Failure),
            AuthDecision::Wrong(_) => {}
        }
        self.decision.send_replace(Some(decision));
    }
}

impl Drop for Check<'_> {
    fn drop(&mut self) {
        self.charge.throttle.state().pending.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const HERE: Source = Source::Uid(1);

    async fn guess(throttle: &Throttle, password: &str, right: &str) -> Result<AuthDecision, TooSoon> {
        let digest = throttle.digest([b"", b"app", b""], password.as_bytes());
        let attempt = Attempt { source: HERE, realm: "", user: b"app", digest };
        let decision = throttle
            .judge(
                attempt,
                || throttle.remembered(&digest).is_some(),
                async || {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    if password == right { AuthDecision::Right } else { AuthDecision::Wrong(Arc::default()) }
                },
            )
            .await;
        if decision == Ok(AuthDecision::Right) {
            throttle.remember(digest, Duration::from_secs(60));
        }
        decision
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_stands_behind_the_throttle() {
        let throttle = Throttle::default();
        assert_eq!(guess(&throttle, "right", "right").await, Ok(AuthDecision::Right));
        let began = Instant::now();
        let mut tries = 0;
        // A guesser that would find the right password within a second at the speed of the cache.
        while began.elapsed() < Duration::from_secs(60) {
            tries += 1;
            assert_ne!(guess(&throttle, &format!("guess {tries}"), "right").await, Ok(AuthDecision::Right));
        }
        assert!((100..=620).contains(&tries), "{tries} in a minute");
        let began = Instant::now();
        assert_eq!(guess(&throttle, "right", "right").await, Ok(AuthDecision::Right), "beside the guesser");
        assert!(began.elapsed() <= Duration::from_millis(200));
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_one_password_is_one_check() {
        let (throttle, checks) = (Throttle::default(), Cell::new(0));
        for right in [true, false] {
            checks.set(0);
            let digest = throttle.digest([b"", b"app", b""], &[u8::from(right)]);
            let attempt = Attempt { source: HERE, realm: "", user: b"app", digest };
            let tries = (0..200).map(|_| {
                throttle.judge(
                    attempt,
                    || false,
                    async || {
                        checks.set(checks.get() + 1);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        if right { AuthDecision::Right } else { AuthDecision::Wrong(Arc::default()) }
                    },
                )
            });
            let mut tries: Vec<_> = tries.map(Box::pin).collect();
            // The client that runs the check leaves, and another one takes over.
            let _ = tokio::time::timeout(Duration::from_millis(1), &mut tries[0]).await;
            drop(tries.remove(0));
            let began = Instant::now();
            for decision in join(tries).await {
                assert_eq!(decision.as_ref().is_ok_and(|decision| *decision == AuthDecision::Right), right);
                assert!(decision.is_ok());
            }
            assert_eq!(checks.get(), 2, "{right}");
            assert!(began.elapsed() < Duration::from_millis(50));
        }
        assert!(throttle.state().pending.is_empty());
    }

    async fn join<F: Future>(futures: Vec<std::pin::Pin<Box<F>>>) -> Vec<F::Output> {
        let mut futures: Vec<_> = futures.into_iter().map(|future| (future, None)).collect();
        std::future::poll_fn(|cx| {
            let mut ready = true;
            for (future, output) in &mut futures {
                if output.is_none() {
                    match future.as_mut().poll(cx) {
                        std::task::Poll::Ready(value) => *output = Some(value),
                        std::task::Poll::Pending => ready = false,
                    }
                }
            }
            if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        futures.into_iter().filter_map(|(_, output)| output).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_no_wrong_password() {
        let throttle = Throttle::default();
        for number in 0..1000_u32 {
            let digest = throttle.digest([b"main", b"app", b""], &number.to_le_bytes());
            let attempt = Attempt { source: HERE, realm: "main", user: b"app", digest };
            let decision =
                throttle.judge(attempt, || false, async || AuthDecision::Undecided(Arc::default())).await;
            assert_eq!(decision, Ok(AuthDecision::Undecided(Arc::default())));
        }
    }

    #[test]
    fn remembered_passwords_are_bounded_and_keyed() {
        let throttle = Throttle::default();
        let digest = |number: u32| throttle.digest([b"", b"app", b""], &number.to_le_bytes());
        for number in 0..REMEMBERED as u32 + 10 {
            throttle.remember(digest(number), Duration::from_secs(60));
        }
        assert_eq!(throttle.state().right.len(), REMEMBERED);
        assert!(throttle.remembered(&digest(REMEMBERED as u32)).is_some());
        let of = |throttle: &Throttle, names| throttle.digest(names, b"x");
        assert!(of(&throttle, [b"a", b"b", b""]) != of(&throttle, [b"ab", b"", b""]));
        assert!(of(&throttle, [b"a", b"b", b""]) != of(&Throttle::default(), [b"a", b"b", b""]));
        let long = vec![0; LONGEST_REMEMBERED + 1];
        assert!(throttle.digest([b"", b"", b""], &long) != throttle.digest([b"", b"", b""], &long));
    }
}
