//! Runs a lease: reads requests from the client, writes them to the server, and reads the replies.

use std::task::{Context, Poll};

use super::pin_counts::{BLOCKING, SESSION};
use super::{LeaseEnd, Leased};
use crate::net::write::WriteSource;
use crate::session::Session;
use crate::session::close::Close;
use crate::session::deliver::{BACKLOG, Delivery};
use crate::session::read::AHEAD;
use crate::session::step::Pause;

/// Number of rounds of reading and writing before other tasks run.
const ROUNDS: usize = 16;

impl Leased {
    /// Runs the lease until it must wait or ends.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Poll<LeaseEnd> {
        session.output.replies.watch(cx.waker());
        session.note_input();
        for _ in 0..ROUNDS {
            match self.poll_round(cx, session) {
                Ok(Poll::Ready(())) => {}
                Ok(Poll::Pending) => {
                    self.count_pins();
                    return Poll::Pending;
                }
                Err(end) => return Poll::Ready(end),
            }
        }
        // All rounds are used up: let other tasks run, then continue.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Runs one round: writes replies, checks what ends the lease, then moves requests and replies. Ready if
    /// another round may find more to do.
    ///
    /// # Errors
    /// Returns how the lease ends.
    fn poll_round(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Result<Poll<()>, LeaseEnd> {
        let in_flight = self.in_flight();
        let delivery = session.deliver(cx, in_flight)?;
        self.check_client(session)?;
        // False if a limit allows no more output: then nothing is read from the server below.
        let may_read = session.charge_output(cx, in_flight);
        self.check_connection(session)?;
        self.send_own_requests(session);
        // `moved` is true if this round did anything. A round that did nothing ends the poll.
        let mut moved = self.poll_client(cx, session, delivery == Delivery::ClientBusy);
        if self.decided_end.is_some() {
            return Ok(Poll::Ready(()));
        }
        moved |= self.poll_outbound(cx).map_err(|_| LeaseEnd::Lost)?;
        if may_read && (session.output.waiting() < BACKLOG || self.piles_up(session)) {
            moved |= self.poll_replies(cx, session)?;
        }
        moved |= self.check_done(session, moved)?;
        let blocked = delivery.is_blocked();
        if !moved && self.decided_end.is_none() && (blocked || session.output.waiting() == 0) {
            // The server is not late if the client does not take its replies.
            self.lease.set_reply_due(!blocked && self.expected.due());
            self.lease.set_unanswered(self.expected.unblocked());
            return Ok(Poll::Pending);
        }
        Ok(Poll::Ready(()))
    }

    /// Counts the session under the reasons for which it keeps the lease while it waits.
    fn count_pins(&mut self) {
        let blocking = if self.expected.gated { BLOCKING } else { 0 };
        let session = if self.for_session { SESSION } else { 0 };
        self.pin_counts.set(self.pins.kinds() | blocking | session);
    }

    /// Returns the number of the client's requests under way. A request that may block does not count.
    pub(super) fn in_flight(&self) -> usize {
        if self.expected.gated { 0 } else { self.expected.len() }
    }

    /// Checks what ends the lease on the client's side: unread messages, a timeout, or a reload.
    fn check_client(&mut self, session: &mut Session) -> Result<(), LeaseEnd> {
        // The server sends messages unasked: only a subscriber that is not held back can exceed this limit.
        if self.piles_up(session) && session.output.waiting() > session.ctx.config.max_reply_buffer {
            return Err(LeaseEnd::Close(Close::Slow));
        }
        if let Some(expiry) = session.activity.expired() {
            self.expire(session, expiry).map_or(Ok(()), Err)?;
        }
        self.follow_reload(session).map_or(Ok(()), Err)
    }

    /// Checks what ends the lease on the server's side: a late reply, a lost connection, or an earlier decision.
    fn check_connection(&mut self, session: &mut Session) -> Result<(), LeaseEnd> {
        if session.closing == Some(Close::Memory) && self.decided_end.is_none() {
            self.decided_end = Some(LeaseEnd::Close(Close::Memory));
        }
        if self.lease.is_silent() {
            return Err(self.end_without_reply(session));
        }
        if self.should_vacate(session) {
            self.lease.cut();
        }
        if self.lease.is_cut() {
            return Err(LeaseEnd::Lost);
        }
        self.decided_end.take().map_or(Ok(()), Err)
    }

    /// Reads from the server once, and handles what came. Returns true if anything came.
    fn poll_replies(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Result<bool, LeaseEnd> {
        match self.lease.poll_fill(cx) {
            Poll::Pending => {
                // A connection that may wait for long, such as a subscriber's, keeps no read buffer meanwhile.
                if self.expected.is_empty() || self.expected.gated {
                    self.lease.input().release();
                }
                Ok(false)
            }
            Poll::Ready(Ok(0) | Err(_)) => Err(LeaseEnd::Lost),
            Poll::Ready(Ok(_)) => {
                self.lease.set_reply_due(false);
                self.lease.heard();
                self.handle_replies(session);
                self.note_state(session, true);
                self.update_charge();
                Ok(true)
            }
        }
    }

    /// Ends the lease when no reply is due, and the client left, a drain runs, or nothing keeps the connection.
    /// Returns true if the next round ends it.
    fn check_done(&mut self, session: &Session, moved: bool) -> Result<bool, LeaseEnd> {
        if self.decided_end.is_some() || !self.expected.is_empty() {
            return Ok(false);
        }
        let abandoned =
            self.client_left && !moved && (self.pins.any() || (self.for_session && session.input.is_empty()));
        if abandoned || self.may_end_for_drain(session) {
            self.decided_end = Some(LeaseEnd::Close(if abandoned { Close::Left } else { Close::Finished }));
            return Ok(true);
        }
        if !self.pins.any() && !self.for_session && !moved { Err(LeaseEnd::Clean) } else { Ok(false) }
    }

    /// Takes requests from the client, as far as they may be sent. `blocked` is true if the client does not take
    /// its replies. Returns true if bytes were read or requests taken.
    fn poll_client(&mut self, cx: &mut Context<'_>, session: &mut Session, blocked: bool) -> bool {
        if session.output.waiting() > BACKLOG {
            return blocked && self.poll_backlog(cx, session);
        }
        let mut moved = false;
        let pause = self.admit_input(session, &mut moved);
        session.note_awaited(&pause);
        self.update_charge();
        // Only a hold keeps the session counted as held. Every other pause ends the wait.
        match pause {
            Pause::Lane(Some(deadline)) => moved |= session.poll_hold_expired(cx, deadline).is_ready(),
            _ => session.end_wait(),
        }
        match pause {
            Pause::Close(close) => {
                self.decided_end = Some(LeaseEnd::Close(close));
                true
            }
            // The session stops reading until the limit allows the request, unless the client waits for respgate
            // to read.
            Pause::Limit(due) => {
                moved |= session.tenancy.poll_rate_limit(cx, due).is_ready();
                moved | (blocked && self.poll_backlog(cx, session))
            }
            Pause::Room(again) => {
                moved |= session.tenancy.poll_in_flight_limit(cx, again).is_ready();
                moved | (blocked && self.poll_backlog(cx, session))
            }
            // The rest of a request that was cut off must be read, however long the request is.
            Pause::More if !session.input.closed => moved | self.poll_more(cx, session),
            _ => moved | self.poll_departure(cx, session, blocked),
        }
    }

    /// Reads from the client once. Returns true if anything was read.
    fn poll_more(&mut self, cx: &mut Context<'_>, session: &mut Session) -> bool {
        match session.poll_read_ahead(cx) {
            Poll::Pending => return false,
            Poll::Ready(Ok(count)) => session.input.closed = count == 0,
            Poll::Ready(Err(error)) => {
                self.decided_end = Some(LeaseEnd::Close(session.close_for_read_error(&error)))
            }
        }
        true
    }

    /// Reads ahead to notice that the client leaves. Returns true if it left just now.
    fn poll_departure(&mut self, cx: &mut Context<'_>, session: &mut Session, blocked: bool) -> bool {
        // A blocked client may stay blocked for ever, so the session reads on without a limit. A client that does
        // not take its replies may have to write first.
        let ahead = if self.expected.gated || blocked { usize::MAX } else { AHEAD };
        let left = session.poll_client_left_within(cx, ahead).is_ready() && !self.client_left;
        if left {
            self.on_client_left();
        }
        left
    }

    /// Reads on while replies wait for the client. Returns true if anything was read.
    fn poll_backlog(&mut self, cx: &mut Context<'_>, session: &mut Session) -> bool {
        match session.poll_backlog(cx) {
            Ok(poll) => poll.is_ready(),
            Err(close) => {
                self.decided_end = Some(LeaseEnd::Close(close));
                true
            }
        }
    }

    /// Writes waiting requests to the server. Returns true if any byte was written.
    fn poll_outbound(&mut self, cx: &mut Context<'_>) -> std::io::Result<bool> {
        let before = self.outbound.unwritten().len();
        let written = self.lease.poll_write_all(cx, &mut self.outbound);
        let wrote = self.outbound.unwritten().len() < before;
        match written {
            Poll::Ready(result) => result.map(|()| wrote),
            Poll::Pending => Ok(wrote),
        }
    }

    /// Handles a client that closed its sending side. Requests that it sent before are still run and answered,
    /// but a blocking command is abandoned at once, so that it does not pop an element for a client that left.
    pub(super) fn on_client_left(&mut self) {
        self.client_left = true;
        if self.expected.gated {
            self.decided_end = Some(LeaseEnd::Close(Close::Left));
        }
    }

    /// Returns true if a drain may end this session: it has no input and no open transaction.
    fn may_end_for_drain(&self, session: &Session) -> bool {
        session.is_draining() && session.input.is_empty() && self.pins.transaction.is_none()
    }

    /// Returns true if the session reads messages for a client that does not take them. `slow-reader-soft` needs
    /// that: it judges subscribers by the bytes that wait for them.
    fn piles_up(&self, session: &Session) -> bool {
        self.pins.subscribed() && session.ctx.config.timeouts.slow_reader_soft.is_some()
    }
}
