//! Serves a session on a leased connection: from the request that needs the lease until no state is left on the
//! connection.
//!
//! [`admit`] decides what is sent, [`replies`] interprets the replies, and [`pins`] records why the lease is
//! kept.

mod replies;
mod admit;
mod expect;
mod hold;
mod newest;
mod outbound;
mod pins;
mod queued;
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

/// Limit of request bytes that wait to be written to a lease. Above it, no further requests are taken.
const OUTBOUND: usize = 256 * 1024;

/// Says how a lease ended.
enum LeaseEnd {
    /// The session needs the lease no longer. The connection returns to the pool if the commands that ran on it
    /// provably left no state.
    Clean,
    /// HELLO asks for another protocol version, and the connection's state can move to a connection of that
    /// version.
    Version(Hello),
    /// The session gave up its connection state, so the connection is closed.
    Abandoned,
    /// The connection was lost.
    Lost,
    /// The session is over.
    Close(Close),
}

/// Serves a session whose next request needs a connection of its own, until no request does.
///
/// # Errors
/// Returns the reason to close if the session is over.
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
            // Skip the request first: a full backlog of replies would keep the session from skipping it, and it
            // would be answered twice.
            session.skip_request();
            session.refuse(&line);
            session.close_if_dead();
            return Ok(());
        }
    };
    let gauge = Gauged::new(&upstream.counters, |c| &c.clients_pinned);
    let mut leased = Leased::new(lease, upstream.config.pool == Pool::Session, &session.account);
    let mut backoff = ReconnectBackoff::new();
    let end = loop {
        match poll_fn(|cx| leased.poll(cx, session)).await {
            LeaseEnd::Lost => match leased.migrate(session, &mut backoff).await? {
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

/// Holds a session's use of one lease.
struct Leased {
    lease: Lease,
    since: Instant,
    pins: Pins,
    expected: Expected,
    scanner: ReplyScanner,
    outbound: Outbound,
    /// The bytes allocated for the lease's requests, its state and the bytes read from the server.
    charge: Charge,
    /// True if the client has closed its sending side. Requests under way are finished.
    left: bool,
    /// True if the session keeps this lease until it ends (`pool = "session"`).
    sticky: bool,
    /// True if an error or an unexpected reply leaves the connection's state unknown.
    doubtful: bool,
    /// True if the node refused a command as only a replica does, or a script's reply contains such a refusal.
    /// Other sessions must not use the connection.
    distrusted: bool,
    /// Whether a frame is being passed on in pieces, and of which kind: `Some(true)` is a message, `Some(false)`
    /// a reply.
    streaming: Option<bool>,
    /// The error of the PUBLISH that precedes a WAIT.
    unpublished: Option<Vec<u8>>,
    ending: Option<LeaseEnd>,
    /// True if a request was sent on this lease.
    used: bool,
    /// True if the server refused the front request because the server is not the primary.
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

    /// Returns true if every reply has come, and the server's replies confirmed the end of all state that
    /// respgate tracks.
    fn settled(&self) -> bool {
        !self.doubtful && self.expected.is_empty() && self.streaming.is_none() && !self.pins.any()
    }

    /// Runs one poll of the lease: checks that end it, then the client, the requests to write, and the server's
    /// replies.
    fn poll(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Poll<LeaseEnd> {
        session.replies.watch(cx.waker());
        for _ in 0..16 {
            let in_flight = if self.expected.gated { 0 } else { self.expected.len() };
            // A fan-in subscriber's messages wait here for the output limit, as they do without a lease.
            let due_later = session.subscription.is_some() && !session.charge_output(cx, in_flight);
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
            // The server sends messages unasked: only a subscriber that is not held back can exceed this limit.
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
            // False if a limit allows no more output: then nothing is read from the server below.
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
            if self.lease.take_ping() && self.may_interject() {
                self.send_ping(session);
            }
            if self.lease.is_refresh_due() && self.may_authenticate(session) {
                self.authenticate();
            }
            // `moved` is true if this round did anything. A round that did nothing ends the poll.
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
                    // A connection that may wait for long, such as a subscriber's, keeps no read buffer
                    // meanwhile.
                    Poll::Pending if self.expected.is_empty() || self.expected.gated => {
                        self.lease.input().release();
                    }
                    Poll::Pending => {}
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(LeaseEnd::Lost),
                    Poll::Ready(Ok(_)) => {
                        self.lease.set_reply_due(false);
                        self.lease.heard();
                        self.handle_replies(session);
                        self.note_state(session, true);
                        self.count();
                        moved = true;
                    }
                }
            }
            // No reply is due. The lease ends if the client left, a drain runs, or nothing keeps the connection.
            if self.ending.is_none() && self.expected.is_empty() {
                let abandoned =
                    self.left && !moved && (self.pins.any() || (self.sticky && session.input.is_empty()));
                if abandoned || self.drained(session) {
                    self.ending =
                        Some(LeaseEnd::Close(if abandoned { Close::Left } else { Close::Finished }));
                    moved = true;
                } else if !self.pins.any() && !self.sticky && !moved {
                    return Poll::Ready(LeaseEnd::Clean);
                }
            }
            if !moved && self.ending.is_none() && (blocked || session.replies.waiting() == 0) {
                // The server is not late if the client does not take its replies.
                self.lease.set_reply_due(!blocked && self.expected.due());
                return Poll::Pending;
            }
        }
        // All rounds are used up: let other tasks run, then continue.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Returns true if the session reads messages for a client that does not take them. `slow-reader-soft` needs
    /// that: it judges subscribers by the bytes that wait for them.
    fn piles_up(&self, session: &Session) -> bool {
        self.pins.subscribed() && session.ctx.config.timeouts.slow_reader_soft.is_some()
    }

    /// Handles an expired timeout. Returns how the lease ends, or `None` if it goes on.
    fn expire(&mut self, session: &mut Session, expiry: Expiry) -> Option<LeaseEnd> {
        if expiry == Expiry::Command {
            session.ctx.upstream.counters.command_timeouts.inc();
            return Some(self.silent(session));
        }
        session.expire(expiry).map(LeaseEnd::Close)
    }

    /// Updates the activity and the tenant's counts with the reason for the lease. `came` is true if something
    /// came for the client.
    fn note_state(&mut self, session: &mut Session, came: bool) {
        let now = session.ctx.registry.now.get();
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

    /// Updates the count of allocated bytes.
    fn count(&mut self) {
        let read = self.lease.read_capacity();
        self.charge.set(self.outbound.capacity() + self.expected.capacity() + self.pins.capacity() + read);
    }

    /// Takes requests from the client, as far as they may be sent. `blocked` is true if the client does not take
    /// its replies. Returns true if bytes were read or requests taken.
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
            // The session stops reading until the limit allows the request, unless the client waits for respgate
            // to read.
            Pause::Limit(due) => {
                moved |= session.poll_due(cx, due).is_ready();
                moved |= blocked && self.poll_backlog(cx, session);
            }
            Pause::Room(again) => {
                moved |= session.poll_room(cx, again).is_ready();
                moved |= blocked && self.poll_backlog(cx, session);
            }
            // The rest of a request that was cut off must be read, however long the request is.
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
                // A blocked client may stay blocked for ever, so the session reads on to notice that the client
                // left. A client that does not take its replies may have to write first.
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

    /// Returns true if respgate may send a request of its own: not behind a reply that is due, whose command may
    /// block; not in a transaction, which would queue it; not where replies cannot be told from other traffic.
    fn may_interject(&self) -> bool {
        let Pins { transaction, monitoring, .. } = &self.pins;
        let unknown = self.pins.is_kept_for_unknown();
        self.expected.is_empty() && transaction.is_none() && !monitoring && !unknown
    }

    /// Returns true if the connection can be authenticated again now. A RESP2 subscriber may not send AUTH
    /// (observed on valkey 8.0 and redis 7.0).
    fn may_authenticate(&self, session: &Session) -> bool {
        self.may_interject() && (session.client.resp == Resp::V3 || !self.pins.subscribed())
    }

    /// Authenticates the connection again. Sends nothing behind the AUTH until its reply comes.
    fn authenticate(&mut self) {
        if let Some(auth) = self.lease.begin_refresh() {
            let mut request = Vec::new();
            auth.write(&mut request);
            self.post(Expect::Auth(auth), Trace::Nothing, |out| out.append(&mut request));
            self.expected.gated = true;
        }
    }

    /// Sends a request that changes nothing, whose reply the client does not see.
    fn send_ping(&mut self, session: &Session) {
        let request = session.ctx.upstream.probe_request(self.lease.identity());
        self.post(Expect::Alive, Trace::Nothing, |out| out.extend_from_slice(request));
    }

    /// Handles a client that closed its sending side. Requests that it sent before are still run and answered,
    /// but a blocking command is abandoned at once, so that it does not pop an element for a client that left.
    fn departed(&mut self) {
        self.left = true;
        if self.expected.gated {
            self.ending = Some(LeaseEnd::Close(Close::Left));
        }
    }

    /// Handles a server that has not answered in time. Sending the requests again would only make the client wait
    /// longer, so the session answers them, or ends if it has connection state.
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

    /// Returns true if a drain may end this session: it has no input and no open transaction.
    fn drained(&self, session: &Session) -> bool {
        session.ctx.registry.draining.get() && session.input.is_empty() && self.pins.transaction.is_none()
    }

    /// Writes waiting requests to the server. Returns true if any byte was written.
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
