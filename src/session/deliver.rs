//! Writes replies to the client, and checks that the client takes them.

use std::task::{Context, Poll};

use super::Session;
use super::close::Close;
use crate::resp::error_line;
use crate::upstream::replies::ClientState;

/// Limit of reply bytes that wait for a client. Above it, the session handles no further requests.
pub(super) const BACKLOG: usize = 256 * 1024;

/// The error line for a client that is disconnected because it holds too much memory.
const EVICTED: &[u8] =
    b"-ERR respgate: the memory for clients is spent (max-buffered), and this client is among those that hold most of it";

/// Says whether the waiting replies reach the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The client took all of them.
    Complete,
    /// The client takes no more bytes now.
    ClientBusy,
    /// The tenant's output limit allows no more bytes now.
    Limited,
}

impl Delivery {
    /// Returns true if replies still wait.
    pub(super) fn is_blocked(self) -> bool {
        self != Self::Complete
    }
}

impl Session {
    /// Writes the waiting replies, and checks that the session may go on. Every round begins with this, with and
    /// without a lease. `in_flight` is the number of the client's requests under way.
    ///
    /// # Errors
    /// Returns the reason to close at once.
    #[inline]
    pub(super) fn deliver(&mut self, cx: &mut Context<'_>, in_flight: usize) -> Result<Delivery, Close> {
        // A fan-in subscriber gets messages without asking. With a lease, the reader of the lease stops at a
        // limit; messages by fan-in wait in the reply queue, and nothing is written until the limit allows it.
        let delivery = if self.lanes.get_messages && !self.may_deliver_messages(cx, in_flight) {
            Delivery::Limited
        } else {
            match self.output.replies.poll_write_to(cx, &mut self.stream) {
                Poll::Ready(Ok(wrote)) => {
                    if wrote {
                        self.note_written();
                    }
                    Delivery::Complete
                }
                Poll::Ready(Err(_)) => return Err(Close::Left),
                Poll::Pending => {
                    self.note_written();
                    Delivery::ClientBusy
                }
            }
        };
        if self.check_evicted(cx) {
            return Err(Close::Memory);
        }
        match self.output.replies.client_state() {
            ClientState::Open | ClientState::Gone => {}
            ClientState::Overflowed => return Err(Close::Slow),
            ClientState::Cut => return Err(self.close_for_cut_replies()),
        }
        match self.output.poll_stalled(
            cx,
            delivery == Delivery::ClientBusy,
            &self.account,
            self.ctx.config.write_timeout,
        ) {
            Poll::Ready(()) => Err(Close::Slow),
            Poll::Pending => Ok(delivery),
        }
    }

    /// Returns true if the session must close at once, because the byte budget is spent and the client holds most
    /// of it. Sends the error line first, if the socket takes it at once.
    #[inline]
    pub(super) fn check_evicted(&mut self, cx: &mut Context<'_>) -> bool {
        self.account.is_evicted() && {
            self.send_eviction_error(cx);
            true
        }
    }

    /// Sends the error line of an eviction, once.
    #[cold]
    fn send_eviction_error(&mut self, cx: &mut Context<'_>) {
        // The eviction is seen twice if the session had a lease: in the leased poll, and again here.
        let first_time = self.closing.replace(Close::Memory) != Some(Close::Memory);
        if first_time && !self.output.replies.ends_inside_reply() {
            self.ctx.upstream.counters.refused_other.inc();
            // The error takes the place of replies that are due: the client gets no more of them.
            if !self.client.mutes() {
                self.output.replies.answer(|out| error_line::write(out, EVICTED));
            }
            let _ = self.output.replies.poll_write_to(cx, &mut self.stream);
        }
    }

    /// Charges the bytes that were written, and updates the counts of requests in flight and of waiting bytes.
    /// Returns false if the output limit is reached. The session is then woken when the limit allows more.
    pub(super) fn charge_output(&mut self, cx: &mut Context<'_>, in_flight: usize) -> bool {
        if self.tenancy.member.is_none() {
            return true;
        }
        let (now, progress) = (self.tenant_time(), self.output.replies.progress());
        let waiting = self.input.len() + self.output.waiting();
        let Some(member) = &mut self.tenancy.member else { return true };
        member.in_flight(in_flight);
        let over_share = member.buffers(waiting);
        if let Some(line) = over_share.filter(|_| self.closing.is_none()) {
            self.refuse_for_limit(&line);
            self.closing = Some(Close::Memory);
            return true;
        }
        if !member.meters_output() {
            return true;
        }
        match member.wrote(now, progress) {
            0 => true,
            wait => self.tenancy.poll_rate_limit(cx, self.instant_of(now.saturating_add(wait))).is_ready(),
        }
    }
}
