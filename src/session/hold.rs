//! Waits for a lane or for a primary, and counts the client as held meanwhile.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Session;
use super::close::Close;
use super::timer::poll_timer;

/// Interval of the check whether replies can still come for a client that closed its sending side.
pub(super) const DEPARTED_CHECK: Duration = Duration::from_millis(250);

/// Estimated size of a small request, in bytes. [`Session::wanted`] divides the waiting input by it.
const SMALL: usize = 32;

impl Session {
    /// Waits for the lane. Ready when the session can look at its requests again: the hold has expired, or the
    /// client has left. The lane wakes the session when it takes requests.
    pub(super) fn poll_held(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        if let Some(lane) = &self.lane {
            match deadline {
                Some(_) => lane.wait(self.client.id, cx.waker()),
                None => lane.wait_turn(self.client.id, cx.waker(), self.scheduler_share(), self.wanted()),
            }
        }
        if let Some(deadline) = deadline
            && self.poll_hold_expired(cx, deadline).is_ready()
        {
            return Poll::Ready(());
        }
        // The requests of a client that left are not worth a hold, since they cannot be sent. A connection that
        // is being opened is worth the wait.
        if self.poll_left(cx).is_ready() && self.ctx.upstream.in_hold() {
            self.closing = Some(Close::Left);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Estimates how many of the waiting requests the session may send at once, 1 at least.
    fn wanted(&self) -> u32 {
        let requests = u32::try_from(self.input.len() / SMALL).unwrap_or(u32::MAX);
        let window = self.replies.window(self.ctx.config.max_pipeline);
        requests.min(window.saturating_sub(self.replies.awaited())).max(1)
    }

    /// Counts the client as held. Ready at `deadline`.
    pub(super) fn poll_hold_expired(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.wait_held();
        let timer = self.hold.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        poll_timer(timer, deadline, cx)
    }

    /// Counts the client and its input as held until [`Session::released`].
    pub(super) fn wait_held(&mut self) {
        let held = self.held.get_or_insert_with(|| self.ctx.upstream.client_held());
        held.set(
            self.input.len()
                + self.subscription.as_ref().and_then(|subscription| subscription.asks()).unwrap_or(0),
        );
        self.activity.set_lease_state(self.ctx.registry.now.get(), true, false);
    }

    /// Ends the wait for the lane or for a primary.
    #[inline]
    pub(super) fn released(&mut self) {
        if self.held.is_some() || self.hold.is_some() {
            self.release();
        }
    }

    fn release(&mut self) {
        if self.held.take().is_some() {
            let now = self.ctx.registry.now.get();
            self.activity.set_lease_state(now, false, false);
            self.activity.touch(now);
        }
        self.hold = None;
    }

    /// Ready when a client that left still awaits replies although there is no primary. Checks every
    /// [`DEPARTED_CHECK`].
    pub(super) fn poll_abandoned(&mut self, cx: &mut Context<'_>, close: Close) -> Poll<()> {
        if close != Close::Left {
            return Poll::Pending;
        }
        loop {
            if self.ctx.upstream.in_hold() {
                return Poll::Ready(());
            }
            let check = self.hold.get_or_insert_with(|| Box::pin(tokio::time::sleep(DEPARTED_CHECK)));
            ready!(check.as_mut().poll(cx));
            self.hold = None;
        }
    }
}
