//! When the newest write of a group of clients was answered: the one value that sessions on all workers share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The moment before which every write was answered that a client of the group can have seen the reply of.
#[derive(Debug)]
pub struct AnsweredWrites {
    /// The origin of `newest`.
    epoch: Instant,
    /// The nanoseconds from `epoch` to the moment; 0 while there is none.
    newest: AtomicU64,
}

impl Default for AnsweredWrites {
    fn default() -> Self {
        Self { epoch: Instant::now(), newest: AtomicU64::new(0) }
    }
}

impl AnsweredWrites {
    /// Takes note that a write was answered before `now`. Call this before the client can see the reply.
    pub fn note(&self, now: Instant) {
        let since = now.saturating_duration_since(self.epoch).as_nanos();
        self.newest.fetch_max(u64::try_from(since).unwrap_or(u64::MAX).max(1), Ordering::SeqCst);
    }

    /// Returns the moment; `None` while no write was answered.
    pub fn newest(&self) -> Option<Instant> {
        let since = self.newest.load(Ordering::SeqCst);
        (since > 0).then(|| self.epoch + Duration::from_nanos(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_moment_stays() {
        let answered = AnsweredWrites::default();
        assert_eq!(answered.newest(), None);
        let at = |nanos| answered.epoch + Duration::from_nanos(nanos);
        answered.note(at(0));
        assert_eq!(answered.newest(), Some(at(1)), "never earlier than the moment");
        answered.note(at(1_000_000_007));
        answered.note(at(5));
        assert_eq!(answered.newest(), Some(at(1_000_000_007)));
    }
}
