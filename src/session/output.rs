//! Holds the replies to a client, and the timeout of a client that does not take them.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::timer::Timer;
use crate::net::budget::Account;
use crate::upstream::replies::Replies;

/// Holds the output side of a session.
pub(super) struct Output {
    /// The queue of replies to the client.
    pub(super) replies: Rc<Replies>,
    /// The account's count of moved bytes at the last check. An unchanged count means that the client makes no
    /// progress.
    last_moved: u64,
    /// The write timeout. It runs while the client takes no bytes.
    write_timer: Timer,
}

impl Output {
    /// Creates the output of a client that has just connected.
    pub(super) fn new(replies: Rc<Replies>) -> Self {
        Self { replies, last_moved: 0, write_timer: Timer::default() }
    }

    /// Returns the number of replies that the client's requests await.
    pub(super) fn awaited(&self) -> u32 {
        self.replies.awaited()
    }

    /// Returns the number of reply bytes that wait for the client.
    pub(super) fn waiting(&self) -> usize {
        self.replies.waiting()
    }

    /// Replaces the queue of replies. Returns the old one.
    pub(super) fn replace(&mut self, replies: Rc<Replies>) -> Rc<Replies> {
        self.last_moved = 0;
        std::mem::replace(&mut self.replies, replies)
    }

    /// Ready when the client has neither taken nor sent a byte for `limit`. `blocked` is true if the client takes
    /// no bytes now.
    #[inline]
    pub(super) fn poll_stalled(
        &mut self,
        cx: &mut Context<'_>,
        blocked: bool,
        account: &Account,
        limit: Duration,
    ) -> Poll<()> {
        if blocked {
            return self.poll_blocked(cx, account.moved(), limit);
        }
        self.write_timer.stop();
        Poll::Pending
    }

    fn poll_blocked(&mut self, cx: &mut Context<'_>, moved: u64, limit: Duration) -> Poll<()> {
        if moved != self.last_moved {
            self.last_moved = moved;
            self.write_timer.stop();
        }
        self.write_timer.poll_after(cx, limit)
    }
}
