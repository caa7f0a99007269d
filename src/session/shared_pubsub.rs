//! Serves subscriptions by fan-in, for sessions whose tenant uses it. Such subscriptions take no lease, and the
//! session goes on using the other lanes beside them. A transaction, WATCH or tracking still takes a lease of its
//! own.

use std::task::{Context, Poll};

use super::close::Close;
use super::route::RouteDecision;
use super::step::{Pause, Step};
use super::{Session, local, refusal};
use crate::command::{self, Spec, Verb};
use crate::resp::Resp;
use crate::resp::pubsub::Kind;
use crate::resp::request::Request;
use crate::tenant::config::Pubsub;
use crate::upstream::config::Pool;

impl Session {
    /// Returns the route of a command that changes subscriptions, if that is fan-in. Subscriptions that began by
    /// fan-in also end there, even if the client now belongs to another tenant.
    pub(super) fn route_fanned(&self, spec: &Spec) -> Option<RouteDecision> {
        let (kind, begins) = subscription_change(spec.verb)?;
        // A shard channel belongs to one shard of a cluster, and fan-in has connections to one node.
        if kind == Kind::Shard && self.ctx.upstream.is_cluster() {
            return None;
        }
        let tenant =
            || self.tenancy.member.as_ref().map(|member| member.worker_tenant().tenant.config.pubsub);
        let fans = self.lanes.subscription.is_some()
            || self.ctx.upstream_config.pool == Pool::Shared && tenant() == Some(Pubsub::FanIn);
        fans.then_some(RouteDecision::Fanned(kind, begins))
    }

    /// Changes subscriptions. All earlier replies must have been delivered.
    pub(super) fn change_subscriptions(&mut self, request: &Request<'_>, kind: Kind, begins: bool) -> Step {
        let upstream = self.ctx.upstream.clone();
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
            self.refuse(&refusal::too_many_subscriptions());
            return Step::Done;
        }
        subscription.subscribe(kind, request, self.client.mutes());
        self.view.set_fan_in(Some(subscription.counter()));
        self.lanes.subscription = Some(subscription);
        self.activity.set_subscribed(true);
        Step::Done
    }

    /// Returns true if a requested subscription has been neither confirmed nor refused. No later request may
    /// overtake it.
    pub(super) fn is_subscribing(&mut self) -> bool {
        match &self.lanes.subscription {
            None => false,
            Some(subscription) if subscription.asks().is_some() => true,
            Some(_) => {
                self.end_if_unsubscribed();
                false
            }
        }
    }

    /// Returns true if the client has any subscription by fan-in.
    pub(super) fn has_subscriptions(&self) -> bool {
        self.lanes.subscription.as_ref().is_some_and(|subscription| subscription.is_subscribed())
    }

    /// Returns true if `matches` holds for one of the fan-in subscriptions.
    pub(super) fn has_subscription(&self, matches: impl FnMut(Kind, &[u8]) -> bool) -> bool {
        self.lanes.subscription.as_ref().is_some_and(|subscription| subscription.hears(matches))
    }

    /// Returns true if the client may only change its subscriptions, PING, QUIT and RESET, as a RESP2 subscriber.
    pub(super) fn is_confined(&self) -> bool {
        self.lanes.subscription.is_some() && self.client.resp == Resp::V2 && self.has_subscriptions()
    }

    /// Returns the route of a confined client's command.
    pub(super) fn route_confined(&self, spec: &'static Spec, request: &Request<'_>) -> RouteDecision {
        if !command::arity_ok(spec, request.argc()) {
            return RouteDecision::Refused(refusal::wrong_arity(spec.name));
        }
        match spec.verb {
            Verb::Ping | Verb::Quit | Verb::Reset => RouteDecision::Local(spec),
            _ => self
                .route_fanned(spec)
                .unwrap_or_else(|| RouteDecision::Refused(refusal::only_subscriptions(spec.name))),
        }
    }

    /// Waits for the reply to a subscription request. Ready when the client has left and there is no primary to
    /// reply.
    pub(super) fn poll_subscribing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let held = self.ctx.upstream.in_hold();
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
        if self.lanes.subscription.is_some() && !self.charge_output(cx, self.output.awaited() as usize) {
            return false;
        }
        self.output.replies.poll_write_to(cx, &mut self.stream).is_pending()
    }

    /// Ends all fan-in subscriptions.
    pub(super) fn end_subscriptions(&mut self) {
        if self.lanes.subscription.take().is_some() {
            self.view.set_fan_in(None);
            self.activity.set_subscribed(false);
            self.activity.touch(self.ctx.registry.now.get());
        }
    }

    /// Ends the use of fan-in if no subscription exists or is requested.
    fn end_if_unsubscribed(&mut self) {
        let asks = self.lanes.subscription.as_ref().is_some_and(|subscription| subscription.asks().is_some());
        if !asks && !self.has_subscriptions() {
            self.end_subscriptions();
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
