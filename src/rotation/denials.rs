//! Remembers which of the commands that respgate sends by itself the server's ACL denies a user. respgate then sends
//! each of them once, so that the server's `ACL LOG` lists it once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The greatest number of users to remember for one upstream. If there are more, all are forgotten.
const MAX_USERS: usize = 4096;

/// A command that respgate sends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Probe {
    /// `CLIENT CAPA`.
    ClientCapa = 1,
    /// `CLIENT SETINFO`.
    ClientSetInfo = 2,
    /// `PING`.
    Ping = 4,
    /// `ROLE`.
    Role = 8,
    /// `INFO`.
    Info = 16,
    /// `ACL WHOAMI`.
    AclWhoami = 32,
}

/// The commands that the server denies one user. respgate remembers them until it ends: if an operator allows the user
/// more, respgate uses that after a restart.
#[derive(Debug, Default)]
pub struct Denied(AtomicU8);

impl Denied {
    /// Returns true if the server has denied the user this command.
    pub fn contains(&self, probe: Probe) -> bool {
        self.0.load(Ordering::Relaxed) & probe as u8 != 0
    }

    /// Notes that the server has denied the user this command.
    pub fn insert(&self, probe: Probe) {
        self.0.fetch_or(probe as u8, Ordering::Relaxed);
    }
}

/// The denied commands of one upstream's users, by user name. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Denials(Arc<Mutex<HashMap<Box<str>, Arc<Denied>>>>);

impl Denials {
    /// Returns the commands that the server denies `user`.
    pub fn of(&self, user: &str) -> Arc<Denied> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(denied) = users.get(user) {
            return denied.clone();
        }
        if users.len() >= MAX_USERS {
            // Forgetting all users is enough: it only costs each of them one more denied attempt.
            users.clear();
        }
        users.entry(user.into()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_its_own_denials() {
        let denials = Denials::default();
        denials.of("app").insert(Probe::Ping);
        denials.of("app").insert(Probe::Role);
        let app = denials.of("app");
        assert!(app.contains(Probe::Ping) && app.contains(Probe::Role) && !app.contains(Probe::Info));
        assert!(!denials.of("other").contains(Probe::Ping));
    }

    #[test]
    fn the_number_of_users_is_bounded() {
        let denials = Denials::default();
        for user in 0..=MAX_USERS {
            denials.of(&user.to_string()).insert(Probe::Ping);
        }
        assert_eq!(denials.0.lock().unwrap().len(), 1);
    }
}
