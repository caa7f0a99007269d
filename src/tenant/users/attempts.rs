//! Wrong passwords, by where they came from. No I/O; time is passed in, in milliseconds.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Wrong passwords that cost no wait.
const FREE: u32 = 5;
/// The wait after the next one; it doubles with each.
const FIRST_WAIT: u64 = 100;
const LONGEST_WAIT: u64 = 30_000;
/// A source without attempts for so long is as new.
const FORGOTTEN: u64 = 10 * 60_000;
/// Sources remembered. Beyond it, those that are not known share one entry.
const REMEMBERED: usize = 16_384;

/// Where attempts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// An address; of IPv6, its /64, since that is one machine's to choose from.
    Address(IpAddr),
    /// A user at the other end of a unix socket.
    Uid(u32),
    /// Nothing is known, or there are too many.
    Unknown,
}

impl Source {
    /// From what is known of a client.
    pub fn of(address: Option<IpAddr>, uid: Option<u32>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V6(address)) => {
                let prefix = Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64));
                Self::Address(prefix.into())
            }
            Some(address) => Self::Address(address),
            None => uid.map_or(Self::Unknown, Self::Uid),
        }
    }
}

#[derive(Debug)]
struct Past {
    failures: u32,
    /// The next attempt is not looked at before.
    not_before: u64,
    last: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Attempts(HashMap<Source, Past>);

impl Attempts {
    /// An attempt begins, and counts as wrong unless it succeeds. Returns the wait if it comes too soon.
    pub fn begin(&mut self, source: Source, now: u64) -> Option<u64> {
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&source) {
            self.0.retain(|_, past| now.saturating_sub(past.last) < FORGOTTEN);
        }
        let known = self.0.len() < REMEMBERED || self.0.contains_key(&source);
        let source = if known { source } else { Source::Unknown };
        let past = self.0.entry(source).or_insert(Past { failures: 0, not_before: 0, last: now });
        if now.saturating_sub(past.last) >= FORGOTTEN {
            past.failures = 0;
        }
        if now < past.not_before {
            return Some(past.not_before - now);
        }
        past.last = now;
        past.failures = past.failures.saturating_add(1);
        if past.failures >= FREE {
            let doublings = (past.failures - FREE).min(20);
            past.not_before = now + (FIRST_WAIT << doublings).min(LONGEST_WAIT);
        }
        None
    }

    /// The attempt was right: what was wrong before is forgiven.
    pub fn succeeded(&mut self, source: Source) {
        self.0.remove(&source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Source = Source::Uid(1);

    #[test]
    fn waits_double_up_to_a_limit() {
        let mut attempts = Attempts::default();
        assert!((0..FREE).all(|_| attempts.begin(HERE, 0).is_none()));
        assert_eq!(attempts.begin(HERE, 0), Some(100));
        assert_eq!(attempts.begin(HERE, 99), Some(1), "asking again costs nothing");
        assert_eq!(attempts.begin(HERE, 100), None);
        assert_eq!(attempts.begin(HERE, 100), Some(200));
        assert_eq!(attempts.begin(Source::Uid(2), 100), None);
        let mut now = 100;
        for _ in 0..40 {
            now += attempts.begin(HERE, now).unwrap_or_default();
        }
        assert!(attempts.begin(HERE, now).into_iter().all(|wait| wait <= LONGEST_WAIT));
        assert_eq!(attempts.begin(HERE, now + FORGOTTEN), None);
        assert_eq!(attempts.begin(HERE, now + FORGOTTEN), None, "as new");
    }

    #[test]
    fn success_forgives() {
        let mut attempts = Attempts::default();
        (0..FREE).for_each(|_| assert!(attempts.begin(HERE, 0).is_none()));
        attempts.succeeded(HERE);
        assert_eq!(attempts.begin(HERE, 0), None);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut attempts = Attempts::default();
        for uid in 0..REMEMBERED as u32 * 2 {
            attempts.begin(Source::Uid(uid), 0);
        }
        assert!(attempts.0.len() <= REMEMBERED + 1);
        assert!(attempts.begin(Source::Uid(u32::MAX), 0).is_some(), "newcomers share one entry");
        assert_eq!(attempts.begin(Source::Uid(u32::MAX), FORGOTTEN + 60_000), None);
    }

    #[test]
    fn one_ipv6_network_is_one_source() {
        let of = |text: &str| Source::of(Some(text.parse().unwrap()), None);
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
