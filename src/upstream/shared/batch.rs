//! When what waits for a shared connection is written: requests that leave together share a system call, a packet and a
//! TLS record. No I/O.
//!
//! While a server that is near still has requests to answer, others wait for its replies, as small segments do in TCP
//! (Nagle, RFC 896). It costs them no more than the way to the server and back, since the server answers the requests
//! of one connection in order. Where that way is long they only wait for one more look at the sockets.

use std::time::Duration;

use tokio::time::Instant;

/// A server this near is worth waiting for: what is put off waits no longer than this, beside the time that the server
/// takes for the requests before it.
const NEAR: Duration = Duration::from_micros(120);
/// Bytes that are not put off any more: some hundred requests without large values.
const ENOUGH: usize = 4096;
/// How often a write is put off at most while more and more requests arrive.
const LOOKS: u8 = 4;

/// What to do with requests that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Decision {
    /// Write them.
    Write,
    /// Look at the sockets once more, and ask again.
    Yield,
    /// Ask again when everything that was written is answered, or more has arrived.
    Defer,
}

/// See the module.
#[derive(Debug)]
pub(in crate::upstream) struct WriteBatcher {
    /// Bytes that waited when the write was last put off, and how often it has been.
    gathered: usize,
    looks: u8,
    near: bool,
    /// When a request was written to a server that had nothing else to answer; not kept once it is known to be near.
    asked: Option<Instant>,
}

impl WriteBatcher {
    /// For a connection whose server answered its greeting in `round_trip`.
    pub(in crate::upstream) fn new(round_trip: Duration) -> Self {
        Self { gathered: 0, looks: 0, near: round_trip <= NEAR, asked: None }
    }

    /// What to do with `waiting` bytes. `answered`: the server has answered everything that was written to it; `patient`:
    /// replies may be waited for.
    pub(in crate::upstream) fn decide(&mut self, waiting: usize, answered: bool, patient: bool) -> Decision {
        if answered {
            if let Some(asked) = self.asked.take() {
                self.near = asked.elapsed() <= NEAR;
            }
            if !self.near && waiting > 0 {
                self.asked = Some(Instant::now());
            }
        } else if patient && self.near && (1..ENOUGH).contains(&waiting) {
            return Decision::Defer;
        } else if waiting != self.gathered && self.looks < LOOKS {
            (self.gathered, self.looks) = (waiting, self.looks + 1);
            return Decision::Yield;
        }
        (self.gathered, self.looks) = (0, 0);
        Decision::Write
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Duration = Duration::from_millis(1);

    #[test]
    fn who_waits_alone_does_not_wait() {
        for round_trip in [Duration::ZERO, FAR] {
            let mut gathering = WriteBatcher::new(round_trip);
            assert_eq!(gathering.decide(20, true, true), Decision::Write);
            assert_eq!(gathering.decide(20, true, true), Decision::Write);
        }
    }

    #[test]
    fn what_a_near_server_is_asked_leaves_together() {
        let mut gathering = WriteBatcher::new(NEAR);
        assert_eq!(gathering.decide(20, false, true), Decision::Defer);
        assert_eq!(gathering.decide(ENOUGH - 1, false, true), Decision::Defer);
        assert_eq!(gathering.decide(ENOUGH - 1, true, true), Decision::Write);
    }

    #[test]
    fn a_far_server_is_not_waited_for() {
        for waiting in [20, ENOUGH] {
            let mut gathering = WriteBatcher::new(FAR);
            assert_eq!(gathering.decide(waiting, false, true), Decision::Yield);
            assert_eq!(gathering.decide(waiting, false, true), Decision::Write, "nothing more has come");
            for more in 1..=usize::from(LOOKS) {
                assert_eq!(gathering.decide(waiting + more, false, true), Decision::Yield);
            }
            assert_eq!(
                gathering.decide(2 * waiting + 10, false, true),
                Decision::Write,
                "for ever is too long"
            );
        }
    }

    #[test]
    fn the_impatient_look_once() {
        let mut gathering = WriteBatcher::new(NEAR);
        assert_eq!(gathering.decide(20, false, false), Decision::Yield);
        assert_eq!(gathering.decide(20, false, false), Decision::Write);
    }

    #[test]
    fn much_does_not_wait_for_a_near_server() {
        let mut gathering = WriteBatcher::new(NEAR);
        assert_eq!(gathering.decide(ENOUGH, false, true), Decision::Yield);
        assert_eq!(gathering.decide(ENOUGH, false, true), Decision::Write);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_was_slow_at_first_may_be_near() {
        let mut gathering = WriteBatcher::new(FAR);
        gathering.decide(20, true, true);
        tokio::time::advance(FAR).await;
        gathering.decide(20, true, true);
        assert_eq!(gathering.decide(20, false, true), Decision::Yield);
        tokio::time::advance(NEAR).await;
        gathering.decide(20, true, true);
        assert_eq!(gathering.decide(20, false, true), Decision::Defer);
    }
}
