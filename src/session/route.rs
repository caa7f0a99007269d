//! Which way a request goes.

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

/// A request larger than this does not travel on the shared lane, where others would wait behind it, in bytes.
const OVERSIZE: usize = 64 * 1024;

/// A longer CLIENT TRACKING is refused, in bytes.
const MAX_TRACKING: usize = 1024 * 1024;

/// What the table, or failing that the server itself, says about a request's command.
pub(super) enum RouteDecision {
    /// By the shared lane.
    Shared(IfLost),
    /// By the shared lane, with a cursor that means something to one primary only.
    Scan(IfLost),
    /// By the leased lane.
    Leased,
    /// A command that the table lacks, as the server described it.
    Learned(LearnedRoute),
    /// By fan-in: subscriptions of a kind begin, or end.
    Fanned(Kind, bool),
    /// The server must be asked what the command is.
    Unlearned,
    /// The server must be asked how many users it has.
    UsersUnknown,
    /// By the shared lane, with this request in the place of the client's.
    Rewritten(Vec<u8>, IfLost),
    /// Answered here.
    Local(&'static Spec),
    /// Refused with this line.
    Refused(Vec<u8>),
    /// Refused because of a setting: nothing of it may reach the server, in a transaction neither.
    Denied(Forbidden),
    /// As `Denied`, unless the server has no such command, which it must be asked first: then the client is told that.
    DeniedUnlearned(Forbidden),
    /// The server would close the connection without a word.
    Dropped,
}

/// How a command goes that the table lacks.
#[derive(Clone, Copy, Debug)]
pub(super) struct LearnedRoute {
    /// By the shared lane, unless the session has a lease.
    pub(super) shared: bool,
    /// The connection stays this session's: what the command does to it is not known.
    pub(super) kept: bool,
    /// What it can leave on the connection.
    pub(super) trace: Trace,
    /// It may wait for what other clients do.
    pub(super) blocking: bool,
    /// A user's bytes can split its reply.
    pub(super) forgeable: bool,
    pub(super) if_lost: IfLost,
}

impl Session {
    /// Sends a request, answers it, or says what must happen first.
    pub(super) fn dispatch(&mut self, request: &Request<'_>) -> Step {
        if self.ctx.upstream.auth_unclear() {
            return Step::Stay(Pause::Errand(AsyncOp::Greet));
        }
        if let Some(pause) = self.subscribing_pause() {
            return Step::Stay(pause);
        }
        match self.route(request) {
            RouteDecision::Shared(if_lost) => self.share(request, if_lost),
            RouteDecision::Scan(if_lost) => self.scan(request, if_lost),
            RouteDecision::Learned(way) if way.shared => self.share(request, way.if_lost),
            RouteDecision::Rewritten(frame, if_lost) => match Request::parse(&frame) {
                Some(request) => self.share(&request, if_lost),
                None => Step::Done,
            },
            way => {
                if self.replies.awaited() > 0 {
                    return Step::Stay(Pause::Replies);
                }
                match way {
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
                    RouteDecision::UsersUnknown => Step::Stay(Pause::Errand(AsyncOp::CountUsers)),
                    RouteDecision::Unlearned | RouteDecision::DeniedUnlearned(_) => {
                        Step::Stay(Pause::Errand(AsyncOp::Learn))
                    }
                    RouteDecision::Leased
                    | RouteDecision::Learned(_)
                    | RouteDecision::Shared(_)
                    | RouteDecision::Scan(_)
                    | RouteDecision::Rewritten(..) => Step::Stay(Pause::Errand(AsyncOp::Lease)),
                }
            }
        }
    }

    pub(super) fn share(&mut self, request: &Request<'_>, if_lost: IfLost) -> Step {
        if self.replies.sizes().placement() != Placement::Shared
            && let Some(step) = self.step_elsewhere(true)
        {
            return step;
        }
        self.push_shared(request, if_lost)
    }

    /// As `share`, for a command that a lease does not carry as well.
    pub(super) fn share_only(&mut self, request: &Request<'_>, if_lost: IfLost) -> Step {
        if self.replies.sizes().placement() != Placement::Shared
            && let Some(step) = self.step_elsewhere(false)
        {
            return step;
        }
        self.push_shared(request, if_lost)
    }

    /// What the next command waits for because of the size of earlier replies. `None`: for nothing.
    fn step_elsewhere(&mut self, may_lease: bool) -> Option<Step> {
        if self.replies.awaited() > 0 {
            return Some(Step::Stay(Pause::Replies));
        }
        self.replies.sizes().all_answered();
        // Where no lease is to be had, one large reply at a time comes on the shared connection.
        let leases = may_lease
            && self.replies.sizes().placement() == Placement::Own
            && self.ctx.upstream.has_free_lease()
            && self.take_place(Limit::Leased).is_ok();
        leases.then_some(Step::Stay(Pause::Errand(AsyncOp::Lease)))
    }

    fn push_shared(&mut self, request: &Request<'_>, if_lost: IfLost) -> Step {
        if self.alone() {
            let waits = self.ctx.upstream.in_hold() && self.ctx.upstream.held_until().is_ok();
            if waits && self.replies.awaited() == 0 && is_ping(request) {
                return self.answer_ping(request);
            }
            return self.pinned();
        }
        let Some(lane) = self.lane() else { return Step::Done };
        // First, so that no turn on the lane is spent on what must wait for earlier replies.
        if self.replies.awaited() >= self.replies.window(self.ctx.config.max_pipeline) {
            return Step::Stay(Pause::Replies);
        }
        if !lane.is_open() {
            match self.ctx.upstream.admission(&lane, self.asks(self.replies.awaited() == 0)) {
                Admission::Open => {}
                Admission::Full => return Step::Stay(Pause::Lane(None)),
                // respgate is there and waits for a primary: a health check need not fail in a failover.
                Admission::Held(_)
                    if self.ctx.upstream.in_hold() && self.replies.awaited() == 0 && is_ping(request) =>
                {
                    return self.answer_ping(request);
                }
                // Who waits already goes on waiting.
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

    /// Whether this session has an upstream connection of its own by configuration.
    fn alone(&self) -> bool {
        self.ctx.upstream.config.pool == Pool::Session
    }

    fn pinned(&self) -> Step {
        if self.replies.awaited() > 0 {
            return Step::Stay(Pause::Replies);
        }
        Step::Stay(Pause::Errand(AsyncOp::Lease))
    }

    fn answer_locally(&mut self, spec: &'static Spec, request: &Request<'_>) -> Step {
        self.ctx.upstream.counters.local.inc();
        match local::answer(self, spec, request) {
            local::Outcome::Answered => Step::Done,
            local::Outcome::Close(close) => Step::Taken(Pause::Close(close)),
            local::Outcome::AsyncOp(errand) => Step::Taken(Pause::Errand(errand)),
        }
    }

    /// Whether this client may do more than authenticate. The configured user's own password, too, admits a client
    /// that must authenticate: without AUTH such a client acts as nobody.
    pub(super) fn admitted(&self) -> bool {
        let upstream = &self.ctx.upstream;
        self.client.identity.as_ref().is_some_and(|identity| {
            identity.id() != upstream.identities.own().id()
                || !upstream.wants_auth()
                || upstream.config.client_auth == ClientAuth::Required
        })
    }

    /// Whether the client has authenticated as one of respgate's own users.
    fn is_of_respgates_users(&self) -> bool {
        self.client.login.is_some() && self.ctx.offices.users().is_some()
    }

    /// Looks a request's command up.
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

    fn known(&self, spec: &'static Spec, request: &Request<'_>) -> RouteDecision {
        if self.is_confined() {
            return self.confined_way(spec, request);
        }
        match spec.route {
            RouteClass::Virtual if spec.verb == Verb::Select && self.alone() => RouteDecision::Leased,
            RouteClass::Shared if request.len() > OVERSIZE => RouteDecision::Leased,
            // A user of respgate's own need not know as whom it acts on the server.
            RouteClass::Shared
                if spec.verb == Verb::AclWhoami
                    && command::arity_ok(spec, request.argc())
                    && self.is_of_respgates_users() =>
            {
                RouteDecision::Local(spec)
            }
            // A subscriber by fan-in asks whether its messages would come: that is respgate's doing.
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
            // SENTINEL is no command of a data server, whatever its arguments.
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
            // It is kept, so that tracking can be turned on again after a failover.
            RouteClass::Pin if spec.verb == Verb::ClientTracking && request.len() > MAX_TRACKING => {
                RouteDecision::Refused(refusal::too_many_prefixes(MAX_TRACKING))
            }
            RouteClass::Pin if let Some(way) = self.route_fanned(spec) => way,
            RouteClass::Pin => match spec.verb {
                // Without a transaction or a subscription these have nothing to end.
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

    /// What may be done with this request if its connection is lost before it is answered.
    pub(super) fn if_lost(&self, spec: &Spec, request: &Request<'_>) -> IfLost {
        let policy = self.ctx.upstream.config.retry_writes;
        if spec.retry == Retry::Safe {
            return self.if_read_lost();
        }
        // Options need a look only if it makes a difference.
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

    /// Returns true if the configuration tells clients apart, by tenants or by users of respgate's own: what one did is not for another
    /// to see, whoever they are on the server.
    fn are_users_told_apart(&self) -> bool {
        self.ctx.offices.users().is_some() || self.ctx.offices.has_tenants()
    }

    /// A name that the table lacks: a module's, a newer server's, or nobody's.
    pub(super) fn unknown(&self, request: &Request<'_>) -> RouteDecision {
        let name = request.name();
        if !self.admitted() {
            return RouteDecision::Refused(refusal::NO_AUTH.to_vec());
        }
        // The server takes these for an attack by way of HTTP and closes the connection.
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

    /// What the server says of a command that the table lacks, once it has been asked.
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

    /// A subcommand that the table lacks. CLIENT's are respgate's own, so an unknown one is refused: it would
    /// change a connection that is not the client's alone.
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
