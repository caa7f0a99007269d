//! Waits for a lane or for a primary, and counts the client as held meanwhile.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::Session;
use super::close::Close;
use super::timer::Timer;
use crate::upstream::held::Held;

/// Interval of the check whether replies can still come for a client that closed its sending side.
pub(super) const DEPARTED_CHECK: Duration = Duration::from_millis(250);

/// Estimated size of a small request, in bytes. [`Session::estimate_requests`] divides the waiting input by it.
const SMALL_REQUEST: usize = 32;

/// Tracks the wait of a client whose commands wait for a primary.
#[derive(Default)]
pub(super) struct Hold {
    /// Counts the client as held. Present during a hold.
    held: Option<Held>,
    /// The hold timeout. It runs while requests wait for a primary.
    timer: Timer,
}

impl Hold {
    /// Returns true if the client is counted as held.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Updates the count of held bytes, during a hold.
    pub(super) fn set_bytes(&mut self, bytes: usize) {
        if let Some(held) = &mut self.held {
            held.set(bytes);
        }
    }
}

impl Session {
    /// Waits for the lane, which wakes the session when it takes requests. Ready when the session must check its
    /// requests again: the hold has expired, or the client has left.
    pub(super) fn poll_lane(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        let at_shard = self.lanes.cluster.as_ref().and_then(|lanes| lanes.waits_for());
        let in_hold = || at_shard.map_or_else(|| self.ctx.upstream.in_hold(), |at| at.shard.in_hold());
        let in_hold = in_hold();
        if let Some(lane) = at_shard.map(|at| &at.lane).or(self.lanes.shared.as_ref()) {
            match deadline {
                Some(_) => lane.wait(self.client.id, cx.waker()),
                None => {
                    lane.wait_turn(self.client.id, cx.waker(), self.tenancy.share(), self.estimate_requests())
                }
            }
        }
        if deadline.is_some()
            && let Some(reads) = &mut self.lanes.reads
        {
            let replicas = at_shard.map_or_else(|| self.ctx.upstream.replicas(), |at| at.shard.replicas());
            if replicas.serve_in_hold() {
                // A replica may answer the read before there is a primary.
                reads.wait_for(replicas, self.client.id);
                replicas.wait(self.client.id, cx.waker());
            }
        }
        if let Some(deadline) = deadline
            && self.poll_hold_expired(cx, deadline).is_ready()
        {
            return Poll::Ready(());
        }
        // The requests of a client that left are not worth a hold, since they cannot be sent. A connection that
        // is being opened is worth the wait.
        if self.poll_client_left(cx).is_ready() && in_hold {
            self.closing = Some(Close::Left);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Waits until another choice of a replica may be possible, or `deadline`. Closes the session of a client that leaves.
    pub(super) fn poll_replica(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if let Some(replicas) = self.lanes.reads.as_ref().and_then(|reads| reads.waits_for()) {
            replicas.wait(self.client.id, cx.waker());
        }
        let mut poll = self.hold.timer.poll_at(cx, deadline);
        if poll.is_pending() && self.poll_client_left(cx).is_ready() {
            self.closing.get_or_insert(Close::Left);
            poll = Poll::Ready(());
        }
        if poll.is_ready()
            && let Some(reads) = &mut self.lanes.reads
        {
            reads.stop_waiting(self.client.id);
        }
        poll
    }

    /// Estimates how many of the waiting requests the session may send at once, 1 at least.
    fn estimate_requests(&self) -> u32 {
        let requests = u32::try_from(self.input.len() / SMALL_REQUEST).unwrap_or(u32::MAX);
        // The window limits how many requests may be sent and unanswered.
        let window = self.output.replies.window(self.ctx.config.max_pipeline);
        requests.min(window.saturating_sub(self.output.awaited())).max(1)
    }

    /// Counts the client as held. Ready at `deadline`.
    pub(super) fn poll_hold_expired(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.note_wait();
        self.hold.timer.poll_at(cx, deadline)
    }

    /// Counts the client and its input as held until [`Session::end_wait`].
    pub(super) fn note_wait(&mut self) {
        let bytes = self.input.len() + self.lanes.requested_subscriptions().unwrap_or(0);
        let at_shard = self.lanes.cluster.as_ref().and_then(|lanes| lanes.waits_for());
        let count = || at_shard.map_or_else(|| self.ctx.upstream.client_held(), |at| at.shard.client_held());
        self.hold.held.get_or_insert_with(count).set(bytes);
        self.activity.set_lease_state(self.ctx.registry.now.get(), true, false);
    }

    /// Ends the wait for the lane or for a primary.
    #[inline]
    pub(super) fn end_wait(&mut self) {
        if self.hold.is_held() || self.hold.timer.is_running() {
            self.note_wait_ended();
        }
    }

    /// Updates the activity, and stops the hold timer.
    fn note_wait_ended(&mut self) {
        if self.hold.held.take().is_some() {
            let now = self.ctx.registry.now.get();
            self.activity.set_lease_state(now, false, false);
            self.activity.touch(now);
        }
        self.hold.timer.stop();
    }

    /// Ready when the session of a client that left need not wait for replies, because there is no primary to send
    /// them. Checks every [`DEPARTED_CHECK`].
    pub(super) fn poll_abandoned(&mut self, cx: &mut Context<'_>, close: Close) -> Poll<()> {
        if close != Close::Left {
            return Poll::Pending;
        }
        // A closing session no longer uses the hold timer for its requests.
        loop {
            if self.ctx.upstream.in_hold() {
                return Poll::Ready(());
            }
            ready!(self.hold.timer.poll_after(cx, DEPARTED_CHECK));
        }
    }
}
