//! Decides how a request is answered: by which lane, locally, or with a refusal.

use super::refusal;
use super::setting::Forbidden;
use super::{Session, info, local};
use crate::command::{self, Flags, Found, ReadOptions, Retry, RouteClass, Spec, Trace, Verb};
use crate::resp::error_line::ErrorLine;
use crate::resp::pubsub::Kind;
use crate::resp::request::Request;
use crate::upstream::config::{ClientAuth, Pool, RetryWrites};
use crate::upstream::shared::queue::IfLost;

/// Size limit of a request on the shared lane, in bytes. A larger request takes a lease, so that others do not
/// wait behind it.
pub(super) const OVERSIZE: usize = 64 * 1024;

/// Size limit of a CLIENT TRACKING request, in bytes. A longer one is refused.
const MAX_TRACKING: usize = 1024 * 1024;

/// Says how a request is answered, by the command table or, for commands that the table lacks, by the server's
/// description.
pub(super) enum RouteDecision {
    /// Goes by the shared lane.
    Shared(IfLost),
    /// Goes by the shared lane of the primary, or of a replica.
    Read(IfLost),
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
    Refused(ErrorLine),
    /// Refused because of a setting. No part of it may reach the server, not even in a transaction.
    Denied(Forbidden),
    /// The server would close the connection without a reply.
    Dropped,
}

impl RouteDecision {
    /// Returns true if the command needs a connection of its own.
    pub(super) fn needs_lease(&self) -> bool {
        match self {
            Self::Leased => true,
            Self::Learned(learned) => !learned.shared,
            _ => false,
        }
    }
}

/// Says how a command that the table lacks is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct LearnedRoute {
    /// True if it goes by the shared lane, unless the session has a lease.
    pub(super) shared: bool,
    /// True if the session keeps the connection, because the command's effect on it is unknown.
    pub(super) pins: bool,
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
    /// Returns true if the configuration gives each session its own upstream connection (`pool = "session"`).
    pub(super) fn has_own_connection(&self) -> bool {
        self.ctx.upstream_config.pool == Pool::Session
    }

    /// Returns true if the client may do more than authenticate. A client that must authenticate is also admitted
    /// with the configured user's own password. Until it sends AUTH, it has no identity.
    pub(super) fn admitted(&self) -> bool {
        let upstream = &self.ctx.upstream;
        self.client.identity.as_ref().is_some_and(|identity| {
            identity.id() != upstream.identities.own().id()
                || !upstream.wants_auth()
                || self.ctx.upstream_config.client_auth == ClientAuth::Required
        })
    }

    /// Returns true if the client has authenticated as one of respgate's own users.
    fn is_of_respgates_users(&self) -> bool {
        self.client.login.is_some() && self.ctx.tenants.users().is_some()
    }

    /// Looks the request's command up, applies the policy, and decides how the request is answered.
    pub(super) fn route(&self, request: &Request<'_>) -> RouteDecision {
        let found = command::find(request);
        if let Some(policy) = &self.tenancy.policy
            && let Err(denial) = policy.permit(found, request, || self.find_learned(found, request))
        {
            return self.answer_denied(denial, found, request);
        }
        match found {
            Some(Found::Spec(spec)) => {
                self.view.set_command(spec);
                if !self.admitted() && !spec.flags.contains(Flags::NO_AUTH) {
                    return RouteDecision::Refused(refusal::NO_AUTH.into());
                }
                self.route_listed(spec, request)
            }
            Some(Found::NoSuchSubcommand(container)) => self.route_unlisted_subcommand(container, request),
            None => self.route_unlisted(request),
        }
    }

    /// Decides how a command of the table is answered.
    fn route_listed(&self, spec: &'static Spec, request: &Request<'_>) -> RouteDecision {
        if self.is_confined() {
            return self.route_confined(spec, request);
        }
        match spec.route {
            RouteClass::Virtual if spec.verb == Verb::Select && self.has_own_connection() => {
                RouteDecision::Leased
            }
            RouteClass::Shared if request.len() > OVERSIZE => RouteDecision::Leased,
            RouteClass::Shared => match spec.verb {
                // Users of respgate's own do not learn their identity on the server.
                Verb::AclWhoami
                    if command::arity_ok(spec, request.argc()) && self.is_of_respgates_users() =>
                {
                    RouteDecision::Local(spec)
                }
                // PING of a fan-in subscriber asks whether messages can arrive. respgate delivers them, so respgate
                // answers.
                Verb::Ping if self.has_subscriptions() => RouteDecision::Local(spec),
                Verb::Scan => RouteDecision::Scan(self.if_lost(spec, request)),
                Verb::Info if info::names_respgate(request) || self.ctx.upstream.is_cluster() => {
                    RouteDecision::Local(spec)
                }
                _ if self.lanes.reads.is_some() && spec.reads_data() => {
                    RouteDecision::Read(self.if_lost(spec, request))
                }
                _ => RouteDecision::Shared(self.if_lost(spec, request)),
            },
            RouteClass::LeaseIfBlock => {
                let options = ReadOptions::of(request);
                if options.hides_nul() {
                    RouteDecision::Refused(refusal::SYNTAX.into())
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
                    b"-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command".as_slice().into()
                } else {
                    refusal::wrong_arity(spec.name)
                })
            }
            RouteClass::Pin if command::hides_option(spec, request) => {
                RouteDecision::Refused(refusal::SYNTAX.into())
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
            RouteClass::Admin => self.route_administrative(spec, request),
        }
    }

    /// Returns what may be done with this request if its connection is lost before it is answered.
    pub(super) fn if_lost(&self, spec: &Spec, request: &Request<'_>) -> IfLost {
        let policy = self.ctx.upstream_config.retry_writes;
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

    pub(super) fn if_read_lost(&self) -> IfLost {
        if self.ctx.upstream_config.retry_reads { IfLost::Resend } else { IfLost::ReportLost }
    }
}
