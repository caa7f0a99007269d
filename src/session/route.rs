//! Decides how a request is answered: by which lane, locally, or with a refusal.

use std::rc::Rc;

use super::async_op::AsyncOp;
use super::config::AdminCommands;
use super::refusal;
use super::setting::Forbidden;
use super::turn::{Pause, Step};
use super::{Session, diagnostics, local};
use crate::command::administration::Administration;
use crate::command::learned::LearnedCommand;
use crate::command::{self, Flags, Found, ReadOptions, Retry, RouteClass, Spec, Trace, Verb};
use crate::resp::pubsub::Kind;
use crate::resp::request::Request;
use crate::tenant::limits::refusal::Limit;
use crate::upstream::config::{ClientAuth, Pool, RetryWrites};
use crate::upstream::reply_sizes::Placement;
use crate::upstream::shared::lane::Admission;
use crate::upstream::shared::queue::IfLost;

/// Size limit of a request on the shared lane, in bytes. A larger request takes a lease, so that others do not
/// wait behind it.
const OVERSIZE: usize = 64 * 1024;

/// Size limit of a CLIENT TRACKING request, in bytes. A longer one is refused.
const MAX_TRACKING: usize = 1024 * 1024;

/// Says how a request is answered, by the command table or, for commands that the table lacks, by the server's
/// description.
pub(super) enum RouteDecision {
    /// Goes by the shared lane.
    Shared(IfLost),
    /// Goes by the shared lane. Its cursor is valid on one primary only.
    Scan(IfLost),
    /// Goes by the leased lane.
    Leased,
    /// A command that the table lacks, as the server described it.
    Learned(LearnedRoute),
    /// Goes by fan-in: subscriptions of this kind begin (true) or end (false).
    Fanned(Kind, bool),
    /// The session must first ask the server what the command is.
    Unlearned,
    /// The session must first ask the server how many users it has.
    UsersUnknown,
    /// Goes by the shared lane as this other request.
    Rewritten(Vec<u8>, IfLost),
    /// respgate answers it.
    Local(&'static Spec),
    /// Refused with this error line.
    Refused(Vec<u8>),
    /// Refused because of a setting. No part of it may reach the server, not even in a transaction.
    Denied(Forbidden),
    /// As `Denied`, but the session must first ask the server whether the command exists. If it does not, the
    /// client gets the error for an unknown command.
    DeniedUnlearned(Forbidden),
    /// The server would close the connection without a reply.
    Dropped,
}

/// Says how a command that the table lacks is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct LearnedRoute {
    /// True if it goes by the shared lane, unless the session has a lease.
    pub(super) shared: bool,
    /// True if the session keeps the connection, because the command's effect on it is unknown.
    pub(super) kept: bool,
    /// The state that the command can leave on the connection.
    pub(super) trace: Trace,
    /// True if the command may wait for other clients.
    pub(super) blocking: bool,
    /// True if a user's bytes can split its reply.
    pub(super) forgeable: bool,
    /// What to do if the connection is lost before the reply.
    pub(super) if_lost: IfLost,
}

impl Session {
    /// Sends a request, answers it, or says what must happen first.
    pub(super) fn dispatch(&mut self, request: &Request<'_>) -> Step {
        if self.ctx.upstream.auth_unclear() {
            return Step::Stay(Pause::AsyncOp(AsyncOp::Greet));
        }
        if let Some(pause) = self.subscribing_pause() {
            return Step::Stay(pause);
        }
        match self.route(request) {
            RouteDecision::Shared(if_lost) => self.share(request, if_lost),
            RouteDecision::Scan(if_lost) => self.scan(request, if_lost),
            RouteDecision::Learned(route) if route.shared => self.share(request, route.if_lost),
            RouteDecision::Rewritten(frame, if_lost) => match Request::parse(&frame) {
                Some(request) => self.share(&request, if_lost),
                None => Step::Done,
            },
            route => {
                if self.replies.awaited() > 0 {
                    return Step::Stay(Pause::Replies);
                }
                match route {
                    RouteDecision::Local(spec) => self.answer_locally(spec, request),
                    RouteDecision::Refused(line) => {
                        self.refuse(&line);
                        Step::Done
                    }
                    RouteDecision::Denied(forbidden) => {
                        self.forbid(&forbidden, request);
                        Step::Done
                    }
                    RouteDecision::Fanned(kind, begins) => self.fan(request, kind, begins),
                    RouteDecision::Dropped => Step::Taken(Pause::Close(super::Close::Protocol)),
                    RouteDecision::UsersUnknown => Step::Stay(Pause::AsyncOp(AsyncOp::CountUsers)),
                    RouteDecision::Unlearned | RouteDecision::DeniedUnlearned(_) => {
                        Step::Stay(Pause::AsyncOp(AsyncOp::Learn))
                    }
                    RouteDecision::Leased
                    | RouteDecision::Learned(_)
                    | RouteDecision::Shared(_)
                    | RouteDecision::Scan(_)
                    | RouteDecision::Rewritten(..) => Step::Stay(Pause::AsyncOp(AsyncOp::Lease)),
                }
            }
        }
    }

    /// Sends a request by the shared lane, or asks for a lease if earlier replies were large.
    pub(super) fn share(&mut self, request: &Request<'_>, if_lost: IfLost) -> Step {
        if self.replies.sizes().placement() != Placement::Shared
            && let Some(step) = self.step_elsewhere(true)
        {
            return step;
        }
        self.push_shared(request, if_lost)
    }

    /// As `share`, for a command that a lease cannot carry.
    pub(super) fn share_only(&mut self, request: &Request<'_>, if_lost: IfLost) -> Step {
        if self.replies.sizes().placement() != Placement::Shared
            && let Some(step) = self.step_elsewhere(false)
        {
            return step;
        }
        self.push_shared(request, if_lost)
    }

    /// Returns what the next command waits for because of the size of earlier replies, or `None` if it can be
    /// sent.
    fn step_elsewhere(&mut self, may_lease: bool) -> Option<Step> {
        if self.replies.awaited() > 0 {
            return Some(Step::Stay(Pause::Replies));
        }
        self.replies.sizes().all_answered();
        // Without a free lease, large replies come on the shared connection, one at a time.
        let leases = may_lease
            && self.replies.sizes().placement() == Placement::Own
            && self.ctx.upstream.has_free_lease()
            && self.take_place(Limit::Leased).is_ok();
        leases.then_some(Step::Stay(Pause::AsyncOp(AsyncOp::Lease)))
    }

    /// Pushes a request to the shared lane, or says what it waits for.
    fn push_shared(&mut self, request: &Request<'_>, if_lost: IfLost) -> Step {
        if self.alone() {
            let waits = self.ctx.upstream.in_hold() && self.ctx.upstream.held_until().is_ok();
            if waits && self.replies.awaited() == 0 && is_ping(request) {
                return self.answer_ping(request);
            }
            return self.pinned();
        }
        let Some(lane) = self.lane() else { return Step::Done };
        // Check the window before asking the scheduler, so that a request that waits for earlier replies uses up
        // no grant.
        if self.replies.awaited() >= self.replies.window(self.ctx.config.max_pipeline) {
            return Step::Stay(Pause::Replies);
        }
        if !lane.is_open() {
            match self.ctx.upstream.admission(&lane, self.asks(self.replies.awaited() == 0)) {
                Admission::Open => {}
                Admission::Full => return Step::Stay(Pause::Lane(None)),
                // respgate is reachable and waits for a primary: a health check need not fail in a failover.
                Admission::Held(_)
                    if self.ctx.upstream.in_hold() && self.replies.awaited() == 0 && is_ping(request) =>
                {
                    return self.answer_ping(request);
                }
                // A client that already waits keeps its place when the hold buffer is full.
                Admission::Held(_) if self.held.is_none() && self.ctx.upstream.hold_full(request.len()) => {
                    if self.replies.awaited() > 0 {
                        return Step::Stay(Pause::Replies);
                    }
                    self.refuse(&self.ctx.upstream.hold_overflow());
                    return Step::Done;
                }
                Admission::Held(deadline) => return Step::Stay(Pause::Lane(Some(deadline))),
                Admission::Refused(_) | Admission::Expired(_) if self.replies.awaited() > 0 => {
                    return Step::Stay(Pause::Replies);
                }
                Admission::Expired(line) => {
                    self.ctx.upstream.counters.hold_expired.inc();
                    self.refuse(&line);
                    return Step::Done;
                }
                Admission::Refused(line) => {
                    self.refuse(&line);
                    self.close_if_dead();
                    return self.closing.map_or(Step::Done, |close| Step::Taken(Pause::Close(close)));
                }
            }
        }
        let mute = self.client.mutes();
        lane.push(request.raw(), &self.replies, if_lost, mute);
        self.ctx.upstream.counters.shared.inc();
        Step::Done
    }

    /// Answers PING while there is no primary.
    #[cold]
    fn answer_ping(&mut self, request: &Request<'_>) -> Step {
        self.released();
        match command::find(request) {
            Some(Found::Spec(spec)) => self.answer_locally(spec, request),
            _ => Step::Done,
        }
    }

    /// Returns true if the configuration gives each session its own upstream connection (`pool = "session"`).
    fn alone(&self) -> bool {
        self.ctx.upstream.config.pool == Pool::Session
    }

    /// Asks for a lease once all earlier replies have come.
    fn pinned(&self) -> Step {
        if self.replies.awaited() > 0 {
            return Step::Stay(Pause::Replies);
        }
        Step::Stay(Pause::AsyncOp(AsyncOp::Lease))
    }

    fn answer_locally(&mut self, spec: &'static Spec, request: &Request<'_>) -> Step {
        self.ctx.upstream.counters.local.inc();
        match local::answer(self, spec, request) {
            local::Outcome::Answered => Step::Done,
            local::Outcome::Close(close) => Step::Taken(Pause::Close(close)),
            local::Outcome::AsyncOp(op) => Step::Taken(Pause::AsyncOp(op)),
        }
    }

    /// Returns true if the client may do more than authenticate. A client that must authenticate is also admitted
    /// with the configured user's own password. Until it sends AUTH, it has no identity.
    pub(super) fn admitted(&self) -> bool {
        let upstream = &self.ctx.upstream;
        self.client.identity.as_ref().is_some_and(|identity| {
            identity.id() != upstream.identities.own().id()
                || !upstream.wants_auth()
                || upstream.config.client_auth == ClientAuth::Required
        })
    }

    /// Returns true if the client has authenticated as one of respgate's own users.
    fn is_of_respgates_users(&self) -> bool {
        self.client.login.is_some() && self.ctx.tenants.users().is_some()
    }

    /// Looks the request's command up, applies the policy, and decides how the request is answered.
    pub(super) fn route(&self, request: &Request<'_>) -> RouteDecision {
        let found = command::find(request);
        if let Some(policy) = &self.policy
            && let Err(denial) = policy.permit(found, request, || self.learned(found, request))
        {
            return self.denied(denial, found, request);
        }
        match found {
            Some(Found::Spec(spec)) => {
                if !self.admitted() && !spec.flags.contains(Flags::NO_AUTH) {
                    return RouteDecision::Refused(refusal::NO_AUTH.to_vec());
                }
                self.known(spec, request)
            }
            Some(Found::NoSuchSubcommand(container)) => self.unknown_subcommand(container, request),
            None => self.unknown(request),
        }
    }

    /// Decides how a command of the table is answered.
    fn known(&self, spec: &'static Spec, request: &Request<'_>) -> RouteDecision {
        if self.is_confined() {
            return self.route_confined(spec, request);
        }
        match spec.route {
            RouteClass::Virtual if spec.verb == Verb::Select && self.alone() => RouteDecision::Leased,
            RouteClass::Shared if request.len() > OVERSIZE => RouteDecision::Leased,
            // Users of respgate's own do not learn their identity on the server.
            RouteClass::Shared
                if spec.verb == Verb::AclWhoami
                    && command::arity_ok(spec, request.argc())
                    && self.is_of_respgates_users() =>
            {
                RouteDecision::Local(spec)
            }
            // PING of a fan-in subscriber asks whether messages can arrive. respgate delivers them, so respgate
            // answers.
            RouteClass::Shared if spec.verb == Verb::Ping && self.fan_subscribed() => {
                RouteDecision::Local(spec)
            }
            RouteClass::Shared if spec.verb == Verb::Scan => RouteDecision::Scan(self.if_lost(spec, request)),
            RouteClass::Shared => RouteDecision::Shared(self.if_lost(spec, request)),
            RouteClass::LeaseIfBlock => {
                let options = ReadOptions::of(request);
                if options.hides_nul() {
                    RouteDecision::Refused(refusal::SYNTAX.to_vec())
                } else if request.len() > OVERSIZE || options.may_block() {
                    RouteDecision::Leased
                } else {
                    RouteDecision::Shared(self.if_lost(spec, request))
                }
            }
            // A data server has no SENTINEL command, whatever its arguments.
            RouteClass::LocalError if spec.verb == Verb::Sentinel => {
                RouteDecision::Refused(refusal::unknown_command(request))
            }
            RouteClass::Virtual | RouteClass::LocalError | RouteClass::Pin
                if !command::arity_ok(spec, request.argc()) =>
            {
                RouteDecision::Refused(if spec.name == "EXEC" {
                    // Observed on valkey 8.0 and redis 7.0: any refusal of EXEC is worded as an abort.
                    b"-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command".to_vec()
                } else {
                    refusal::wrong_arity(spec.name)
                })
            }
            RouteClass::Pin if command::hides_option(spec, request) => {
                RouteDecision::Refused(refusal::SYNTAX.to_vec())
            }
            RouteClass::Virtual | RouteClass::LocalError => RouteDecision::Local(spec),
            RouteClass::Lease | RouteClass::SideConnection => RouteDecision::Leased,
            // The session keeps the request, to turn tracking on again after a failover, so its size is bounded.
            RouteClass::Pin if spec.verb == Verb::ClientTracking && request.len() > MAX_TRACKING => {
                RouteDecision::Refused(refusal::too_many_prefixes(MAX_TRACKING))
            }
            RouteClass::Pin if let Some(route) = self.route_fanned(spec) => route,
            RouteClass::Pin => match spec.verb {
                // Without a transaction, a watch or a subscription, these commands have nothing to end.
                Verb::Exec
                | Verb::Discard
                | Verb::Unwatch
                | Verb::Unsubscribe
                | Verb::Punsubscribe
                | Verb::Sunsubscribe
                | Verb::ClientTracking
                    if local::answers_unpinned(&self.client, spec, request) =>
                {
                    RouteDecision::Local(spec)
                }
                _ => RouteDecision::Leased,
            },
            RouteClass::Admin => self.administrative(spec, request),
        }
    }

    /// Returns what may be done with this request if its connection is lost before it is answered.
    pub(super) fn if_lost(&self, spec: &Spec, request: &Request<'_>) -> IfLost {
        let policy = self.ctx.upstream.config.retry_writes;
        if spec.retry == Retry::Safe {
            return self.if_read_lost();
        }
        // Look at the options only if they make a difference.
        if policy == RetryWrites::Never || spec.retry == Retry::Never {
            return IfLost::ReportUnknown;
        }
        match command::retry_of(spec, request) {
            Retry::Safe => self.if_read_lost(),
            Retry::SameReply => IfLost::ResendWrite,
            Retry::ReplyDiffers if policy == RetryWrites::Idempotent => IfLost::ResendWrite,
            Retry::ReplyDiffers | Retry::Never | Retry::ByOptions => IfLost::ReportUnknown,
        }
    }

    fn if_read_lost(&self) -> IfLost {
        if self.ctx.upstream.config.retry_reads { IfLost::Resend } else { IfLost::ReportLost }
    }

    /// Decides how an administrative command is answered, by the client's `admin-commands` level.
    fn administrative(&self, spec: &'static Spec, request: &Request<'_>) -> RouteDecision {
        let (level, _) = self.admin_level();
        if level == AdminCommands::Allow {
            return match spec.trace {
                Trace::OtherProtocol => RouteDecision::Refused(refusal::other_protocol(spec.name)),
                Trace::Nothing | Trace::Followed | Trace::Unknown => RouteDecision::Leased,
            };
        }
        if spec.verb == Verb::ConfigGet && request.argc() > 2 {
            return match diagnostics::shown(request).filter(|_| level == AdminCommands::ReadOnly) {
                Some(frame) => RouteDecision::Rewritten(frame, self.if_read_lost()),
                None if diagnostics::is_harmless(request) => RouteDecision::Shared(self.if_read_lost()),
                None => RouteDecision::Local(spec),
            };
        }
        let shown = match spec.administration() {
            Administration::ShowsState => level == AdminCommands::ReadOnly,
            Administration::ShowsCommands
                if level == AdminCommands::ReadOnly && !self.are_users_told_apart() =>
            {
                match self.ctx.upstream.has_one_user() {
                    Some(one) => one,
                    None => return RouteDecision::UsersUnknown,
                }
            }
            _ => false,
        };
        if shown {
            RouteDecision::Shared(self.if_read_lost())
        } else {
            RouteDecision::Denied(self.forbidden_by_level(spec.name))
        }
    }

    /// Returns true if the configuration tells clients apart, by tenants or by users of respgate's own. One
    /// client may then not see what another did, whoever they are on the server.
    fn are_users_told_apart(&self) -> bool {
        self.ctx.tenants.users().is_some() || self.ctx.tenants.has_tenants()
    }

    /// Decides how a command is answered that the table lacks: a module's, a newer server's, or one that does not
    /// exist.
    pub(super) fn unknown(&self, request: &Request<'_>) -> RouteDecision {
        let name = request.name();
        if !self.admitted() {
            return RouteDecision::Refused(refusal::NO_AUTH.to_vec());
        }
        // The server takes these for an HTTP cross-protocol attack and closes the connection.
        if name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"HOST:") {
            return RouteDecision::Dropped;
        }
        if !command::printable(name) {
            return RouteDecision::Refused(refusal::unknown_command(request));
        }
        let Some(learned) = self.ctx.upstream.learned() else { return RouteDecision::Unlearned };
        match learned.command(name, request.arg(1)) {
            None => RouteDecision::Refused(refusal::unknown_command(request)),
            Some(command) => self.route_learned(&command, &String::from_utf8_lossy(name), request),
        }
    }

    /// Returns the server's description of a command that the table lacks, if the server has been asked.
    fn learned(&self, found: Option<Found>, request: &Request<'_>) -> Option<Rc<LearnedCommand>> {
        let learned = self.ctx.upstream.learned()?;
        match found {
            Some(Found::Spec(_)) => None,
            Some(Found::NoSuchSubcommand(container)) => {
                learned.subcommand(container.name.as_bytes(), request.arg(1).unwrap_or_default())
            }
            None => learned.command(request.name(), request.arg(1)),
        }
    }

    /// Decides how a command that the server described is sent.
    fn route_learned(&self, command: &LearnedCommand, name: &str, request: &Request<'_>) -> RouteDecision {
        let allowed = self.admin_level().0 == AdminCommands::Allow;
        if command.route == RouteClass::Admin && !allowed {
            return RouteDecision::Denied(self.forbidden_by_level(name));
        }
        RouteDecision::Learned(LearnedRoute {
            shared: command.route == RouteClass::Shared && request.len() <= OVERSIZE,
            kept: command.route == RouteClass::Pin,
            trace: command.trace,
            blocking: command.flags.contains(Flags::BLOCKING),
            forgeable: command.flags.contains(Flags::SCRIPT),
            if_lost: if command.only_reads() { self.if_read_lost() } else { IfLost::ReportUnknown },
        })
    }

    /// Decides how a subcommand is answered that the table lacks. CLIENT's subcommands are respgate's own. An
    /// unknown one is refused, because it would change a connection that other clients share.
    pub(super) fn unknown_subcommand(
        &self,
        container: &'static Spec,
        request: &Request<'_>,
    ) -> RouteDecision {
        if !self.admitted() {
            return RouteDecision::Refused(refusal::NO_AUTH.to_vec());
        }
        let subcommand = request.arg(1).unwrap_or_default();
        let refused = || RouteDecision::Refused(refusal::unknown_subcommand(container.name, subcommand));
        if !command::printable(subcommand) || matches!(container.name, "CLIENT" | "CLUSTER" | "SENTINEL") {
            return refused();
        }
        let Some(learned) = self.ctx.upstream.learned() else { return RouteDecision::Unlearned };
        match learned.subcommand(request.name(), subcommand) {
            None => refused(),
            Some(command) => {
                let name = format!("{}|{}", container.name, String::from_utf8_lossy(subcommand));
                self.route_learned(&command, &name, request)
            }
        }
    }
}

fn is_ping(request: &Request<'_>) -> bool {
    request.name().eq_ignore_ascii_case(b"PING")
}
