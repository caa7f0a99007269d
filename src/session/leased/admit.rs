//! Decides which requests go out on a lease, and which replies the lease then expects.

use tokio::time::Instant;

use super::expect::{Awaited, Effect, Expect};
use super::pins::Transaction;
use super::{Close, LeaseEnd, Leased, OUTBOUND, Pause, Session};
use crate::command::{self, Flags, Found, Spec, Trace, Tracking, Verb, option_is, trace_of};
use crate::resp::Resp;
use crate::resp::pubsub::Kind;
use crate::resp::request::{self, Request};
use crate::session::limit::Charged;
use crate::session::route::{LearnedRoute, RouteDecision};
use crate::session::setting::Forbidden;
use crate::session::shared_pubsub::subscription_change;
use crate::session::turn::Step;
use crate::session::{hello, local, refusal};
use crate::tenant::limits::refusal::Limit;
use crate::upstream::shared::queue::IfLost;

/// The channel of the PUBLISH that precedes a WAIT. It needs no subscribers.
const WAIT_CHANNEL: &[u8] = b"__respgate:wait";

/// The route of a request on a lease.
pub(super) enum LeasedRoute {
    /// The server answers it.
    Sent,
    /// The server answers it. The table lacks the command; the server has described it.
    Learned(LearnedRoute),
    /// The server answers it. The table lacks the command, and the server has not described it.
    Unlearned,
    /// respgate answers it.
    Local(&'static Spec),
    /// respgate answers it with this error line.
    Refused(Vec<u8>),
    /// Fan-in begins (true) or ends subscriptions of this kind.
    Fanned(Kind, bool),
    /// respgate closes the client's connection, as the server would.
    Dropped,
}

impl Leased {
    /// Takes requests from the session's input until one must wait.
    pub(super) fn admit_input(&mut self, session: &mut Session, moved: &mut bool) -> Pause {
        loop {
            let input = std::mem::take(&mut session.input);
            let (used, pause) = session.handle_with(input.front(), |session, found| match found {
                Ok(request) => self.admit_charged(session, request),
                Err(fault) => self.when_answered(|_| session.close_malformed(fault)),
            });
            let cut_off = used < input.front().len();
            session.input = input;
            session.consume(used);
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
        let waits = self.expected.gated || self.expected.len() >= depth || session.subscribing();
        if self.ending.is_some() || waits {
            return Step::Stay(Pause::Replies);
        }
        if session.ctx.upstream.holding() {
            return self.hold(session, request);
        }
        if self.outbound.unanswered_bytes() > OUTBOUND {
            return Step::Stay(Pause::Replies);
        }
        let step = match session.charge(request) {
            Charged::Passes => self.admit(session, request),
            Charged::Waits(pause) => return Step::Stay(pause),
            Charged::Refused(line) => self.refuse(session, &line),
        };
        session.charged(&step);
        self.note_state(session, false);
        step
    }

    /// Refuses a command because of a limit, and makes EXEC of the transaction that the command belongs to fail.
    fn refuse(&mut self, session: &mut Session, line: &[u8]) -> Step {
        self.when_answered(|leased| {
            session.refuse_for_limit(line);
            leased.spoil_transaction();
            Step::Done
        })
    }

    /// Routes a request and sends it, answers it, or says what must happen first.
    fn admit(&mut self, session: &mut Session, request: &Request<'_>) -> Step {
        // Nothing keeps this lease any more, so the session returns to the shared lane.
        if self.expected.is_empty() && !self.pins.any() && !self.sticky && self.used {
            return Step::Stay(Pause::Replies);
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
            RouteDecision::Denied(forbidden) | RouteDecision::DeniedUnlearned(forbidden) => {
                return self.deny(session, request, forbidden);
            }
            RouteDecision::UsersUnknown => return self.admit_uncounted(session, request),
            RouteDecision::Rewritten(frame, _) => {
                return match Request::parse(&frame) {
                    Some(request) => self.admit_routed(session, &request, LeasedRoute::Sent),
                    None => Step::Done,
                };
            }
            RouteDecision::Local(spec) => LeasedRoute::Local(spec),
            RouteDecision::Refused(line) => LeasedRoute::Refused(line),
            RouteDecision::Dropped => LeasedRoute::Dropped,
            RouteDecision::Fanned(kind, begins) => LeasedRoute::Fanned(kind, begins),
            RouteDecision::Unlearned => LeasedRoute::Unlearned,
            RouteDecision::Learned(route) => LeasedRoute::Learned(route),
            RouteDecision::Shared(_) | RouteDecision::Scan(_) | RouteDecision::Leased => LeasedRoute::Sent,
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
        self.pins.caching = false;
        if !sent && self.may_interject() {
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
            leased.ending = Some(LeaseEnd::Clean);
            Step::Stay(Pause::Replies)
        })
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
            LeasedRoute::Fanned(kind, begins) if !self.pins.subscribed() => {
                self.when_answered(|_| session.fan(request, kind, begins))
            }
            LeasedRoute::Unlearned => {
                self.pins.keep_for(request.name());
                self.forward(session, request, Effect::None)
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
            session.forbid(&forbidden, request);
            leased.spoil_transaction();
            Step::Done
        })
    }

    /// Makes EXEC of the open transaction fail, if a transaction is open.
    pub(super) fn spoil_transaction(&mut self) {
        if let Some(transaction) = &mut self.pins.transaction {
            transaction.poisoned = true;
        }
    }

    /// Runs `answer` once all replies under way have come, because respgate's own answer must come behind them.
    fn when_answered(&mut self, answer: impl FnOnce(&mut Self) -> Step) -> Step {
        if self.expected.is_empty() { answer(self) } else { Step::Stay(Pause::Replies) }
    }

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
                self.ending = Some(LeaseEnd::Abandoned);
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
                        self.ending = Some(LeaseEnd::Version(hello));
                        Step::Taken(Pause::Replies)
                    }
                    _ => {
                        session.refuse(&refusal::kept_state(&self.pins.reasons()));
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
                // HELLO changed the version: the next requests need a connection of that version.
                if self.lease.resp() != session.client.resp {
                    self.ending = Some(LeaseEnd::Clean);
                }
                Step::Done
            }
            local::Outcome::Close(close) => Step::Taken(Pause::Close(close)),
            // Without pins, the session can end the lease and run the operation without it.
            local::Outcome::AsyncOp(op) => {
                session.pending = Some(op);
                self.ending = Some(LeaseEnd::Clean);
                Step::Taken(Pause::Replies)
            }
        }
    }

    /// Admits a RESP2 subscriber's request. Such a client may only change its subscriptions, PING, QUIT and
    /// RESET.
    fn admit_subscribed(&mut self, session: &mut Session, request: &Request<'_>) -> Step {
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

    /// Admits a command of the table: notes the state that it makes, and sends it.
    fn admit_known(&mut self, session: &mut Session, spec: &'static Spec, request: &Request<'_>) -> Step {
        if let Some(limit) = kept_for(spec, request)
            && let Err(line) = session.take_place(limit)
        {
            return self.refuse(session, &line);
        }
        if let Some((kind, begins)) = subscription_change(spec.verb) {
            return self.admit_subscription(session, request, kind, begins);
        }
        let effect = match spec.verb {
            Verb::Multi => {
                let mut transaction = Transaction::default();
                transaction.keep(request.raw());
                self.pins.transaction = Some(transaction);
                Effect::Multi
            }
            Verb::Watch => {
                self.pins.watching = true;
                Effect::State
            }
            Verb::Unwatch => {
                self.pins.unwatch();
                Effect::State
            }
            Verb::Monitor => {
                self.expected.gated = true;
                Effect::Monitor
            }
            Verb::ClientTracking => {
                self.expected.gated = true;
                Effect::Tracking(Tracking::of(request).on.then(|| request.raw().into()))
            }
            Verb::ClientCaching => {
                self.pins.caching = self.pins.tracking.is_some();
                Effect::None
            }
            Verb::ClientNoTouch => {
                self.expected.gated = true;
                Effect::NoTouch(request.arg(2).is_some_and(|switch| option_is(switch, "ON")))
            }
            Verb::ClientImportSource => {
                self.expected.gated = true;
                Effect::ImportSource(request.arg(2).is_some_and(|switch| option_is(switch, "ON")))
            }
            Verb::HimportPrepare | Verb::HimportDiscardall => {
                self.expected.gated = true;
                Effect::Fieldsets(spec.verb == Verb::HimportPrepare)
            }
            Verb::Wait | Verb::Waitaof if command::arity_ok(spec, request.argc()) => {
                self.post(Expect::Publish, Trace::Nothing, |out| {
                    request::encode(&[b"PUBLISH", WAIT_CHANNEL, b""], out);
                });
                Effect::Wait
            }
            _ => Effect::None,
        };
        // Nothing may be sent behind a command that can block: respgate could no longer take it back, and it
        // would wait until the block ends.
        let blocking = command::may_block(spec, request) && !matches!(effect, Effect::Wait);
        self.expected.gated |= command::may_block(spec, request);
        let scripted = spec.flags.contains(Flags::SCRIPT);
        if blocking && spec.verb == Verb::Xread {
            self.expect_newest(request);
        }
        self.send(
            request,
            Awaited {
                effect,
                mute: session.client.mutes(),
                if_lost: session.if_lost(spec, request),
                sends: 0,
                queued: false,
                blocking: blocking.then(Instant::now),
                forgeable: scripted,
            },
            spec.trace,
        );
        if scripted {
            self.expect_nonce();
        }
        Step::Done
    }

    /// Admits a command that the table lacks, as the server described it.
    fn admit_learned(&mut self, session: &mut Session, request: &Request<'_>, route: LearnedRoute) -> Step {
        if route.blocking
            && let Err(line) = session.take_place(Limit::Blocked)
        {
            return self.refuse(session, &line);
        }
        if route.kept {
            self.pins.keep_for(request.name());
        }
        // As in `admit_known`: nothing may be sent behind a command that can block.
        self.expected.gated |= route.blocking;
        let awaited = Awaited {
            if_lost: route.if_lost,
            blocking: route.blocking.then(Instant::now),
            forgeable: route.forgeable,
            ..self.plain(session, Effect::None)
        };
        self.send(request, awaited, route.trace);
        if route.forgeable {
            self.expect_nonce();
        }
        Step::Done
    }

    /// Admits a command that begins or ends subscriptions.
    fn admit_subscription(
        &mut self,
        session: &mut Session,
        request: &Request<'_>,
        kind: Kind,
        begins: bool,
    ) -> Step {
        let named = request.argc() as usize - 1;
        if begins && self.pins.would_exceed(named, request.len()) {
            return self.when_answered(|_| {
                session.refuse(&refusal::too_many_subscriptions());
                Step::Done
            });
        }
        let count = if named > 0 || begins { named } else { self.pins.names(kind).len().max(1) };
        // Confirmations are shown whatever CLIENT REPLY says, as on the server, but they use up a single skip.
        let mute = session.client.mutes();
        self.post(Expect::Confirmations { left: count, mute }, Trace::Followed, |out| {
            out.extend_from_slice(request.raw());
        });
        self.expected.gated = true;
        Step::Done
    }

    /// Sends a request whose reply needs no more than its effect.
    pub(super) fn forward(&mut self, session: &mut Session, request: &Request<'_>, effect: Effect) -> Step {
        let awaited = self.plain(session, effect);
        self.send(request, awaited, trace_of(request));
        Step::Done
    }

    /// Returns an expectation with `effect` and no other property.
    pub(super) fn plain(&self, session: &mut Session, effect: Effect) -> Awaited {
        let mute = session.client.mutes();
        Awaited {
            effect,
            mute,
            if_lost: IfLost::ReportUnknown,
            sends: 0,
            queued: false,
            blocking: None,
            forgeable: false,
        }
    }
}

/// Returns the error for a RESP2 subscriber's request that does not concern its subscriptions. The server checks
/// the name and the number of arguments first.
fn refused_to_subscriber(request: &Request<'_>) -> Vec<u8> {
    let spec = match command::find(request) {
        Some(Found::Spec(spec)) => spec,
        Some(Found::NoSuchSubcommand(container)) => {
            return refusal::unknown_subcommand(container.name, request.arg(1).unwrap_or_default());
        }
        None => return refusal::only_subscriptions(&String::from_utf8_lossy(request.name())),
    };
    let line = match command::arity_ok(spec, request.argc()) {
        true => refusal::only_subscriptions(spec.name),
        false => refusal::wrong_arity(spec.name),
    };
    if spec.verb == Verb::Exec { refusal::exec_aborted_because(&line) } else { line }
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

/// Returns the limit under which a command keeps its connection, if it keeps it.
fn kept_for(spec: &Spec, request: &Request<'_>) -> Option<Limit> {
    match spec.verb {
        Verb::Multi | Verb::Watch => Some(Limit::Transactions),
        Verb::Monitor => Some(Limit::Subscribed),
        verb if subscription_change(verb).is_some_and(|(_, begins)| begins) => Some(Limit::Subscribed),
        _ if command::may_block(spec, request) => Some(Limit::Blocked),
        _ => None,
    }
}
