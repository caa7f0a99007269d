//! Notes the times of a session's commands.

use super::Session;
use super::step::{AsyncOp, Pause, Step};
use crate::latency::entry::ClientLabel;
use crate::latency::{Arrival, Class, CommandTimes, Wait};
use crate::resp::request::Request;

/// What a session keeps for the times of its commands.
#[derive(Default)]
pub(super) struct Measured {
    /// When and how the commands came that are handled now.
    pub(super) arrival: Arrival,
    /// When the first of them was read. That is before the present poll if the command had to wait.
    read: u32,
    /// What that command waits for since.
    wait: Wait,
    /// The version of the worker's taps whose filters were last compared with the client.
    taps_seen: u32,
}

impl Measured {
    /// Compares the client with the filters of the taps again at its next command, because its user, name or tenant has changed.
    pub(super) fn client_changed(&mut self) {
        self.taps_seen = 0;
    }

    /// Forgets when commands came, because nothing is measured. What is under way is then not measured if a reload or a tap begins to
    /// measure.
    #[inline]
    fn forget(&mut self) {
        (self.arrival, self.wait) = (Arrival::default(), Wait::Nothing);
    }

    /// Takes note that the next command waits. A command that waited for a primary and then for a lane counts as held.
    pub(super) fn wait_for(&mut self, wait: Wait) {
        if !self.arrival.is_noted() {
            return;
        }
        self.wait = if self.arrival.is_held() { Wait::Primary } else { wait };
    }
}

impl Session {
    /// Notes that this poll goes on with input that was read before, the first command of which may have waited.
    #[inline]
    pub(super) fn note_input(&mut self) {
        if !self.ctx.latency.is_active() {
            return self.measured.forget();
        }
        let now = self.ctx.latency.now();
        let measured = &mut self.measured;
        if measured.wait == Wait::Nothing {
            measured.read = now;
        }
        measured.arrival = Arrival::new(measured.read, now, std::mem::take(&mut measured.wait));
        self.follow_taps();
    }

    /// Notes that commands were just read, and that none was left from before.
    #[inline]
    pub(super) fn note_read(&mut self) {
        if !self.ctx.latency.is_active() {
            return self.measured.forget();
        }
        let now = self.ctx.latency.now();
        self.measured.read = now;
        self.measured.arrival = Arrival::at(now);
        self.follow_taps();
    }

    /// Compares the client with the filters of the taps if either has changed.
    #[inline]
    fn follow_taps(&mut self) {
        if self.measured.taps_seen != self.ctx.latency.taps_version() {
            self.find_taps();
        }
    }

    /// Notes what the next command waits for, if anything.
    pub(super) fn note_awaited(&mut self, pause: &Pause) {
        self.measured.wait_for(match pause {
            Pause::Lane(None) | Pause::Parts(None) | Pause::AsyncOp(AsyncOp::Lease) => Wait::Lane,
            Pause::Lane(Some(_)) | Pause::Parts(Some(_)) => Wait::Primary,
            Pause::Limit(_) | Pause::Room(_) => Wait::Limit,
            _ => return,
        });
    }

    #[cold]
    fn find_taps(&mut self) {
        let latency = &self.ctx.latency;
        self.measured.taps_seen = latency.taps_version();
        latency.find_taps(&self.label(), self.output.replies.times());
    }

    /// Counts the commands whose replies were just written, and shows them to those who watch.
    #[inline]
    pub(super) fn note_written(&self) {
        if self.ctx.latency.is_active()
            && let Some(times) = self.output.replies.known_times()
        {
            let (latency, worker) = (&self.ctx.upstream.latency, &self.ctx.latency);
            if latency.written(times, || worker.now()) {
                latency.show_observed(times, &self.label(), worker.now());
            }
        }
    }

    /// Notes the times of a command that respgate answered itself. A command that could not be sent counts in its own `class`.
    pub(super) fn note_answered(&self, request: &Request<'_>, class: Class) {
        if self.ctx.latency.is_active() && self.measured.arrival.is_noted() {
            let now = self.ctx.latency.now();
            let times = CommandTimes { arrival: self.measured.arrival, sent: now, replied: now, class };
            self.note_replied(request.raw(), times);
        }
    }

    /// Notes the times of the request at the front of the input, which got no lease.
    pub(super) fn note_unleased(&mut self) {
        let input = self.input.lend();
        self.handle_with(input.front(), |session, found| {
            if let Ok(request) = found {
                session.note_answered(request, Class::Leased);
            }
            Step::Stay(Pause::Replies)
        });
        self.input.put_back(input, 0);
    }

    /// Notes the times of a command whose reply waits to be written.
    pub(super) fn note_replied(&self, request: &[u8], times: CommandTimes) {
        let (latency, pending) = (&self.ctx.upstream.latency, self.output.replies.times());
        if latency.worker.looks_at(&times, pending.tapped()) {
            latency.look_at(pending, request, times);
        }
        latency.replied(pending, times, 1);
    }

    /// Leaves the client's name for the commands whose replies are still due.
    pub(super) fn note_left(&self) {
        if self.ctx.latency.is_active() && self.output.awaited() > 0 {
            self.output.replies.times().set_left(self.label());
        }
    }

    /// Returns the client as the slow log and taps show it.
    #[cold]
    fn label(&self) -> ClientLabel {
        ClientLabel {
            id: self.client.id,
            address: self.client.peer.clone(),
            name: String::from_utf8_lossy(&self.client.name).into_owned(),
            tenant: self.tenancy.name().to_owned(),
            user: self.client.user(),
        }
    }
}
