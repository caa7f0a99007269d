//! Who respgate is to a server, at this moment.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::secret::Credentials;

/// While a server goes on refusing, it is logged so often at most.
const REMIND: Duration = Duration::from_secs(30);

/// The credentials for new connections, or why none are known yet. `None`: no AUTH is sent.
pub type Newest = Result<Option<Arc<Credentials>>, Arc<str>>;

/// Credentials that may be replaced while respgate runs, and what servers said of them. Cheap to clone; clones are one
/// and the same.
#[derive(Clone, Debug)]
pub struct Login(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    newest: watch::Sender<Newest>,
    refusal: watch::Sender<Refusal>,
    /// A server has refused the newest ones.
    asked: Notify,
}

#[derive(Debug, Default)]
struct Refusal {
    /// What was said last; none once they were accepted.
    said: Option<Arc<str>>,
    logged: Option<Instant>,
    unlogged: u64,
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
        Self(Arc::new(Shared {
            newest: watch::channel(newest).0,
            refusal: watch::channel(Refusal::default()).0,
            asked: Notify::new(),
        }))
    }

    /// What a new connection authenticates with.
    pub fn newest(&self) -> Newest {
        self.0.newest.borrow().clone()
    }

    /// As [`Self::newest`], but if none are known yet, they are waited for.
    pub async fn newest_within(&self, patience: Duration) -> Newest {
        let mut changes = self.subscribe();
        let _ = tokio::time::timeout(patience, changes.wait_for(Newest::is_ok)).await;
        self.newest()
    }

    /// Sees every change from now on.
    pub fn subscribe(&self) -> watch::Receiver<Newest> {
        self.0.newest.subscribe()
    }

    /// New connections use these from now on. False: they are the same as before.
    pub fn replace(&self, credentials: Credentials) -> bool {
        self.0.newest.send_if_modified(|newest| {
            let same = matches!(newest, Ok(Some(old)) if **old == credentials);
            if !same {
                *newest = Ok(Some(Arc::new(credentials)));
            }
            !same
        })
    }

    /// None are known yet, for another reason than before. What was known stays.
    pub fn still_awaited(&self, why: &str) {
        self.0.newest.send_if_modified(|newest| match newest {
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
        self.0.refusal.send_modify(|refusal| {
            let silent = refusal.said.is_some() && refusal.logged.is_some_and(|at| at.elapsed() < REMIND);
            refusal.unlogged += 1;
            if !silent {
                let times = std::mem::take(&mut refusal.unlogged);
                tracing::error!(%server, user = credentials.user(), error = %line.escape_ascii(), times, "the server refuses respgate's own user or password; it is tried again now and then: check the password's file, variable or command, and the server's ACL");
                refusal.logged = Some(Instant::now());
            }
            refusal.said = Some(said);
        });
        self.0.asked.notify_one();
    }

    /// A server accepted them.
    pub fn accepted(&self) {
        if self.0.refusal.borrow().said.is_some() {
            self.0.refusal.send_modify(|refusal| {
                refusal.said = None;
                tracing::info!("the server accepts respgate's own user and password again");
            });
        }
    }

    /// What a server said that refuses them; `None` while they are accepted.
    pub fn refusal(&self) -> Option<Arc<str>> {
        self.0.refusal.borrow().said.clone()
    }

    /// Ends when a server has refused the newest ones, at once if one has since the last time.
    pub(super) async fn wanted(&self) {
        self.0.asked.notified().await;
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
    fn what_is_awaited_can_come() {
        let login = Login::awaited("not run yet");
        login.still_awaited("it failed");
        assert_eq!(login.newest().unwrap_err().as_ref(), "it failed");
        assert!(login.replace(credentials("one")));
        login.still_awaited("it failed again");
        assert!(login.newest().is_ok());
    }
}
