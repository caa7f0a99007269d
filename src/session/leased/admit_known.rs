//! Admits commands that the server answers, and records the state that they make on the connection.

use std::time::Duration;

use tokio::time::Instant;

use super::Leased;
use super::expect::{Awaited, Effect, Expect};
use super::pins::Transaction;
use crate::clients::arguments::integer;
use crate::command::{self, Flags, Spec, Trace, Tracking, Verb, option_is, trace_of};
use crate::resp::pubsub::Kind;
use crate::resp::request::{self, Request};
use crate::session::Session;
use crate::session::refusal;
use crate::session::route::LearnedRoute;
use crate::session::shared_pubsub::subscription_change;
use crate::session::step::Step;
use crate::tenant::limits::refusal::Limit;
use crate::upstream::shared::queue::IfLost;

/// The longest CLIENT PAUSE for which `response-timeout` is suspended.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// The channel of the PUBLISH that precedes a WAIT. It needs no subscribers.
const WAIT_CHANNEL: &[u8] = b"__respgate:wait";

impl Leased {
    /// Admits a command of the table: notes the state that it makes, and sends it.
    pub(super) fn admit_known(
        &mut self,
        session: &mut Session,
        spec: &'static Spec,
        request: &Request<'_>,
    ) -> Step {
        if let Some(limit) = pin_limit(spec, request)
            && let Err(line) = session.tenancy.acquire(limit)
        {
            return self.refuse_for_limit(session, &line);
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
                self.pins.watched_keys += request.argc() as usize - 1;
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
            Verb::ClientPause => pause_of(request).map_or(Effect::None, |pause| Effect::Pause(Some(pause))),
            Verb::ClientUnpause => Effect::Pause(None),
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
                arrival: session.measured.arrival,
            },
            spec.trace,
        );
        if scripted {
            self.expect_nonce();
        }
        Step::Done
    }

    /// Admits a command that the table lacks, as the server described it.
    pub(super) fn admit_learned(
        &mut self,
        session: &mut Session,
        request: &Request<'_>,
        route: LearnedRoute,
    ) -> Step {
        if route.blocking
            && let Err(line) = session.tenancy.acquire(Limit::Blocked)
        {
            return self.refuse_for_limit(session, &line);
        }
        let effect = if route.pins { Effect::Unknown } else { Effect::None };
        if route.pins {
            self.pins.pin_for_unknown(request.name());
        }
        // As in `admit_known`: nothing may be sent behind a command that can block.
        self.expected.gated |= route.blocking;
        let awaited = Awaited {
            if_lost: route.if_lost,
            blocking: route.blocking.then(Instant::now),
            forgeable: route.forgeable,
            ..self.awaited(session, effect)
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
        let awaited = self.awaited(session, effect);
        self.send(request, awaited, trace_of(request));
        Step::Done
    }

    /// Returns an expectation with `effect` and no other property.
    pub(super) fn awaited(&self, session: &mut Session, effect: Effect) -> Awaited {
        let mute = session.client.mutes();
        Awaited {
            effect,
            mute,
            if_lost: IfLost::ReportUnknown,
            sends: 0,
            queued: false,
            blocking: None,
            forgeable: false,
            arrival: session.measured.arrival,
        }
    }
}

/// Returns for how long a CLIENT PAUSE stops the server, if it says so in the server's way.
fn pause_of(request: &Request<'_>) -> Option<Duration> {
    let milliseconds = integer(request.arg(2)?)?;
    u64::try_from(milliseconds).ok().map(Duration::from_millis).filter(|pause| *pause <= LONGEST_PAUSE)
}

/// Returns the limit under which a command keeps its connection, if it keeps it.
fn pin_limit(spec: &Spec, request: &Request<'_>) -> Option<Limit> {
    match spec.verb {
        Verb::Multi | Verb::Watch => Some(Limit::Transactions),
        Verb::Monitor => Some(Limit::Subscribed),
        verb if subscription_change(verb).is_some_and(|(_, begins)| begins) => Some(Limit::Subscribed),
        _ if command::may_block(spec, request) => Some(Limit::Blocked),
        _ => None,
    }
}
