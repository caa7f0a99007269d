//! Opens one connection to the primary: dials it, greets it, and verifies that it is the primary.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::hint::Hint;
use crate::net::buffers::Buffers;
use crate::net::connect::Dialer;
use crate::net::read_buffer::ReadBuffer;
use crate::net::stream::Stream;
use crate::poll_meter::PollMeter;
use crate::resp::Resp;
use crate::resp::control::Control;
use crate::resp::error_line::ErrorLine;
use crate::resp::greeting::{GreetError, Greeting, Role, Selector, ask_node, greet};
use crate::resp::reply::{ReplyKind, ReplyScanner, ScannedReply};
use crate::rotation::login::Principal;
use crate::topology::{Generation, Primary};
use crate::upstream::access::Access;
use crate::upstream::cluster_room::ClusterRoom;
use crate::upstream::config::LiveConfig;
use crate::upstream::connection::auth_backoff::Refused;
use crate::upstream::connection::identities::Identities;
use crate::upstream::connection::identity::Identity;
use crate::upstream::connection::ids::{ConnectionId, ConnectionIds};
use crate::upstream::connection::scripts::Scripts;
use crate::upstream::connection::server::ServerFacts;
use crate::upstream::hold::Hold;
use crate::upstream::pause::ServerPause;
use crate::upstream::reports::Reports;
use crate::upstream::tasks::Tasks;

/// The properties that two connections must share to be interchangeable.
#[derive(Clone)]
pub struct ConnectionKey {
    /// The identity that the connection is authenticated as.
    pub identity: Rc<Identity>,
    /// The selected database.
    pub database: u32,
    /// The protocol version.
    pub resp: Resp,
    /// The identity that selected the database, if it is not `identity`: an earlier user of the same client, or respgate itself.
    /// `identity` may lack the permission to SELECT, so connections with different selectors are kept apart.
    pub selector: Option<Rc<Identity>>,
}

impl ConnectionKey {
    /// Creates the key of connections on which `identity` selects the database itself.
    pub fn new(identity: Rc<Identity>, database: u32, resp: Resp) -> Self {
        Self { identity, database, resp, selector: None }
    }

    /// Returns the same key with a database that `selector` selected.
    pub fn selected_by(self, selector: Option<&Rc<Identity>>) -> Self {
        let other = selector.filter(|selector| self.database != 0 && selector.id() != self.identity.id());
        Self { selector: other.cloned(), ..self }
    }

    fn selector_id(&self) -> Option<u64> {
        self.selector.as_ref().map(|selector| selector.id())
    }
}

impl PartialEq for ConnectionKey {
    fn eq(&self, other: &Self) -> bool {
        self.identity.id() == other.identity.id()
            && self.selector_id() == other.selector_id()
            && self.database == other.database
            && self.resp == other.resp
    }
}

impl Eq for ConnectionKey {}

impl std::hash::Hash for ConnectionKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.identity.id(), self.selector_id(), self.database, self.resp).hash(state);
    }
}

/// A greeted connection to a verified primary.
pub struct Connection {
    /// The socket.
    pub stream: Stream,
    /// Bytes that arrived behind the replies to the greeting.
    pub read: ReadBuffer,
    /// The generation of the primary that the connection was opened for.
    pub generation: Generation,
    /// When the attempt began, before credentials and certificates were read.
    pub began: Instant,
    /// The time that the server took to answer the greeting.
    pub round_trip: Duration,
    /// When a new connection replaces this one; `None`: only after it fails.
    pub retires: Option<Instant>,
    /// The server's id of the connection.
    pub id: ConnectionId,
    /// True if the reply is due by which the server confirms that the connection has no name any more.
    pub unnaming: bool,
}

/// The reply by which the server confirms a name.
const OK: &[u8] = b"+OK\r\n";

impl Connection {
    /// Handles what was read while the reply is due by which the server confirms that the connection has no name any more.
    /// Returns false if something else came.
    pub(in crate::upstream) fn read_unnamed(&mut self) -> bool {
        let read = self.read.bytes();
        let whole = read.len() >= OK.len();
        let expected = if whole { read.starts_with(OK) } else { OK.starts_with(read) };
        if whole && expected {
            self.read.consume(OK.len());
            self.unnaming = false;
        }
        expected
    }
}

/// The use of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Many sessions share it, for commands whose errors are the server's own.
    Shared,
    /// One session has it, and may run scripts on it. A script can forge every error, so every error must be fit for the client.
    /// That is why the server is not told that respgate understands redirections.
    Leased,
}

/// The reason why a connection could not be opened.
#[derive(Clone, Debug)]
pub enum ConnectError {
    /// The server refused what the client asked for. Holds the server's error line.
    Refused(ErrorLine),
    /// The server wants the client to authenticate. Holds the server's error line.
    AuthRequired(ErrorLine),
    /// The server refuses the user or password that respgate keeps for this identity. New ones may come at any moment.
    AuthRejected(Refused),
    /// The server could not be reached or verified. Another attempt may succeed. Holds the reason.
    Unavailable(String),
}

/// What an AUTH counts as when the server has no password for the default user any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum NeedlessPassword {
    /// It counts as accepted if the server has accepted the password before, as a connection that stayed open would.
    Accepted,
    /// It counts as refused, as the server says: a client asks whether its password is right.
    Refused,
}

/// The size of one read from an upstream, in bytes.
pub(super) const READ: usize = 64 * 1024;

/// Opens the connections of one worker to one upstream. Holds what they need and the state that their opening changes.
pub(in crate::upstream) struct Dialing {
    /// The room for the connections to all nodes of a cluster.
    pub(in crate::upstream) room: Rc<ClusterRoom>,
    pub(in crate::upstream) config: Rc<LiveConfig>,
    pub(in crate::upstream) hold: Rc<Hold>,
    pub(in crate::upstream) reports: Rc<Reports>,
    pub(in crate::upstream) identities: Rc<Identities>,
    pub(in crate::upstream) server: ServerFacts,
    pub(in crate::upstream) ids: ConnectionIds,
    pub(in crate::upstream) pause: ServerPause,
    pub(in crate::upstream) scripts: Scripts,
    /// Dials the present primary.
    pub(in crate::upstream) dialer: RefCell<Dialer>,
    /// How the newest primary is reached.
    pub(in crate::upstream) access: watch::Receiver<Access>,
    pub(in crate::upstream) buffers: Rc<Buffers>,
    /// Measures the polls of the tasks that drive connections.
    /// Measures the polls of short tasks.
    pub(in crate::upstream) meter: Rc<PollMeter>,
    /// The tasks that run until the upstream ends.
    pub(in crate::upstream) tasks: Tasks,
}

impl Dialing {
    /// Dials with the newest settings and credentials from now on, because they belong to the newest primary.
    pub(in crate::upstream) fn use_newest_access(&self) {
        let Access { dialer, login } = self.access.borrow().clone();
        self.dialer.replace(dialer);
        self.identities.own().set_login(login);
    }

    /// Opens a connection to `primary` for `key`, within the upstream's `connect-timeout`. Tells discovery about failures.
    /// Gives up as soon as discovery follows another primary: the former one may be silent until the timeout.
    ///
    /// # Errors
    /// Returns a [`ConnectError`].
    pub(in crate::upstream) async fn open(
        &self,
        primary: &Arc<Primary>,
        key: &ConnectionKey,
        needless: NeedlessPassword,
        purpose: Purpose,
    ) -> Result<Connection, ConnectError> {
        tokio::select! {
            opened = self.attempt(primary, key, needless, purpose) => opened,
            () = self.hold.superseded(primary.generation) => {
                Err(ConnectError::Unavailable(format!("{} is not the primary any more", primary.address)))
            }
        }
    }

    async fn attempt(
        &self,
        primary: &Arc<Primary>,
        key: &ConnectionKey,
        needless: NeedlessPassword,
        purpose: Purpose,
    ) -> Result<Connection, ConnectError> {
        let generation = primary.generation;
        let began = Instant::now();
        let unavailable = |text: String, hint: Hint| {
            self.reports.hint(hint);
            self.reports.counters.connect_errors.inc();
            ConnectError::Unavailable(text)
        };
        let identity = &key.identity;
        let credentials = match identity.fresh_credentials(self.config.get().connect_timeout).await {
            Ok(credentials) => credentials,
            // All clients wait for the credentials of respgate itself, but only one user's clients for those of a user.
            Err(why) if identity.is_of_a_user() => {
                return Err(ConnectError::AuthRejected(identity.refusals.unknown(&why, began)));
            }
            Err(why) => return Err(ConnectError::Unavailable(why.to_string())),
        };
        let kept = identity.login().zip(credentials.clone());
        if let Some((_, credentials)) = &kept
            && let Some(refused) = identity.refusals.bars(credentials, Instant::now())
        {
            return Err(ConnectError::AuthRejected(refused));
        }
        let deadline = Instant::now() + self.config.get().connect_timeout;
        let dialer = self.dialer.borrow().clone();
        let stream = dialer
            .dial(&primary.address)
            .await
            .map_err(|error| unavailable(error.to_string(), Hint::Lost(generation)))?;
        let mut control = Control::new(stream);
        let selector = key.selector.as_ref().filter(|selector| !selector.is_refused());
        let selects_as = selector.map(|selector| selector.credentials());
        let denied = self.identities.own().login().map(|own| {
            let user =
                credentials.as_deref().map_or_else(|| identity.user(), |known| known.user().to_owned());
            own.denials().of(&user)
        });
        let greeting = Greeting {
            accepted_before: needless == NeedlessPassword::Accepted && identity.was_accepted(),
            selector: match &selects_as {
                Some(Ok(credentials)) => Some(Selector { credentials: credentials.as_deref() }),
                Some(Err(_)) | None => None,
            },
            denied: denied.as_deref(),
            redirect: purpose == Purpose::Shared,
            // The server can authenticate respgate by its certificate.
            ask_user: credentials.is_none() && dialer.tls.is_some(),
            ..Greeting::new(credentials.as_deref(), key.resp, key.database)
        };
        let asked = Instant::now();
        let greeted = match greet(&mut control, &greeting, deadline).await {
            Ok(greeted) => greeted,
            Err(GreetError::AuthRequired(line)) => {
                return Err(ConnectError::AuthRequired(ErrorLine::of_server(&line)));
            }
            Err(GreetError::AuthRefused(line)) => {
                identity.note_refused();
                let Some((login, credentials)) = kept else {
                    return Err(ConnectError::Refused(ErrorLine::of_server(&line)));
                };
                self.reports.counters.upstream_auth_refused.inc();
                login.refused(&primary.address, &credentials, &line);
                let refused =
                    identity.refusals.refused(&credentials, ErrorLine::of_server(&line), Instant::now());
                return Err(ConnectError::AuthRejected(refused));
            }
            Err(GreetError::Select(line) | GreetError::NoResp3(line)) => {
                return Err(ConnectError::Refused(ErrorLine::of_server(&line)));
            }
            Err(error) => return Err(unavailable(error.to_string(), Hint::Lost(generation))),
        };
        match greeted.role {
            Some(Role::Primary { .. }) | None => {}
            Some(_) => {
                let text = format!("{} says that it is not a primary", primary.address);
                return Err(unavailable(text, Hint::NotPrimary(generation)));
            }
        }
        let round_trip = asked.elapsed();
        if let Some(expected) = &primary.node {
            match ask_node(&mut control, denied.as_deref(), deadline).await {
                Ok(Some(node)) if node.id != *expected => {
                    let text = format!("{} leads to another node than before", primary.address);
                    return Err(unavailable(text, Hint::OtherNode(generation)));
                }
                Ok(_) => {}
                Err(error) => return Err(unavailable(error.to_string(), Hint::Lost(generation))),
            }
        }
        let (stream, leftover) = control.into_inner();
        if answers(&leftover) {
            let text = format!("{} answered more than it was asked in its greeting", primary.address);
            return Err(unavailable(text, Hint::Lost(generation)));
        }
        match greeted.needless_password {
            true => identity.note_needless_password(),
            false => identity.confirm(),
        }
        if let Some((login, _)) = kept {
            login.accepted();
            identity.refusals.accepted();
        }
        if let Some(user) = greeted.user {
            identity.note_user(user);
        }
        self.reports.counters.connects.inc();
        self.reports.timelines.reached(generation);
        if let Some(server) = greeted.server {
            self.server.set_info(server);
        }
        let now = Instant::now();
        // If the credentials have changed meanwhile, the connection is replaced like those that were open.
        let outdated = self.identities.is_outdated(identity, began);
        let retires = if outdated { Some(now) } else { self.config.get().retires(now) };
        let read = ReadBuffer::with(READ, &leftover);
        let id = self.ids.add(greeted.id);
        Ok(Connection { stream, read, generation, began, round_trip, retires, id, unnaming: false })
    }

    /// Takes note that no connection could be opened for this identity. Returns the error line with which the commands that
    /// wait for one fail, or `None` if they wait for another attempt.
    pub(in crate::upstream) fn on_connect_error(
        &self,
        identity: &Identity,
        error: ConnectError,
    ) -> Option<ErrorLine> {
        match error {
            ConnectError::Refused(line) => Some(line),
            ConnectError::AuthRequired(line) => {
                self.server.note_auth_required(identity);
                Some(line)
            }
            ConnectError::AuthRejected(refused) => self.on_auth_rejected(identity, &refused),
            ConnectError::Unavailable(reason) => {
                self.hold.note_reason(reason);
                self.hold.begin();
                None
            }
        }
    }

    /// Takes note that the server refuses the credentials that respgate keeps for this identity. Commands wait for new ones, as
    /// they wait for a primary, and fail with the returned error line after `hold-timeout`. They fail at once if the server has
    /// never accepted any. The refusal of one user's credentials does not hold the commands of others.
    fn on_auth_rejected(&self, identity: &Identity, refused: &Refused) -> Option<ErrorLine> {
        let Refused { line, since } = refused;
        let said = String::from_utf8_lossy(line.get(1..).unwrap_or_default());
        let of_a_user = identity.is_of_a_user();
        let hopeful = !of_a_user || identity.has_worked() || identity.credentials().is_err();
        let principal = identity.login().map_or(Principal::Own, |login| login.principal().clone());
        if hopeful && since.elapsed() < self.config.get().hold_timeout {
            if !of_a_user {
                self.hold.note_reason(format!("the server refuses {principal}: {said}"));
                self.hold.begin();
            }
            return None;
        }
        let name = &self.config.name;
        Some(format!("-ERR respgate: the server refuses {principal} (upstream '{name}'): {said}").into())
    }
}

/// Returns true if anything but pushes arrived behind the greeting. The next command would take it for its reply.
pub(super) fn answers(mut leftover: &[u8]) -> bool {
    while !leftover.is_empty() {
        match ReplyScanner::default().scan(leftover) {
            ScannedReply::Complete { len, kind: ReplyKind::Push } => {
                leftover = leftover.get(len..).unwrap_or_default();
            }
            ScannedReply::Incomplete => return !leftover.starts_with(b">"),
            ScannedReply::Complete { .. } | ScannedReply::Malformed(_) => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pushes_may_follow_a_greeting() {
        for sound in [&b""[..], b">1\r\n+a\r\n", b">1\r\n+a\r\n>1\r\n$9\r\nhal"] {
            assert!(!answers(sound), "{}", sound.escape_ascii());
        }
        for shifted in [&b"+OK\r\n"[..], b"+O", b">1\r\n+a\r\n:1\r\n", b"?"] {
            assert!(answers(shifted), "{}", shifted.escape_ascii());
        }
    }
}
