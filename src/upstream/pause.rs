//! Suspends `response-timeout` while a client has paused the server (CLIENT PAUSE).

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// The time until which the server may be silent.
#[derive(Debug, Default)]
pub(super) struct ServerPause(Cell<Option<Instant>>);

impl ServerPause {
    /// Takes note that the server may be silent until then. A time that has passed ends the pause.
    pub(super) fn suspend(&self, until: Instant) {
        self.0.set(Some(until));
    }

    /// Returns the limit for replies that are due now; zero for none. Replies that the pause delayed get the whole
    /// limit from its end on.
    pub(super) fn response_timeout(&self, limit: Duration) -> Duration {
        match self.0.get() {
            Some(until) if Instant::now() < until + limit => Duration::ZERO,
            _ => limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_limit_counts_again_once_replies_had_the_whole_of_it() {
        let (pause, limit) = (ServerPause::default(), Duration::from_secs(5));
        assert_eq!(pause.response_timeout(limit), limit);
        pause.suspend(Instant::now() + Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(14)).await;
        assert_eq!(pause.response_timeout(limit), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pause.response_timeout(limit), limit);
    }
}
