//! Asks the workers, and the server, about clients for a session that runs CLIENT LIST, KILL or UNBLOCK.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::yield_now;

use crate::clients::arguments::ClientCommand;
use crate::clients::directory::{Directory, Query, Scope, Selection, Shape, UNANSWERED, Unblock};
use crate::clients::filter::Filter;
use crate::clients::foreign::{FOREIGN, ForeignLine};
use crate::clients::listing::{BYTES_PER_STEP, LINES_PER_STEP, LineSource, Lines, Listing};
use crate::net::budget::Charge;
use crate::resp::error_line::ErrorLine;
use crate::upstream::Upstream;
use crate::upstream::connection::identity::Identity;

const NO_SUCH_CLIENT: &[u8] = b"-ERR No such client";

const LIST_TOO_LARGE: &[u8] =
    b"-ERR respgate: the list has more bytes than max-reply-buffer; use filters, or raise max-reply-buffer";

const NOT_UNBLOCKED: &[u8] = b"-ERR respgate: the server did not unblock the client; the log says why (CLIENT UNBLOCK needs the permission of respgate's user)";

const FOREIGN_ID: &[u8] = b"-ERR respgate: ids from 8000000000000000 on are of connections to the server, which respgate neither kills nor unblocks; ask the server itself";

/// The reply to a command about clients.
pub(super) enum Answer {
    /// The lines of CLIENT LIST.
    Lines(ClientList),
    /// A number of clients.
    Count(usize),
    /// `OK`.
    Done,
    /// An error.
    Error(ErrorLine),
}

/// What a command about clients needs of the session that asks.
pub(super) struct Asker {
    /// The id of the session's client.
    pub(super) id: u64,
    /// The clients that it may see and affect.
    pub(super) scope: Scope,
    /// Reaches all workers.
    pub(super) directory: Directory,
    /// The session's upstream.
    pub(super) upstream: Rc<Upstream>,
    /// The identity of the client.
    pub(super) identity: Option<Rc<Identity>>,
    /// Limit of the bytes of a list.
    pub(super) limit: usize,
    /// Counts the bytes of a list.
    pub(super) charge: Charge,
}

impl Asker {
    /// Runs a command. Returns the answer, and true if the session ends once the client has it.
    pub(super) async fn run(self, command: ClientCommand) -> (Answer, bool) {
        let answer = match self.check_permission(&command).await {
            Ok(()) => self.run_permitted(command).await,
            Err(line) => Err(line),
        };
        answer.unwrap_or_else(|line| (Answer::Error(line), false))
    }

    async fn run_permitted(self, command: ClientCommand) -> Result<(Answer, bool), ErrorLine> {
        match command {
            ClientCommand::List(filter) => {
                self.list(filter).await.map(|listing| (Answer::Lines(listing), false))
            }
            ClientCommand::Kill(filter) => self.kill(filter, false).await,
            ClientCommand::KillAddress(filter) => self.kill(filter, true).await,
            ClientCommand::Unblock { id, error } => {
                self.unblock(id, error).await.map(|answer| (answer, false))
            }
        }
    }

    /// Has the server's ACL decide about a client that authenticated as a user of the server: what that user may not run
    /// there, it may not run here. The server is asked each time, so that a change of the ACL holds at once.
    async fn check_permission(&self, command: &ClientCommand) -> Result<(), ErrorLine> {
        let Some(identity) = self.identity.as_ref().filter(|identity| identity.is_of_a_client()) else {
            return Ok(());
        };
        // No client has the id 0.
        let harmless: &[&[u8]] = match command {
            ClientCommand::List(_) => &[b"CLIENT", b"LIST", b"ID", b"0"],
            ClientCommand::Kill(_) | ClientCommand::KillAddress(_) => &[b"CLIENT", b"KILL", b"ID", b"0"],
            ClientCommand::Unblock { .. } => &[b"CLIENT", b"UNBLOCK", b"0"],
        };
        self.upstream.check_permission(identity, harmless).await
    }

    fn selection(&self, filter: Filter) -> Selection {
        let except = (filter.skip_me == Some(true)).then_some(self.id);
        Selection { scope: self.scope, filter: Arc::new(filter), tenant_name: None, except }
    }

    async fn list(self, filter: Filter) -> Result<ClientList, ErrorLine> {
        let selection = self.selection(filter);
        let mut list = ClientList { listing: Listing::default(), charge: self.charge, limit: self.limit };
        // Before the clients: a connection that respgate opens meanwhile cannot be in the server's list.
        if self.scope.tenant.is_none()
            && let Some(identity) = &self.identity
        {
            list.add_foreign(&self.upstream, identity, &self.directory, &selection).await?;
        }
        let unanswered = |_| ErrorLine::from(UNANSWERED);
        let mut lines = self.directory.list(selection, Shape::Server).await.map_err(unanswered)?;
        while let Some(some) = Directory::next_lines(&mut lines).await.map_err(unanswered)? {
            list.add(some)?;
        }
        Ok(list)
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
        let identity = self.identity.as_ref().filter(|identity| identity.is_of_a_client());
        let credentials = identity.and_then(|identity| identity.credentials().ok().flatten());
        let unblock = Unblock { scope: self.scope, id, error, credentials };
        let answers = self.directory.ask(|answer| Query::Unblock(unblock.clone(), answer)).await;
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

/// A list of clients, counted as bytes of the client that asked for it.
pub(super) struct ClientList {
    listing: Listing,
    charge: Charge,
    /// Limit of the bytes of the list.
    limit: usize,
}

impl ClientList {
    /// Returns the number of bytes that are left.
    pub(super) fn len(&self) -> usize {
        self.listing.len()
    }

    /// Returns true if no line is left.
    pub(super) fn is_empty(&self) -> bool {
        self.listing.is_empty()
    }

    /// Calls `take` with some of the next lines, in the order of the ids, and frees them.
    pub(super) fn step(&mut self, take: impl FnMut(&[u8])) {
        self.listing.step(take);
        self.charge.set(self.listing.capacity());
    }

    fn add(&mut self, lines: Lines) -> Result<(), ErrorLine> {
        self.listing.add(lines);
        self.charge.set(self.listing.capacity());
        if self.listing.len() > self.limit { Err(LIST_TOO_LARGE.into()) } else { Ok(()) }
    }

    /// Adds the lines of the selected connections to the server that are not respgate's own. The server shows what the
    /// client's identity may see; without that right, there are none.
    async fn add_foreign(
        &mut self,
        upstream: &Rc<Upstream>,
        identity: &Rc<Identity>,
        directory: &Directory,
        selection: &Selection,
    ) -> Result<(), ErrorLine> {
        let Ok(reply) = upstream.ask(identity, &[b"CLIENT", b"LIST"]).await else { return Ok(()) };
        let Some(text) = reply.text() else { return Ok(()) };
        self.charge.set(text.len());
        let index = selection.scope.upstream.unwrap_or_default();
        let own = directory.ask(|answer| Query::Connections(index, answer)).await;
        let own: HashSet<u64> = own.map_err(|_| ErrorLine::from(UNANSWERED))?.into_iter().flatten().collect();
        let mut lines = Lines::new(LineSource::Server);
        let (mut read_lines, mut read_bytes) = (0, 0);
        for line in text.lines() {
            if let Some(line) = ForeignLine::read(line, &own)
                && selection.filter.selects(&line.row)
            {
                lines.push(line.row.id, |out| {
                    line.write(out);
                    out.push(b'\n');
                });
            }
            (read_lines, read_bytes) = (read_lines + 1, read_bytes + line.len());
            if read_lines >= LINES_PER_STEP || read_bytes >= BYTES_PER_STEP {
                (read_lines, read_bytes) = (0, 0);
                self.add(std::mem::replace(&mut lines, Lines::new(LineSource::Server)))?;
                self.charge.set(text.len() + self.listing.capacity());
                yield_now().await;
            }
        }
        self.add(lines)
    }
}
