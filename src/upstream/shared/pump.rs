//! Serves one shared connection: writes requests, reads replies, and gives each reply to its client.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep};

use crate::metrics::LocalCounter;
use crate::net::write::{WriteSource, poll_write_all};
use crate::resp::reply::ReplyScanner;
use crate::upstream::connection::open::Connection;
use crate::upstream::replies::Replies;
use crate::upstream::room::SharedPermit;
use crate::upstream::shared::batch::{Decision, WriteBatcher};
use crate::upstream::shared::lane::{Lane, Order};
use crate::upstream::shared::lanes::Lanes;
use crate::upstream::shared::next::NextConnection;
use crate::upstream::shared::queue::Queue;

mod backpressure;
mod handle;
pub(in crate::upstream) mod isolate;
mod redirect;

use self::backpressure::Backpressure;

/// The time for which replies of a superseded primary are still read. Nothing is written to it meanwhile.
const FENCE_DRAIN: Duration = Duration::from_millis(40);
/// The same for a node of a cluster, which answers every command that it has not run as soon as it knows its successor.
const CLUSTER_DRAIN: Duration = Duration::from_millis(500);
/// The number of reads from one connection before other tasks have their turn.
const READS_PER_TURN: usize = 8;

/// The reason why a lane's connection ended.
#[derive(Debug)]
pub(in crate::upstream) enum PumpEnd {
    /// A newer primary has taken over.
    Superseded,
    /// No session used it.
    Unused,
    /// It had to be replaced, and the limits allow no second connection beside it.
    Expired,
    /// The server did not answer within `response-timeout`.
    Silent,
    /// The server refused a command because it is not the primary.
    NotPrimary,
    /// The socket failed or was closed by the server.
    Lost(String),
    /// The server sent bytes that are not RESP, or a reply that belongs to no request.
    Framing(String),
}

/// Serves one shared connection. See the module.
pub(in crate::upstream) struct Pump {
    link: Connection,
    scanner: ReplyScanner,
    /// True once the server has refused a command because it is not the primary. Nothing more is written to it, and its further
    /// replies are kept back.
    demoted: bool,
    /// True if the node refused a command on the former connection as only a non-primary does, and has not answered on this one.
    unproven: bool,
    /// Runs for [`FENCE_DRAIN`] or [`CLUSTER_DRAIN`] after a newer primary has taken over. Nothing more is written, and refusals are still read.
    fence: Option<Pin<Box<Sleep>>>,
    batcher: WriteBatcher,
    /// True if a write waits for the replies to earlier requests.
    awaits: bool,
    /// True if the connection has not taken all bytes of the last write.
    stalled: bool,
    /// The connection that takes this one's place once this one owes no reply.
    next: Option<NextConnection>,
    /// True if nothing more will be written to this connection.
    closing: bool,
    /// The bytes of the unfinished reply that were passed on.
    passed: u64,
    isolation: Isolation,
    backpressure: Backpressure,
}

/// A pump's knowledge of a client whose replies have outgrown its connection.
#[derive(Default)]
struct Isolation {
    /// The client, until another connection is open.
    client: Option<Rc<Replies>>,
    /// After a failure: when the next attempt may begin.
    retry_at: Option<Instant>,
}

/// A pump with the room for its connection.
pub(in crate::upstream) struct Served {
    pub(in crate::upstream) pump: Pump,
    pub(in crate::upstream) permit: SharedPermit,
}

impl Pump {
    /// Creates the pump of a connection. `unproven`: the node refused a command on the former connection as only a non-primary does.
    pub(in crate::upstream) fn new(link: Connection, unproven: bool) -> Self {
        Self {
            batcher: WriteBatcher::new(link.round_trip),
            link,
            scanner: ReplyScanner::default(),
            demoted: false,
            unproven,
            fence: None,
            awaits: false,
            stalled: false,
            next: None,
            closing: false,
            passed: 0,
            isolation: Isolation::default(),
            backpressure: Backpressure::default(),
        }
    }

    pub(in crate::upstream) fn link(&self) -> &Connection {
        &self.link
    }

    /// Returns true while another connection is being opened, so that this one can be left to one client. Nothing is written
    /// meanwhile.
    fn is_isolating(&self) -> bool {
        self.isolation.client.is_some()
    }

    /// Returns true if the server said that it is not the primary.
    pub(in crate::upstream) fn is_demoted(&self) -> bool {
        self.demoted
    }

    /// Sets the connection that takes this one's place as soon as this one owes no reply.
    pub(in crate::upstream) fn set_next(&mut self, next: NextConnection) {
        self.next = Some(next);
    }

    pub(in crate::upstream) fn has_next(&self) -> bool {
        self.next.is_some()
    }

    /// Returns true if `next` leads to the same primary.
    pub(in crate::upstream) fn is_like(&self, next: &NextConnection) -> bool {
        next.link.as_ref().is_some_and(|link| link.generation == self.link.generation)
    }

    /// Serves the connection until it ends.
    pub(in crate::upstream) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        lane: &Lane,
        lanes: &Lanes,
    ) -> Poll<PumpEnd> {
        let polled = self.poll_link(cx, lane, lanes);
        if polled.is_pending() {
            lane.grant_room();
        }
        polled
    }

    fn poll_link(&mut self, cx: &mut Context<'_>, lane: &Lane, lanes: &Lanes) -> Poll<PumpEnd> {
        lane.watch(cx.waker());
        match lane.ordered() {
            Some(Order::Vacate) if lane.queue.borrow().is_empty() => return Poll::Ready(PumpEnd::Unused),
            None | Some(Order::Vacate | Order::Replace | Order::Isolate) => {}
            Some(Order::Cut) => self.close_fence(lanes),
            Some(Order::GiveUp) => return Poll::Ready(PumpEnd::Silent),
            Some(Order::Retire) => return Poll::Ready(PumpEnd::Unused),
        }
        if self.fence.is_some() {
            return self.poll_fenced(cx, lane, lanes);
        }
        if lane.is_side() && !lane.queue.borrow().is_wanted() {
            return Poll::Ready(PumpEnd::Unused);
        }
        self.review_isolation(lane, lanes);
        if self.next.is_some() && !self.demoted && self.hand_over(lane, lanes) {
            return Poll::Ready(PumpEnd::Expired);
        }
        if self.demoted {
            if lane.queue.borrow().front().is_none() {
                return Poll::Ready(PumpEnd::NotPrimary);
            }
            // TLS may hold bytes of requests. The server refuses those requests only once it has got them.
            if let Poll::Ready(Err(error)) = Pin::new(&mut self.link.stream).poll_flush(cx) {
                return Poll::Ready(PumpEnd::Lost(error.to_string()));
            }
        } else if self.is_isolating() {
            // Requests that are not written yet go to another connection.
            if let Poll::Ready(Err(error)) = Pin::new(&mut self.link.stream).poll_flush(cx) {
                return Poll::Ready(PumpEnd::Lost(error.to_string()));
            }
        } else if !self.closing && self.defers_write(cx, lane) {
            // The write is deferred. Reads go on.
        } else if let Err(error) = self.write(cx, lane, lanes) {
            return Poll::Ready(PumpEnd::Lost(error.to_string()));
        }
        for _ in 0..READS_PER_TURN {
            let isolating = self.is_isolating();
            if (isolating || lane.is_side())
                && self.backpressure.poll(cx, &lane.queue.borrow(), !isolating).is_pending()
            {
                // The client is slow, not the server.
                lane.queue.borrow_mut().progressed();
                return Poll::Pending;
            }
            match self.link.read.poll_fill(cx, &mut self.link.stream) {
                Poll::Pending => {
                    // Write after the sessions that were just answered have run: they may push more requests.
                    if self.awaits && !lane.queue.borrow().awaits_reply() {
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(PumpEnd::Lost("the server closed it".into())),
                Poll::Ready(Err(error)) => return Poll::Ready(PumpEnd::Lost(error.to_string())),
                Poll::Ready(Ok(_)) => {
                    lanes.reports.counters.upstream_reads.inc();
                    if let Err(why) = self.handle_replies(lane, lanes) {
                        return Poll::Ready(PumpEnd::Framing(why));
                    }
                    if self.demoted && lane.queue.borrow().front().is_none() {
                        return Poll::Ready(PumpEnd::NotPrimary);
                    }
                    if lane.is_vacated() || lane.is_side() && !lane.queue.borrow().is_wanted() {
                        return Poll::Ready(PumpEnd::Unused);
                    }
                    if self.closing && !lane.queue.borrow().awaits_reply() {
                        break;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Returns true if the next write is deferred, so that more requests leave with it.
    fn defers_write(&mut self, cx: &mut Context<'_>, lane: &Lane) -> bool {
        let queue = lane.queue.borrow();
        // Three cases must not wait for replies: the rest of a request that was written in part; a connection that ends when it owes
        // no reply; and a lane that tenants share, where the scheduler makes requests wait already.
        let patient = !self.stalled && self.next.is_none() && !lane.is_fair();
        let decision = self.batcher.decide(queue.unwritten().len(), !queue.awaits_reply(), patient);
        self.awaits = decision == Decision::Defer;
        if decision == Decision::Yield {
            // The runtime wakes a task that yields after it has read the sockets.
            let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
        }
        decision != Decision::Write
    }

    /// Goes on with the next connection once this one owes no reply. As soon as no request is written in part, nothing more is
    /// written to this one. Returns true if there is no next connection.
    fn hand_over(&mut self, lane: &Lane, lanes: &Lanes) -> bool {
        let (whole, answered) = {
            let queue = lane.queue.borrow();
            (queue.unwritten().is_empty(), !queue.awaits_reply())
        };
        self.closing |= whole;
        if !self.closing || !answered {
            return false;
        }
        self.closing = false;
        let Some(link) = self.next.take().and_then(|next| next.link) else { return true };
        lanes.reports.counters.replaced.inc();
        lane.replaced(link.retires);
        lane.reopened(link.round_trip);
        self.link.stream.close();
        self.batcher = WriteBatcher::new(link.round_trip);
        self.link = link;
        self.scanner = ReplyScanner::default();
        false
    }

    /// Stops all writes: a newer primary has taken over.
    fn close_fence(&mut self, lanes: &Lanes) {
        if self.fence.is_none() {
            let drain = if lanes.redirects().is_some() { CLUSTER_DRAIN } else { FENCE_DRAIN };
            self.fence = Some(Box::pin(tokio::time::sleep(drain)));
            self.demoted = true;
            self.next = None;
        }
    }

    /// Reads what a superseded primary has refused, so that fewer outcomes are unknown.
    fn poll_fenced(&mut self, cx: &mut Context<'_>, lane: &Lane, lanes: &Lanes) -> Poll<PumpEnd> {
        loop {
            if !lane.queue.borrow().awaits_reply() {
                return Poll::Ready(PumpEnd::Superseded);
            }
            match self.link.read.poll_fill(cx, &mut self.link.stream) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) if count > 0 && self.handle_replies(lane, lanes).is_ok() => {}
                Poll::Ready(_) => return Poll::Ready(PumpEnd::Superseded),
            }
        }
        match &mut self.fence {
            Some(fence) => fence.as_mut().poll(cx).map(|()| PumpEnd::Superseded),
            None => Poll::Pending,
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, lane: &Lane, lanes: &Lanes) -> std::io::Result<()> {
        let mut queue = lane.queue.borrow_mut();
        let stream = &mut self.link.stream;
        let written = if self.closing {
            // Requests that have come since belong to the next connection.
            Pin::new(stream).poll_flush(cx)
        } else {
            let mut counted =
                CountedWrites { queue: &mut queue, writes: &lanes.reports.counters.upstream_writes };
            poll_write_all(cx, stream, &mut counted)
        };
        let flushed = match written {
            Poll::Ready(result) => result.map(|()| true)?,
            Poll::Pending => false,
        };
        self.stalled = !flushed || !queue.unwritten().is_empty();
        self.awaits |= queue.holds_back();
        let latency = &lanes.reports.latency.worker;
        if latency.is_active() {
            queue.mark_written(|| latency.now());
        }
        Ok(())
    }
}

/// A queue whose writes are counted.
struct CountedWrites<'a> {
    queue: &'a mut Queue,
    writes: &'a LocalCounter,
}

impl WriteSource for CountedWrites<'_> {
    fn unwritten(&self) -> &[u8] {
        self.queue.unwritten()
    }

    fn wrote(&mut self, count: usize) {
        self.writes.inc();
        self.queue.wrote(count);
    }
}

#[cfg(test)]
mod tests;
