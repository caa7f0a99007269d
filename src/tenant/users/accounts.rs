//! Keeps the server credentials of respgate's own users up to date. Each user with credentials of its own has an
//! account here, and a task that reads them again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::{User, UserConfig};
use crate::rotation::login::{Login, Principal};
use crate::rotation::source::Account;
use crate::rotation::{Tallies, Tally, credentials};

/// Holds the accounts of all users.
pub struct Accounts {
    interval: Duration,
    tallies: Tallies,
    /// The accounts, by user name.
    kept: HashMap<String, Kept>,
}

struct Kept {
    account: Account,
    login: Login,
    /// The same credentials at each upstream.
    places: Vec<(Arc<str>, Login)>,
    tally: Tally,
    task: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kept {
    /// Follows the set of upstreams. The account has the same login at an upstream that stays.
    fn follow(&mut self, name: &str, upstreams: &[Arc<str>]) {
        let known = std::mem::take(&mut self.places);
        let login = |upstream: &Arc<str>| {
            let same = known.iter().find(|(known, _)| known == upstream).map(|(_, login)| login.clone());
            same.unwrap_or_else(|| self.login.elsewhere(Principal::User(name.into())))
        };
        self.places = upstreams.iter().map(|upstream| (upstream.clone(), login(upstream))).collect();
    }
}

impl Accounts {
    /// Creates an empty set of accounts. Credential files are checked once per `interval`, and `tallies` count the
    /// results.
    pub fn new(interval: Duration, tallies: Tallies) -> Self {
        Self { interval, tallies, kept: HashMap::new() }
    }

    /// Follows the configured users at these upstreams, and returns them. If a user's credentials have another source but the same
    /// server user name, the new ones replace the old ones as in a rotation. If the server user differs, the user
    /// gets a new login, because it must not use connections of the former one. Stops reading the credentials of
    /// users that no longer have any.
    pub fn follow(&mut self, configs: &[UserConfig], upstreams: &[Arc<str>]) -> Vec<Arc<User>> {
        let mut before = std::mem::take(&mut self.kept);
        let mut users = Vec::with_capacity(configs.len());
        for UserConfig { name, password, certificates, account } in configs {
            let mut logins = Vec::new();
            if let Some(account) = account {
                let mut kept = match before.remove(name) {
                    Some(kept) if kept.account == *account => kept,
                    Some(kept) if kept.account.source.username == account.source.username => {
                        self.moved(name, &kept, account)
                    }
                    other => {
                        other.iter().for_each(|gone| self.tallies.remove(&gone.tally));
                        self.begin(name, account)
                    }
                };
                kept.follow(name, upstreams);
                logins.clone_from(&kept.places);
                self.kept.insert(name.clone(), kept);
            }
            let (name, password, certificates) = (name.clone(), password.clone(), certificates.clone());
            users.push(Arc::new(User { name, password, certificates, logins }));
        }
        before.values().for_each(|gone| self.tallies.remove(&gone.tally));
        users
    }

    /// Creates the account of a user, and starts reading its credentials.
    fn begin(&self, name: &str, account: &Account) -> Kept {
        self.keep(name, account, credentials::begin(account), Vec::new())
    }

    /// Continues an account whose credentials come from another source.
    fn moved(&self, name: &str, kept: &Kept, account: &Account) -> Kept {
        kept.task.abort();
        self.tallies.remove(&kept.tally);
        if let Some(known) = &account.credentials {
            kept.login.replace(known.clone());
        }
        self.keep(name, account, kept.login.clone(), kept.places.clone())
    }

    fn keep(&self, name: &str, account: &Account, login: Login, places: Vec<(Arc<str>, Login)>) -> Kept {
        let tally = Tally::new("upstream-password", format!("users.{name}"));
        self.tallies.add(tally.clone());
        let keep = credentials::keep(login.clone(), account.source.clone(), self.interval, tally.clone());
        Kept { account: account.clone(), login, places, tally, task: tokio::spawn(keep) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::source::{CredentialSource, NameSource, PasswordSource, SecretSource};
    use crate::secret::{Credentials, Secret};
    use crate::tenant::users::hash::PasswordHash;

    fn user(name: &str, account: Option<Account>) -> UserConfig {
        UserConfig {
            name: name.into(),
            password: PasswordHash::quick(b"x"),
            certificates: Vec::new(),
            account,
        }
    }

    fn account(username: &str, variable: &str) -> Account {
        Account {
            credentials: Some(Credentials {
                username: Some(username.into()),
                password: Secret::new(variable),
            }),
            source: CredentialSource {
                username: Some(NameSource::Given(username.into())),
                password: PasswordSource::Read(SecretSource::Env(variable.into())),
                refresh: Duration::from_secs(60),
            },
        }
    }

    #[tokio::test]
    async fn accounts_come_and_go_with_their_users() {
        let tallies = Tallies::default();
        let mut accounts = Accounts::new(Duration::from_secs(1), tallies.clone());
        let mut login = |users: &[UserConfig]| {
            let users = accounts.follow(users, &["main".into()]);
            users.first().and_then(|user| user.login("main").cloned())
        };
        assert!(login(&[user("a", None)]).is_none());
        let first =
            login(&[user("a", Some(account("one", "X"))), user("b", Some(account("b", "X")))]).unwrap();
        assert_eq!(tallies.all().len(), 2);
        let same = login(&[user("a", Some(account("one", "X")))]).unwrap();
        assert!(same.is(&first));
        assert_eq!(tallies.all().len(), 1, "b is no longer followed");
        let moved = login(&[user("a", Some(account("one", "Y")))]).unwrap();
        assert!(moved.is(&first), "its connections see a rotation");
        assert_eq!(first.newest().unwrap().unwrap().password.expose(), b"Y");
        let other = login(&[user("a", Some(account("two", "Y")))]).unwrap();
        assert!(!other.is(&first), "another user of the server shares no connection with it");
        assert_eq!(other.newest().unwrap().unwrap().user(), "two");
        assert_eq!(first.newest().unwrap().unwrap().user(), "one");
        assert_eq!(tallies.all().len(), 1);
        assert!(login(&[user("a", None)]).is_none());
        assert!(tallies.all().is_empty());
        assert!(!login(&[user("a", Some(account("two", "Y")))]).unwrap().is(&other));
    }

    #[tokio::test]
    async fn an_account_follows_the_upstreams() {
        let mut accounts = Accounts::new(Duration::from_secs(1), Tallies::default());
        let mut at = |upstreams: &[&str]| {
            let upstreams: Vec<Arc<str>> = upstreams.iter().map(|name| (*name).into()).collect();
            let users = accounts.follow(&[user("a", Some(account("one", "X")))], &upstreams);
            users.into_iter().next().unwrap()
        };
        let before = at(&["main"]);
        let after = at(&["main", "other"]);
        assert!(after.login("main").unwrap().is(before.login("main").unwrap()));
        assert!(before.login("other").is_none() && after.login("other").is_some());
        assert!(at(&["other"]).login("main").is_none());
    }
}
