//! Whether rates are shared, and when an absent server makes each respgate keep to its part. No I/O; time is passed in.

use std::time::Duration;

use tokio::time::Instant;

/// How long the server may not be asked before the local part holds: a planned failover is often over by then.
const GRACE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct SharingGrace {
    shares: bool,
    ends: Instant,
}

impl SharingGrace {
    /// Nothing is shared until the server has been asked.
    pub(super) fn new(now: Instant) -> Self {
        Self { shares: false, ends: now + GRACE }
    }

    /// Whether rates are shared now.
    pub(super) fn shares(&self) -> bool {
        self.shares
    }

    /// Until when a connection is worth waiting for; `None`: as long as it takes, since nothing is shared anyway.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.shares.then_some(self.ends)
    }

    /// The server is there.
    pub(super) fn reconnected(&mut self, now: Instant) {
        self.ends = now + GRACE;
    }

    /// The server has granted what was asked. Whether rates are shared from now on and were not before.
    pub(super) fn granted(&mut self) -> bool {
        !std::mem::replace(&mut self.shares, true)
    }

    /// The server could not be asked; `refused`: it was, and refuses. Whether the local parts hold now.
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
    fn an_absence_is_borne_for_a_while_and_a_refusal_is_not() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut patience = SharingGrace::new(start);
        assert!(!patience.failed(false, at(10)), "it may yet come");
        assert_eq!(patience.ends(), None);
        assert!(patience.granted() && !patience.granted());
        patience.reconnected(at(500));
        assert_eq!(patience.ends(), Some(at(1500)));
        assert!(!patience.failed(false, at(1499)) && patience.shares());
        patience.reconnected(at(1499));
        assert!(!patience.failed(false, at(1500)) && patience.shares(), "it was back in time");
        assert!(patience.failed(false, at(2499)) && !patience.shares());
        assert!(patience.failed(false, at(2500)), "and still is away");
        assert!(patience.granted());
        patience.reconnected(at(3000));
        assert!(patience.failed(true, at(3000)) && !patience.shares());
    }
}
