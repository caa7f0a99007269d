//! Admits commands that respgate answers itself outside a lease, and the requests of RESP2 subscribers.

use super::expect::Effect;
use super::{LeaseEnd, Leased};
use crate::command::{self, Found, Spec, Verb};
use crate::resp::Resp;
use crate::resp::request::Request;
use crate::session::Session;
use crate::session::close::Close;
use crate::session::shared_pubsub::{refused_to_subscriber, subscription_change};
use crate::session::step::{AsyncOp, Pause, Step};
use crate::session::{hello, local, refusal};

impl Leased {
    /// Admits a command that respgate answers itself outside a lease. Connection state may change who answers it.
    pub(super) fn admit_local(
        &mut self,
        session: &mut Session,
        spec: &'static Spec,
        request: &Request<'_>,
    ) -> Step {
        if !self.expected.is_empty() {
            return Step::Stay(Pause::Replies);
        }
        let v2_subscriber = self.pins.subscribed() && session.client.resp == Resp::V2;
        match spec.verb {
            Verb::Quit => {
                session.answer(crate::resp::write::ok);
                Step::Taken(Pause::Close(Close::Finished))
            }
            Verb::Reset => {
                if let Err(line) = session.reset() {
                    session.refuse_for_limit(&line);
                    return Step::Taken(Pause::Close(Close::Full));
                }
                session.answer(|out| crate::resp::write::simple(out, "RESET"));
                self.decided_end = Some(LeaseEnd::Abandoned);
                Step::Taken(Pause::Replies)
            }
            Verb::Unsubscribe | Verb::Punsubscribe | Verb::Sunsubscribe if self.pins.subscribed() => {
                self.admit_known(session, spec, request)
            }
            _ if v2_subscriber => self.admit_subscribed(session, request),
            Verb::Unwatch | Verb::Exec | Verb::Discard => self.admit_known(session, spec, request),
            Verb::Select => match request.arg(1).and_then(local::database) {
                Some(database) => {
                    self.expected.gated = true;
                    self.forward(session, request, Effect::Select(database))
                }
                None => self.answer_locally(session, spec, request),
            },
            Verb::Auth | Verb::Hello
                if self.pins.any() && local::changes_connection(&session.client, request) =>
            {
                match hello::parse(request) {
                    Ok(hello) if spec.verb == Verb::Hello && self.may_change_version(session, &hello) => {
                        self.decided_end = Some(LeaseEnd::Version(hello));
                        Step::Taken(Pause::Replies)
                    }
                    _ => {
                        session.refuse(&refusal::pinned_state(&self.pins.reasons()));
                        Step::Done
                    }
                }
            }
            _ => self.answer_locally(session, spec, request),
        }
    }

    fn answer_locally(&mut self, session: &mut Session, spec: &'static Spec, request: &Request<'_>) -> Step {
        match local::answer(session, spec, request) {
            local::Outcome::Answered => {
                if matches!(spec.verb, Verb::ClientSetname | Verb::Hello) {
                    // The server gets CLIENT SETNAME in place of HELLO, which does not end the effect.
                    if spec.verb == Verb::Hello && self.pins.caching {
                        self.end_caching(session);
                    }
                    self.send_name(session);
                }
                // HELLO changed the version: the next requests need a connection of that version.
                if self.lease.resp() != session.client.resp {
                    self.decided_end = Some(LeaseEnd::Clean);
                }
                Step::Done
            }
            local::Outcome::Close(close) => Step::Taken(Pause::Close(close)),
            // These need no connection of the session's own, and leave its state alone.
            local::Outcome::AsyncOp(op @ (AsyncOp::Clients(_) | AsyncOp::Info(_))) => {
                self.decided_end = Some(LeaseEnd::Beside(Box::new(op)));
                Step::Taken(Pause::Replies)
            }
            // Without pins, the session can end the lease and run the operation without it.
            local::Outcome::AsyncOp(op) => {
                session.pending_op = Some(op);
                self.decided_end = Some(LeaseEnd::Clean);
                Step::Taken(Pause::Replies)
            }
        }
    }

    /// Admits a RESP2 subscriber's request. Such a client may only change its subscriptions, PING, QUIT and
    /// RESET.
    pub(super) fn admit_subscribed(&mut self, session: &mut Session, request: &Request<'_>) -> Step {
        // The server answers a subscriber's PING in the shape of a message.
        if let Some(Found::Spec(spec)) = command::find(request)
            && (spec.verb == Verb::Ping && request.argc() <= 2 || subscription_change(spec.verb).is_some())
        {
            return self.admit_known(session, spec, request);
        }
        let line = refused_to_subscriber(request);
        self.when_answered(|_| {
            session.refuse(&line);
            Step::Done
        })
    }
}
