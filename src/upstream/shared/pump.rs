//! Serves one shared connection: writes requests, reads replies, and gives each reply to its client.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::Sleep;

use crate::resp::reply::{ReplyKind, ReplyScanner, ScannedReply};
use crate::upstream::connection::open::Connection;
use crate::upstream::replies::Replies;
use crate::upstream::reply_sizes::LARGE;
use crate::upstream::shared::batch::{Decision, WriteBatcher};
use crate::upstream::shared::lane::{Lane, Order, answer};
use crate::upstream::shared::queue::{IfLost, Queue, RequestOutcome, Slot};
use crate::upstream::shared::replace::NextConnection;
use crate::upstream::{Upstream, not_primary};

pub(in crate::upstream) mod isolate;

use self::isolate::{Backpressure, Isolation};

/// The size above which a reply is passed on in pieces, in bytes.
const STREAMED: usize = 256 * 1024;
/// The time for which replies of a superseded primary are still read. Nothing is written to it meanwhile.
const FENCE_DRAIN: Duration = Duration::from_millis(40);
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

pub(in crate::upstream) struct Pump {
    link: Connection,
    scanner: ReplyScanner,
    /// True once the server has refused a command because it is not the primary. Nothing more is written to it, and its further
    /// replies are kept back.
    demoted: bool,
    /// True if the node refused a command on the former connection as only a non-primary does, and has not answered on this one.
    unproven: bool,
    /// Runs for [`FENCE_DRAIN`] after a newer primary has taken over. Nothing more is written, and refusals are still read.
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

impl Pump {
    /// Creates the pump of a connection. `unproven`: the node refused a command on the former connection as only a non-primary does.
    pub(in crate::upstream) fn new(link: Connection, doubted: bool) -> Self {
        Self {
            batcher: WriteBatcher::new(link.round_trip),
            link,
            scanner: ReplyScanner::default(),
            demoted: false,
            unproven: doubted,
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

    /// Returns true if the server said that it is not the primary.
    pub(in crate::upstream) fn is_demoted(&self) -> bool {
        self.demoted
    }

    /// Sets the connection that takes this one's place as soon as this one owes no reply.
    pub(in crate::upstream) fn set_next(&mut self, successor: NextConnection) {
        self.next = Some(successor);
    }

    pub(in crate::upstream) fn has_next(&self) -> bool {
        self.next.is_some()
    }

    /// Returns true if `successor` leads to the same primary.
    pub(in crate::upstream) fn is_like(&self, successor: &NextConnection) -> bool {
        successor.link.as_ref().is_some_and(|link| link.generation == self.link.generation)
    }

    /// Serves the connection until it ends.
    pub(in crate::upstream) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        lane: &Lane,
        upstream: &Upstream,
    ) -> Poll<PumpEnd> {
        let polled = self.poll_link(cx, lane, upstream);
        if polled.is_pending() {
            lane.grant_turns();
        }
        polled
    }

    fn poll_link(&mut self, cx: &mut Context<'_>, lane: &Lane, upstream: &Upstream) -> Poll<PumpEnd> {
        lane.watch(cx.waker());
        match lane.ordered() {
            None | Some(Order::Replace | Order::Isolate) => {}
            Some(Order::Cut) => self.close_fence(),
            Some(Order::GiveUp) => return Poll::Ready(PumpEnd::Silent),
            Some(Order::Retire) => return Poll::Ready(PumpEnd::Unused),
        }
        if self.fence.is_some() {
            return self.poll_fenced(cx, lane, upstream);
        }
        if lane.is_side() && !lane.queue.borrow().is_wanted() {
            return Poll::Ready(PumpEnd::Unused);
        }
        self.review_isolation(lane, upstream);
        if self.next.is_some() && !self.demoted && self.hand_over(lane, upstream) {
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
        } else if self.isolates() {
            // Requests that are not written yet go to another connection.
            if let Poll::Ready(Err(error)) = Pin::new(&mut self.link.stream).poll_flush(cx) {
                return Poll::Ready(PumpEnd::Lost(error.to_string()));
            }
        } else if !self.closing && self.gathers(cx, lane) {
            // The write is deferred. Reads go on.
        } else if let Err(error) = self.write(cx, lane, upstream) {
            return Poll::Ready(PumpEnd::Lost(error.to_string()));
        }
        for _ in 0..READS_PER_TURN {
            let isolates = self.isolates();
            if (isolates || lane.is_side())
                && self.backpressure.poll(cx, &lane.queue.borrow(), !isolates).is_pending()
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
                    upstream.counters.upstream_reads.inc();
                    if let Err(why) = self.handle_replies(lane, upstream) {
                        return Poll::Ready(PumpEnd::Framing(why));
                    }
                    if self.demoted && lane.queue.borrow().front().is_none() {
                        return Poll::Ready(PumpEnd::NotPrimary);
                    }
                    if lane.is_side() && !lane.queue.borrow().is_wanted() {
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
    fn gathers(&mut self, cx: &mut Context<'_>, lane: &Lane) -> bool {
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
    fn hand_over(&mut self, lane: &Lane, upstream: &Upstream) -> bool {
        let (whole, answered) = {
            let queue = lane.queue.borrow();
            (queue.unwritten().is_empty(), !queue.awaits_reply())
        };
        self.closing |= whole;
        if !self.closing || !answered {
            return false;
        }
        self.closing = false;
        let Some(link) = self.next.take().and_then(|successor| successor.link) else { return true };
        upstream.counters.replaced.inc();
        lane.replaced(link.retires);
        lane.reopened(link.round_trip);
        self.link.stream.close();
        self.batcher = WriteBatcher::new(link.round_trip);
        self.link = link;
        self.scanner = ReplyScanner::default();
        false
    }

    /// Stops all writes: a newer primary has taken over.
    fn close_fence(&mut self) {
        if self.fence.is_none() {
            self.fence = Some(Box::pin(tokio::time::sleep(FENCE_DRAIN)));
            self.demoted = true;
            self.next = None;
        }
    }

    /// Reads what a superseded primary has refused, so that fewer outcomes are unknown.
    fn poll_fenced(&mut self, cx: &mut Context<'_>, lane: &Lane, upstream: &Upstream) -> Poll<PumpEnd> {
        loop {
            if lane.queue.borrow().front().is_none() {
                return Poll::Ready(PumpEnd::Superseded);
            }
            match self.link.read.poll_fill(cx, &mut self.link.stream) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) if count > 0 && self.handle_replies(lane, upstream).is_ok() => {}
                Poll::Ready(_) => return Poll::Ready(PumpEnd::Superseded),
            }
        }
        match &mut self.fence {
            Some(fence) => fence.as_mut().poll(cx).map(|()| PumpEnd::Superseded),
            None => Poll::Pending,
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, lane: &Lane, upstream: &Upstream) -> std::io::Result<()> {
        let mut queue = lane.queue.borrow_mut();
        // Bytes of an earlier write may still wait in TLS, so the flush below runs in each case.
        while !self.closing && !queue.unwritten().is_empty() {
            match Pin::new(&mut self.link.stream).poll_write(cx, queue.unwritten()) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(result) => {
                    upstream.counters.upstream_writes.inc();
                    queue.wrote(result?);
                }
            }
        }
        let flushed = match Pin::new(&mut self.link.stream).poll_flush(cx) {
            Poll::Ready(result) => result.map(|()| true)?,
            Poll::Pending => false,
        };
        self.stalled = !flushed || !queue.unwritten().is_empty();
        self.awaits |= queue.holds_back();
        Ok(())
    }

    /// Gives every whole reply to its client. Replies that follow each other and belong to one client are given in one piece.
    fn handle_replies(&mut self, lane: &Lane, upstream: &Upstream) -> Result<(), String> {
        let bytes = self.link.read.bytes();
        let mut queue = lane.queue.borrow_mut();
        let mut run = Run::default();
        let mut at = 0;
        loop {
            match self.scanner.scan(bytes.get(at..).unwrap_or_default()) {
                ScannedReply::Complete { len, kind: ReplyKind::Push } => {
                    run.end(bytes, at);
                    at += len;
                    upstream.counters.unsolicited_pushes.inc();
                }
                ScannedReply::Complete { len, kind } => {
                    if queue.front().is_none() {
                        run.end(bytes, at);
                        return Err("a reply that nothing was asked for".into());
                    }
                    let reply = bytes.get(at..at + len).unwrap_or_default();
                    if kind == ReplyKind::Error {
                        upstream.note_error(reply, self.link.generation);
                        if reply.strip_prefix(b"-").is_some_and(not_primary) && !self.demoted {
                            run.end(bytes, at);
                            self.demoted = true;
                            upstream.begin_hold();
                            lane.close_gate(true);
                        }
                    }
                    if self.demoted && !queue.front().is_some_and(|slot| slot.replies.is_partial()) {
                        defer(&mut queue, reply, kind, self.fence.is_some());
                        at += len;
                        continue;
                    }
                    let Some(slot) = queue.pop() else { break };
                    if slot.mute {
                        run.end(bytes, at);
                        slot.replies.swallow();
                    } else {
                        run.take(bytes, at, len, slot.replies);
                    }
                    at += len;
                    // A request behind a read that was sent again may have its outcome already: the server sends no reply for it.
                    while let Some((slot, verdict)) = queue.pop_decided() {
                        run.end(bytes, at);
                        answer(&slot, &verdict.reply());
                    }
                }
                ScannedReply::Incomplete => break,
                ScannedReply::Malformed(fault) => {
                    run.end(bytes, at);
                    return Err(fault.to_string());
                }
            }
        }
        run.end(bytes, at);
        if at > 0 {
            self.passed = 0;
        }
        if at > 0 && !self.demoted {
            upstream.succeeded(self.link.generation);
            if std::mem::take(&mut self.unproven) {
                upstream.end_hold();
            }
        }
        let rest = bytes.len() - at;
        if rest > 0 {
            queue.progressed();
            let size = self.passed + self.scanner.announced();
            if size > LARGE
                && let Some(slot) = queue.front()
                && slot.replies.sizes().announced(size, slot.replies.awaited())
            {
                run.outgrown = Some(slot.replies.clone());
            }
        }
        // A read that a demoted node answers may be sent again elsewhere, so no part of its reply may be passed on.
        if rest > STREAMED && self.scanner.scanned() > 0 && !self.demoted {
            let part = self.scanner.scanned().min(rest);
            if let Some(slot) = queue.front().filter(|slot| !slot.mute) {
                slot.replies.deliver_part(bytes.get(at..at + part).unwrap_or_default());
                if slot.replies.sizes().outgrown() {
                    run.outgrown = Some(slot.replies.clone());
                }
            }
            self.scanner.rebase(part);
            self.passed += part as u64;
            at += part;
        }
        drop(queue);
        self.link.read.consume(at);
        if let Some(client) = run.outgrown {
            self.outgrown_by(&client, lane, upstream);
        }
        Ok(())
    }
}

/// Handles a reply of a node that is not the primary. A refused command did not run, and a read may have given old data: both are
/// sent again, a read only if `retry-reads` allows it. A write that the node has run gets its reply in its turn. If a newer primary
/// has taken over (`superseded`), that write may or may not be lost there, so its outcome is unknown.
fn defer(queue: &mut Queue, reply: &[u8], kind: ReplyKind, superseded: bool) {
    let refused = kind == ReplyKind::Error && reply.strip_prefix(b"-").is_some_and(not_primary);
    let if_lost = queue.front().map_or(IfLost::ReportUnknown, Slot::if_lost);
    match if_lost {
        _ if refused => queue.defer(None),
        IfLost::Resend => queue.defer(None),
        IfLost::ReportLost => queue.defer(Some(&RequestOutcome::Lost.reply())),
        IfLost::ResendWrite if superseded => queue.defer(None),
        IfLost::ReportUnknown if superseded => queue.defer(Some(&RequestOutcome::OutcomeUnknown.reply())),
        IfLost::ResendWrite | IfLost::ReportUnknown => queue.defer(Some(reply)),
    }
}

/// Consecutive replies of one client within one read.
#[derive(Default)]
struct Run {
    owner: Option<Rc<Replies>>,
    start: usize,
    count: u32,
    /// The size of the largest reply, in bytes.
    largest: usize,
    /// The client whose replies are too large for a shared connection, if there is one.
    outgrown: Option<Rc<Replies>>,
}

impl Run {
    /// Adds a reply that starts at `at` and has `len` bytes.
    fn take(&mut self, bytes: &[u8], at: usize, len: usize, owner: Rc<Replies>) {
        if !self.owner.as_ref().is_some_and(|mine| Rc::ptr_eq(mine, &owner)) {
            self.end(bytes, at);
            (self.owner, self.start, self.count, self.largest) = (Some(owner), at, 0, 0);
        }
        self.count += 1;
        self.largest = self.largest.max(len);
    }

    /// Ends the run before `at`, and gives its replies to the client.
    fn end(&mut self, bytes: &[u8], at: usize) {
        if let Some(owner) = self.owner.take() {
            owner.deliver(bytes.get(self.start..at).unwrap_or_default(), self.count, self.largest);
            if owner.sizes().outgrown() {
                self.outgrown = Some(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests;
