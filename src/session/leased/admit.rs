//! Decides which requests go out on a lease, and which replies the lease then expects.

use super::expect::Effect;
use super::{Close, LeaseEnd, Leased, Session};
use crate::command::{self, Found, Spec, Verb};
use crate::resp::Resp;
use crate::resp::error_line::ErrorLine;
use crate::resp::pubsub::Kind;
use crate::resp::request::Request;
use crate::session::charge::Charged;
use crate::session::info;
use crate::session::route::{LearnedRoute, RouteDecision};
use crate::session::setting::Forbidden;
use crate::session::step::{Pause, Step};

/// Limit of request bytes that wait to be written to a lease. Above it, no further requests are taken.
const OUTBOUND: usize = 256 * 1024;

/// The route of a request on a lease.
pub(super) enum LeasedRoute {
    /// The server answers it.
    Sent,
    /// The server answers it. The table lacks the command; the server has described it.
    Learned(LearnedRoute),
    /// respgate answers it.
    Local(&'static Spec),
    /// respgate answers it with this error line.
    Refused(ErrorLine),
    /// Fan-in begins (true) or ends subscriptions of this kind.
    Fanned(Kind, bool),
    /// respgate closes the client's connection, as the server would.
    Dropped,
}

impl Leased {
    /// Takes requests from the session's input until one must wait.
    pub(super) fn admit_input(&mut self, session: &mut Session, moved: &mut bool) -> Pause {
        loop {
            let input = session.input.lend();
            let (used, pause) = session.handle_with(input.front(), |session, found| match found {
                Ok(request) => self.admit_charged(session, request),
                Err(fault) => self.when_answered(|_| session.close_malformed(fault)),
            });
            let cut_off = used < input.front().len();
            session.input.put_back(input, used);
            *moved |= used > 0;
            // The input may be in two pieces, and the rest of a request that ends the first piece can be in the
            // second. The loop ends because the number of requests under way is limited.
            if !matches!(pause, Pause::More) || session.input.is_empty() || cut_off && !session.input.join() {
                return pause;
            }
        }
    }

    /// As `admit`, within the limits of the client's tenant.
    fn admit_charged(&mut self, session: &mut Session, request: &Request<'_>) -> Step {
        let depth = session.ctx.config.max_pipeline;
        let waits = self.expected.gated || self.expected.len() >= depth || session.is_subscribing();
        if self.decided_end.is_some() || waits {
            return Step::Stay(Pause::Replies);
        }
        if self.is_holding(session) {
            return self.hold_request(session, request);
        }
        if self.outbound.unanswered_bytes() > OUTBOUND {
            return Step::Stay(Pause::Replies);
        }
        let step = match session.charge(request) {
            Charged::Passes => self.admit(session, request),
            Charged::Waits(pause) => return Step::Stay(pause),
            Charged::Refused(line) => self.refuse_for_limit(session, &line),
        };
        session.note_handled(&step);
        self.note_state(session, false);
        step
    }

    /// Refuses a command because of a limit, and makes EXEC of the transaction that the command belongs to fail.
    pub(super) fn refuse_for_limit(&mut self, session: &mut Session, line: &[u8]) -> Step {
        self.when_answered(|leased| {
            session.refuse_for_limit(line);
            leased.poison_transaction();
            Step::Done
        })
    }

    /// Routes a request and sends it, answers it, or says what must happen first.
    fn admit(&mut self, session: &mut Session, request: &Request<'_>) -> Step {
        // Nothing keeps this lease any more, so the session returns to the shared lane.
        if self.expected.is_empty() && !self.pins.any() && !self.for_session && self.used {
            return Step::Stay(Pause::Replies);
        }
        if session.ctx.upstream.is_cluster()
            && let Some(step) = self.admit_placed(session, request)
        {
            return step;
        }
        self.used = true;
        session.ctx.upstream.counters.leased.inc();
        let caching = self.pins.caching.then(|| self.outbound.unanswered_bytes());
        let step = self.admit_any(session, request);
        if let Some(before) = caching {
            let sent = self.outbound.unanswered_bytes() > before;
            self.follow_caching(session, request, sent, &step);
        }
        step
    }

    /// Denies a request, or admits it by its route.
    fn admit_any(&mut self, session: &mut Session, request: &Request<'_>) -> Step {
        let route = match session.route(request) {
            RouteDecision::Denied(forbidden) => return self.deny(session, request, forbidden),
            RouteDecision::Unlearned => return self.learn_first(),
            RouteDecision::UsersUnknown => return self.admit_uncounted(session, request),
            RouteDecision::Rewritten(frame, _) => {
                return match Request::parse(&frame) {
                    Some(request) => self.admit_routed(session, &request, LeasedRoute::Sent),
                    None => Step::Done,
                };
            }
            // Only a transaction's INFO shows the cluster.
            RouteDecision::Local(spec)
                if spec.verb == Verb::Info
                    && self.pins.transaction.is_some()
                    && !info::names_respgate(request) =>
            {
                LeasedRoute::Sent
            }
            RouteDecision::Local(spec) => LeasedRoute::Local(spec),
            RouteDecision::Refused(line) => LeasedRoute::Refused(line),
            RouteDecision::Dropped => LeasedRoute::Dropped,
            RouteDecision::Fanned(kind, begins) => LeasedRoute::Fanned(kind, begins),
            RouteDecision::Learned(route) => LeasedRoute::Learned(route),
            RouteDecision::Shared(_)
            | RouteDecision::Read(_)
            | RouteDecision::Scan(_)
            | RouteDecision::Leased => LeasedRoute::Sent,
        };
        self.admit_routed(session, request, route)
    }

    /// Ends the effect of CLIENT CACHING, which applies to the next command other than CLIENT. If respgate
    /// answers that command itself, it sends the server a PING in its place; otherwise the server would track the
    /// keys of a later command. `sent` is true if the request was sent.
    fn follow_caching(&mut self, session: &Session, request: &Request<'_>, sent: bool, step: &Step) {
        if matches!(step, Step::Stay(_)) || request.name().eq_ignore_ascii_case(b"CLIENT") {
            return;
        }
        if sent {
            self.pins.caching = false;
        } else {
            self.end_caching(session);
        }
    }

    /// Ends the effect of CLIENT CACHING by a PING.
    pub(super) fn end_caching(&mut self, session: &Session) {
        self.pins.caching = false;
        if self.may_interject() {
            self.send_ping(session);
        }
    }

    /// Ends the lease, so that the session can ask the server how many users it has. Refuses the command instead
    /// if the session must keep its connection.
    fn admit_uncounted(&mut self, session: &mut Session, request: &Request<'_>) -> Step {
        if self.pins.any() {
            let forbidden = match command::find(request) {
                Some(Found::Spec(spec)) => session.forbidden_by_level(spec.name),
                _ => session.forbidden_by_level(&String::from_utf8_lossy(request.name())),
            };
            return self.deny(session, request, forbidden);
        }
        self.when_answered(|leased| {
            leased.decided_end = Some(LeaseEnd::Clean);
            Step::Stay(Pause::Replies)
        })
    }

    /// Has the session ask the server for its commands, because the table lacks this one. The request is admitted again afterwards.
    fn learn_first(&mut self) -> Step {
        self.when_answered(|leased| {
            leased.decided_end = Some(LeaseEnd::Learn);
            Step::Stay(Pause::Replies)
        })
    }

    /// Asks the server for its commands. If it cannot be asked, refuses the request at the front of the input.
    pub(super) async fn learn(&mut self, session: &mut Session) {
        if !session.learn().await {
            self.poison_transaction();
        }
    }

    /// Admits a request by its route.
    fn admit_routed(&mut self, session: &mut Session, request: &Request<'_>, route: LeasedRoute) -> Step {
        note_script(session, request);
        if self.pins.transaction.is_some() {
            return self.admit_queued(session, request, route);
        }
        match route {
            LeasedRoute::Local(spec) => self.admit_local(session, spec, request),
            // The server forgets the watched keys when it refuses EXEC, whatever the reason (observed on valkey
            // 8.0 and redis 7.0).
            LeasedRoute::Refused(_) if self.pins.watches() && is_exec(request) => {
                self.pins.unwatch();
                self.forward(session, request, Effect::None)
            }
            LeasedRoute::Refused(line) => self.when_answered(|_| {
                session.refuse(&line);
                Step::Done
            }),
            LeasedRoute::Dropped => self.when_answered(|_| Step::Taken(Pause::Close(Close::Protocol))),
            // Subscriptions that began on the lease end there.
            LeasedRoute::Fanned(kind, begins) if session.has_own_way(kind) || !self.pins.subscribed() => {
                self.when_answered(|_| session.change_subscriptions(request, kind, begins))
            }
            _ if self.pins.subscribed() && session.client.resp == Resp::V2 => {
                self.admit_subscribed(session, request)
            }
            LeasedRoute::Learned(route) => self.admit_learned(session, request, route),
            LeasedRoute::Sent | LeasedRoute::Fanned(..) => match command::find(request) {
                Some(Found::Spec(spec)) => self.admit_known(session, spec, request),
                _ => self.forward(session, request, Effect::None),
            },
        }
    }

    /// Answers a request that a setting forbids with an error in its place, and makes EXEC of its transaction
    /// fail. A forbidden EXEC ends its transaction, as on the server.
    pub(super) fn deny(
        &mut self,
        session: &mut Session,
        request: &Request<'_>,
        forbidden: Forbidden,
    ) -> Step {
        if is_exec(request) && self.pins.transaction.is_some() {
            session.note_forbidden(forbidden.setting, request);
            return self.discard_instead(session, [&forbidden.line, &b"\r\n"[..]].concat());
        }
        self.when_answered(|leased| {
            session.answer_forbidden(&forbidden, request);
            leased.poison_transaction();
            Step::Done
        })
    }

    /// Makes EXEC of the open transaction fail, if a transaction is open.
    pub(super) fn poison_transaction(&mut self) {
        if let Some(transaction) = &mut self.pins.transaction {
            transaction.poisoned = true;
        }
    }

    /// Runs `answer` once all replies under way have come, because respgate's own answer must come behind them.
    pub(super) fn when_answered(&mut self, answer: impl FnOnce(&mut Self) -> Step) -> Step {
        if self.expected.is_empty() { answer(self) } else { Step::Stay(Pause::Replies) }
    }
}

fn is_exec(request: &Request<'_>) -> bool {
    matches!(command::find(request), Some(Found::Spec(spec)) if spec.verb == Verb::Exec)
}

/// Remembers the scripts that a client sends, for the next primary.
fn note_script(session: &Session, request: &Request<'_>) {
    let Some(Found::Spec(spec)) = command::find(request) else { return };
    if !command::arity_ok(spec, request.argc()) {
        return;
    }
    let scripts = &session.ctx.upstream.scripts;
    match spec.verb {
        Verb::Eval | Verb::EvalRo => scripts.remember(request.arg(1).unwrap_or_default()),
        Verb::ScriptLoad => scripts.remember(request.arg(2).unwrap_or_default()),
        _ if spec.name == "SCRIPT|FLUSH" => scripts.forget(),
        _ => {}
    }
}
