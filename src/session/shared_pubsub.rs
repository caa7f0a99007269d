//! Serves subscriptions without a lease: by fan-in, for sessions whose tenant uses it, and the shard channels of a cluster. The
//! session goes on using the other lanes beside them. A transaction, WATCH or tracking still takes a lease of its own.

use std::task::{Context, Poll};

use super::close::Close;
use super::route::RouteDecision;
use super::step::{Pause, Step};
use super::{Session, local, refusal};
use crate::command::{self, Found, Spec, Verb};
use crate::resp::Resp;
use crate::resp::error_line::ErrorLine;
use crate::resp::pubsub::Kind;
use crate::resp::request::Request;
use crate::tenant::config::Pubsub;
use crate::upstream::config::Pool;

impl Session {
    /// Returns the route of a command that changes subscriptions, if that is fan-in. Subscriptions that began by
    /// fan-in also end there, even if the client now belongs to another tenant.
    pub(super) fn route_fanned(&self, spec: &Spec) -> Option<RouteDecision> {
        let (kind, begins) = subscription_change(spec.verb)?;
        if self.has_own_way(kind) {
            return Some(RouteDecision::Fanned(kind, begins));
        }
        let fans = self.lanes.subscription.is_some()
            || self.ctx.upstream_config.pool == Pool::Shared && self.uses_fan_in();
        fans.then_some(RouteDecision::Fanned(kind, begins))
    }

    /// Returns true if the client's tenant uses fan-in.
    pub(super) fn uses_fan_in(&self) -> bool {
        let member = self.tenancy.member.as_ref();
        member.is_some_and(|member| member.worker_tenant().tenant.config.pubsub == Pubsub::FanIn)
    }

    /// Changes subscriptions. All earlier replies must have been delivered.
    pub(super) fn change_subscriptions(&mut self, request: &Request<'_>, kind: Kind, begins: bool) -> Step {
        let upstream = self.ctx.upstream.clone();
        if self.has_own_way(kind) {
            return self.change_shard_channels(request, begins);
        }
        upstream.counters.fanin.inc();
        if !begins {
            match &self.lanes.subscription {
                // Confirmations are shown whatever CLIENT REPLY says, as on the server, but they use up a single
                // skip.
                Some(subscription) => {
                    subscription.unsubscribe(kind, request);
                    self.client.mutes();
                    self.end_if_unsubscribed();
                }
                None => local::unsubscribe(self, request),
            }
            return Step::Done;
        }
        let Some(identity) = self.client.identity.clone() else { return Step::Done };
        if upstream.hold_full(request.len()) {
            self.refuse(&upstream.hold_overflow());
            return Step::Done;
        }
        if upstream.fan_in_full(request) {
            self.refuse(refusal::SUBSCRIPTIONS_FULL);
            return Step::Done;
        }
        let subscription = self.lanes.subscription.take().unwrap_or_else(|| {
            Box::new(upstream.subscription(&identity, self.client.resp, &self.output.replies))
        });
        if subscription.would_exceed(request) {
            self.lanes.subscription = subscription.is_subscribed().then_some(subscription);
            self.note_subscribed();
            self.refuse(&refusal::too_many_subscriptions());
            return Step::Done;
        }
        subscription.subscribe(kind, request, self.client.mutes());
        self.view.set_fan_in(Some(subscription.counter()));
        self.lanes.subscription = Some(subscription);
        self.note_subscribed();
        Step::Done
    }

    /// Returns true if a requested subscription has been neither confirmed nor refused. No later request may
    /// overtake it.
    pub(super) fn is_subscribing(&mut self) -> bool {
        if !self.lanes.get_messages {
            return false;
        }
        let asks = self.lanes.requested_subscriptions().is_some();
        if !asks {
            self.end_if_unsubscribed();
        }
        asks
    }

    /// Returns true if the client has any subscription apart from those of its lease.
    pub(super) fn has_subscriptions(&self) -> bool {
        self.lanes.subscription.as_ref().is_some_and(|subscription| subscription.is_subscribed())
            || self.has_shard_channels()
    }

    /// Returns true if `matches` holds for one of the subscriptions apart from those of the lease.
    pub(super) fn has_subscription(&self, mut matches: impl FnMut(Kind, &[u8]) -> bool) -> bool {
        self.lanes.subscription.as_ref().is_some_and(|subscription| subscription.hears(&mut matches))
            || self.lanes.shard_channels.as_ref().is_some_and(|channels| channels.hears(matches))
    }

    /// Returns true if the client may only change its subscriptions, PING, QUIT and RESET, as a RESP2 subscriber.
    pub(super) fn is_confined(&self) -> bool {
        self.lanes.get_messages && self.client.resp == Resp::V2 && self.has_subscriptions()
    }

    /// Returns the route of a confined client's command.
    pub(super) fn route_confined(&self, spec: &'static Spec, request: &Request<'_>) -> RouteDecision {
        if !command::arity_ok(spec, request.argc()) {
            return RouteDecision::Refused(refused_to_subscriber(request));
        }
        match spec.verb {
            Verb::Ping | Verb::Quit | Verb::Reset => RouteDecision::Local(spec),
            _ => self.route_fanned(spec).unwrap_or_else(|| match subscription_change(spec.verb) {
                // Beside shard channels, the client has others by a lease.
                Some((_, true)) => RouteDecision::Leased,
                Some((_, false)) => RouteDecision::Local(spec),
                None => RouteDecision::Refused(refused_to_subscriber(request)),
            }),
        }
    }

    /// Returns true if the tenant's output limit allows messages. Ends the use of subscriptions that are over.
    pub(super) fn may_deliver_messages(&mut self, cx: &mut Context<'_>, in_flight: usize) -> bool {
        self.end_if_unsubscribed();
        !self.lanes.get_messages || self.charge_output(cx, in_flight)
    }

    /// Waits for the reply to a subscription request. Ready when the client has left and there is no primary to
    /// reply.
    pub(super) fn poll_subscribing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let held = match &self.lanes.shard_channels {
            Some(channels) if channels.asks().is_some() => channels.is_held(),
            _ => self.ctx.upstream.in_hold(),
        };
        if held {
            self.note_wait();
        } else {
            self.end_wait();
        }
        if self.poll_client_left(cx).is_ready() && held {
            self.closing = Some(Close::Left);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Writes replies and messages to the client while the session waits for something else, as far as its limits
    /// allow. Returns true if the client does not take them. A write error shows at the next write.
    pub(super) fn poll_messages(&mut self, cx: &mut Context<'_>) -> bool {
        self.output.replies.watch(cx.waker());
        if self.lanes.get_messages && !self.charge_output(cx, self.output.awaited() as usize) {
            return false;
        }
        self.output.replies.poll_write_to(cx, &mut self.stream).is_pending()
    }

    /// Ends all subscriptions apart from those of the lease.
    pub(super) fn end_subscriptions(&mut self) {
        self.end_fan_in();
        self.end_shard_channels();
    }

    fn end_fan_in(&mut self) {
        if self.lanes.subscription.take().is_some() {
            self.view.set_fan_in(None);
            self.note_unsubscribed();
        }
    }

    /// Takes note of whether there are subscriptions apart from those of the lease.
    pub(super) fn note_subscribed(&mut self) {
        self.lanes.get_messages = self.lanes.subscription.is_some() || self.lanes.shard_channels.is_some();
        self.activity.set_subscribed(self.lanes.get_messages);
    }

    /// As [`Self::note_subscribed`], after some have ended.
    pub(super) fn note_unsubscribed(&mut self) {
        self.note_subscribed();
        self.activity.touch(self.ctx.registry.now.get());
    }

    /// Ends the use of fan-in if no subscription exists or is requested, and that of shard channels.
    pub(super) fn end_if_unsubscribed(&mut self) {
        let fan_in = self.lanes.subscription.as_ref();
        if fan_in.is_some_and(|known| known.asks().is_none() && !known.is_subscribed()) {
            self.end_fan_in();
        }
        let channels = self.lanes.shard_channels.as_ref();
        if channels.is_some_and(|known| known.asks().is_none() && !known.is_subscribed()) {
            self.end_shard_channels();
        }
    }

    /// Returns the pause before the next request if a subscription is not yet confirmed.
    pub(super) fn subscribing_pause(&mut self) -> Option<Pause> {
        self.is_subscribing().then_some(Pause::Subscribing)
    }
}

/// Returns the kind of subscription that a command changes, and true if the command begins it.
pub(super) fn subscription_change(verb: Verb) -> Option<(Kind, bool)> {
    Some(match verb {
        Verb::Subscribe => (Kind::Channel, true),
        Verb::Unsubscribe => (Kind::Channel, false),
        Verb::Psubscribe => (Kind::Pattern, true),
        Verb::Punsubscribe => (Kind::Pattern, false),
        Verb::Ssubscribe => (Kind::Shard, true),
        Verb::Sunsubscribe => (Kind::Shard, false),
        _ => return None,
    })
}

/// Returns the error for a RESP2 subscriber's request that does not concern its subscriptions. The server checks
/// the name and the number of arguments first.
pub(super) fn refused_to_subscriber(request: &Request<'_>) -> ErrorLine {
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
