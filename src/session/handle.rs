//! Takes whole requests out of the input and handles them in order.

use super::Session;
use super::charge::{Charged, PendingCharge};
use super::close::Close;
use super::deliver::BACKLOG;
use super::order::CommandKind;
use super::step::{Pause, Step};
use crate::command::{self, Flags, Found, Verb};
use crate::resp::request::{self, Request, RequestError, Scanned};

/// Number of contiguous pieces of kept input that are handled before other sessions run.
const PIECES: usize = 4;

impl Session {
    /// Handles the kept input.
    #[inline]
    pub(super) fn handle_input(&mut self) -> Pause {
        if self.input.is_empty() { Pause::More } else { self.handle_kept() }
    }

    /// Handles a limited number of pieces of kept input.
    fn handle_kept(&mut self) -> Pause {
        for _ in 0..PIECES {
            if self.input.is_empty() {
                return Pause::More;
            }
            // Requests borrow the queue while the session changes, so the queue is lent for that time.
            let input = self.input.lend();
            let (used, pause) = self.handle(input.front());
            let cut_off = used < input.front().len();
            self.input.put_back(input, used);
            // The input may be in two pieces. The rest of a request that ends the first piece can be in the
            // second.
            if !matches!(pause, Pause::More) || cut_off && !self.input.join() {
                return pause;
            }
        }
        Pause::Yield
    }

    /// Handles requests until one must wait. Returns how many bytes are used up, and why it stopped.
    pub(super) fn handle(&mut self, bytes: &[u8]) -> (usize, Pause) {
        self.handle_with(bytes, |session, found| match found {
            Ok(request) => {
                let step = match session.charge(request) {
                    Charged::Passes => session.dispatch(request),
                    Charged::Waits(pause) => return Step::Stay(pause),
                    Charged::Refused(_) if !session.output.admits_unsent(CommandKind::Answer) => {
                        return Step::Stay(Pause::Replies);
                    }
                    Charged::Refused(line) => {
                        session.refuse_for_limit(&line);
                        Step::Done
                    }
                };
                session.note_handled(&step);
                step
            }
            Err(_) if session.output.awaited() > 0 => Step::Stay(Pause::Replies),
            Err(error) => session.close_malformed(error),
        })
    }

    /// As `handle`, but calls `dispatch` with each request, or with the protocol error.
    pub(super) fn handle_with(
        &mut self,
        bytes: &[u8],
        mut dispatch: impl FnMut(&mut Self, Result<&Request<'_>, &RequestError>) -> Step,
    ) -> (usize, Pause) {
        let mut used = 0;
        // One clone of the `Rc` for all requests: `limits` borrows from it while `dispatch` changes the session.
        let ctx = self.ctx.clone();
        loop {
            if self.output.waiting() > BACKLOG {
                return (used, Pause::Replies);
            }
            let rest = bytes.get(used..).unwrap_or_default();
            if rest.is_empty() {
                return (used, Pause::More);
            }
            let limits =
                if self.client.identity.is_some() { &ctx.config.request } else { &ctx.unauthenticated };
            let (len, step) = match self.input.scanner.scan(rest, limits) {
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
                        Err(error) => (consumed, dispatch(self, Err(&error))),
                    }
                }
                Scanned::Malformed(error) => (rest.len(), dispatch(self, Err(&error))),
            };
            // A request that stays must be scanned again, so its bytes do not count as used.
            match step {
                Step::Done => used += len,
                Step::Stay(pause) => return (used, pause),
                Step::Taken(pause) => return (used + len, pause),
            }
        }
    }

    /// Answers bytes that are not RESP: the client gets the server's protocol error behind its earlier replies,
    /// and loses its connection.
    pub(super) fn close_malformed(&mut self, error: &RequestError) -> Step {
        let line = &error.reply();
        tracing::debug!(client = self.client.id, peer = self.client.peer, error = %String::from_utf8_lossy(line).trim_end(), "a client violated the protocol");
        self.output.replies.answer(|out| out.extend_from_slice(line));
        Step::Taken(Pause::Close(Close::Protocol))
    }

    /// Drops the request at the front of the input, which has already been answered.
    pub(super) fn skip_request(&mut self) {
        // The scanner needs a pass over the request to find its end. The second request stops the pass.
        let mut first = true;
        let input = self.input.lend();
        let (used, _) = self.handle_with(input.front(), |_, _| {
            if std::mem::take(&mut first) { Step::Done } else { Step::Stay(Pause::Replies) }
        });
        self.input.put_back(input, used);
        self.tenancy.pending_charge = PendingCharge::Unseen;
    }

    /// Returns true if the request at the front of the input waits for other clients: a blocking command, a
    /// subscription or MONITOR.
    pub(super) fn waits_for_others(&mut self) -> bool {
        let mut waits = false;
        let input = self.input.lend();
        self.handle_with(input.front(), |_, found| {
            waits = found.ok().and_then(command::find).is_some_and(|found| match found {
                Found::Spec(spec) => {
                    spec.flags.contains(Flags::BLOCKING)
                        || matches!(
                            spec.verb,
                            Verb::Subscribe | Verb::Psubscribe | Verb::Ssubscribe | Verb::Monitor
                        )
                }
                Found::NoSuchSubcommand(_) => false,
            });
            Step::Stay(Pause::Replies)
        });
        self.input.put_back(input, 0);
        waits
    }
}
