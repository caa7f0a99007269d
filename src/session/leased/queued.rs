//! Admits requests inside a transaction, between MULTI and EXEC.

use super::admit::LeasedRoute;
use super::expect::{Awaited, Effect, Expect};
use super::settle::null_array;
use super::{Leased, Session};
use crate::command::{self, Flags, Found, Trace, Verb};
use crate::resp::request::Request;
use crate::session::shared_pubsub::subscription_change;
use crate::session::step::{Pause, Step};
use crate::session::{local, refusal};

impl Leased {
    /// Admits a request inside a transaction. The server queues all of them, except those that would change the
    /// connection itself.
    pub(super) fn admit_queued(
        &mut self,
        session: &mut Session,
        request: &Request<'_>,
        route: LeasedRoute,
    ) -> Step {
        let Some(transaction) = &mut self.pins.transaction else { return Step::Done };
        let spec = match command::find(request) {
            Some(Found::Spec(spec)) => Some(spec),
            _ => None,
        };
        let mut effect = Effect::None;
        // The command runs at EXEC, on this connection.
        let mut trace = spec.map_or(Trace::Unknown, |spec| spec.trace);
        match spec.map(|spec| spec.verb) {
            // The server refuses these, too, and the transaction stays open.
            Some(verb)
                if let LeasedRoute::Refused(line) = &route
                    && (matches!(
                        verb,
                        Verb::Discard
                            | Verb::Reset
                            | Verb::ClientTracking
                            | Verb::ClientNoTouch
                            | Verb::ClientImportSource
                            | Verb::HimportPrepare
                            | Verb::HimportDiscardall
                    ) || subscription_change(verb).is_some()) =>
            {
                return self.refuse_and_poison(session, line);
            }
            // EXEC with arguments ends the transaction all the same.
            Some(Verb::Exec) if let LeasedRoute::Refused(line) = &route => {
                return self.discard_instead(session, [line, &b"\r\n"[..]].concat());
            }
            Some(Verb::Exec) if transaction.poisoned => {
                return self.discard_instead(session, [refusal::EXEC_ABORTED, b"\r\n"].concat());
            }
            // Watched keys may have changed while their connection was lost.
            Some(Verb::Exec) if self.pins.watch_broken => {
                let nothing = null_array(session.client.resp);
                return self.discard_instead(session, nothing);
            }
            Some(Verb::Exec) => {
                let mut transaction = self.pins.transaction.take().unwrap_or_default();
                transaction.watched = self.pins.watching;
                self.pins.unwatch();
                let scripted = transaction.scripted;
                let step = self.forward(session, request, Effect::Exec(Box::new(transaction)));
                if scripted {
                    self.expect_nonce();
                }
                return step;
            }
            Some(Verb::Discard) => {
                self.pins.transaction = None;
                self.pins.unwatch();
                return self.forward(session, request, Effect::Discard);
            }
            Some(Verb::Quit | Verb::Reset) => {
                return match spec {
                    Some(spec) => self.admit_local(session, spec, request),
                    None => Step::Done,
                };
            }
            // The server answers these at once, without queueing them.
            Some(Verb::Multi | Verb::Watch) => return self.forward(session, request, Effect::Nested),
            Some(Verb::Select) => match request.arg(1).and_then(local::database) {
                Some(database) => {
                    transaction.selects.push(transaction.queued, database);
                    transaction.selecting = true;
                }
                // The server refuses the index, too, unless it reads numbers in another way.
                None => trace = Trace::Unknown,
            },
            Some(Verb::Ping | Verb::Echo | Verb::Unwatch | Verb::AclWhoami) => {}
            Some(verb) if subscription_change(verb).is_some() => {
                return self.refuse_and_poison(
                    session,
                    b"-ERR respgate: subscriptions cannot change inside a transaction",
                );
            }
            Some(
                Verb::Monitor
                | Verb::ClientTracking
                | Verb::ClientNoTouch
                | Verb::ClientImportSource
                | Verb::HimportPrepare
                | Verb::HimportDiscardall,
            ) => {
                return self.refuse_and_poison(
                    session,
                    b"-ERR respgate: this command is not possible inside a transaction",
                );
            }
            _ => match route {
                LeasedRoute::Refused(line) => return self.refuse_and_poison(session, &line),
                // respgate answers this CONFIG GET with an empty list, which it cannot put in the place of one of
                // EXEC's replies.
                LeasedRoute::Local(spec) if spec.verb == Verb::ConfigGet => {
                    let forbidden = session.forbidden_by_level(spec.name);
                    return self.deny(session, request, forbidden);
                }
                LeasedRoute::Local(_) | LeasedRoute::Dropped => {
                    return self.refuse_and_poison(
                        session,
                        b"-ERR respgate: commands about the connection are not possible inside a transaction",
                    );
                }
                LeasedRoute::Learned(route) => {
                    trace = route.trace;
                    transaction.scripted |= route.forgeable;
                    if route.pins {
                        self.pins.pin_for_unknown(request.name());
                        effect = Effect::Unknown;
                    }
                }
                LeasedRoute::Sent | LeasedRoute::Fanned(..) => {}
            },
        }
        if let Some(transaction) = &mut self.pins.transaction {
            transaction.queued += 1;
            transaction.scripted |= spec.is_some_and(|spec| spec.flags.contains(Flags::SCRIPT));
            transaction.keep(request.raw());
        }
        let awaited = Awaited { queued: true, ..self.awaited(session, effect) };
        self.send(request, awaited, trace);
        Step::Done
    }

    /// Sends DISCARD in place of an EXEC, and gives the client `reply` unless the client turned replies off.
    pub(super) fn discard_instead(&mut self, session: &mut Session, reply: Vec<u8>) -> Step {
        let reply = if session.client.mutes() { Vec::new() } else { reply };
        self.send_discard(Expect::Discarded(reply));
        self.pins.transaction = None;
        self.pins.unwatch();
        Step::Done
    }

    /// Refuses a command inside a transaction, and makes EXEC fail.
    pub(super) fn refuse_and_poison(&mut self, session: &mut Session, line: &[u8]) -> Step {
        if !self.expected.is_empty() {
            return Step::Stay(Pause::Replies);
        }
        session.refuse(line);
        self.poison_transaction();
        Step::Done
    }
}
