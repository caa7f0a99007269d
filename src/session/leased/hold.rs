//! A request of a session with a lease, while a failover is under way.

use super::expect::Expect;
use super::{Leased, Pause, Session};
use crate::command::{self, Found, Verb};
use crate::resp::request::Request;
use crate::session::turn::Step;

impl Leased {
    /// A failover is under way: the request waits, but not for ever.
    pub(super) fn hold(&mut self, session: &mut Session, request: &Request<'_>) -> Step {
        let upstream = session.ctx.upstream.clone();
        let line = match upstream.held_until() {
            Ok(deadline) => return Step::Stay(Pause::Lane(Some(deadline))),
            Err(line) => line,
        };
        if !self.expected.is_empty() {
            return Step::Stay(Pause::Replies);
        }
        upstream.counters.hold_expired.inc();
        let ends = match command::find(request) {
            Some(Found::Spec(spec)) => matches!(spec.verb, Verb::Exec | Verb::Discard),
            _ => false,
        };
        match self.pins.transaction {
            // Whatever they answer, no transaction is open afterwards.
            Some(_) if ends => {
                self.send_discard(Expect::Restored(1));
                self.pins.transaction = None;
                self.pins.unwatch();
                let why = line.strip_prefix(b"-").unwrap_or(&line);
                session.refuse(&[b"-EXECABORT Transaction discarded because of: ", why].concat());
                Step::Done
            }
            Some(_) => self.poison(session, &line),
            None => {
                session.refuse(&line);
                Step::Done
            }
        }
    }
}
