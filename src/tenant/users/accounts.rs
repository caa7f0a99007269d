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
    upstreams: Vec<Arc<str>>,
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

impl Accounts {
    /// Creates an empty set of accounts at these upstreams. Credential files are checked once per `interval`, and
    /// `tallies` count the results.
    pub fn new(upstreams: Vec<Arc<str>>, interval: Duration, tallies: Tallies) -> Self {
        Self { upstreams, interval, tallies, kept: HashMap::new() }
    }

    /// Follows the configured users, and returns them. If a user's credentials have another source but the same
    /// server user name, the new ones replace the old ones as in a rotation. If the server user differs, the user
    /// gets a new login, because it must not use connections of the former one. Stops reading the credentials of
    /// users that no longer have any.
    pub fn follow(&mut self, configs: &[UserConfig]) -> Vec<Arc<User>> {
        let mut before = std::mem::take(&mut self.kept);
        let mut users = Vec::with_capacity(configs.len());
        for UserConfig { name, password, certificates, account } in configs {
            let mut logins = Vec::new();
            if let Some(account) = account {
                let kept = match before.remove(name) {
                    Some(kept) if kept.account == *account => kept,
                    Some(kept) if kept.account.source.username == account.source.username => {
                        self.moved(name, &kept, account)
                    }
                    other => {
                        other.iter().for_each(|gone| self.tallies.remove(&gone.tally));
                        self.begin(name, account)
                    }
                };
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
        let login = credentials::begin(account);
        let principal = Principal::User(name.into());
        let places = self.upstreams.iter();
        let places = places.map(|upstream| (upstream.clone(), login.elsewhere(principal.clone()))).collect();
        self.keep(name, account, login, places)
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
        let mut accounts = Accounts::new(vec!["main".into()], Duration::from_secs(1), tallies.clone());
        let mut login = |users: &[UserConfig]| {
            let users = accounts.follow(users);
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
}
