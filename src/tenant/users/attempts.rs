//! Decides which passwords may be checked, and when. No I/O; time is passed in, in milliseconds.
//!
//! Two rules apply, both before any cache is looked at:
//!
//! - A **pair** of a source and a user has 5 wrong passwords free. Each further wrong password blocks the pair:
//!   for 0.1 s at first, then for twice as long each time, up to 30 s. While the pair is blocked, 10 passwords
//!   per second are still compared with those that are known to be right, so that a client beside a guesser gets
//!   in.
//! - A source, an IPv6 /56 and a network (IPv6 /48, IPv4 /24) each have a **pace** for the wrong passwords of all
//!   users together. A pace never blocks: an attempt that exceeds it waits its turn in order of arrival, up to 2
//!   s.
//!
//! An attempt is charged before its password is checked, and the charge is given back if the password was right.
//! So parallel attempts get no further than sequential ones, and right passwords never forgive wrong ones.

use std::hash::{BuildHasher, Hash, RandomState};

use super::source::Source;
use super::table::{Entry, Table};

/// Number of wrong passwords of a pair that cause no wait.
const FREE: u32 = 5;
/// Duration of a pair's first block, in milliseconds. It doubles with each further wrong password.
const FIRST_BLOCK: u64 = 100;
/// Longest duration of a block, in milliseconds.
const LONGEST_BLOCK: u64 = 30_000;
/// Time in milliseconds after which the wrong passwords of a pair are forgotten.
const FORGOTTEN: u64 = 10 * 60_000;
/// Time between two lookups of a blocked pair, in milliseconds.
const LOOKUP_INTERVAL: u64 = 100;
/// Longest time that an attempt waits for its turn, in milliseconds. One that would wait longer is refused.
pub const LONGEST_TURN: u64 = 2000;

/// Number of pairs that are remembered (5 MiB), and of paces (3 MiB).
const REMEMBERED: usize = 1 << 17;

/// Defines how many wrong passwords may come at once, and the interval in milliseconds between further ones.
#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u64,
    interval: u64,
}

const OF_A_SOURCE: Rate = Rate { burst: 256, interval: 50 };
const OF_A_SITE: Rate = Rate { burst: 512, interval: 40 };
const OF_A_NETWORK: Rate = Rate { burst: 1024, interval: 20 };

/// Holds what an attempt is charged to. All keys are keyed hashes.
#[derive(Clone, Copy, Debug)]
pub struct Accounts {
    /// The key of the source and the user.
    pub pair: u64,
    paces: [Option<(u64, Rate)>; 3],
}

impl Accounts {
    /// Returns the accounts of an attempt from `source` as `user`, which identifies a user of one upstream or of
    /// respgate. The keys of `hasher` are random, so that a client cannot choose with whom it shares an entry.
    pub fn new(source: Source, user: impl Hash, hasher: &RandomState) -> Self {
        let site = source.site().map(|site| (hasher.hash_one((2_u8, site)), OF_A_SITE));
        let network = source.network().map(|network| (hasher.hash_one((3_u8, network)), OF_A_NETWORK));
        let pair = hasher.hash_one((0_u8, source, user));
        Self { pair, paces: [Some((hasher.hash_one((1_u8, source)), OF_A_SOURCE)), site, network] }
    }

    fn paces(&self) -> impl Iterator<Item = (u64, Rate)> {
        self.paces.into_iter().flatten()
    }
}

/// Says what may be done with a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The password is known to be right, and its client is let in at once. Nothing is charged.
    Accepted,
    /// The password may be checked at this time. It is charged as a wrong one.
    Check(u64),
    /// The password may be compared, at this time, with those that are known to be right. If it is not among
    /// them, the client may try again after `retry_in`.
    Lookup {
        /// The time of the comparison.
        at: u64,
        /// The wait from now, in milliseconds.
        retry_in: u64,
    },
    /// The password is not checked. The client may try again after this many milliseconds.
    Refused(u64),
}

/// Says which charges of an admission to give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charged {
    /// The wrong password of the pair, and the paces.
    Everything,
    /// The wrong password of the pair only.
    Failure,
}

/// Holds the wrong passwords of a pair.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    /// When the last wrong password was admitted.
    last: u64,
    /// When the next password may be looked up while the pair is blocked.
    next_lookup: u64,
    failures: u32,
}

impl Past {
    /// Returns when the current block of the pair ends; 0 if it is not blocked.
    fn blocked_until(&self) -> u64 {
        match self.failures.checked_sub(FREE) {
            Some(over) => self.last.saturating_add((FIRST_BLOCK << over.min(20)).min(LONGEST_BLOCK)),
            None => 0,
        }
    }
}

impl Entry for Past {
    fn weight(&self, now: u64) -> u64 {
        match now.saturating_sub(self.last) < FORGOTTEN {
            // More failures weigh more, and a later failure breaks ties: 20 bits of failures above 44 bits of
            // time.
            true => (u64::from(self.failures.min(0xf_ffff)) << 44) + self.last.min((1 << 44) - 1),
            false => 0,
        }
    }
}

/// Holds the time when all charges are paid off: the generic cell rate algorithm.
#[derive(Clone, Copy, Debug, Default)]
struct PaidOff(u64);

impl PaidOff {
    /// Returns when the next attempt may pass.
    fn admits_at(&self, rate: Rate, now: u64) -> u64 {
        now.max(self.0.saturating_sub((rate.burst - 1) * rate.interval))
    }
}

impl Entry for PaidOff {
    fn weight(&self, now: u64) -> u64 {
        self.0.saturating_sub(now)
    }
}

/// Remembers the attempts. See the module.
#[derive(Debug)]
pub struct Attempts {
    pairs: Table<Past>,
    paces: Table<PaidOff>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { pairs: Table::new(REMEMBERED), paces: Table::new(REMEMBERED) }
    }
}

impl Attempts {
    /// Decides about one attempt, and charges it. `known` is true if the password is known to be right. What the
    /// client can see depends on `known` only where a password may be compared.
    pub fn admit(&mut self, accounts: &Accounts, known: bool, now: u64) -> Admission {
        let mut past = self.past(accounts.pair, now).unwrap_or_default();
        let paced = |(key, rate): (u64, Rate)| self.paces.get(key).unwrap_or_default().admits_at(rate, now);
        let mut at = accounts.paces().map(paced).fold(now, u64::max);
        let blocked_until = past.blocked_until();
        let blocked = at < blocked_until;
        if blocked {
            at = at.max(past.next_lookup);
        }
        let retry_in = at.max(blocked_until) - now;
        if at - now > LONGEST_TURN {
            return Admission::Refused(retry_in);
        }
        if known && !blocked && at == now {
            return Admission::Accepted;
        }
        for (key, rate) in accounts.paces() {
            let paid_off = self.paces.get(key).unwrap_or_default().0.max(now);
            self.paces.put(key, PaidOff(paid_off + rate.interval), now);
        }
        let admission = if blocked {
            past.next_lookup = at + LOOKUP_INTERVAL;
            Admission::Lookup { at, retry_in }
        } else {
            past.failures = past.failures.saturating_add(1);
            past.last = at;
            Admission::Check(at)
        };
        self.pairs.put(accounts.pair, past, now);
        admission
    }

    /// Gives back what an admission charged, because the password was not wrong.
    pub fn give_back(&mut self, accounts: &Accounts, admission: Admission, what: Charged, now: u64) {
        if matches!(admission, Admission::Accepted | Admission::Refused(_)) {
            return;
        }
        for (key, rate) in accounts.paces().filter(|_| what == Charged::Everything) {
            if let Some(PaidOff(paid_off)) = self.paces.get(key) {
                self.paces.put(key, PaidOff(paid_off.saturating_sub(rate.interval)), now);
            }
        }
        if let (Admission::Check(_), Some(mut past)) = (admission, self.past(accounts.pair, now)) {
            past.failures = past.failures.saturating_sub(1);
            match past.failures {
                0 => self.pairs.remove(accounts.pair),
                _ => self.pairs.put(accounts.pair, past, now),
            }
        }
    }

    /// Returns the wrong passwords of a pair, unless they are forgotten.
    fn past(&self, pair: u64, now: u64) -> Option<Past> {
        self.pairs.get(pair).filter(|past| past.weight(now) > 0)
    }
}

#[cfg(test)]
mod tests;
