//! Limits how often a session moves to another connection when none of them lasts. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::net::backoff::Backoff;

/// A connection that lasted this long was sound: its loss begins a new count.
const SOUND: Duration = Duration::from_secs(1);

/// Delays the reconnects of a session whose connections are lost soon after they were opened. A server that
/// accepts a connection and drops it, or refuses what is sent on it, must not be dialled without a pause.
#[derive(Debug)]
pub(super) struct ReconnectBackoff {
    /// When the first connection of the current series was lost.
    since: Option<Instant>,
    pauses: Backoff,
}

impl ReconnectBackoff {
    pub(super) fn new() -> Self {
        let pauses = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        Self { since: None, pauses }
    }

    /// Returns the pause before the next connection, after one that lasted for `lasted` was lost. The first pause
    /// is zero.
    ///
    /// # Errors
    /// Returns how long the losses have gone on, if that is `limit` or more: the session then gives up.
    pub(super) fn lost(
        &mut self,
        lasted: Duration,
        limit: Duration,
        now: Instant,
    ) -> Result<Duration, Duration> {
        if lasted >= SOUND {
            *self = Self::new();
        }
        let Some(since) = self.since else {
            self.since = Some(now);
            return Ok(Duration::ZERO);
        };
        let gone_on = now.saturating_duration_since(since);
        if gone_on >= limit { Err(gone_on) } else { Ok(self.pauses.next_delay()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_do_not_last_are_made_at_a_growing_distance_and_not_for_ever() {
        let limit = Duration::from_secs(40);
        let mut backoff = ReconnectBackoff::new();
        let start = Instant::now();
        let (mut now, mut dials) = (start, 0);
        let gone_on = loop {
            match backoff.lost(Duration::from_millis(1), limit, now) {
                Ok(pause) => now += pause + Duration::from_millis(1),
                Err(gone_on) => break gone_on,
            }
            dials += 1;
        };
        assert!(gone_on >= limit && now - start < limit + Duration::from_secs(2));
        assert!((40..=120).contains(&dials), "{dials} dials in 40 s");
    }

    #[test]
    fn a_connection_that_lasted_is_replaced_at_once() {
        let mut backoff = ReconnectBackoff::new();
        let now = Instant::now();
        for _ in 0..100 {
            assert_eq!(backoff.lost(SOUND, Duration::from_secs(40), now), Ok(Duration::ZERO));
        }
    }
}
