//! The leased lane of a session: from the request that needs it until no state is left on the connection.
//!
//! [`admit`] decides what is sent, [`replies`] what a reply means, [`pins`] why the lease is kept.

mod replies;
mod admit;
mod expect;
mod hold;
mod newest;
mod outbound;
mod pins;
mod send;
mod reapply_policy;
mod selects;
mod reconnect;
mod settle;
mod migrate;
mod version;

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use self::expect::{Expect, Expected};
use self::outbound::Outbound;
use self::pins::Pins;
use self::reconnect::ReconnectBackoff;
use super::activity::Expiry;
use super::hello::Hello;
use super::turn::{AHEAD, BACKLOG, Pause};
use super::{Close, Session};
use crate::command::Trace;
use crate::metrics::Gauged;
use crate::net::budget::{Account, Charge};
use crate::resp::Resp;
use crate::resp::reply::ReplyScanner;
use crate::tenant::limits::refusal::Limit;
use crate::upstream::config::Pool;
use crate::upstream::leased::lease::Lease;
use crate::upstream::replies::ClientState;

/// Requests that may wait to be written to a lease before no more are taken, in bytes.
const OUTBOUND: usize = 256 * 1024;

/// How a lease ended.
enum LeaseEnd {
    /// The session needs it no longer. It returns to the pool if what ran on it proves that no state is left.
    Clean,
    /// HELLO asks for another protocol version, which the connection's state can follow.
    Version(Hello),
    /// The session gave up its state, which closes the connection.
    Abandoned,
    /// The connection was lost.
    Lost,
    /// The session is over.
    Close(Close),
}

/// Serves a session whose next request needs a connection of its own, until it needs none.
///
/// # Errors
/// The session is over.
pub(super) async fn serve(session: &mut Session) -> Result<(), Close> {
    let Some(key) = session.key() else { return Ok(()) };
    let upstream = session.ctx.upstream.clone();
    let replies = session.replies.clone();
    if let Err(line) = session.take_place(Limit::Leased) {
        session.skip_request();
        session.refuse_for_limit(&line);
        return Ok(());
    }
    if upstream.hold_full(session.input.len()) {
        session.skip_request();
        session.refuse(&upstream.hold_overflow());
        return Ok(());
    }
    let share = session.scheduler_share();
    let lease = tokio::select! {
        lease = upstream.lease(&key, &replies, share) => lease,
        () = session.left() => return Err(Close::Left),
    };
    session.released();
    let lease = match lease {
        Ok(lease) => lease,
        Err(line) => {
            // First, since a full backlog of replies would keep it from being skipped, and answer it twice.
            session.skip_request();
            session.refuse(&line);
            session.close_if_dead();
            return Ok(());
        }
    };
    let gauge = Gauged::new(&upstream.counters, |c| &c.clients_pinned);
    let mut leased = Leased::new(lease, upstream.config.pool == Pool::Session, &session.account);
    let mut setbacks = ReconnectBackoff::new();
    let end = loop {
        match poll_fn(|cx| leased.poll(cx, session)).await {
            LeaseEnd::Lost => match leased.migrate(session, &mut setbacks).await? {
                Some(next) => leased = next,
                None => return Ok(()),
            },
            LeaseEnd::Version(hello) => leased = leased.change_version(session, &hello).await?,
            end => break end,
        }
    };
    drop(gauge);
    session.released();
    match end {
        LeaseEnd::Clean if leased.settled() && !leased.distrusted => {
            if let Some(clean) = leased.lease.proven() {
                clean.give_back();
            }
        }
        LeaseEnd::Clean | LeaseEnd::Abandoned | LeaseEnd::Version(_) | LeaseEnd::Lost => {}
        LeaseEnd::Close(close) => return Err(close),
    }
    Ok(())
}

/// A session's use of one lease.
struct Leased {
    lease: Lease,
    since: Instant,
    pins: Pins,
    expected: Expected,
    scanner: ReplyScanner,
    outbound: Outbound,
    /// What is allocated for its requests, its state and what was read from the server.
    charge: Charge,
    /// The client has closed its side; what is under way is finished.
    left: bool,
    /// Requests go on this lease until the session ends (`pool = "session"`).
    sticky: bool,
    /// Something failed that leaves the connection's state unknown.
    doubtful: bool,
    /// The node has refused something as only a non-primary does, or a script says so: the connection is not used by
    /// others.
    distrusted: bool,
    /// The frame that is being passed on in pieces answers nothing: it is a message.
    streaming: Option<bool>,
    /// The PUBLISH before a WAIT failed with this error.
    unpublished: Option<Vec<u8>>,
    ending: Option<LeaseEnd>,
    /// Something has been sent on it.
    used: bool,
    /// The server refused the front request because it is not the primary.
    front_refused: bool,
}

impl Leased {
    fn new(lease: Lease, sticky: bool, account: &Rc<Account>) -> Self {
        Self {
            lease,
            since: Instant::now(),
            charge: Charge::new(account),
            pins: Pins::default(),
            expected: Expected::default(),
            scanner: ReplyScanner::default(),
            outbound: Outbound::default(),
            left: false,
            sticky,
            doubtful: false,
            distrusted: false,
            streaming: None,
            unpublished: None,
            ending: None,
            used: false,
            front_refused: false,
        }
    }

    /// Returns true if every reply has come, and the server's replies confirmed the end of all state that is followed.
    fn settled(&self) -> bool {
        !self.doubtful && self.expected.is_empty() && self.streaming.is_none() && !self.pins.any()
    }

    fn poll(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Poll<LeaseEnd> {
        session.replies.watch(cx.waker());
        for _ in 0..16 {
            let in_flight = if self.expected.gated { 0 } else { self.expected.len() };
            // Where the messages of fan-in wait for a limit, as without a lease.
            let due_later = session.seat.is_some() && !session.charge_output(cx, in_flight);
            let blocked = due_later
                || match session.replies.poll_write_to(cx, &mut session.stream) {
                    Poll::Ready(Ok(_)) => false,
                    Poll::Ready(Err(_)) => return Poll::Ready(LeaseEnd::Close(Close::Left)),
                    Poll::Pending => true,
                };
            if session.evicted(cx) {
                return Poll::Ready(LeaseEnd::Close(Close::Memory));
            }
            match session.replies.client_state() {
                ClientState::Open | ClientState::Gone => {}
                ClientState::Overflowed => return Poll::Ready(LeaseEnd::Close(Close::Slow)),
                ClientState::Cut => return Poll::Ready(LeaseEnd::Close(session.cut())),
            }
            // Messages come unasked: only a subscriber that is not held back can let so much pile up.
            if self.piles_up(session) && session.replies.waiting() > session.ctx.config.max_reply_buffer {
                return Poll::Ready(LeaseEnd::Close(Close::Slow));
            }
            if session.poll_stalled(cx, blocked && !due_later).is_ready() {
                return Poll::Ready(LeaseEnd::Close(Close::Slow));
            }
            if let Some(end) = session.activity.expired().and_then(|expiry| self.expire(session, expiry)) {
                return Poll::Ready(end);
            }
            if let Some(end) = self.follow_reload(session) {
                return Poll::Ready(end);
            }
            let taking = session.charge_output(cx, in_flight);
            if session.closing == Some(Close::Memory) && self.ending.is_none() {
                self.ending = Some(LeaseEnd::Close(Close::Memory));
            }
            if self.lease.is_silent() {
                return Poll::Ready(self.silent(session));
            }
            if self.lease.is_cut() {
                return Poll::Ready(LeaseEnd::Lost);
            }
            if let Some(end) = self.ending.take() {
                return Poll::Ready(end);
            }
            if self.lease.takes_ping() && session.ctx.upstream.may_ping(self.lease.identity()) {
                self.ping();
            }
            if self.lease.is_refresh_due() && self.may_authenticate(session) {
                self.authenticate();
            }
            let mut moved = self.poll_client(cx, session, blocked && !due_later);
            if self.ending.is_some() {
                continue;
            }
            match self.poll_outbound(cx) {
                Ok(wrote) => moved |= wrote,
                Err(_) => return Poll::Ready(LeaseEnd::Lost),
            }
            if taking && (session.replies.waiting() < BACKLOG || self.piles_up(session)) {
                match self.lease.poll_fill(cx) {
                    // One that waits for long, such as a subscriber's, holds no buffer meanwhile.
                    Poll::Pending if self.expected.is_empty() || self.expected.gated => {
                        self.lease.input().release();
                    }
                    Poll::Pending => {}
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(LeaseEnd::Lost),
                    Poll::Ready(Ok(_)) => {
                        self.lease.due(false);
                        self.lease.heard();
                        self.handle_replies(session);
                        self.note_state(session, true);
                        self.count();
                        moved = true;
                    }
                }
            }
            if self.ending.is_none() && self.expected.is_empty() {
                let deserted =
                    self.left && !moved && (self.pins.any() || (self.sticky && session.input.is_empty()));
                if deserted || self.drained(session) {
                    self.ending = Some(LeaseEnd::Close(if deserted { Close::Left } else { Close::Finished }));
                    moved = true;
                } else if !self.pins.any() && !self.sticky && !moved {
                    return Poll::Ready(LeaseEnd::Clean);
                }
            }
            if !moved && self.ending.is_none() && (blocked || session.replies.waiting() == 0) {
                // A client that does not take its replies is not the server's fault.
                self.lease.due(!blocked && self.expected.due());
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// A subscriber that is to be judged by `slow-reader-soft` is not held back before that.
    fn piles_up(&self, session: &Session) -> bool {
        self.pins.subscribed() && session.ctx.config.timeouts.slow_reader_soft.is_some()
    }

    /// What is to be done with a session whose time is up.
    fn expire(&mut self, session: &mut Session, expiry: Expiry) -> Option<LeaseEnd> {
        if expiry == Expiry::Command {
            session.ctx.upstream.counters.command_timeouts.inc();
            return Some(self.silent(session));
        }
        session.expire(expiry).map(LeaseEnd::Close)
    }

    /// Notes for timeouts and limits what the lease is kept for. `came`: something came for the client.
    fn note_state(&mut self, session: &mut Session, came: bool) {
        let now = session.ctx.roster.now.get();
        let due = self.expected.due();
        let listens = self.pins.subscribed() || self.pins.monitoring;
        let transaction = self.pins.transaction.is_some() || self.pins.watching;
        session.activity.touch(now);
        session.activity.set_reply_due(now, due, came);
        session.activity.set_lease_state(now, listens || self.expected.gated && !due, transaction);
        if let Some(member) = &mut session.member {
            member.in_flight(if self.expected.gated { 0 } else { self.expected.len() });
            if !self.expected.gated {
                session.release_place(Limit::Blocked);
            }
            if !listens && self.expected.is_empty() {
                session.release_place(Limit::Subscribed);
            }
            if !transaction && self.expected.is_empty() {
                session.release_place(Limit::Transactions);
            }
        }
    }

    /// Counts what is allocated now.
    fn count(&mut self) {
        let read = self.lease.read_capacity();
        self.charge.set(self.outbound.capacity() + self.expected.capacity() + self.pins.capacity() + read);
    }

    /// Takes requests from the client as far as they may be sent. `blocked`: the client does not take its replies. Whether
    /// anything was taken or read.
    fn poll_client(&mut self, cx: &mut Context<'_>, session: &mut Session, blocked: bool) -> bool {
        if session.replies.waiting() > BACKLOG {
            return blocked && self.poll_backlog(cx, session);
        }
        let mut moved = false;
        let pause = self.admit_input(session, &mut moved);
        self.count();
        match pause {
            Pause::Lane(Some(deadline)) => moved |= session.poll_hold_expired(cx, deadline).is_ready(),
            _ => session.released(),
        }
        match pause {
            Pause::Close(close) => {
                self.ending = Some(LeaseEnd::Close(close));
                return true;
            }
            // The reader stops until the limit allows the request, unless the client waits for respgate to read.
            Pause::Limit(due) => {
                moved |= session.poll_due(cx, due).is_ready();
                moved |= blocked && self.poll_backlog(cx, session);
            }
            Pause::Room(again) => {
                moved |= session.poll_room(cx, again).is_ready();
                moved |= blocked && self.poll_backlog(cx, session);
            }
            // A request that is cut off must be read on, however long it is.
            Pause::More if !session.ended => match session.poll_read_ahead(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(count)) => {
                    session.ended = count == 0;
                    moved = true;
                }
                Poll::Ready(Err(error)) => {
                    self.ending = Some(LeaseEnd::Close(session.lost(&error)));
                    return true;
                }
            },
            _ => {
                // Whoever is blocked may stay so for ever, so it is read on to notice that the client left; and one that does
                // not take its replies may have to write first.
                let ahead = if self.expected.gated || blocked { usize::MAX } else { AHEAD };
                if session.poll_left_within(cx, ahead).is_ready() && !self.left {
                    self.departed();
                    moved = true;
                }
            }
        }
        moved
    }

    /// Reads on while replies wait for the client. Returns true if anything was read.
    fn poll_backlog(&mut self, cx: &mut Context<'_>, session: &mut Session) -> bool {
        match session.poll_backlog(cx) {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(close)) => {
                self.ending = Some(LeaseEnd::Close(close));
                true
            }
        }
    }

    /// Returns true if respgate may send a request of its own: not behind a reply that is due, which may block; not in a
    /// transaction, which would queue it; not where replies cannot be told from other traffic.
    fn may_interject(&self) -> bool {
        let Pins { transaction, monitoring, .. } = &self.pins;
        let unknown = self.pins.is_kept_for_unknown();
        self.expected.is_empty() && transaction.is_none() && !monitoring && !unknown
    }

    /// Returns true if the connection can be authenticated again now. A RESP2 subscriber may not send AUTH (observed on
    /// valkey 8.0 and redis 7.0).
    fn may_authenticate(&self, session: &Session) -> bool {
        self.may_interject() && (session.client.resp == Resp::V3 || !self.pins.subscribed())
    }

    /// Authenticates the connection again. Nothing is sent behind the AUTH until it is answered.
    fn authenticate(&mut self) {
        if let Some(auth) = self.lease.begin_refresh() {
            let mut request = Vec::new();
            auth.write(&mut request);
            self.post(Expect::Auth(auth), Trace::Nothing, |out| out.append(&mut request));
            self.expected.gated = true;
        }
    }

    /// Pings a connection that has been quiet for long.
    fn ping(&mut self) {
        if self.may_interject() {
            self.send_ping();
        }
    }

    fn send_ping(&mut self) {
        self.post(Expect::Alive, Trace::Nothing, |out| out.extend_from_slice(b"*1\r\n$4\r\nPING\r\n"));
    }

    /// The client closed its side. What it sent before is still done and answered, but a wait is abandoned at once,
    /// so that nothing is popped for nobody.
    fn departed(&mut self) {
        self.left = true;
        if self.expected.gated {
            self.ending = Some(LeaseEnd::Close(Close::Left));
        }
    }

    /// The server has not answered in time. Asking again would only make it wait longer.
    fn silent(&mut self, session: &mut Session) -> LeaseEnd {
        if matches!(self.expected.front(), Some(Expect::Alive | Expect::Auth(_))) {
            return LeaseEnd::Lost;
        }
        if self.pins.any() || self.streaming.is_some() {
            return LeaseEnd::Close(Close::UpstreamLost);
        }
        for (expect, _) in self.expected.take() {
            match expect {
                Expect::Reply(awaited) if !awaited.mute => {
                    let verdict = awaited.if_lost.verdict_of_silence();
                    session.replies.answer(|out| out.extend_from_slice(&verdict.reply()));
                }
                Expect::Confirmations { .. } => return LeaseEnd::Close(Close::UpstreamLost),
                Expect::Discarded(reply) | Expect::Decided(reply) => {
                    session.replies.answer(|out| out.extend_from_slice(&reply));
                }
                Expect::Reply(_)
                | Expect::Nonce(_)
                | Expect::Newest(_)
                | Expect::Publish
                | Expect::Alive
                | Expect::Auth(_)
                | Expect::Restored(_) => {}
            }
        }
        LeaseEnd::Abandoned
    }

    fn drained(&self, session: &Session) -> bool {
        session.ctx.roster.draining.get() && session.input.is_empty() && self.pins.transaction.is_none()
    }

    fn poll_outbound(&mut self, cx: &mut Context<'_>) -> std::io::Result<bool> {
        let mut wrote = false;
        while !self.outbound.unwritten().is_empty() {
            match self.lease.poll_write(cx, self.outbound.unwritten()) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(result) => self.outbound.wrote(result?),
            }
            wrote = true;
        }
        match self.lease.poll_flush(cx) {
            Poll::Ready(result) => result.map(|()| wrote),
            Poll::Pending => Ok(wrote),
        }
    }
}
