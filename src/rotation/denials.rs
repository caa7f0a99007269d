//! What the server's ACL denies users of the commands that respgate sends by itself, so that each is sent once, and the
//! server's `ACL LOG` names it once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Users that are remembered for one upstream. When there are more, all are forgotten.
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
}

/// What one user is denied. It stands for the life of the process: whoever allows the user more later has respgate
/// restarted for it to count.
#[derive(Debug, Default)]
pub struct Denied(AtomicU8);

impl Denied {
    /// Returns true if the server has denied the user this command.
    pub fn contains(&self, probe: Probe) -> bool {
        self.0.load(Ordering::Relaxed) & probe as u8 != 0
    }

    /// The server has denied the user this command.
    pub fn insert(&self, probe: Probe) {
        self.0.fetch_or(probe as u8, Ordering::Relaxed);
    }
}

/// The denials of one upstream's users, by name. Clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Denials(Arc<Mutex<HashMap<Box<str>, Arc<Denied>>>>);

impl Denials {
    /// What `user` is denied.
    pub fn of(&self, user: &str) -> Arc<Denied> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(denied) = users.get(user) {
            return denied.clone();
        }
        if users.len() >= MAX_USERS {
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
