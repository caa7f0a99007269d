//! Leaving a shared connection to the one client whose replies have outgrown it.
//!
//! Other clients would wait until the server has sent all that this client asked for, although the client may have
//! left. So another connection is opened, and all other clients go on there; [`Queue::divide`] says with which requests.
//! The old connection becomes a side lane. It is read no faster than the client takes its replies, and it is closed as
//! soon as nobody waits for a reply on it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::{Pump, Upstream, WriteBatcher};
use crate::upstream::replies::{ClientState, Replies};
use crate::upstream::shared::drive::{Served, drive_aside};
use crate::upstream::shared::lane::{Lane, Order};
use crate::upstream::shared::queue::Queue;
use crate::upstream::shared::replace::NextConnection;

/// How long no other attempt is made after one has failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether a client has taken its replies.
const LOOK: Duration = Duration::from_millis(2);
/// How long a client that takes none of its replies keeps others waiting whose replies stand behind.
const STUCK: Duration = Duration::from_millis(100);

/// What a pump knows about a client whose replies have outgrown its connection.
#[derive(Default)]
pub(super) struct Isolation {
    /// The client, until another connection is open.
    client: Option<Rc<Replies>>,
    /// After a failure: when it may be tried again.
    retry: Option<Instant>,
}

impl Pump {
    /// Returns true while another connection is being opened. Nothing is written meanwhile.
    pub(super) fn isolates(&self) -> bool {
        self.isolation.client.is_some()
    }

    /// The replies of `client` have outgrown the connection.
    pub(super) fn outgrown_by(&mut self, client: &Rc<Replies>, lane: &Lane, upstream: &Upstream) {
        client.sizes().use_own();
        let ordered = !matches!(lane.ordered(), None | Some(Order::Replace));
        let impossible = lane.is_side() || ordered || self.demoted || self.fence.is_some();
        if self.isolates() || impossible || upstream.holding() {
            return;
        }
        if self.isolation.retry.is_none_or(|at| at <= Instant::now()) {
            self.isolation = Isolation { client: Some(client.clone()), retry: None };
            lane.order(Order::Isolate);
        }
    }

    /// Gives up what has become needless or impossible.
    pub(super) fn review_isolation(&mut self, lane: &Lane, upstream: &Upstream) {
        let Some(client) = &self.isolation.client else { return };
        let ordered = lane.ordered() == Some(Order::Isolate);
        if client.awaited() == 0 || !ordered || self.demoted || upstream.holding() {
            self.isolation.client = None;
            lane.cancel_isolation();
        }
    }

    /// No other connection could be opened.
    pub(in crate::upstream) fn cannot_isolate(&mut self, lane: &Lane) {
        self.isolation = Isolation { client: None, retry: Some(Instant::now() + PAUSE) };
        lane.cancel_isolation();
    }

    /// Goes on with the successor, if there is one, and leaves the present connection to the client whose replies have
    /// outgrown it.
    pub(in crate::upstream) fn isolate_by_successor(&mut self, lane: &Lane, upstream: &Rc<Upstream>) -> bool {
        let Some(client) = self.isolation.client.clone() else { return false };
        let Some(NextConnection { link: Some(link), permit: Some(permit) }) =
            self.next.take_if(|successor| successor.link.is_some())
        else {
            return false;
        };
        let queue = lane.queue.borrow_mut().divide(&client, &upstream.nobody());
        tracing::debug!(
            upstream = upstream.config.name,
            requests = queue.len(),
            "respgate left a shared upstream connection to one client with large replies"
        );
        upstream.counters.isolated.inc();
        lane.replaced(link.retires);
        lane.reopened(link.round_trip);
        let next = Self { unproven: self.unproven, ..Self::new(link, false) };
        let old = std::mem::replace(self, next);
        let gathering = WriteBatcher::new(old.link.round_trip);
        let old = Self { batcher: gathering, isolation: Isolation::default(), closing: false, ..old };
        lane.answer_decided();
        drive_aside(lane.key().clone(), queue, upstream, Some(Served { pump: old, permit }));
        true
    }
}

/// Keeps a side lane from reading faster than its client takes replies.
#[derive(Default)]
pub(super) struct Backpressure {
    timer: Option<Pin<Box<Sleep>>>,
    /// The bytes that the client had taken when it was last seen to take some, and when that was.
    taken: Option<(u64, Instant)>,
}

impl Backpressure {
    /// Ready when the connection may be read from. `bounded`: a client that takes nothing is not waited for any longer
    /// where others wait behind it.
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
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
    }
}

/// Whether as much waits for a client as may be under way for it.
fn is_full(replies: &Replies) -> bool {
    replies.client_state() == ClientState::Open && replies.waiting() > replies.sizes().bound()
}
