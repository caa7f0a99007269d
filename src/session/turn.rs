//! Runs one turn of a session: write waiting replies, handle the requests that were read, read more.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::async_op::AsyncOp;
use super::limit::Charged;
use super::{Close, Session};
use crate::net::tls::handshake_error::{HandshakeError, Reason};
use crate::resp::request::{self, Request, RequestError, Scanned};
use crate::upstream::replies::ClientState;

/// Limit of reply bytes that wait for a client. Above it, the session handles no further requests.
pub(super) const BACKLOG: usize = 256 * 1024;
/// Limit of unhandled input, in bytes. The session reads ahead up to it while requests wait, to notice that the
/// client leaves.
pub(super) const AHEAD: usize = 64 * 1024;
/// Number of reads, of 64 KiB at most each, before the session checks again whether the client takes replies.
const AHEAD_READS: usize = 4;
/// Number of reads from a client that waits for something else, before other sessions get a turn.
const LEFT_READS: usize = 32;
/// Number of contiguous pieces of kept input that are handled before other sessions get a turn.
const PIECES: usize = 4;
/// The error line for a client that is disconnected because it holds too much memory.
const EVICTED: &[u8] =
    b"-ERR respgate: the memory for clients is spent (max-buffered), and this client is among those that hold most of it";
/// Interval of the check whether replies can still come for a client that closed its sending side.
pub(super) const DEPARTED_CHECK: Duration = Duration::from_millis(250);
/// Estimated size of a small request, in bytes. [`Session::wanted`] divides the waiting input by it.
const SMALL: usize = 32;
/// The first bytes of every TLS connection: a handshake record of any version (RFC 8446, 5.1).
const TLS: [u8; 2] = [0x16, 0x03];
/// The error line for a client that speaks TLS to a plain-text port. respgate sends no TLS alert, because clients
/// would then look for a common version or cipher. Plain text makes them report "wrong version number" or "not a
/// TLS record".
const SPEAK_PLAIN: &[u8] =
    b"-ERR respgate: this port speaks plain text; connect without TLS (redis://), or use a port with TLS";
/// Number of rounds of reading and writing before other tasks get a turn.
const ROUNDS: usize = 8;

/// Says how a turn ended.
pub(super) enum Turn {
    /// The session must wait for an operation outside the data path.
    AsyncOp(AsyncOp),
    /// The session is over.
    Close(Close),
}

/// Says why no further request can be handled now.
pub(super) enum Pause {
    /// All input is handled: read more.
    More,
    /// More input can be handled, after other sessions have had their turn.
    Yield,
    /// The client must get earlier replies first.
    Replies,
    /// A rate limit allows the request at this time.
    Limit(Instant),
    /// The tenant has reached its in-flight limit. The session checks again at this time at the latest.
    Room(Instant),
    /// The lane takes no requests. With a deadline, the lane waits for a primary until that time at most.
    Lane(Option<Instant>),
    /// The server has not confirmed all requested subscriptions.
    Subscribing,
    /// See [`Turn::AsyncOp`].
    AsyncOp(AsyncOp),
    /// See [`Turn::Close`]. The session still delivers the replies that are under way.
    Close(Close),
}

/// Says what happened to one request.
pub(super) enum Step {
    /// The request was sent or answered.
    Done,
    /// The request stays in the input and is handled again later.
    Stay(Pause),
    /// The request was taken, and no request behind it can be handled now.
    Taken(Pause),
}

impl Session {
    /// Runs one turn. The waker is called when the client can be read from or written to, when replies arrive,
    /// and when the lane takes requests again.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        self.replies.watch(cx.waker());
        for _ in 0..ROUNDS {
            // A fan-in subscriber gets messages without asking. With a lease, the reader of the lease stops at a
            // limit; here the messages wait in the reply queue, and nothing is written until the limit allows it.
            let due_later =
                self.subscription.is_some() && !self.charge_output(cx, self.replies.awaited() as usize);
            let blocked = due_later
                || match self.replies.poll_write_to(cx, &mut self.stream) {
                    Poll::Ready(Ok(_)) => false,
                    Poll::Ready(Err(_)) => return Poll::Ready(Turn::Close(Close::Left)),
                    Poll::Pending => true,
                };
            if self.evicted(cx) {
                return Poll::Ready(Turn::Close(Close::Memory));
            }
            match self.replies.client_state() {
                ClientState::Open | ClientState::Gone => {}
                ClientState::Overflowed => return Poll::Ready(Turn::Close(Close::Slow)),
                ClientState::Cut => return Poll::Ready(Turn::Close(self.cut())),
            }
            if self.poll_stalled(cx, blocked && !due_later).is_ready() {
                return Poll::Ready(Turn::Close(Close::Slow));
            }
            if let Some(expiry) = self.activity.expired() {
                if let Some(close) = self.expire(expiry) {
                    return Poll::Ready(Turn::Close(close));
                }
                // `expire` may have replaced the reply queue, so register the waker with the current one.
                self.replies.watch(cx.waker());
            }
            if self.activity.reloaded()
                && let Err(close) = self.follow_reload()
            {
                self.closing.get_or_insert(close);
            }
            // Some replies were written above: charge them, and update the tenant's counts.
            self.charge_output(cx, self.replies.awaited() as usize);
            if let Some(close) = self.closing {
                // A closing session receives no more messages, however long its last replies take.
                self.end_subscriptions();
                if close.is_at_once(blocked) {
                    return Poll::Ready(Turn::Close(close));
                }
                if !blocked && self.replies.awaited() == 0 || self.poll_abandoned(cx, close).is_ready() {
                    return Poll::Ready(Turn::Close(close));
                }
                return Poll::Pending;
            }
            // The client takes no replies, and too many wait: read ahead, but run no request.
            if blocked && self.replies.waiting() > BACKLOG {
                match self.poll_backlog(cx) {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(close)) => return Poll::Ready(Turn::Close(close)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            if self.identity_stale {
                // The requests under way run under the former identity. They are answered before the session
                // switches.
                if self.replies.awaited() > 0 {
                    return Poll::Pending;
                }
                self.switch_identity();
            }
            // Input that was kept comes first. Read more only when all of it is handled.
            let mut pause = self.handle_input();
            self.note_pending();
            if matches!(pause, Pause::More)
                && let Some(subscribing) = self.subscribing_pause()
            {
                pause = subscribing;
            }
            if !matches!(pause, Pause::Lane(_) | Pause::Subscribing) {
                self.released();
            }
            if matches!(pause, Pause::More) {
                pause = match self.poll_read(cx) {
                    Poll::Ready(pause) => {
                        self.note_pending();
                        pause
                    }
                    // Nothing to read, but replies were queued in this round: write them before waiting.
                    Poll::Pending if self.replies.waiting() > 0 && !blocked => continue,
                    Poll::Pending if self.drained() => Pause::Close(Close::Finished),
                    Poll::Pending => return Poll::Pending,
                };
            }
            // These pauses end only when the client takes replies or a limit allows more. A client that takes no
            // replies may have to write first, so read ahead.
            let waits = matches!(pause, Pause::Replies | Pause::Limit(_) | Pause::Room(_));
            if blocked && waits {
                match self.poll_backlog(cx) {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(close)) => return Poll::Ready(Turn::Close(close)),
                    Poll::Pending => {}
                }
            }
            // Replies were queued in this round: go around again to write them, whatever the pause.
            let answered = self.replies.waiting() > 0 && !blocked;
            match pause {
                Pause::More => {}
                Pause::AsyncOp(op) => {
                    // The operation may take long. Write the finished replies first; a write error shows at the
                    // next write.
                    let _ = self.replies.poll_write_to(cx, &mut self.stream);
                    return Poll::Ready(Turn::AsyncOp(op));
                }
                Pause::Close(close) => self.closing = Some(close),
                Pause::Yield => break,
                Pause::Replies if answered => {}
                Pause::Replies => return Poll::Pending,
                Pause::Subscribing => {
                    if self.poll_subscribing(cx).is_pending() && !answered {
                        return Poll::Pending;
                    }
                }
                Pause::Limit(due) => {
                    if self.poll_due(cx, due).is_pending() && !answered {
                        return Poll::Pending;
                    }
                }
                Pause::Room(again) => {
                    if self.poll_room(cx, again).is_pending() && !answered {
                        return Poll::Pending;
                    }
                }
                Pause::Lane(deadline) => {
                    if self.poll_held(cx, deadline).is_pending() && !answered {
                        return Poll::Pending;
                    }
                }
            }
        }
        // All rounds are used up: let other tasks run, then continue.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Updates the activity for the timeouts, and the tenant's count of requests in flight.
    fn note_pending(&mut self) {
        let now = self.ctx.registry.now.get();
        let (due, came) = (self.replies.awaited() > 0, self.replies.waiting() > 0);
        self.activity.on_traffic(now, due, came, || self.admitted());
        if let Some(member) = &mut self.member {
            member.in_flight(self.replies.awaited() as usize);
        }
    }

    /// Reads on while replies wait for the client. A client may write a whole pipeline before it reads (hiredis,
    /// redis-py and phpredis do); it and respgate would otherwise wait for each other. The session runs none of
    /// the requests that it reads here before the client has taken replies, so that few bytes of requests cannot
    /// make many bytes of replies wait. The bytes read count against `max-buffered`.
    ///
    /// Ready once something was read. Pending if the client sends no more.
    ///
    /// # Errors
    /// Returns the reason to close if the connection failed.
    pub(super) fn poll_backlog(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Close>> {
        for reads in 0..AHEAD_READS {
            if self.ended {
                break;
            }
            match self.poll_read_ahead(cx) {
                Poll::Pending if reads > 0 => break,
                Poll::Pending => return Poll::Pending,
                // The client sends no more, but still gets its replies.
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.lost(&error))),
            }
        }
        if self.ended { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Returns true if the client must go at once, because the byte budget is spent and the client holds most of
    /// it. Sends it the error first, as far as the socket takes bytes.
    #[inline]
    pub(super) fn evicted(&mut self, cx: &mut Context<'_>) -> bool {
        self.account.is_evicted() && {
            self.tell_evicted(cx);
            true
        }
    }

    #[cold]
    fn tell_evicted(&mut self, cx: &mut Context<'_>) {
        // The eviction is seen twice if the session had a lease: in the leased poll, and again here.
        let told = self.closing.replace(Close::Memory) == Some(Close::Memory);
        if !told && !self.replies.is_partial() {
            self.refuse(EVICTED);
            let _ = self.replies.poll_write_to(cx, &mut self.stream);
        }
    }

    /// Ready when the client has neither taken nor sent a byte for `write_timeout`.
    #[inline]
    pub(super) fn poll_stalled(&mut self, cx: &mut Context<'_>, blocked: bool) -> Poll<()> {
        if blocked {
            return self.poll_blocked(cx);
        }
        if self.stall.is_some() {
            self.stall = None;
        }
        Poll::Pending
    }

    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let progress = self.account.moved();
        if progress != self.progress {
            self.progress = progress;
            self.stall = None;
        }
        let limit = self.ctx.config.write_timeout;
        let timer = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(cx)
    }

    /// Ready when a client that left still awaits replies although there is no primary. Checks every
    /// [`DEPARTED_CHECK`].
    fn poll_abandoned(&mut self, cx: &mut Context<'_>, close: Close) -> Poll<()> {
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

    /// Waits for the lane. Ready when the session can look at its requests again: the hold has expired, or the
    /// client has left. The lane wakes the session when it takes requests.
    fn poll_held(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
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

    /// Ready when the client has closed its connection. Keeps up to [`AHEAD`] bytes that the client sends
    /// meanwhile.
    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_left_within(cx, AHEAD)
    }

    /// As `poll_left`, but keeps up to `ahead` bytes.
    pub(super) fn poll_left_within(&mut self, cx: &mut Context<'_>, ahead: usize) -> Poll<()> {
        // When the hold buffer is full, a held client is not read from. Its departure is noticed later.
        let full = self.held.is_some() && self.ctx.upstream.hold_full(0);
        let mut reads = 0;
        while !full && !self.ended && self.input.len() < ahead {
            if reads == LEFT_READS {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            match ready!(self.poll_read_ahead(cx)) {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) => {
                    self.closing = Some(self.lost(&error));
                    self.ended = true;
                }
            }
        }
        if self.ended { Poll::Ready(()) } else { Poll::Pending }
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

    /// Returns true if a drain may end this session: it has no input and awaits no reply.
    fn drained(&self) -> bool {
        self.ctx.registry.draining.get() && self.replies.awaited() == 0 && self.input.is_empty()
    }

    /// Reads once and appends to the input without handling it. Pending, too, while the client [must
    /// wait](crate::net::budget::Account::must_wait) for memory.
    pub(super) fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        if self.account.must_wait() {
            return Poll::Pending;
        }
        let buffers = self.ctx.buffers.clone();
        let mut scratch = buffers.scratch().borrow_mut();
        let mut room = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
        self.keep(room.filled());
        self.account.note_moved(room.filled().len());
        Poll::Ready(Ok(room.filled().len()))
    }

    /// Reads once and handles the bytes at once, straight from the worker's scratch buffer unless part of a
    /// request is waiting.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Pause> {
        if self.ended {
            return Poll::Ready(Pause::Close(Close::Left));
        }
        if self.account.must_wait() {
            return Poll::Pending;
        }
        let buffers = self.ctx.buffers.clone();
        let mut scratch = buffers.scratch().borrow_mut();
        let mut room = ReadBuf::new(&mut scratch);
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room));
        let bytes = room.filled();
        if let Err(error) = read {
            return Poll::Ready(Pause::Close(self.lost(&error)));
        }
        if bytes.is_empty() {
            return Poll::Ready(Pause::Close(Close::Left));
        }
        self.account.note_moved(bytes.len());
        if self.opening && self.opens_with_tls(bytes) {
            return Poll::Ready(Pause::Close(self.refuse_tls()));
        }
        if !self.input.is_empty() {
            self.keep(bytes);
            return Poll::Ready(self.handle_input());
        }
        let (used, pause) = self.handle(bytes);
        self.keep(bytes.get(used..).unwrap_or_default());
        Poll::Ready(pause)
    }

    /// Returns true if the client speaks TLS. Called until the client has sent enough bytes to tell.
    fn opens_with_tls(&mut self, bytes: &[u8]) -> bool {
        let mut said = self.input.front().iter().chain(bytes);
        let first = [said.next(), said.next()];
        self.opening = first == [Some(&TLS[0]), None];
        first == [Some(&TLS[0]), Some(&TLS[1])]
    }

    /// Refuses a client that speaks TLS to a plain-text port.
    fn refuse_tls(&mut self) -> Close {
        self.refuse(SPEAK_PLAIN);
        self.tls_error = Some(Box::new(HandshakeError {
            reason: Reason::OnPlainPort,
            text: "speaks TLS to a port without; give this listener tls-cert and tls-key, or configure the client \
                   without TLS (redis://)"
                .into(),
        }));
        Close::Tls
    }

    /// Returns why a connection ends that cannot be read from, and keeps the TLS error, if it is one.
    pub(super) fn lost(&mut self, error: &std::io::Error) -> Close {
        let fault = error.get_ref().and_then(|inner| inner.downcast_ref::<HandshakeError>());
        match fault {
            Some(fault) => {
                self.tls_error = Some(Box::new(fault.clone()));
                Close::Tls
            }
            None => Close::Left,
        }
    }

    /// Appends bytes to the input, to be handled later.
    fn keep(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.input.push(bytes);
        self.input_charge.set(self.input.capacity());
        if let Some(held) = &mut self.held {
            held.set(self.input.len());
        }
    }

    /// Handles the kept input.
    #[inline]
    pub(super) fn handle_input(&mut self) -> Pause {
        if self.input.is_empty() { Pause::More } else { self.handle_kept() }
    }

    fn handle_kept(&mut self) -> Pause {
        for _ in 0..PIECES {
            if self.input.is_empty() {
                return Pause::More;
            }
            let input = std::mem::take(&mut self.input);
            let (used, pause) = self.handle(input.front());
            let cut_off = used < input.front().len();
            self.input = input;
            self.consume(used);
            // The input may be in two pieces. The rest of a request that ends the first piece can be in the
            // second.
            if !matches!(pause, Pause::More) || cut_off && !self.input.join() {
                return pause;
            }
        }
        Pause::Yield
    }

    /// Drops `used` bytes from the front of the input.
    pub(super) fn consume(&mut self, used: usize) {
        self.input.consume(used);
        if self.input.is_empty() {
            self.input.release();
        }
        self.input_charge.set(self.input.capacity());
    }

    /// Handles requests until one must wait. Returns how many bytes are used up, and why it stopped.
    fn handle(&mut self, bytes: &[u8]) -> (usize, Pause) {
        self.handle_with(bytes, |session, found| match found {
            Ok(request) => {
                let step = match session.charge(request) {
                    Charged::Passes => session.dispatch(request),
                    Charged::Waits(pause) => return Step::Stay(pause),
                    Charged::Refused(_) if session.replies.awaited() > 0 => {
                        return Step::Stay(Pause::Replies);
                    }
                    Charged::Refused(line) => {
                        session.refuse_for_limit(&line);
                        Step::Done
                    }
                };
                session.charged(&step);
                step
            }
            Err(_) if session.replies.awaited() > 0 => Step::Stay(Pause::Replies),
            Err(fault) => session.close_malformed(fault),
        })
    }

    /// As `handle`, but calls `dispatch` with each request, or with the protocol error.
    pub(super) fn handle_with(
        &mut self,
        bytes: &[u8],
        mut dispatch: impl FnMut(&mut Self, Result<&Request<'_>, &RequestError>) -> Step,
    ) -> (usize, Pause) {
        let mut used = 0;
        let ctx = self.ctx.clone();
        loop {
            if self.replies.waiting() > BACKLOG {
                return (used, Pause::Replies);
            }
            let rest = bytes.get(used..).unwrap_or_default();
            if rest.is_empty() {
                return (used, Pause::More);
            }
            let limits =
                if self.client.identity.is_some() { &ctx.config.request } else { &ctx.unauthenticated };
            let (len, step) = match self.scanner.scan(rest, limits) {
                Scanned::Incomplete { .. } => return (used, Pause::More),
                Scanned::Skip(len) => (len, Step::Done),
                Scanned::Request(request) => (request.len(), dispatch(self, Ok(&request))),
                Scanned::Inline { consumed } => {
                    let line = rest.get(..consumed).unwrap_or_default();
                    match request::split_inline(line, limits) {
                        Ok(None) => (consumed, Step::Done),
                        Ok(Some(frame)) => match Request::parse(&frame) {
                            Some(request) => (consumed, dispatch(self, Ok(&request))),
                            None => (consumed, Step::Done),
                        },
                        Err(fault) => (consumed, dispatch(self, Err(&fault))),
                    }
                }
                Scanned::Malformed(fault) => (rest.len(), dispatch(self, Err(&fault))),
            };
            match step {
                Step::Done => used += len,
                Step::Stay(pause) => return (used, pause),
                Step::Taken(pause) => return (used + len, pause),
            }
        }
    }

    /// Answers bytes that are not RESP: the client gets the server's protocol error behind its earlier replies,
    /// and loses its connection.
    pub(super) fn close_malformed(&mut self, fault: &RequestError) -> Step {
        let line = &fault.reply();
        tracing::debug!(client = self.client.id, peer = self.client.peer, error = %String::from_utf8_lossy(line).trim_end(), "a client violated the protocol");
        self.replies.answer(|out| out.extend_from_slice(line));
        Step::Taken(Pause::Close(Close::Protocol))
    }
}

/// Ready at `deadline`. Moves the timer there first if it was set to another time.
pub(super) fn poll_timer(timer: &mut Pin<Box<Sleep>>, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
    if timer.deadline() != deadline {
        timer.as_mut().reset(deadline);
    }
    timer.as_mut().poll(cx)
}
