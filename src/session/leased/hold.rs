//! Holds a leased session's request during a failover.

use super::expect::Expect;
use super::{Leased, Session};
use crate::command::{self, Found, Verb};
use crate::resp::request::Request;
use crate::session::step::{Pause, Step};

impl Leased {
    /// Holds the request until the hold expires. Then answers it with the hold's error; EXEC and DISCARD also end
    /// the transaction.
    pub(super) fn hold_request(&mut self, session: &mut Session, request: &Request<'_>) -> Step {
        let upstream = session.ctx.upstream.clone();
        let held_until = match &self.placement.shard {
            Some(shard) => shard.held_until(),
            None => upstream.held_until(),
        };
        let line = match held_until {
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
            // Whatever the server answers to EXEC or DISCARD, no transaction is open afterwards.
            Some(_) if ends => {
                self.send_discard(Expect::Restored(1));
                self.pins.transaction = None;
                self.pins.unwatch();
                let why = line.strip_prefix(b"-").unwrap_or(&line);
                session.refuse(&[b"-EXECABORT Transaction discarded because of: ", why].concat());
                Step::Done
            }
            Some(_) => self.refuse_and_poison(session, &line),
            None => {
                session.refuse(&line);
                Step::Done
            }
        }
    }
}
