//! A timer that takes memory only while it runs.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Runs at most one timer. Most sessions have none, so it is boxed.
#[derive(Default)]
pub(super) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Returns true if the timer was started and has not fired.
    #[inline]
    pub(super) fn is_running(&self) -> bool {
        self.0.is_some()
    }

    /// Stops the timer.
    #[inline]
    pub(super) fn stop(&mut self) {
        if self.0.is_some() {
            self.0 = None;
        }
    }

    /// Ready at `deadline`. Starts the timer, or moves it if it runs to another time.
    pub(super) fn poll_at(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        self.poll_running(cx)
    }

    /// Ready after `time`, from the first call on. Does not move a timer that runs.
    pub(super) fn poll_after(&mut self, cx: &mut Context<'_>, time: Duration) -> Poll<()> {
        self.0.get_or_insert_with(|| Box::pin(sleep(time)));
        self.poll_running(cx)
    }

    /// Polls the timer if it runs. A timer that fires stops.
    fn poll_running(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(timer) = &mut self.0 else { return Poll::Pending };
        let poll = timer.as_mut().poll(cx);
        if poll.is_ready() {
            self.0 = None;
        }
        poll
    }
}
