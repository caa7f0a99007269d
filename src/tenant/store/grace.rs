//! Decides when rates are shared, and when an absent server makes each respgate keep to its own part. No I/O;
//! time is passed in.

use std::time::Duration;

use tokio::time::Instant;

/// How long the server may be unreachable before the local parts apply. A planned failover is often over by then.
const GRACE: Duration = Duration::from_secs(1);

/// Tracks whether rates are shared.
#[derive(Debug)]
pub(super) struct SharingGrace {
    /// True while rates are shared.
    shares: bool,
    /// When the server has been unreachable for too long, unless it answers before.
    ends: Instant,
}

impl SharingGrace {
    /// Starts without sharing: the server has not been asked yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { shares: false, ends: now + GRACE }
    }

    /// Returns true if rates are shared now.
    pub(super) fn shares(&self) -> bool {
        self.shares
    }

    /// Returns until when to wait for a connection. `None` sets no limit, since nothing is shared meanwhile.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.shares.then_some(self.ends)
    }

    /// Notes that the server answered. The grace period starts again.
    pub(super) fn reconnected(&mut self, now: Instant) {
        self.ends = now + GRACE;
    }

    /// Notes that the server granted what was asked. Returns true if sharing begins with this.
    pub(super) fn granted(&mut self) -> bool {
        !std::mem::replace(&mut self.shares, true)
    }

    /// Notes that the server could not be asked, or refused if `refused` is true. Returns true if the local parts
    /// apply now.
    pub(super) fn failed(&mut self, refused: bool, now: Instant) -> bool {
        let over = refused || now >= self.ends;
        self.shares &= !over;
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_absence_is_tolerated_and_a_refusal_is_not() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut grace = SharingGrace::new(start);
        assert!(!grace.failed(false, at(10)), "it may yet come");
        assert_eq!(grace.ends(), None);
        assert!(grace.granted() && !grace.granted());
        grace.reconnected(at(500));
        assert_eq!(grace.ends(), Some(at(1500)));
        assert!(!grace.failed(false, at(1499)) && grace.shares());
        grace.reconnected(at(1499));
        assert!(!grace.failed(false, at(1500)) && grace.shares(), "it was back in time");
        assert!(grace.failed(false, at(2499)) && !grace.shares());
        assert!(grace.failed(false, at(2500)), "and still is away");
        assert!(grace.granted());
        grace.reconnected(at(3000));
        assert!(grace.failed(true, at(3000)) && !grace.shares());
    }
}
