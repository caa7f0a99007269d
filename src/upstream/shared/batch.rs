//! Decides when a shared connection writes. Requests that are written together share a system call, a packet and a TLS
//! record. No I/O.
//!
//! A near server answers within [`NEAR`]. While it still owes replies, new requests wait for them, as small segments wait in
//! TCP (Nagle, RFC 896). The wait costs a request at most one round trip, because the server answers the requests of one
//! connection in order. For a far server, requests only wait until the worker has read its sockets once more.

use std::time::Duration;

use tokio::time::Instant;

/// The longest round trip of a near server. A deferred request waits for at most this time, plus the time that the server
/// takes for the requests before it.
const NEAR: Duration = Duration::from_micros(120);
/// The number of waiting bytes that are written at once: about 100 requests without large values.
const ENOUGH: usize = 4096;
/// The number of times that a write yields while more requests arrive.
const YIELDS: u8 = 4;

/// The caller's next step with the waiting requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Decision {
    /// Write them.
    Write,
    /// Let the worker read its sockets once more, then ask again.
    Yield,
    /// Ask again when every written request is answered, or when more requests have arrived.
    Defer,
}

/// Decides for one connection. See the module.
#[derive(Debug)]
pub(in crate::upstream) struct WriteBatcher {
    /// The waiting bytes at the last yield. If no more have arrived since, another yield gains nothing.
    gathered: usize,
    /// The yields since the last write.
    yields: u8,
    /// True if the server's round trip is at most [`NEAR`].
    near: bool,
    /// When the last request was written that found the server idle: its reply measures the round trip. `None` for a near
    /// server, so that the clock is not read for every batch.
    asked: Option<Instant>,
}

impl WriteBatcher {
    /// Creates the batcher of a connection whose server answered its greeting in `round_trip`.
    pub(in crate::upstream) fn new(round_trip: Duration) -> Self {
        Self { gathered: 0, yields: 0, near: round_trip <= NEAR, asked: None }
    }

    /// Decides about `waiting` bytes. `answered`: the server owes no reply. `patient`: the requests may wait for replies.
    pub(in crate::upstream) fn decide(&mut self, waiting: usize, answered: bool, patient: bool) -> Decision {
        if answered {
            // The reply to the request of `asked` has come: the time since then is one round trip.
            if let Some(asked) = self.asked.take() {
                self.near = asked.elapsed() <= NEAR;
            }
            if !self.near && waiting > 0 {
                self.asked = Some(Instant::now());
            }
        } else if patient && self.near && (1..ENOUGH).contains(&waiting) {
            // The replies that are due come within a round trip, and the next look then finds more requests.
            return Decision::Defer;
        } else if waiting != self.gathered && self.yields < YIELDS {
            (self.gathered, self.yields) = (waiting, self.yields + 1);
            return Decision::Yield;
        }
        (self.gathered, self.yields) = (0, 0);
        Decision::Write
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Duration = Duration::from_millis(1);

    #[test]
    fn a_request_to_an_idle_server_is_written_at_once() {
        for round_trip in [Duration::ZERO, FAR] {
            let mut batcher = WriteBatcher::new(round_trip);
            assert_eq!(batcher.decide(20, true, true), Decision::Write);
            assert_eq!(batcher.decide(20, true, true), Decision::Write);
        }
    }

    #[test]
    fn requests_to_a_near_server_are_written_together() {
        let mut batcher = WriteBatcher::new(NEAR);
        assert_eq!(batcher.decide(20, false, true), Decision::Defer);
        assert_eq!(batcher.decide(ENOUGH - 1, false, true), Decision::Defer);
        assert_eq!(batcher.decide(ENOUGH - 1, true, true), Decision::Write);
    }

    #[test]
    fn a_far_server_is_not_waited_for() {
        for waiting in [20, ENOUGH] {
            let mut batcher = WriteBatcher::new(FAR);
            assert_eq!(batcher.decide(waiting, false, true), Decision::Yield);
            assert_eq!(batcher.decide(waiting, false, true), Decision::Write, "nothing more has come");
            for more in 1..=usize::from(YIELDS) {
                assert_eq!(batcher.decide(waiting + more, false, true), Decision::Yield);
            }
            assert_eq!(
                batcher.decide(2 * waiting + 10, false, true),
                Decision::Write,
                "for ever is too long"
            );
        }
    }

    #[test]
    fn impatient_requests_yield_once() {
        let mut batcher = WriteBatcher::new(NEAR);
        assert_eq!(batcher.decide(20, false, false), Decision::Yield);
        assert_eq!(batcher.decide(20, false, false), Decision::Write);
    }

    #[test]
    fn many_bytes_do_not_wait_for_a_near_server() {
        let mut batcher = WriteBatcher::new(NEAR);
        assert_eq!(batcher.decide(ENOUGH, false, true), Decision::Yield);
        assert_eq!(batcher.decide(ENOUGH, false, true), Decision::Write);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_was_slow_at_first_may_be_near() {
        let mut batcher = WriteBatcher::new(FAR);
        batcher.decide(20, true, true);
        tokio::time::advance(FAR).await;
        batcher.decide(20, true, true);
        assert_eq!(batcher.decide(20, false, true), Decision::Yield);
        tokio::time::advance(NEAR).await;
        batcher.decide(20, true, true);
        assert_eq!(batcher.decide(20, false, true), Decision::Defer);
    }
}
