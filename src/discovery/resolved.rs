//! Tells when a name leads to other IP addresses than before. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tokio::time::Instant;

use crate::discovery::node::ALTERNATION;

/// The number of changes within [`ALTERNATION`] (60 s) that cause a probe each. A DNS server may answer each query with
/// other addresses; the regular probes are enough for such a name.
const CHANGES: u32 = 4;

/// Holds the IP addresses of the last look-up.
#[derive(Debug, Default)]
pub(super) struct ResolvedName {
    addresses: Option<BTreeSet<IpAddr>>,
    /// When the first of the counted changes occurred.
    counted_from: Option<Instant>,
    changes: u32,
}

impl ResolvedName {
    /// Takes the result of a look-up. Returns true if the name leads to other addresses than before, so that a probe must
    /// show which node answers there. The order of the addresses does not matter.
    pub(super) fn update(&mut self, addresses: BTreeSet<IpAddr>, now: Instant) -> bool {
        if addresses.is_empty() || self.addresses.as_ref() == Some(&addresses) {
            return false;
        }
        if self.addresses.replace(addresses).is_none() {
            return false;
        }
        if self.counted_from.is_none_or(|from| now >= from + ALTERNATION) {
            (self.counted_from, self.changes) = (Some(now), 0);
        }
        self.changes = self.changes.saturating_add(1);
        self.changes <= CHANGES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn addresses(last: &[u8]) -> BTreeSet<IpAddr> {
        last.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect()
    }

    #[test]
    fn only_another_set_of_addresses_is_a_change() {
        let (mut name, now) = (ResolvedName::default(), Instant::now());
        assert!(!name.update(addresses(&[1, 2]), now), "the first result");
        assert!(!name.update(addresses(&[2, 1]), now), "another order");
        assert!(!name.update(addresses(&[]), now), "no address");
        assert!(name.update(addresses(&[2]), now));
        assert!(!name.update(addresses(&[2]), now));
        assert!(name.update(addresses(&[2, 3]), now));
    }

    #[test]
    fn a_name_that_changes_with_every_look_up_causes_four_probes_a_minute() {
        let (mut name, start) = (ResolvedName::default(), Instant::now());
        let changes = (0..1200_u32).filter(|step| {
            let now = start + Duration::from_millis(500) * *step;
            name.update(addresses(&[u8::from(step % 2 == 0)]), now)
        });
        let changes = changes.count();
        assert!((36..=40).contains(&changes), "{changes} in 10 minutes");
    }
}
