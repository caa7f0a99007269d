//! Notices that a client leaves while an operation runs for it.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::Session;
use super::hold::DEPARTED_CHECK;
use super::read::AHEAD;

/// An error line that no client reads, because it has left.
pub(super) const CLIENT_LEFT: &[u8] = b"-ERR respgate: the client left";

/// How long respgate still checks the password of a client that has closed its sending side. Such a client may
/// still read, but after this time it has probably left.
const DEPARTED_GRACE: Duration = Duration::from_secs(1);

impl Session {
    /// Returns true if respgate disconnects the client, whatever it waits for.
    fn must_leave(&self) -> bool {
        self.account.is_evicted() || self.activity.is_killed()
    }

    /// Ends when the client has left and the operation is not worth the wait: there is no primary, or the request
    /// waits for other clients. A client that only closed its sending side still gets its replies.
    pub(super) async fn until_abandoned(&mut self) {
        self.until_left().await;
        while !self.is_abandoned() {
            tokio::time::sleep(DEPARTED_CHECK).await;
        }
    }

    /// As [`Self::until_abandoned`], while a server checks the client's password: ends also when the client closed its sending side
    /// [`DEPARTED_GRACE`] ago.
    pub(super) async fn until_login_abandoned(&mut self) {
        self.until_left().await;
        let end = self.departed() + DEPARTED_GRACE;
        while !self.is_abandoned() && Instant::now() < end {
            tokio::time::sleep_until(end.min(Instant::now() + DEPARTED_CHECK)).await;
        }
    }

    /// Ends when the client has closed its sending side, or must leave. Appends what the client sends before that to the input, up to a
    /// limit.
    async fn until_left(&mut self) {
        let upstream = self.ctx.upstream.clone();
        loop {
            if upstream.in_hold() {
                self.note_wait();
            }
            tokio::select! {
                () = poll_fn(|cx| {
                    let ahead = if self.poll_messages(cx) { usize::MAX } else { AHEAD };
                    if self.must_leave() {
                        return Poll::Ready(());
                    }
                    self.poll_client_left_within(cx, ahead)
                }) => break,
                () = upstream.hold_begun() => {}
                () = upstream.changed() => {}
            }
        }
    }

    /// Returns true if the request of a client that has left is not worth the wait.
    fn is_abandoned(&mut self) -> bool {
        self.must_leave() || self.ctx.upstream.in_hold() || self.waits_for_others()
    }

    /// Returns when the check of a password first noticed that the client has left. One time counts for all of its passwords: a client
    /// may have left a long pipeline of AUTHs, and each that is refused takes a tenth of a second.
    fn departed(&mut self) -> Instant {
        *self.input.departed.get_or_insert_with(Instant::now)
    }

    /// Ends when nobody waits for the check of the client's password any more: the connection has failed, or the
    /// client closed its sending side [`DEPARTED_GRACE`] ago.
    pub(super) async fn until_departed(&mut self) {
        poll_fn(|cx| {
            self.poll_messages(cx);
            if self.must_leave() { Poll::Ready(()) } else { self.poll_client_left(cx) }
        })
        .await;
        if self.closing.is_none() && !self.must_leave() {
            tokio::time::sleep_until(self.departed() + DEPARTED_GRACE).await;
        }
    }
}
