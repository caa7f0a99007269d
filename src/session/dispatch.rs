//! Sends one request by the shared lane, answers it, or says what must happen first.

use std::rc::Rc;

use super::Session;
use super::close::Close;
use super::local;
use super::order::{CommandKind, LaneId};
use super::output::ReplyPath;
use super::route::RouteDecision;
use super::step::{AsyncOp, Pause, Step};
use crate::command::{self, Found, Spec};
use crate::latency::Class;
use crate::resp::request::Request;
use crate::tenant::limits::refusal::Limit;
use crate::upstream::reply_sizes::Placement;
use crate::upstream::shared::lane::{Admission, Lane};
use crate::upstream::shared::queue::IfLost;

impl Session {
    /// Sends a request, answers it, or says what must happen first.
    pub(super) fn dispatch(&mut self, request: &Request<'_>) -> Step {
        if self.ctx.upstream.auth_unclear() {
            return Step::Stay(Pause::AsyncOp(AsyncOp::Greet));
        }
        if let Some(pause) = self.subscribing_pause() {
            return Step::Stay(pause);
        }
        // The only look at clusters on the path of nearly every command.
        if self.ctx.upstream.has_been_cluster() {
            return self.dispatch_in_cluster(request);
        }
        let route = self.route(request);
        if let RouteDecision::Shared(if_lost) = route {
            // This route owns nothing. Without `forget`, each command would pay for the look at what to drop.
            std::mem::forget(route);
            return self.send_to_primary(request, if_lost);
        }
        self.dispatch_by(request, route)
    }

    /// As [`Self::dispatch`], in front of a cluster, or of a primary that has replaced one.
    #[inline(never)]
    fn dispatch_in_cluster(&mut self, request: &Request<'_>) -> Step {
        if let Some(step) = self.place_transaction() {
            return step;
        }
        let route = self.route(request);
        if !self.ctx.upstream.is_cluster() {
            self.leave_cluster();
            return self.dispatch_by(request, route);
        }
        if let Some(step) = self.spread(request, &route) {
            return step;
        }
        let leases = match &route {
            RouteDecision::Leased => true,
            RouteDecision::Learned(learned) => !learned.shared,
            _ => false,
        };
        if leases {
            if !self.output.admits_unsent(CommandKind::Exclusive) {
                return Step::Stay(Pause::Replies);
            }
            if let Some(step) = self.instead_of_lease(request) {
                return step;
            }
        }
        self.dispatch_by(request, route)
    }

    /// Sends a request by its route, answers it, or says what must happen first.
    fn dispatch_by(&mut self, request: &Request<'_>, route: RouteDecision) -> Step {
        match route {
            RouteDecision::Shared(if_lost) => self.send_shared(request, if_lost),
            RouteDecision::Read(if_lost) => self.send_read(request, if_lost),
            RouteDecision::Scan(if_lost) => self.scan(request, if_lost),
            RouteDecision::Learned(route) if route.shared => self.send_shared(request, route.if_lost),
            RouteDecision::Rewritten(frame, if_lost) => match Request::parse(&frame) {
                Some(request) => self.send_shared(&request, if_lost),
                None => Step::Done,
            },
            route => {
                if !self.output.admits_unsent(kind_of(&route)) {
                    return Step::Stay(Pause::Replies);
                }
                match route {
                    RouteDecision::Local(spec) => self.answer_locally(spec, request),
                    RouteDecision::Refused(line) => {
                        self.refuse(&line);
                        Step::Done
                    }
                    RouteDecision::Denied(forbidden) => {
                        self.answer_forbidden(&forbidden, request);
                        Step::Done
                    }
                    RouteDecision::Fanned(kind, begins) => self.change_subscriptions(request, kind, begins),
                    RouteDecision::Dropped => Step::Taken(Pause::Close(Close::Protocol)),
                    RouteDecision::UsersUnknown => Step::Stay(Pause::AsyncOp(AsyncOp::CountUsers)),
                    RouteDecision::Unlearned => Step::Stay(Pause::AsyncOp(AsyncOp::Learn)),
                    RouteDecision::Leased
                    | RouteDecision::Learned(_)
                    | RouteDecision::Shared(_)
                    | RouteDecision::Read(_)
                    | RouteDecision::Scan(_)
                    | RouteDecision::Rewritten(..) => Step::Stay(Pause::AsyncOp(AsyncOp::Lease)),
                }
            }
        }
    }

    /// Sends a request by the shared lane, or asks for a lease if earlier replies were large.
    pub(super) fn send_shared(&mut self, request: &Request<'_>, if_lost: IfLost) -> Step {
        if self.output.replies.sizes().placement() != Placement::Shared
            && let Some(step) = self.wait_for_reply_size(true)
        {
            return step;
        }
        self.push_anywhere(request, if_lost)
    }

    /// As `send_shared`, in front of one primary.
    #[inline]
    fn send_to_primary(&mut self, request: &Request<'_>, if_lost: IfLost) -> Step {
        if self.output.replies.sizes().placement() != Placement::Shared
            && let Some(step) = self.wait_for_reply_size(true)
        {
            return step;
        }
        self.push_shared(request, if_lost)
    }

    /// As `send_shared`, for a command that a lease cannot carry.
    pub(super) fn send_shared_only(&mut self, request: &Request<'_>, if_lost: IfLost) -> Step {
        if self.output.replies.sizes().placement() != Placement::Shared
            && let Some(step) = self.wait_for_reply_size(false)
        {
            return step;
        }
        self.push_anywhere(request, if_lost)
    }

    /// Returns the step of a command that waits because earlier replies were large, or `None` if the command can
    /// be sent now. `may_lease` is false for a command that a lease cannot carry.
    fn wait_for_reply_size(&mut self, may_lease: bool) -> Option<Step> {
        if self.output.awaited() > 0 {
            return Some(Step::Stay(Pause::Replies));
        }
        self.output.replies.sizes().all_answered();
        // Without a free lease, large replies come on the shared connection, one at a time.
        let leases = may_lease
            && self.output.replies.sizes().placement() == Placement::Own
            && self.ctx.upstream.has_free_lease()
            && self.tenancy.acquire(Limit::Leased).is_ok();
        leases.then_some(Step::Stay(Pause::AsyncOp(AsyncOp::Lease)))
    }

    /// Pushes a request to the shared lane of the primary, or of its shard of a cluster, or says what it waits for.
    fn push_anywhere(&mut self, request: &Request<'_>, if_lost: IfLost) -> Step {
        if self.ctx.upstream.is_cluster()
            && let Some(step) = self.push_by_slot(request, if_lost)
        {
            return step;
        }
        self.push_shared(request, if_lost)
    }

    /// Pushes a request to the shared lane of the primary, or says what it waits for.
    fn push_shared(&mut self, request: &Request<'_>, if_lost: IfLost) -> Step {
        if self.has_own_connection() {
            let waits = self.ctx.upstream.in_hold() && self.ctx.upstream.held_until().is_ok();
            if waits && self.output.awaited() == 0 && is_ping(request) {
                return self.answer_ping(request);
            }
            return self.lease_when_answered();
        }
        let Some(lane) = self.lane() else { return Step::Done };
        // Check the window before asking the scheduler, so that a request that waits for earlier replies uses up
        // no grant.
        if self.output.awaited() >= self.output.replies.window(self.ctx.config.max_pipeline) {
            return Step::Stay(Pause::Replies);
        }
        let Some(path) = self.output.reply_path(LaneId::of(&lane), CommandKind::of(if_lost)) else {
            return Step::Stay(Pause::Replies);
        };
        if !lane.is_open() {
            match self.ctx.upstream.admission(&lane, self.asker(self.output.awaited() == 0)) {
                Admission::Open => {}
                Admission::Full => return Step::Stay(Pause::Lane(None)),
                // respgate is reachable and waits for a primary: a health check need not fail in a failover.
                Admission::Held(_)
                    if self.ctx.upstream.in_hold() && self.output.awaited() == 0 && is_ping(request) =>
                {
                    return self.answer_ping(request);
                }
                // The hold buffer refuses new requests only: a client that already waits goes on waiting.
                Admission::Held(_) if !self.hold.is_held() && self.ctx.upstream.hold_full(request.len()) => {
                    if !self.output.admits_unsent(CommandKind::Answer) {
                        return Step::Stay(Pause::Replies);
                    }
                    self.refuse(&self.ctx.upstream.hold_overflow());
                    return Step::Done;
                }
                Admission::Held(deadline) => return Step::Stay(Pause::Lane(Some(deadline))),
                Admission::Refused(_) | Admission::Expired(_)
                    if !self.output.admits_unsent(CommandKind::Answer) =>
                {
                    return Step::Stay(Pause::Replies);
                }
                Admission::Expired(line) => {
                    self.ctx.upstream.counters.hold_expired.inc();
                    self.refuse(&line);
                    self.note_answered(request, Class::Shared);
                    return Step::Done;
                }
                Admission::Refused(line) => {
                    self.refuse(&line);
                    self.close_if_dead();
                    return self.closing.map_or(Step::Done, |close| Step::Taken(Pause::Close(close)));
                }
            }
        }
        self.send_by(&lane, request, if_lost, CommandKind::of(if_lost), path);
        if self.lanes.reads.is_some() {
            self.note_sent_to_primary(request, if_lost);
        }
        Step::Done
    }

    /// Sends a request by `lane`, which must be open. The reply follows all replies that are due, whatever connections they come
    /// from. [`Output::reply_path`](super::output::Output::reply_path) must have returned `path` for this lane.
    #[inline]
    pub(super) fn send_by(
        &mut self,
        lane: &Rc<Lane>,
        request: &Request<'_>,
        if_lost: IfLost,
        kind: CommandKind,
        path: ReplyPath,
    ) {
        let mute = self.client.mutes();
        let replies = self.output.replies_from(LaneId::of(lane), kind, path);
        lane.push(request.raw(), replies, if_lost, mute, self.measured.arrival);
        self.ctx.upstream.counters.shared.inc();
    }

    /// Answers PING while there is no primary.
    #[cold]
    fn answer_ping(&mut self, request: &Request<'_>) -> Step {
        self.end_wait();
        match command::find(request) {
            Some(Found::Spec(spec)) => self.answer_locally(spec, request),
            _ => Step::Done,
        }
    }

    /// Asks for a lease once all earlier replies have come.
    fn lease_when_answered(&self) -> Step {
        if self.output.awaited() > 0 {
            return Step::Stay(Pause::Replies);
        }
        Step::Stay(Pause::AsyncOp(AsyncOp::Lease))
    }

    fn answer_locally(&mut self, spec: &'static Spec, request: &Request<'_>) -> Step {
        self.ctx.upstream.counters.local.inc();
        match local::answer(self, spec, request) {
            local::Outcome::Answered => {
                self.note_answered(request, Class::Local);
                Step::Done
            }
            local::Outcome::Close(close) => Step::Taken(Pause::Close(close)),
            local::Outcome::AsyncOp(op) => Step::Taken(Pause::AsyncOp(op)),
        }
    }
}

/// Returns the kind of a request that does not go by the shared lane.
fn kind_of(route: &RouteDecision) -> CommandKind {
    match route {
        RouteDecision::Refused(_) | RouteDecision::Denied(_) => CommandKind::Answer,
        RouteDecision::Local(spec) if local::overtakes(spec.verb) => CommandKind::Answer,
        _ => CommandKind::Exclusive,
    }
}

fn is_ping(request: &Request<'_>) -> bool {
    request.name().eq_ignore_ascii_case(b"PING")
}
