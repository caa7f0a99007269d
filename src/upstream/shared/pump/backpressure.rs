//! Keeps a side lane from reading faster than its client takes replies.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::upstream::replies::{ClientState, Replies};
use crate::upstream::shared::queue::Queue;

/// The pause before the next look whether a client has taken its replies.
const CHECK_INTERVAL: Duration = Duration::from_millis(2);
/// The time for which a client that takes none of its replies makes the clients behind it wait.
const STUCK: Duration = Duration::from_millis(100);

/// Keeps a side lane from reading faster than its client takes replies. See the module.
#[derive(Default)]
pub(super) struct Backpressure {
    timer: Option<Pin<Box<Sleep>>>,
    /// The bytes that the client had taken when it last took some, and when that was.
    taken: Option<(u64, Instant)>,
}

impl Backpressure {
    /// Completes when the connection may be read from. `bounded`: a client that takes nothing for [`STUCK`] does not make the
    /// clients behind it wait any longer.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, queue: &Queue, bounded: bool) -> Poll<()> {
        loop {
            let replies = queue.front().map(|slot| &slot.replies);
            let Some(replies) = replies.filter(|replies| is_full(replies)) else {
                *self = Self::default();
                return Poll::Ready(());
            };
            let (now, progress) = (Instant::now(), replies.progress());
            let since = match self.taken {
                Some((seen, since)) if seen == progress => since,
                _ => now,
            };
            self.taken = Some((progress, since));
            if bounded && now - since >= STUCK && !queue.serves_one() {
                return Poll::Ready(());
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(CHECK_INTERVAL)));
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
    }
}

/// Returns true if more bytes wait for a client than may be under way for it. Bytes that wait behind these replies do not count:
/// two connections would otherwise wait for each other.
fn is_full(replies: &Replies) -> bool {
    replies.client_state() == ClientState::Open && replies.waiting_before() > replies.sizes().bound()
}
