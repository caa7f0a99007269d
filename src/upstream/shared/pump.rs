//! One shared connection at work: requests out, replies in, each to its client.

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

/// A reply larger than this is passed on in pieces, in bytes.
const STREAMED: usize = 256 * 1024;
/// How long a superseded primary is listened to. Nothing is written to it meanwhile.
const FENCE_DRAIN: Duration = Duration::from_millis(40);
/// Reads from one lane before other tasks have their turn.
const READS_PER_TURN: usize = 8;

/// Why a lane's connection ended.
#[derive(Debug)]
pub(in crate::upstream) enum PumpEnd {
    /// A newer primary took over.
    Superseded,
    /// No session used it.
    Unused,
    /// It was too old, and there was no room to open another one first.
    Expired,
    /// The server did not answer in time.
    Silent,
    /// The server refused a command because it is not the primary.
    NotPrimary,
    /// The socket failed or was closed by the server.
    Lost(String),
    /// What the server sent is not RESP, or answers nothing that was asked.
    Framing(String),
}

pub(in crate::upstream) struct Pump {
    link: Connection,
    scanner: ReplyScanner,
    /// The server refused a command because it is not the primary: nothing more is written to it, and what it still
    /// answers is kept back.
    demoted: bool,
    /// The node refused on the connection before, and has not answered anything on this one yet.
    doubted: bool,
    /// Runs from the moment a newer primary took over: nothing more is written, and refusals are still listened for.
    fence: Option<Pin<Box<Sleep>>>,
    batcher: WriteBatcher,
    /// A write has been put off until what was written before is answered.
    awaits: bool,
    /// Part of what was written has not left yet.
    stalled: bool,
    /// What is to take the connection's place once it has answered everything.
    next: Option<NextConnection>,
    /// Everything has been written to it that will be.
    closing: bool,
    /// Bytes of the unfinished reply that have been passed on.
    passed: u64,
    isolation: Isolation,
    backpressure: Backpressure,
}

impl Pump {
    /// `doubted`: the node refused, as only a non-primary does, on the connection before.
    pub(in crate::upstream) fn new(link: Connection, doubted: bool) -> Self {
        Self {
            batcher: WriteBatcher::new(link.round_trip),
            link,
            scanner: ReplyScanner::default(),
            demoted: false,
            doubted,
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

    /// Whether the server said that it is not the primary.
    pub(in crate::upstream) fn is_demoted(&self) -> bool {
        self.demoted
    }

    /// Another connection takes this one's place as soon as it has answered what it has been sent.
    pub(in crate::upstream) fn set_next(&mut self, successor: NextConnection) {
        self.next = Some(successor);
    }

    pub(in crate::upstream) fn has_next(&self) -> bool {
        self.next.is_some()
    }

    /// Whether both are connections to the same primary.
    pub(in crate::upstream) fn is_like(&self, successor: &NextConnection) -> bool {
        successor.link.as_ref().is_some_and(|link| link.generation == self.link.generation)
    }

    /// Pumps until the connection ends.
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
            // What TLS has taken and not sent is owed to it: the rest of its refusals depend on that.
            if let Poll::Ready(Err(error)) = Pin::new(&mut self.link.stream).poll_flush(cx) {
                return Poll::Ready(PumpEnd::Lost(error.to_string()));
            }
        } else if self.isolates() {
            // What is not written yet goes elsewhere.
            if let Poll::Ready(Err(error)) = Pin::new(&mut self.link.stream).poll_flush(cx) {
                return Poll::Ready(PumpEnd::Lost(error.to_string()));
            }
        } else if !self.closing && self.gathers(cx, lane) {
            // Reads go on meanwhile.
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
                    // After those who have just been answered: they may ask for more.
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

    /// Whether the next write is put off, so that more leaves with it.
    fn gathers(&mut self, cx: &mut Context<'_>, lane: &Lane) -> bool {
        let queue = lane.queue.borrow();
        // A request that left in part needs the rest of it, a connection that is to end has to be seen idle, and where
        // tenants share one, what is under way is theirs to wait for once only.
        let patient = !self.stalled && self.next.is_none() && !lane.is_fair();
        let decision = self.batcher.decide(queue.unwritten().len(), !queue.awaits_reply(), patient);
        self.awaits = decision == Decision::Defer;
        if decision == Decision::Yield {
            // The runtime wakes a yielding task after it has looked at the sockets.
            let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
        }
        decision != Decision::Write
    }

    /// Goes on with the successor once everything that was written has been answered. Nothing more is written from
    /// the moment at which no request is written in part. True: there is no successor to go on with.
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
        upstream.counters.renewed.inc();
        lane.replaced(link.retires);
        lane.reopened(link.round_trip);
        self.link.stream.close();
        self.batcher = WriteBatcher::new(link.round_trip);
        self.link = link;
        self.scanner = ReplyScanner::default();
        false
    }

    /// A newer primary took over: nothing more is written.
    fn close_fence(&mut self) {
        if self.fence.is_none() {
            self.fence = Some(Box::pin(tokio::time::sleep(FENCE_DRAIN)));
            self.demoted = true;
            self.next = None;
        }
    }

    /// Listens to a superseded primary for what it refused, so that fewer outcomes are unknown.
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
        // What was written before may still have to be flushed.
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

    /// Hands every whole reply to its client. Replies that follow each other and go to one client are handed
    /// over in one piece.
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
                    upstream.counters.pushes.inc();
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
                    // Behind a read that was sent again may stand requests that were not, and get no reply.
                    while let Some((slot, verdict)) = queue.pop_decided() {
                        run.end(bytes, at);
                        answer(&slot, &verdict.reply());
                    }
                }
                ScannedReply::Incomplete => break,
                ScannedReply::Fault(fault) => {
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
            if std::mem::take(&mut self.doubted) {
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
        // What a demoted node says may be asked again elsewhere: no part of it may have been passed on.
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

/// Handles a reply of a node that is not the primary. What it refused did not run, and what it read may be old: both
/// are sent again, the latter unless reads are not. A write that it took all the same is answered as it was, in its turn; but if a newer primary has taken
/// over (`superseded`), it will be lost there, or not: nobody knows.
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
    /// Bytes of the largest.
    largest: usize,
    /// A client for which more has come than a shared connection may carry.
    outgrown: Option<Rc<Replies>>,
}

impl Run {
    /// One more reply, which starts at `at` and has `len` bytes there.
    fn take(&mut self, bytes: &[u8], at: usize, len: usize, owner: Rc<Replies>) {
        if !self.owner.as_ref().is_some_and(|mine| Rc::ptr_eq(mine, &owner)) {
            self.end(bytes, at);
            (self.owner, self.start, self.count, self.largest) = (Some(owner), at, 0, 0);
        }
        self.count += 1;
        self.largest = self.largest.max(len);
    }

    /// The run ends before `at`.
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
