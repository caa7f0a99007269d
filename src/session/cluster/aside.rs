//! Runs one command by the shared lanes while the session keeps a lease at another node.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::session::Session;
use crate::session::close::Close;
use crate::session::step::{AsyncOp, Pause, Step};

/// The error for a command that needs a connection of its own while the session keeps one at another node.
pub(in crate::session) const NEEDS_OWN: &[u8] = b"-ERR respgate: the keys of this command belong to another node than the state on the client's connection (a transaction, watched keys or subscriptions); use another connection";

/// Number of rounds of reading and writing before other tasks run.
const ROUNDS: usize = 8;

impl Session {
    /// Runs the request at the front of the input by the shared lanes, and waits for its reply.
    pub(in crate::session) async fn run_aside(&mut self) {
        let mut sent = false;
        poll_fn(|cx| self.poll_aside(cx, &mut sent)).await;
        self.end_wait();
    }

    fn poll_aside(&mut self, cx: &mut Context<'_>, sent: &mut bool) -> Poll<()> {
        self.output.replies.watch(cx.waker());
        for _ in 0..ROUNDS {
            if !self.lanes.gathers.is_empty() {
                self.poll_gathers(cx);
            }
            self.output.advance();
            let awaited = self.output.awaited() as usize;
            if let Err(close) = self.deliver(cx, awaited) {
                self.closing.get_or_insert(close);
            }
            if self.activity.is_killed() {
                self.closing.get_or_insert(Close::Killed);
            }
            if self.closing.is_some() || *sent && awaited == 0 {
                self.abandon_parts();
                return Poll::Ready(());
            }
            if *sent && self.lanes.gathers.is_sending() {
                match self.send_parts() {
                    Some(Pause::Parts(deadline)) if self.poll_parts(cx, deadline).is_pending() => {
                        return Poll::Pending;
                    }
                    Some(Pause::Close(close)) => self.closing = Some(close),
                    _ => {}
                }
                continue;
            }
            if *sent {
                return Poll::Pending;
            }
            match self.dispatch_first() {
                Step::Done => *sent = true,
                Step::Taken(Pause::Close(close)) => self.closing = Some(close),
                Step::Taken(_) => *sent = true,
                Step::Stay(Pause::Lane(deadline)) => {
                    if self.poll_lane(cx, deadline).is_pending() {
                        return Poll::Pending;
                    }
                }
                Step::Stay(Pause::AsyncOp(AsyncOp::Lease)) => {
                    self.skip_request();
                    self.refuse(NEEDS_OWN);
                    *sent = true;
                }
                // The primary has changed meanwhile: the lease asks about the command.
                Step::Stay(Pause::AsyncOp(AsyncOp::Learn)) => return Poll::Ready(()),
                Step::Stay(_) if awaited > 0 || self.output.waiting() > 0 => return Poll::Pending,
                Step::Stay(_) => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends or answers the request at the front of the input, or says what it waits for.
    fn dispatch_first(&mut self) -> Step {
        let mut first = Some(Step::Stay(Pause::Replies));
        let mut handled = false;
        let input = self.input.lend();
        let (used, _) = self.handle_with(input.front(), |session, found| {
            let Ok(request) = found else { return Step::Stay(Pause::Replies) };
            if std::mem::replace(&mut handled, true) {
                return Step::Stay(Pause::Replies);
            }
            let step = session.dispatch(request);
            session.note_handled(&step);
            let done = !matches!(step, Step::Stay(_));
            first = Some(step);
            if done { Step::Done } else { Step::Stay(Pause::Replies) }
        });
        self.input.put_back(input, used);
        first.unwrap_or(Step::Done)
    }
}
