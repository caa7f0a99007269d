//! Holds the credentials with which respgate authenticates to servers at this moment, for itself or for one of its
//! users.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::denials::{Denials, Denied};
use crate::secret::Credentials;

/// While a server keeps refusing the credentials, the refusal is logged at most once in this time.
const REMIND: Duration = Duration::from_secs(30);

/// The credentials for new connections, or the reason why none are known yet. `Ok(None)`: connections send no AUTH.
pub type Newest = Result<Option<Arc<Credentials>>, Arc<str>>;

/// Holds credentials that may change while respgate runs, and whether the server accepts them. Clones are cheap and
/// share one state.
#[derive(Clone, Debug)]
pub struct Login {
    principal: Principal,
    account: Arc<Account>,
    status: Arc<watch::Sender<LoginStatus>>,
    denials: Denials,
}

/// For whom respgate authenticates. Its `Display` names the user and password in question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// For respgate itself, and for every client that uses respgate's own upstream user.
    Own,
    /// For the clients of this user of respgate's.
    User(Arc<str>),
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("respgate's own user or password"),
            Self::User(name) => write!(f, "the user or password that respgate has for its user '{name}'"),
        }
    }
}

#[derive(Debug)]
struct Account {
    newest: watch::Sender<Newest>,
    /// Notified when a server has refused the newest credentials, or when a dial has found that they have expired.
    refresh_requested: Notify,
    /// When the credentials expire; `None`: never.
    expiry: Mutex<Option<Expiry>>,
    /// How often the program that prints the credentials has ended.
    runs: watch::Sender<u64>,
}

/// The end of a password's lifetime, by two clocks. It is past as soon as one of them shows it: the monotonic clock
/// stops while the machine sleeps, and the wall clock jumps when somebody sets it.
#[derive(Clone, Copy, Debug)]
struct Expiry {
    at: Instant,
    wall: SystemTime,
}

impl Expiry {
    fn after(life: Duration) -> Option<Self> {
        Some(Self { at: Instant::now().checked_add(life)?, wall: SystemTime::now().checked_add(life)? })
    }

    fn is_past(self) -> bool {
        self.at <= Instant::now() || self.wall <= SystemTime::now()
    }
}

/// Whether the server accepts the credentials.
#[derive(Debug, Default)]
struct LoginStatus {
    /// The server and its last error line, while it refuses the credentials; `None` after it has accepted them.
    refusal: Option<Arc<str>>,
    logged: Option<Instant>,
    unlogged: u64,
    /// True if the server has accepted the credentials at least once.
    worked: bool,
}

impl Default for Login {
    /// Returns a login without credentials: connections send no AUTH.
    fn default() -> Self {
        Self::new(None)
    }
}

impl Login {
    /// Creates a login with these credentials, or without any.
    pub fn new(credentials: Option<Credentials>) -> Self {
        Self::with(Ok(credentials.map(Arc::new)))
    }

    /// Creates a login whose credentials are not known yet. `why` is the reason, for the operator.
    pub fn awaited(why: &str) -> Self {
        Self::with(Err(why.into()))
    }

    fn with(newest: Newest) -> Self {
        Self {
            principal: Principal::Own,
            account: Arc::new(Account {
                newest: watch::channel(newest).0,
                refresh_requested: Notify::new(),
                expiry: Mutex::default(),
                runs: watch::channel(0).0,
            }),
            status: Arc::new(watch::channel(LoginStatus::default()).0),
            denials: Denials::default(),
        }
    }

    /// Returns a login with the same credentials for another server or another principal. [`Login::replace`] changes
    /// both; whether a server refuses or accepts them is tracked separately.
    pub fn elsewhere(&self, principal: Principal) -> Self {
        Self {
            principal,
            account: self.account.clone(),
            status: Arc::new(watch::channel(LoginStatus::default()).0),
            denials: Denials::default(),
        }
    }

    /// Returns the commands that the server denies its users, of those that respgate sends by itself.
    pub fn denials(&self) -> &Denials {
        &self.denials
    }

    /// Returns the commands that the server denies the user of `credentials`.
    pub fn denied(&self, credentials: Option<&Credentials>) -> Arc<Denied> {
        self.denials.of(credentials.map_or("default", Credentials::user))
    }

    /// Returns for whom respgate authenticates with these credentials.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Returns true if both are clones of one login.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.status, &other.status)
    }

    /// Returns the credentials for new connections.
    pub fn newest(&self) -> Newest {
        self.account.newest.borrow().clone()
    }

    /// Like [`Self::newest`], but waits for at most `limit` if no credentials are known yet.
    pub async fn newest_within(&self, limit: Duration) -> Newest {
        let mut changes = self.subscribe();
        let _ = tokio::time::timeout(limit, changes.wait_for(Newest::is_ok)).await;
        self.newest()
    }

    /// Like [`Self::newest`], but if a program prints the credentials and the last ones have expired, requests another
    /// run of the program. Waits for its end for at most `limit`, and then returns the newest credentials, even if they
    /// are expired.
    pub async fn fresh_within(&self, limit: Duration) -> Newest {
        let expired = self.expiry().is_some_and(Expiry::is_past);
        if expired {
            let mut runs = self.account.runs.subscribe();
            self.account.refresh_requested.notify_one();
            let _ = tokio::time::timeout(limit, runs.changed()).await;
        }
        self.newest()
    }

    fn expiry(&self) -> Option<Expiry> {
        *self.account.expiry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the program that prints the credentials has ended. `life` is the lifetime of the credentials that it
    /// printed, or `None` if it printed none.
    pub(super) fn note_run(&self, life: Option<Duration>) {
        if let Some(life) = life {
            let expiry = Expiry::after(life);
            *self.account.expiry.lock().unwrap_or_else(PoisonError::into_inner) = expiry;
        }
        self.account.runs.send_modify(|runs| *runs += 1);
    }

    /// Returns a receiver that sees every change from now on.
    pub fn subscribe(&self) -> watch::Receiver<Newest> {
        self.account.newest.subscribe()
    }

    /// Replaces the credentials for new connections. Returns false if they are equal to the old ones.
    pub fn replace(&self, credentials: Credentials) -> bool {
        self.account.newest.send_if_modified(|newest| {
            let same = matches!(newest, Ok(Some(old)) if **old == credentials);
            if !same {
                *newest = Ok(Some(Arc::new(credentials)));
            }
            !same
        })
    }

    /// Replaces the reason why no credentials are known yet. Does nothing if some are known.
    pub fn still_awaited(&self, why: &str) {
        self.account.newest.send_if_modified(|newest| match newest {
            Err(known) if **known != *why => {
                *newest = Err(why.into());
                true
            }
            _ => false,
        });
    }

    /// Notes that a server refused `credentials` with this error line (without the leading `-`). Logs the first
    /// refusal, and then one every `REMIND` (30 s) while the refusals continue. Ignores credentials that are not the
    /// newest.
    pub fn refused(&self, server: &dyn std::fmt::Display, credentials: &Arc<Credentials>, line: &[u8]) {
        if !matches!(self.newest(), Ok(Some(newest)) if Arc::ptr_eq(&newest, credentials)) {
            return;
        }
        let refusal: Arc<str> = format!("{server}: {}", line.escape_ascii()).into();
        self.status.send_modify(|status| {
            let silent = status.refusal.is_some() && status.logged.is_some_and(|at| at.elapsed() < REMIND);
            status.unlogged += 1;
            if !silent {
                let times = std::mem::take(&mut status.unlogged);
                tracing::error!(%server, user = credentials.user(), error = %line.escape_ascii(), times, "the server refuses {}; respgate tries again at growing intervals: check the password's file, variable or command, and the server's ACL", self.principal);
                status.logged = Some(Instant::now());
            }
            status.refusal = Some(refusal);
        });
        self.account.refresh_requested.notify_one();
    }

    /// Notes that the server accepted the credentials.
    pub fn accepted(&self) {
        let changed = {
            let status = self.status.borrow();
            status.refusal.is_some() || !status.worked
        };
        if changed {
            self.status.send_modify(|status| {
                status.worked = true;
                if status.refusal.take().is_some() {
                    tracing::info!("the server accepts {} again", self.principal);
                }
            });
        }
    }

    /// Returns true if the server has ever accepted the credentials. If it refuses them now, they have probably been
    /// rotated.
    pub fn has_worked(&self) -> bool {
        self.status.borrow().worked
    }

    /// Returns the server and its error line while it refuses the credentials; `None` while it accepts them.
    pub fn refusal(&self) -> Option<Arc<str>> {
        self.status.borrow().refusal.clone()
    }

    /// Waits until a server has refused the newest credentials, or a dial has found them expired. Returns at once if
    /// that has happened since the last call.
    pub(super) async fn refresh_requested(&self) {
        self.account.refresh_requested.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn credentials(password: &str) -> Credentials {
        Credentials { username: Some("app".into()), password: Secret::new(password) }
    }

    #[tokio::test]
    async fn the_same_credentials_are_no_change() {
        let login = Login::new(Some(credentials("one")));
        let mut changes = login.subscribe();
        assert!(!login.replace(credentials("one")));
        assert!(!changes.has_changed().unwrap());
        assert!(login.replace(credentials("two")));
        assert!(changes.has_changed().unwrap());
        let newest = changes.borrow_and_update().clone().unwrap().unwrap();
        assert_eq!(newest.password.expose(), b"two");
    }

    #[tokio::test]
    async fn only_the_newest_can_be_refused() {
        let login = Login::new(Some(credentials("one")));
        let old = login.newest().unwrap().unwrap();
        login.refused(&"db:1", &old, b"WRONGPASS x");
        assert_eq!(login.refusal().as_deref(), Some("db:1: WRONGPASS x"));
        login.refresh_requested().await;
        login.accepted();
        assert_eq!(login.refusal(), None);
        login.replace(credentials("two"));
        login.refused(&"db:1", &old, b"WRONGPASS x");
        assert_eq!(login.refusal(), None);
    }

    #[test]
    fn each_server_refuses_or_accepts_one_account_by_itself() {
        let shop = || Principal::User("shop".into());
        let here = Login::new(Some(credentials("one"))).elsewhere(shop());
        let there = here.elsewhere(shop());
        let newest = here.newest().unwrap().unwrap();
        here.accepted();
        there.refused(&"db:2", &newest, b"WRONGPASS x");
        assert_eq!((here.refusal(), here.has_worked()), (None, true));
        assert_eq!((there.refusal().as_deref(), there.has_worked()), (Some("db:2: WRONGPASS x"), false));
        assert!(here.replace(credentials("two")));
        assert_eq!(there.newest().unwrap().unwrap().password.expose(), b"two");
        assert!(here.is(&here.clone()) && !here.is(&there));
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_password_is_refreshed_before_use() {
        let login = Login::new(Some(credentials("one")));
        let life = Duration::from_secs(60);
        login.note_run(Some(life));
        assert_eq!(login.fresh_within(life).await, login.newest(), "it is good, so nobody waits");
        tokio::time::advance(life).await;
        let runs = async {
            login.refresh_requested().await;
            login.replace(credentials("two"));
            login.note_run(Some(life));
        };
        let (fresh, ()) = tokio::join!(login.fresh_within(life), runs);
        assert_eq!(fresh.unwrap().unwrap().password.expose(), b"two");
        tokio::time::advance(life).await;
        let failed = async {
            login.refresh_requested().await;
            login.note_run(None);
        };
        let (fresh, ()) = tokio::join!(login.fresh_within(life), failed);
        assert_eq!(fresh.unwrap().unwrap().password.expose(), b"two", "the old one, for want of a better");
        let limit = Duration::from_secs(2);
        let began = Instant::now();
        assert!(login.fresh_within(limit).await.is_ok());
        assert_eq!(began.elapsed(), limit);
    }

    #[test]
    fn awaited_credentials_can_arrive() {
        let login = Login::awaited("not run yet");
        login.still_awaited("it failed");
        assert_eq!(login.newest().unwrap_err().as_ref(), "it failed");
        assert!(login.replace(credentials("one")));
        login.still_awaited("it failed again");
        assert!(login.newest().is_ok());
    }
}
