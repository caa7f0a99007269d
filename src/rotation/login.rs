//! Who respgate is to a server, at this moment: for itself, or for one of its users.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::denials::{Denials, Denied};
use crate::secret::Credentials;

/// While a server goes on refusing, it is logged so often at most.
const REMIND: Duration = Duration::from_secs(30);

/// The credentials for new connections, or why none are known yet. `None`: no AUTH is sent.
pub type Newest = Result<Option<Arc<Credentials>>, Arc<str>>;

/// Credentials that may be replaced while respgate runs, and what servers said of them. Cheap to clone; clones are one
/// and the same.
#[derive(Clone, Debug)]
pub struct Login {
    principal: Principal,
    account: Arc<Account>,
    standing: Arc<watch::Sender<LoginStatus>>,
    denials: Denials,
}

/// For whom respgate authenticates. As text: the user and password that are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// For itself, and for every client that acts as it.
    Own,
    /// For the clients of this user of its own.
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
    /// A server has refused the newest ones, or they have outlived their life.
    asked: Notify,
    /// Until when they are good; none: for ever.
    expiry: Mutex<Option<Expiry>>,
    /// How often the program that prints them has ended.
    runs: watch::Sender<u64>,
}

/// The end of a password's life. Either clock can show it: the first stands still while the machine sleeps, the second
/// jumps when somebody sets it.
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

/// What servers think of them.
#[derive(Debug, Default)]
struct LoginStatus {
    /// What was said last by one that refuses them; none once they were accepted.
    said: Option<Arc<str>>,
    logged: Option<Instant>,
    unlogged: u64,
    /// They have been accepted once.
    worked: bool,
}

impl Default for Login {
    /// No credentials: no AUTH is sent.
    fn default() -> Self {
        Self::new(None)
    }
}

impl Login {
    /// Credentials, or none, that nothing replaces yet.
    pub fn new(credentials: Option<Credentials>) -> Self {
        Self::with(Ok(credentials.map(Arc::new)))
    }

    /// None are known yet: `why`, for people.
    pub fn awaited(why: &str) -> Self {
        Self::with(Err(why.into()))
    }

    fn with(newest: Newest) -> Self {
        Self {
            principal: Principal::Own,
            account: Arc::new(Account {
                newest: watch::channel(newest).0,
                asked: Notify::new(),
                expiry: Mutex::default(),
                runs: watch::channel(0).0,
            }),
            standing: Arc::new(watch::channel(LoginStatus::default()).0),
            denials: Denials::default(),
        }
    }

    /// The same credentials at another server, or for somebody else: replaced together, refused or accepted apart.
    pub fn elsewhere(&self, whose: Principal) -> Self {
        Self {
            principal: whose,
            account: self.account.clone(),
            standing: Arc::new(watch::channel(LoginStatus::default()).0),
            denials: Denials::default(),
        }
    }

    /// What the server denies its users of the commands that respgate sends by itself.
    pub fn denials(&self) -> &Denials {
        &self.denials
    }

    /// What the server denies the user of `credentials`.
    pub fn denied(&self, credentials: Option<&Credentials>) -> Arc<Denied> {
        self.denials.of(credentials.map_or("default", Credentials::user))
    }

    /// For whom respgate authenticates with these.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Whether the two are one and the same.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.standing, &other.standing)
    }

    /// What a new connection authenticates with.
    pub fn newest(&self) -> Newest {
        self.account.newest.borrow().clone()
    }

    /// As [`Self::newest`], but if none are known yet, they are waited for.
    pub async fn newest_within(&self, patience: Duration) -> Newest {
        let mut changes = self.subscribe();
        let _ = tokio::time::timeout(patience, changes.wait_for(Newest::is_ok)).await;
        self.newest()
    }

    /// As [`Self::newest`], but if a program prints them and the last ones are older than their life, the program is run
    /// again first. Waits for it for `patience` at most, and then returns the old ones.
    pub async fn fresh_within(&self, patience: Duration) -> Newest {
        let expired = self.expiry().is_some_and(Expiry::is_past);
        if expired {
            let mut runs = self.account.runs.subscribe();
            self.account.asked.notify_one();
            let _ = tokio::time::timeout(patience, runs.changed()).await;
        }
        self.newest()
    }

    fn expiry(&self) -> Option<Expiry> {
        *self.account.expiry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program that prints the credentials has ended. With `life`, it printed some that are good for so long.
    pub(super) fn note_run(&self, life: Option<Duration>) {
        if let Some(life) = life {
            let expiry = Expiry::after(life);
            *self.account.expiry.lock().unwrap_or_else(PoisonError::into_inner) = expiry;
        }
        self.account.runs.send_modify(|runs| *runs += 1);
    }

    /// Sees every change from now on.
    pub fn subscribe(&self) -> watch::Receiver<Newest> {
        self.account.newest.subscribe()
    }

    /// New connections use these from now on. False: they are the same as before.
    pub fn replace(&self, credentials: Credentials) -> bool {
        self.account.newest.send_if_modified(|newest| {
            let same = matches!(newest, Ok(Some(old)) if **old == credentials);
            if !same {
                *newest = Ok(Some(Arc::new(credentials)));
            }
            !same
        })
    }

    /// None are known yet, for another reason than before. What was known stays.
    pub fn still_awaited(&self, why: &str) {
        self.account.newest.send_if_modified(|newest| match newest {
            Err(known) if **known != *why => {
                *newest = Err(why.into());
                true
            }
            _ => false,
        });
    }

    /// A server refused `credentials` with this error line (without the leading `-`). Logged when it is news, and now
    /// and then while it goes on.
    pub fn refused(&self, server: &dyn std::fmt::Display, credentials: &Arc<Credentials>, line: &[u8]) {
        if !matches!(self.newest(), Ok(Some(newest)) if Arc::ptr_eq(&newest, credentials)) {
            return;
        }
        let said: Arc<str> = format!("{server}: {}", line.escape_ascii()).into();
        self.standing.send_modify(|standing| {
            let silent = standing.said.is_some() && standing.logged.is_some_and(|at| at.elapsed() < REMIND);
            standing.unlogged += 1;
            if !silent {
                let times = std::mem::take(&mut standing.unlogged);
                tracing::error!(%server, user = credentials.user(), error = %line.escape_ascii(), times, "the server refuses {}; it is tried again now and then: check the password's file, variable or command, and the server's ACL", self.principal);
                standing.logged = Some(Instant::now());
            }
            standing.said = Some(said);
        });
        self.account.asked.notify_one();
    }

    /// A server accepted them.
    pub fn accepted(&self) {
        let news = {
            let standing = self.standing.borrow();
            standing.said.is_some() || !standing.worked
        };
        if news {
            self.standing.send_modify(|standing| {
                standing.worked = true;
                if standing.said.take().is_some() {
                    tracing::info!("the server accepts {} again", self.principal);
                }
            });
        }
    }

    /// Whether a server has ever accepted them: if it no longer does, others are on their way.
    pub fn has_worked(&self) -> bool {
        self.standing.borrow().worked
    }

    /// What a server said that refuses them; `None` while they are accepted.
    pub fn refusal(&self) -> Option<Arc<str>> {
        self.standing.borrow().said.clone()
    }

    /// Ends when a server has refused the newest ones, or a dial has found them too old; at once if that has happened since
    /// the last time.
    pub(super) async fn wanted(&self) {
        self.account.asked.notified().await;
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
        login.wanted().await;
        login.accepted();
        assert_eq!(login.refusal(), None);
        login.replace(credentials("two"));
        login.refused(&"db:1", &old, b"WRONGPASS x");
        assert_eq!(login.refusal(), None);
    }

    #[test]
    fn one_account_at_two_servers_is_refused_by_each_for_itself() {
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
    async fn an_expired_password_is_asked_for_before_it_is_used() {
        let login = Login::new(Some(credentials("one")));
        let life = Duration::from_secs(60);
        login.note_run(Some(life));
        assert_eq!(login.fresh_within(life).await, login.newest(), "it is good, so nobody waits");
        tokio::time::advance(life).await;
        let runs = async {
            login.wanted().await;
            login.replace(credentials("two"));
            login.note_run(Some(life));
        };
        let (fresh, ()) = tokio::join!(login.fresh_within(life), runs);
        assert_eq!(fresh.unwrap().unwrap().password.expose(), b"two");
        tokio::time::advance(life).await;
        let failed = async {
            login.wanted().await;
            login.note_run(None);
        };
        let (fresh, ()) = tokio::join!(login.fresh_within(life), failed);
        assert_eq!(fresh.unwrap().unwrap().password.expose(), b"two", "the old one, for want of a better");
        let patience = Duration::from_secs(2);
        let began = Instant::now();
        assert!(login.fresh_within(patience).await.is_ok());
        assert_eq!(began.elapsed(), patience);
    }

    #[test]
    fn what_is_awaited_can_come() {
        let login = Login::awaited("not run yet");
        login.still_awaited("it failed");
        assert_eq!(login.newest().unwrap_err().as_ref(), "it failed");
        assert!(login.replace(credentials("one")));
        login.still_awaited("it failed again");
        assert!(login.newest().is_ok());
    }
}
