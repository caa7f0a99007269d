//! Decides how commands are answered that the command table lacks, and administrative commands.

use std::rc::Rc;

use super::Session;
use super::config::AdminCommands;
use super::diagnostics;
use super::refusal;
use super::route::{LearnedRoute, OVERSIZE, RouteDecision};
use crate::command::administration::Administration;
use crate::command::learned::LearnedCommand;
use crate::command::{self, Flags, Found, RouteClass, Spec, Trace, Verb};
use crate::resp::request::Request;
use crate::upstream::shared::queue::IfLost;

impl Session {
    /// Decides how a command is answered that the table lacks: a module's, a newer server's, or one that does not
    /// exist.
    pub(super) fn route_unlisted(&self, request: &Request<'_>) -> RouteDecision {
        let name = request.name();
        if !self.admitted() {
            return RouteDecision::Refused(refusal::NO_AUTH.into());
        }
        // The server takes these for an HTTP cross-protocol attack and closes the connection.
        if name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"HOST:") {
            return RouteDecision::Dropped;
        }
        // Redis 8.0 runs `ACL|CAT SETUSER x` as an ACL command behind ACL CAT, so no such name may reach a server.
        if !command::printable(name) || name.contains(&b'|') {
            return RouteDecision::Refused(refusal::unknown_command(request));
        }
        let Some(learned) = self.ctx.upstream.learned() else { return RouteDecision::Unlearned };
        match learned.command(name, request.arg(1)) {
            None => RouteDecision::Refused(refusal::unknown_command(request)),
            Some(command) => self.route_learned(&command, &String::from_utf8_lossy(name), request),
        }
    }

    /// Decides how a subcommand is answered that the table lacks. CLIENT's subcommands are respgate's own. An
    /// unknown one is refused, because it would change a connection that other clients share.
    pub(super) fn route_unlisted_subcommand(
        &self,
        container: &'static Spec,
        request: &Request<'_>,
    ) -> RouteDecision {
        if !self.admitted() {
            return RouteDecision::Refused(refusal::NO_AUTH.into());
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

    /// Returns the server's description of a command that the table lacks, if the server has been asked.
    pub(super) fn find_learned(
        &self,
        found: Option<Found>,
        request: &Request<'_>,
    ) -> Option<Rc<LearnedCommand>> {
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
        self.view.set_unlisted_command(name);
        let allowed = self.admin_level().0 == AdminCommands::Allow;
        if command.route == RouteClass::Admin && !allowed {
            return RouteDecision::Denied(self.forbidden_by_level(name));
        }
        RouteDecision::Learned(LearnedRoute {
            shared: command.route == RouteClass::Shared && request.len() <= OVERSIZE,
            pins: command.route == RouteClass::Pin,
            trace: command.trace,
            blocking: command.flags.contains(Flags::BLOCKING),
            forgeable: command.flags.contains(Flags::SCRIPT),
            if_lost: if command.only_reads() { self.if_read_lost() } else { IfLost::ReportUnknown },
        })
    }

    /// Decides how an administrative command is answered, by the client's `admin-commands` level.
    pub(super) fn route_administrative(&self, spec: &'static Spec, request: &Request<'_>) -> RouteDecision {
        if spec.administration() == Administration::ConcernsClients {
            return self.route_about_clients(spec, request);
        }
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
}
