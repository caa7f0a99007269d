//! Limits how many connections each source may open per second. Does no I/O; the caller passes the
//! time.
//!
//! A source is an IPv4 address or an IPv6 /64, which commonly belongs to one machine. The algorithm
//! is GCRA (the generic cell rate algorithm). It keeps one moment per source: the time at which the
//! rate has paid for all connections that the source has opened.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

/// A connection above the rate waits at most this long; a later one is refused.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Number of sources that are remembered. A source is forgotten as soon as it may open a whole
/// burst again. While the table is full, all new sources share one rate.
const SOURCES: usize = 32 * 1024;

/// Limits on the connections of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRateConfig {
    /// Connections per second; 0 sets no limit.
    pub per_second: u32,
    /// Connections that a source may open at once after a pause; at least 1.
    pub burst: u32,
    /// Networks whose connections are not limited.
    pub exempt: Vec<IpNet>,
}

/// The decision about a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Serve it now.
    Now,
    /// Serve it after this time, at most 1 s.
    After(Duration),
    /// Close it.
    Refused,
}

/// Decides about the connections of all sources.
#[derive(Debug)]
pub struct SourceRate {
    /// The time that one connection costs; `None` sets no limit.
    each: Option<Duration>,
    /// The time that a burst costs.
    burst: Duration,
    exempt: Vec<IpNet>,
    /// For each source, the moment at which the rate has paid for its connections.
    spent_until: HashMap<u128, Instant>,
    /// The same moment for all sources that do not fit in the table.
    others: Option<Instant>,
    /// When sources were last removed from the table.
    tidied: Option<Instant>,
}

impl SourceRate {
    /// Creates a limiter without any source.
    pub fn new(config: &SourceRateConfig) -> Self {
        let each = Duration::from_secs(1).checked_div(config.per_second);
        Self {
            each,
            burst: each.unwrap_or_default().saturating_mul(config.burst.max(1)),
            exempt: config.exempt.clone(),
            spent_until: HashMap::new(),
            others: None,
            tidied: None,
        }
    }

    /// Replaces the limits. What the sources have opened still counts.
    pub fn configure(&mut self, config: &SourceRateConfig) {
        let Self { each, burst, exempt, .. } = Self::new(config);
        (self.each, self.burst, self.exempt) = (each, burst, exempt);
    }

    /// Decides about a connection from `address` at `now`. A refused connection costs its source
    /// nothing.
    pub fn admit(&mut self, address: IpAddr, now: Instant) -> Admission {
        let address = address.to_canonical();
        let Some(each) = self.each.filter(|_| !self.exempt.iter().any(|network| network.contains(&address)))
        else {
            return Admission::Now;
        };
        let source = source(address);
        let known = self.spent_until.get(&source).copied();
        // A full table must not grow, and must not let new sources in without a limit.
        let own = known.is_some() || self.has_room(now);
        let spent_until = if own { known } else { self.others };
        // GCRA: each connection moves the moment at which the source has paid by `each`. A
        // connection is served at once while that moment is at most one burst ahead of `now`, and
        // waits for the rest otherwise.
        let next = spent_until.map_or(now, |until| until.max(now)) + each;
        let wait = (next - now).saturating_sub(self.burst);
        if wait > MAX_WAIT {
            return Admission::Refused;
        }
        if own {
            self.spent_until.insert(source, next);
        } else {
            self.others = Some(next);
        }
        if wait.is_zero() { Admission::Now } else { Admission::After(wait) }
    }

    /// Returns true if the table has room for one more source. Removes sources that have paid at
    /// most once a second.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.spent_until.len() < SOURCES {
            return true;
        }
        if self.tidied.is_none_or(|at| now - at >= Duration::from_secs(1)) {
            self.tidied = Some(now);
            self.spent_until.retain(|_, until| *until > now);
        }
        self.spent_until.len() < SOURCES
    }
}

/// Returns the key of a source: its IPv4 address, or the first 64 bits of its IPv6 address.
fn source(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(per_second: u32, burst: u32) -> SourceRate {
        let exempt = vec!["127.0.0.0/8".parse().unwrap()];
        SourceRate::new(&SourceRateConfig { per_second, burst, exempt })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_is_served_at_once_and_later_connections_wait_or_are_refused() {
        let (mut rate, now) = (rate(10, 20), Instant::now());
        for _ in 0..20 {
            assert_eq!(rate.admit(ip("10.0.0.1"), now), Admission::Now);
        }
        for waits in 1..=10u32 {
            let expected = Duration::from_millis(100) * waits;
            assert_eq!(
                rate.admit(ip("::ffff:10.0.0.1"), now),
                Admission::After(expected),
                "a mapped address"
            );
        }
        assert_eq!(rate.admit(ip("10.0.0.1"), now), Admission::Refused);
        assert_eq!(rate.admit(ip("10.0.0.2"), now), Admission::Now, "another source");
        assert_eq!(rate.admit(ip("127.0.0.9"), now), Admission::Now, "exempt");
        let later = now + Duration::from_secs(3);
        assert_eq!(rate.admit(ip("10.0.0.1"), later), Admission::Now);
    }

    #[test]
    fn a_network_of_64_bits_is_one_source() {
        let (mut rate, now) = (rate(1, 1), Instant::now());
        assert_eq!(rate.admit(ip("2001:db8::1"), now), Admission::Now);
        assert_eq!(rate.admit(ip("2001:db8::ffff:2"), now), Admission::After(Duration::from_secs(1)));
        assert_eq!(rate.admit(ip("2001:db8:0:1::1"), now), Admission::Now);
    }

    #[test]
    fn without_a_rate_every_connection_is_admitted() {
        let (mut rate, now) = (rate(0, 1), Instant::now());
        assert!((0..10_000).all(|_| rate.admit(ip("10.0.0.1"), now) == Admission::Now));
        assert!(rate.spent_until.is_empty());
    }

    #[test]
    fn a_full_table_is_bounded_and_forgets() {
        let (mut rate, now) = (rate(10, 20), Instant::now());
        let address = |n: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
        for n in 0..2 * SOURCES as u32 {
            rate.admit(address(n), now);
        }
        assert_eq!(rate.spent_until.len(), SOURCES);
        assert_eq!(rate.admit(address(3 * SOURCES as u32), now), Admission::Refused, "others share one rate");
        let later = now + Duration::from_secs(5);
        assert_eq!(rate.admit(address(3 * SOURCES as u32), later), Admission::Now);
        assert_eq!(rate.spent_until.len(), 1);
    }

    proptest! {
        /// No window of any schedule serves more connections of one source than the burst, the wait
        /// and the rate allow.
        #[test]
        fn no_window_has_more_than_its_share(
            gaps in prop::collection::vec(0u64..300, 1..400),
            per_second in 1u32..200,
            burst in 1u32..50,
        ) {
            let mut rate = rate(per_second, burst);
            let began = Instant::now();
            let mut now = began;
            let mut served = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                match rate.admit(ip("10.0.0.1"), now) {
                    Admission::Now => served.push(now - began),
                    Admission::After(wait) => {
                        prop_assert!(wait <= MAX_WAIT);
                        served.push(now - began + wait);
                    }
                    Admission::Refused => {}
                }
            }
            served.sort();
            for (first, from) in served.iter().enumerate() {
                for (last, to) in served.iter().enumerate().skip(first) {
                    let allowed = f64::from(burst) + (*to - *from).as_secs_f64() * f64::from(per_second) + 1.0;
                    prop_assert!((last - first) as f64 <= allowed, "{} in {:?}", last - first + 1, *to - *from);
                }
            }
        }
    }
}
