//! Runs a session's data path: writes waiting replies, handles the requests that were read, and reads more.

use std::task::{Context, Poll};

use super::Session;
use super::close::Close;
use super::deliver::BACKLOG;
use super::step::{Exit, Pause};

/// Number of rounds of reading and writing before other tasks run.
const ROUNDS: usize = 8;

/// Says why a poll does not go on with another round.
enum Stop {
    /// The session waits: the waker is registered with what it waits for.
    Wait,
    /// The session can go on, after other tasks have run.
    Yield,
    /// The session can go on, after other tasks have run and the worker has looked at its sockets.
    Look,
    /// The session leaves the data path.
    Exit(Exit),
}

impl From<Close> for Stop {
    fn from(close: Close) -> Self {
        Self::Exit(Exit::Close(close))
    }
}

impl Session {
    /// Runs the data path until the session must wait. The waker is called when the client can be read from or
    /// written to, when replies arrive, and when the lane takes requests again.
    pub(super) fn poll_data_path(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        self.output.replies.watch(cx.waker());
        if self.lanes.reads.is_some() {
            self.announce_writes();
        }
        // A poll that begins without input notes the time when it reads some.
        if !self.input.is_empty() {
            self.note_input();
        }
        for _ in 0..ROUNDS {
            match self.poll_round(cx) {
                Ok(()) => {}
                Err(Stop::Wait) => return Poll::Pending,
                Err(Stop::Yield) => break,
                Err(Stop::Look) => {
                    // The runtime wakes a task that yields after it has read the sockets.
                    let _ = std::pin::pin!(tokio::task::yield_now()).poll(cx);
                    return Poll::Pending;
                }
                Err(Stop::Exit(exit)) => return Poll::Ready(exit),
            }
        }
        // All rounds are used up: let other tasks run, then continue.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Runs one round: writes replies, checks what ends the session, handles requests, and reads more.
    fn poll_round(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        if !self.lanes.gathers.is_empty() {
            self.poll_gathers(cx);
        }
        if self.output.advance() && self.closing.is_none() {
            return Err(Stop::Look);
        }
        let awaited = self.output.awaited() as usize;
        let blocked = self.deliver(cx, awaited)?.is_blocked();
        self.check_timeout(cx)?;
        self.check_reload();
        // `deliver` may have written replies: charge them, and update the tenant's counts.
        self.charge_output(cx, awaited);
        if let Some(close) = self.closing {
            return Err(self.poll_closing(cx, close, blocked));
        }
        // The client takes no replies, and too many wait: read ahead, but run no request.
        if blocked && self.output.waiting() > BACKLOG {
            return if self.poll_backlog(cx)?.is_ready() { Ok(()) } else { Err(Stop::Wait) };
        }
        self.refresh_identity()?;
        let pause = self.poll_requests(cx, blocked)?;
        // These pauses end only when the client takes replies or a limit allows more. A client that takes no
        // replies may have to write first, so read ahead.
        let read_ahead = blocked && matches!(pause, Pause::Replies | Pause::Limit(_) | Pause::Room(_));
        if read_ahead && self.poll_backlog(cx)?.is_ready() {
            return Ok(());
        }
        self.poll_pause(cx, pause, blocked)
    }

    /// Handles an exceeded timeout.
    fn check_timeout(&mut self, cx: &mut Context<'_>) -> Result<(), Close> {
        let Some(expiry) = self.activity.expired() else { return Ok(()) };
        if let Some(close) = self.expire(expiry) {
            return Err(close);
        }
        // `expire` may have replaced the reply queue, so register the waker with the current one.
        self.output.replies.watch(cx.waker());
        Ok(())
    }

    /// Follows a reload.
    fn check_reload(&mut self) {
        if self.activity.take_reload()
            && let Err(close) = self.follow_reload()
        {
            self.closing.get_or_insert(close);
        }
    }

    /// Waits until a closing session has delivered its last replies, or need not deliver them.
    fn poll_closing(&mut self, cx: &mut Context<'_>, close: Close, blocked: bool) -> Stop {
        self.abandon_parts();
        // A closing session receives no more messages, however long its last replies take.
        self.end_subscriptions();
        let delivered = !blocked && self.output.awaited() == 0;
        if close.is_at_once(blocked) || delivered || self.poll_abandoned(cx, close).is_ready() {
            Stop::from(close)
        } else {
            Stop::Wait
        }
    }

    /// Switches to the new server identity of the client's user, if a reload changed it.
    fn refresh_identity(&mut self) -> Result<(), Stop> {
        // The parts of one command run under one identity.
        if self.client.identity_stale && !self.lanes.gathers.is_sending() {
            // The requests under way run under the former identity. They are answered before the session
            // switches.
            if self.output.awaited() > 0 {
                return Err(Stop::Wait);
            }
            self.switch_identity();
            self.update_view();
        }
        Ok(())
    }

    /// Handles the input that was kept, and reads more once all of it is handled. Returns why it stopped.
    fn poll_requests(&mut self, cx: &mut Context<'_>, blocked: bool) -> Result<Pause, Stop> {
        let parts = if self.lanes.gathers.is_empty() { None } else { self.send_parts() };
        let mut pause = parts.unwrap_or_else(|| self.handle_input());
        self.note_pending();
        if matches!(pause, Pause::More)
            && let Some(subscribing) = self.subscribing_pause()
        {
            pause = subscribing;
        }
        if !matches!(pause, Pause::Lane(_) | Pause::Parts(_) | Pause::Replica(_) | Pause::Subscribing) {
            self.end_wait();
        }
        if !matches!(pause, Pause::More) {
            return Ok(pause);
        }
        match self.poll_read(cx) {
            Poll::Ready(pause) => {
                self.note_pending();
                Ok(pause)
            }
            // Nothing to read, but replies were queued in this round: the next round writes them.
            Poll::Pending if self.output.ready() > 0 && !blocked => Ok(Pause::More),
            Poll::Pending if self.may_end_for_drain() => Ok(Pause::Close(Close::Finished)),
            Poll::Pending => Err(Stop::Wait),
        }
    }

    /// Waits for what `pause` names.
    fn poll_pause(&mut self, cx: &mut Context<'_>, pause: Pause, blocked: bool) -> Result<(), Stop> {
        // Replies were queued in this round: the next round writes them, whatever the pause.
        let answered = self.output.ready() > 0 && !blocked;
        if !matches!(pause, Pause::More) {
            self.note_awaited(&pause);
        }
        let poll = match pause {
            Pause::More => return Ok(()),
            Pause::Yield => return Err(Stop::Yield),
            Pause::Close(close) => {
                self.closing = Some(close);
                return Ok(());
            }
            Pause::AsyncOp(op) => {
                // The operation may take long. Write the finished replies first; a write error shows at the next
                // write.
                let _ = self.output.replies.poll_write_to(cx, &mut self.stream);
                return Err(Stop::Exit(Exit::AsyncOp(op)));
            }
            Pause::Replies => Poll::Pending,
            Pause::Subscribing => self.poll_subscribing(cx),
            Pause::Limit(due) => self.tenancy.poll_rate_limit(cx, due),
            Pause::Room(again) => self.tenancy.poll_in_flight_limit(cx, again),
            Pause::Lane(deadline) => self.poll_lane(cx, deadline),
            Pause::Parts(deadline) => self.poll_parts(cx, deadline),
            Pause::Replica(deadline) => self.poll_replica(cx, deadline),
        };
        if poll.is_pending() && !answered { Err(Stop::Wait) } else { Ok(()) }
    }

    /// Updates the activity for the timeouts, and the tenant's count of requests in flight.
    fn note_pending(&mut self) {
        let (now, awaited) = (self.ctx.registry.now.get(), self.output.awaited());
        let (due, came) = (awaited > 0, self.output.ready() > 0);
        self.activity.on_traffic(now, due, came, || self.admitted());
        self.tenancy.set_in_flight(awaited as usize);
        self.view.set_waiting_input(self.input.len());
        if self.lanes.reads.is_some() {
            self.settle_reads();
        }
    }

    /// Returns true if a drain may end this session: it has no input and awaits no reply.
    fn may_end_for_drain(&self) -> bool {
        self.is_draining()
            && self.output.awaited() == 0
            && self.input.is_empty()
            && !self.has_unplaced_transaction()
    }

    /// Returns true during a drain, unless the client was asked to move and still has time for it.
    #[inline]
    pub(super) fn is_draining(&self) -> bool {
        (self.ctx.registry.draining.get() || self.ctx.upstream.is_leaving()) && self.must_end_for_drain()
    }

    #[cold]
    fn must_end_for_drain(&self) -> bool {
        !self.ctx.maintenance.is_moving(self.client.id)
    }
}
