//! Runs CLIENT LIST, KILL and UNBLOCK for a session.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::Instant;

use super::Session;
use super::close::Close;
use super::config::AdminCommands;
use super::route::RouteDecision;
use crate::clients::arguments::{self, ClientCommand, Dialect};
use crate::clients::directory::{Directory, Lines, Query, Scope, Selection, Shape, UNANSWERED, Unblock};
use crate::clients::filter::Filter;
use crate::clients::foreign::{FOREIGN, ForeignLine};
use crate::command::{self, Spec, Verb};
use crate::net::budget::Charge;
use crate::resp::error_line::ErrorLine;
use crate::resp::request::Request;
use crate::resp::write;
use crate::topology::ServerInfo;
use crate::upstream::Upstream;
use crate::upstream::connection::identity::Identity;

/// Size limit of a CLIENT LIST or CLIENT KILL, in bytes.
const MAX_REQUEST: usize = 64 * 1024;

/// Number of lines of the server's list that are read before other tasks run.
const LINES_PER_STEP: usize = 128;

/// Bytes of a list that are copied to the client's replies before other tasks run.
const BYTES_PER_STEP: usize = 256 * 1024;

const NO_SUCH_CLIENT: &[u8] = b"-ERR No such client";

const TOO_MANY_FILTERS: &[u8] =
    b"-ERR respgate: the filters of CLIENT LIST and CLIENT KILL may take 65536 bytes; name fewer ids";

const LIST_TOO_LARGE: &[u8] =
    b"-ERR respgate: the list has more bytes than max-reply-buffer; use filters, or raise max-reply-buffer";

const NOT_UNBLOCKED: &[u8] = b"-ERR respgate: the server did not unblock the client; the log says why (CLIENT UNBLOCK needs the permission of respgate's user)";

const FOREIGN_ID: &[u8] = b"-ERR respgate: ids from 8000000000000000 on are of connections to the server, which respgate neither kills nor unblocks; ask the server itself";

/// The reply to a command about clients.
enum Answer {
    Lines(Listing),
    Count(usize),
    Done,
    Error(ErrorLine),
}

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
            upstream: Some(self.ctx.upstream_index),
            tenant: self.tenancy.member.as_ref().map(|member| member.worker_tenant().tenant.number),
        }
    }

    /// Has all workers expect no replies while a client has paused the server.
    pub(super) fn note_pause(&self, pause: Option<Duration>) {
        self.ctx.directory.suspend(self.ctx.upstream_index, Instant::now() + pause.unwrap_or_default());
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
            Answer::Lines(listing) => self.answer_lines(&listing).await,
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
    async fn answer_lines(&mut self, listing: &Listing) {
        if self.client.mutes() {
            return;
        }
        let (replies, resp) = (self.output.replies.clone(), self.client.resp);
        replies.begin_pieces();
        replies.answer(|out| write::verbatim_head(out, resp, listing.bytes));
        let mut copied = 0;
        for line in listing.sorted() {
            replies.answer(|out| out.extend_from_slice(line));
            copied += line.len();
            if copied >= BYTES_PER_STEP {
                copied = 0;
                yield_now().await;
            }
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

/// What a command about clients needs of the session that asks.
struct Asker {
    id: u64,
    scope: Scope,
    directory: Directory,
    upstream: Rc<Upstream>,
    identity: Option<Rc<Identity>>,
    /// Limit of the bytes of a list.
    limit: usize,
    charge: Charge,
}

impl Asker {
    /// Runs a command. Returns the answer, and true if the session ends once the client has it.
    async fn run(mut self, command: ClientCommand) -> (Answer, bool) {
        let answer = match command {
            ClientCommand::List(filter) => {
                self.list(filter).await.map(|listing| (Answer::Lines(listing), false))
            }
            ClientCommand::Kill(filter) => self.kill(filter, false).await,
            ClientCommand::KillAddress(filter) => self.kill(filter, true).await,
            ClientCommand::Unblock { id, error } => {
                self.unblock(id, error).await.map(|answer| (answer, false))
            }
        };
        answer.unwrap_or_else(|line| (Answer::Error(line), false))
    }

    fn selection(&self, filter: Filter) -> Selection {
        let except = (filter.skip_me == Some(true)).then_some(self.id);
        Selection { scope: self.scope, filter: Arc::new(filter), tenant_name: None, except }
    }

    async fn list(&mut self, filter: Filter) -> Result<Listing, ErrorLine> {
        let selection = self.selection(filter);
        let mut listing = Listing::default();
        // Before the clients: a connection that respgate opens meanwhile cannot be in the server's list.
        if self.scope.tenant.is_none() {
            let foreign = self.foreign(&selection.filter).await?;
            self.add(&mut listing, foreign)?;
        }
        let unanswered = |_| ErrorLine::from(UNANSWERED);
        let mut lines = self.directory.list(selection, Shape::Server).await.map_err(unanswered)?;
        while let Some(some) = Directory::next_lines(&mut lines).await.map_err(unanswered)? {
            self.add(&mut listing, some)?;
        }
        Ok(listing)
    }

    /// Adds lines, and charges the client for them.
    fn add(&mut self, listing: &mut Listing, lines: Lines) -> Result<(), ErrorLine> {
        listing.add(lines);
        self.charge.set(listing.capacity);
        if listing.bytes > self.limit { Err(LIST_TOO_LARGE.into()) } else { Ok(()) }
    }

    /// Returns the lines of the selected connections to the server that are not respgate's own. The server shows what
    /// the client's identity may see; without that right, there are none.
    async fn foreign(&mut self, filter: &Filter) -> Result<Lines, ErrorLine> {
        let mut lines = Lines::default();
        let Some(identity) = self.identity.clone() else { return Ok(lines) };
        let Ok(reply) = self.upstream.ask(&identity, &[b"CLIENT", b"LIST"]).await else { return Ok(lines) };
        let Some(text) = reply.text() else { return Ok(lines) };
        self.charge.set(text.len());
        let upstream = self.scope.upstream.unwrap_or_default();
        let own = self.directory.ask(|answer| Query::Connections(upstream, answer)).await;
        let own: HashSet<u64> = own.map_err(|_| ErrorLine::from(UNANSWERED))?.into_iter().flatten().collect();
        for (index, line) in text.lines().enumerate() {
            if let Some(line) = ForeignLine::read(line, &own)
                && filter.selects(&line.row)
            {
                line.write(&mut lines.bytes);
                lines.bytes.push(b'\n');
                lines.ends.push((line.row.id, lines.bytes.len()));
            }
            if index % LINES_PER_STEP == LINES_PER_STEP - 1 {
                self.charge.set(text.len() + lines.bytes.capacity());
                yield_now().await;
            }
        }
        Ok(lines)
    }

    async fn kill(&self, filter: Filter, by_address: bool) -> Result<(Answer, bool), ErrorLine> {
        if self.scope.tenant.is_none()
            && filter.wanted_ids().is_some_and(|ids| ids.range(FOREIGN..).next().is_some())
        {
            return Err(FOREIGN_ID.into());
        }
        let selection = self.selection(filter);
        let killed = self.directory.kill(&selection, Some(self.id)).await;
        let killed = killed.map_err(|_| ErrorLine::from(UNANSWERED))?;
        tracing::info!(
            client = self.id,
            killed = killed.clients,
            "a client's CLIENT KILL disconnected clients"
        );
        match (by_address, killed.clients) {
            (true, 0) => Err(NO_SUCH_CLIENT.into()),
            (true, _) => Ok((Answer::Done, killed.asker)),
            (false, clients) => Ok((Answer::Count(clients), killed.asker)),
        }
    }

    async fn unblock(&self, id: i64, error: bool) -> Result<Answer, ErrorLine> {
        let Ok(id) = u64::try_from(id) else { return Ok(Answer::Count(0)) };
        if id >= FOREIGN && self.scope.tenant.is_none() {
            return Err(FOREIGN_ID.into());
        }
        let unblock = Unblock { scope: self.scope, id, error };
        let answers = self.directory.ask(|answer| Query::Unblock(unblock, answer)).await;
        let answers = answers.map_err(|_| ErrorLine::from(UNANSWERED))?;
        match answers.into_iter().flatten().next() {
            None => Ok(Answer::Count(0)),
            Some(Ok(unblocked)) => Ok(Answer::Count(usize::from(unblocked))),
            // The server's words may name respgate's own user, which is not this client's business.
            Some(Err(line)) => {
                let error = String::from_utf8_lossy(&line).into_owned();
                tracing::info!(client = self.id, error, "the server did not unblock a client");
                Err(NOT_UNBLOCKED.into())
            }
        }
    }
}

/// A list of clients.
#[derive(Default)]
struct Listing {
    parts: Vec<Lines>,
    /// The length of all lines.
    bytes: usize,
    /// The bytes allocated for them.
    capacity: usize,
}

impl Listing {
    fn add(&mut self, lines: Lines) {
        self.bytes += lines.bytes.len();
        self.capacity += lines.bytes.capacity() + lines.ends.capacity() * size_of::<(u64, usize)>();
        self.parts.push(lines);
    }

    /// Returns the lines in the order of the ids.
    fn sorted(&self) -> impl Iterator<Item = &[u8]> {
        let mut lines: Vec<(u64, &[u8])> = Vec::new();
        for part in &self.parts {
            let mut start = 0;
            for (id, end) in &part.ends {
                lines.push((*id, part.bytes.get(start..*end).unwrap_or_default()));
                start = *end;
            }
        }
        lines.sort_unstable_by_key(|(id, _)| *id);
        lines.into_iter().map(|(_, line)| line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_several_workers_are_sorted_by_id() {
        let mut listing = Listing::default();
        listing.add(Lines { bytes: b"2\n9\n".to_vec(), ends: vec![(2, 2), (9, 4)] });
        listing.add(Lines { bytes: b"1\n3\n".to_vec(), ends: vec![(1, 2), (3, 4)] });
        assert_eq!(listing.sorted().collect::<Vec<_>>().concat(), b"1\n2\n3\n9\n");
        assert_eq!(listing.bytes, 8);
    }

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
