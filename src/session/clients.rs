//! Runs CLIENT LIST, KILL and UNBLOCK for a session.

use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::Instant;

use super::Session;
use super::asker::{Answer, Asker, ClientList};
use super::close::Close;
use super::config::AdminCommands;
use super::route::RouteDecision;
use crate::clients::arguments::{self, ClientCommand, Dialect};
use crate::clients::directory::Scope;
use crate::command::{self, Spec, Verb};
use crate::net::budget::Charge;
use crate::resp::error_line::ErrorLine;
use crate::resp::request::Request;
use crate::resp::write;
use crate::topology::ServerInfo;

/// Size limit of a CLIENT LIST or CLIENT KILL, in bytes.
const MAX_REQUEST: usize = 64 * 1024;

const TOO_MANY_FILTERS: &[u8] =
    b"-ERR respgate: the filters of CLIENT LIST and CLIENT KILL may take 65536 bytes; name fewer ids";

impl Session {
    /// Decides how CLIENT LIST, KILL or UNBLOCK is answered. A client of a tenant may see and affect the clients of its
    /// tenant, whatever the listener's level.
    pub(super) fn route_about_clients(&self, spec: &'static Spec, request: &Request<'_>) -> RouteDecision {
        let (level, _) = self.admin_level();
        let permitted = match spec.verb {
            Verb::ClientList => level != AdminCommands::Deny,
            _ => level == AdminCommands::Allow,
        };
        if !permitted && self.tenancy.member.is_none() {
            return RouteDecision::Denied(self.forbidden_by_level(spec.name));
        }
        if !command::arity_ok(spec, request.argc()) {
            return RouteDecision::Refused(super::refusal::wrong_arity(spec.name));
        }
        RouteDecision::Local(spec)
    }

    /// Reads CLIENT LIST, KILL or UNBLOCK.
    ///
    /// # Errors
    /// Returns the error line.
    pub(super) fn parse_about_clients(
        &self,
        verb: Verb,
        request: &Request<'_>,
    ) -> Result<ClientCommand, ErrorLine> {
        if request.len() > MAX_REQUEST {
            return Err(TOO_MANY_FILTERS.into());
        }
        let words: Vec<&[u8]> = request.args().skip(2).collect();
        let dialect = dialect(self.ctx.upstream.server().as_deref());
        match verb {
            Verb::ClientList => arguments::list(&words, dialect),
            Verb::ClientKill => arguments::kill(&words, dialect),
            _ => arguments::unblock(&words),
        }
    }

    /// Returns the clients that this client may see and affect.
    fn client_scope(&self) -> Scope {
        Scope {
            upstream: Some(self.ctx.upstream_number),
            tenant: self.tenancy.member.as_ref().map(|member| member.worker_tenant().tenant.number),
        }
    }

    /// Has all workers expect no replies while a client has paused the server.
    pub(super) fn note_pause(&self, pause: Option<Duration>) {
        self.ctx.directory.suspend(self.ctx.upstream_number, Instant::now() + pause.unwrap_or_default());
    }

    /// Runs a command about clients, and answers it.
    pub(super) async fn run_about_clients(&mut self, command: ClientCommand) {
        let asker = Asker {
            id: self.client.id,
            scope: self.client_scope(),
            directory: self.ctx.directory.clone(),
            upstream: self.ctx.upstream.clone(),
            identity: self.client.identity.clone(),
            limit: self.ctx.config.max_reply_buffer,
            charge: Charge::new(&self.account),
        };
        let (answer, ends) = tokio::select! {
            answer = asker.run(command) => answer,
            () = self.until_abandoned() => {
                self.closing = Some(Close::Left);
                return;
            }
        };
        match answer {
            Answer::Lines(listing) => self.answer_lines(listing).await,
            Answer::Count(clients) => {
                let clients = i64::try_from(clients).unwrap_or(i64::MAX);
                self.answer(|out| write::integer(out, clients));
            }
            Answer::Done => self.answer(write::ok),
            Answer::Error(line) => self.refuse(&line),
        }
        if ends {
            self.closing = Some(Close::Finished);
        }
    }

    /// Answers with a list, in steps.
    async fn answer_lines(&mut self, mut list: ClientList) {
        if self.client.mutes() {
            return;
        }
        let (replies, resp) = (self.output.replies.clone(), self.client.resp);
        replies.begin_pieces();
        replies.answer(|out| write::verbatim_head(out, resp, list.len()));
        while !list.is_empty() {
            list.step(|line| replies.answer(|out| out.extend_from_slice(line)));
            yield_now().await;
        }
        replies.answer(|out| out.extend_from_slice(b"\r\n"));
        replies.end_pieces();
    }
}

/// Returns the way in which a server words errors.
fn dialect(server: Option<&ServerInfo>) -> Dialect {
    match server {
        Some(server) if server.server == "redis" => Dialect::Redis,
        Some(server) if server.version.starts_with("8.") => Dialect::Valkey8,
        _ => Dialect::Valkey9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_decides_how_errors_are_worded() {
        let server = |server: &str, version: &str| ServerInfo {
            server: server.into(),
            version: version.into(),
            ..ServerInfo::default()
        };
        assert_eq!(dialect(None), Dialect::Valkey9);
        assert_eq!(dialect(Some(&server("redis", "8.0.1"))), Dialect::Redis);
        assert_eq!(dialect(Some(&server("valkey", "8.0.1"))), Dialect::Valkey8);
        assert_eq!(dialect(Some(&server("valkey", "9.1.2"))), Dialect::Valkey9);
    }
}
