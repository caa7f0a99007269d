//! Keeps respgate from sending refused credentials again and again. No I/O.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::net::backoff::Backoff;
use crate::resp::error_line::ErrorLine;
use crate::secret::Credentials;

/// The bounds of the pause between two attempts with the same credentials.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The server's last refusal of credentials that respgate keeps, until it accepts some. Every connection of one worker asks
/// here first, so that thousands of sessions that want a connection cause few attempts.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Refusals(RefCell<Option<CurrentRefusal>>);

#[derive(Debug)]
struct CurrentRefusal {
    refused: Refused,
    /// The refused credentials; `None` if there were none to send.
    credentials: Option<Arc<Credentials>>,
    /// When the next attempt with them may begin.
    retry_at: Instant,
    backoff: Backoff,
}

/// A refusal, as it is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The server's error line; or the reason why there is no password, in the same form.
    pub line: ErrorLine,
    /// When the first refusal came since the server last accepted credentials.
    pub since: Instant,
}

impl Refusals {
    /// Returns the refusal of these credentials if they may not be sent at present. Returns `None` if the caller may send them;
    /// until the next pause is over, no other caller may.
    pub(in crate::upstream) fn bars(&self, credentials: &Arc<Credentials>, now: Instant) -> Option<Refused> {
        let mut current = self.0.borrow_mut();
        let current = current.as_mut().filter(|known| known.concerns(credentials))?;
        if now < current.retry_at {
            return Some(current.refused.clone());
        }
        current.retry_at = now + current.backoff.next_delay();
        None
    }

    /// Takes note that the server refused these credentials.
    pub(in crate::upstream) fn refused(
        &self,
        credentials: &Arc<Credentials>,
        line: ErrorLine,
        now: Instant,
    ) -> Refused {
        let mut current = self.0.borrow_mut();
        let before = current.take();
        let since = before.as_ref().map_or(now, |before| before.refused.since);
        // Other credentials may be right: their pauses begin short.
        let mut backoff = before
            .filter(|before| before.concerns(credentials))
            .map_or_else(|| Backoff::new(RETRY_MIN, RETRY_MAX), |before| before.backoff);
        let refused = Refused { line, since };
        let retry_at = now + backoff.next_delay();
        let credentials = Some(credentials.clone());
        *current = Some(CurrentRefusal { refused: refused.clone(), credentials, retry_at, backoff });
        refused
    }

    /// Takes note that respgate has no credentials to send yet, for the reason `why`.
    pub(in crate::upstream) fn unknown(&self, why: &str, now: Instant) -> Refused {
        let mut current = self.0.borrow_mut();
        let since = current.as_ref().map_or(now, |before| before.refused.since);
        let refused = Refused { line: format!("-ERR {why}").into(), since };
        let backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        *current =
            Some(CurrentRefusal { refused: refused.clone(), credentials: None, retry_at: now, backoff });
        refused
    }

    /// Takes note that the server accepted credentials.
    pub(in crate::upstream) fn accepted(&self) {
        self.0.take();
    }
}

impl CurrentRefusal {
    /// Returns true if the refusal is about these credentials.
    fn concerns(&self, credentials: &Arc<Credentials>) -> bool {
        self.credentials.as_ref().is_some_and(|known| Arc::ptr_eq(known, credentials))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> ErrorLine {
        ErrorLine::of_server(b"WRONGPASS")
    }
    use crate::secret::Secret;

    fn credentials(password: &str) -> Arc<Credentials> {
        Arc::new(Credentials { username: None, password: Secret::new(password) })
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_sessions_cause_few_attempts() {
        let refusals = Refusals::default();
        let wrong = credentials("wrong");
        let mut attempts = 0;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            for _ in 0..1000 {
                if refusals.bars(&wrong, Instant::now()).is_none() {
                    attempts += 1;
                    let refused = refusals.refused(&wrong, b"-WRONGPASS x".as_slice().into(), Instant::now());
                    assert_eq!(refused.since, start);
                }
            }
            tokio::time::advance(Duration::from_millis(50)).await;
        }
        assert!((12..60).contains(&attempts), "{attempts} attempts in a minute");
    }

    #[tokio::test(start_paused = true)]
    async fn other_credentials_are_tried_at_once() {
        let refusals = Refusals::default();
        let (wrong, newer) = (credentials("wrong"), credentials("newer"));
        let since = refusals.refused(&wrong, line(), Instant::now()).since;
        assert!(refusals.bars(&wrong, Instant::now()).is_some());
        assert_eq!(refusals.bars(&newer, Instant::now()), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(refusals.refused(&newer, line(), Instant::now()).since, since);
        refusals.accepted();
        assert_eq!(refusals.bars(&newer, Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_password_that_is_late_is_tried_when_it_comes() {
        let refusals = Refusals::default();
        let since = refusals.unknown("not run yet", Instant::now()).since;
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(refusals.unknown("not run yet", Instant::now()).since, since);
        let late = credentials("late");
        assert_eq!(refusals.bars(&late, Instant::now()), None);
        assert_eq!(refusals.refused(&late, line(), Instant::now()).since, since);
    }

    #[tokio::test(start_paused = true)]
    async fn one_attempt_at_a_time() {
        let refusals = Refusals::default();
        let wrong = credentials("wrong");
        refusals.refused(&wrong, line(), Instant::now());
        tokio::time::advance(RETRY_MAX).await;
        assert_eq!(refusals.bars(&wrong, Instant::now()), None);
        assert!(refusals.bars(&wrong, Instant::now()).is_some(), "one is under way");
    }
}
