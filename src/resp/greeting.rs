//! Opens connections to data servers: authenticates, chooses the protocol version, and asks for the node's role.

mod report;

pub use report::{Role, node_from_info, role_from_info, role_from_reply, server_info, zone_from_info};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::resp::Resp;
use crate::resp::control::{Control, ControlError};
use crate::resp::server_error::{ServerError, without_arguments};
use crate::resp::value::Value;
use crate::rotation::denials::{Denied, Probe};
use crate::secret::Credentials;
use crate::topology::{Node, ServerInfo};

/// The identity and the settings with which a connection is opened.
#[derive(Clone, Copy, Debug)]
pub struct Greeting<'a> {
    /// The credentials for AUTH; `None` sends no AUTH.
    pub credentials: Option<&'a Credentials>,
    /// True if the server has accepted these credentials before. If it has no password any more, `greet` then accepts
    /// the connection without one.
    pub accepted_before: bool,
    /// The protocol version to switch to.
    pub resp: Resp,
    /// The number of the database to select.
    pub database: u32,
    /// The user that selects the database, if it is another than the user of `credentials`.
    pub selector: Option<Selector<'a>>,
    /// The commands that the server denies the user. `greet` does not send them, and adds those that the server denies
    /// now.
    pub denied: Option<&'a Denied>,
    /// True if the greeting sends `CLIENT CAPA redirect`, after which a demoted node may answer `-REDIRECT`. Set this
    /// only where respgate can tell the server's own `-REDIRECT` from one that a script forges; elsewhere the client
    /// would receive it.
    pub redirect: bool,
    /// True if the greeting asks for the name of its user, which a certificate may have decided.
    pub ask_user: bool,
}

/// A user that selects the database before another user authenticates. The server keeps the selected database, even if
/// the second user may not run SELECT.
#[derive(Clone, Copy, Debug)]
pub struct Selector<'a> {
    /// The credentials for AUTH; `None` stands for the server's default user, without AUTH.
    pub credentials: Option<&'a Credentials>,
}

impl<'a> Greeting<'a> {
    /// Returns a greeting in which `credentials`, or the server's default user, opens a connection and selects
    /// `database`.
    pub fn new(credentials: Option<&'a Credentials>, resp: Resp, database: u32) -> Self {
        Self {
            credentials,
            accepted_before: false,
            resp,
            database,
            selector: None,
            denied: None,
            redirect: true,
            ask_user: false,
        }
    }

    fn may(&self, probe: Probe) -> bool {
        !self.denied.is_some_and(|denied| denied.contains(probe))
    }

    /// Adds the command to the denied ones if `reply` says that the ACL denies it.
    fn note(&self, probe: Probe, reply: &Value) {
        if let (Some(denied), Some(line)) = (self.denied, reply.error())
            && ServerError::of(line) == ServerError::NoPermission
        {
            denied.insert(probe);
        }
    }
}

/// What the server reported about itself during the greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeted {
    /// The node's role; `None` if the user may run neither ROLE nor INFO.
    pub role: Option<Role>,
    /// The server's name, version and modules; `None` if the server refuses HELLO (Redis before 6).
    pub server: Option<ServerInfo>,
    /// True if the greeting sent a password and the server's default user has none.
    pub needless_password: bool,
    /// The name of the user; `None` if the greeting did not ask, or the user may not know.
    pub user: Option<String>,
    /// The server's id of the connection; `None` if the server refuses HELLO.
    pub id: Option<u64>,
}

/// Why a connection cannot be used. A line in it is the server's own, without the leading `-`, so that a client can
/// receive it byte for byte.
#[derive(Debug, thiserror::Error)]
pub enum GreetError {
    /// AUTH failed: WRONGPASS, or the server has no password and the greeting sent one.
    #[error("the server refuses the credentials: {}", .0.escape_ascii())]
    AuthRefused(Bytes),
    /// NOAUTH: the server requires credentials and the greeting sent none.
    #[error("the server wants credentials: {}", .0.escape_ascii())]
    AuthRequired(Bytes),
    /// SELECT failed.
    #[error("the server refuses the database: {}", .0.escape_ascii())]
    Select(Bytes),
    /// LOADING, MASTERDOWN, BUSY, DENIED, or too many clients. Another attempt may succeed.
    #[error("the server is not ready: {}", .0.escape_ascii())]
    NotReady(Bytes),
    /// HELLO 3 failed.
    #[error("the server does not speak RESP3: {}", .0.escape_ascii())]
    NoResp3(Bytes),
    /// The connection failed, or the answer is not usable.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Opens a connection. `greet` sends AUTH alone and waits for its reply before it sends anything else: Redis 7.4 to 8
/// drop the reply to a failing AUTH in mid-pipeline (redis/redis#15640). It sends the rest in one write:
///
/// - `HELLO` chooses the protocol and returns the server's name and version;
/// - `CLIENT CAPA redirect` (Valkey 8), if the greeting asks for it: a demoted node then never serves old data;
/// - `CLIENT SETINFO LIB-NAME respgate` (Redis 7.2) names respgate in CLIENT LIST;
/// - `ACL WHOAMI` names the user, if the greeting asks for it;
/// - `PING` shows whether the server serves commands: while it loads its data set, or while a replica has lost its
///   primary, it refuses PING but still answers HELLO and ROLE;
/// - `ROLE` returns the role. If the user may not run it, `greet` uses the role in HELLO's reply if that is primary,
///   and otherwise runs `INFO replication` afterwards;
/// - `SELECT`, unless the database is 0 or the selector has selected it before AUTH.
///
/// `greet` sends no command that the server is known to deny the user, so that such commands do not fill its `ACL LOG`.
///
/// # Errors
///
/// Returns a [`GreetError`] if the connection cannot be used; the caller must then close it.
pub async fn greet<S>(
    control: &mut Control<S>,
    greeting: &Greeting<'_>,
    deadline: Instant,
) -> Result<Greeted, GreetError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let selected = select_before(control, greeting, deadline).await?;
    let mut needless_password = false;
    if let Some(credentials) = greeting.credentials {
        match authenticate(control, credentials, deadline).await {
            Err(GreetError::AuthRefused(line))
                if greeting.accepted_before && ServerError::of(&line) == ServerError::NeedlessPassword =>
            {
                needless_password = true;
            }
            authenticated => authenticated?,
        }
    }
    let mut digits = itoa::Buffer::new();
    let database = (greeting.database != 0 && !selected).then(|| digits.format(greeting.database));
    let version: &[u8] = match greeting.resp {
        Resp::V2 => b"2",
        Resp::V3 => b"3",
    };
    control.send(&[b"HELLO", version]);
    let optional: [(Probe, &[&[u8]]); 5] = [
        (Probe::ClientCapa, &[b"CLIENT", b"CAPA", b"redirect"]),
        (Probe::ClientSetInfo, &[b"CLIENT", b"SETINFO", b"LIB-NAME", b"respgate"]),
        (Probe::AclWhoami, &[b"ACL", b"WHOAMI"]),
        (Probe::Ping, &[b"PING"]),
        (Probe::Role, &[b"ROLE"]),
    ];
    let asked = optional.map(|(probe, words)| {
        let wanted = match probe {
            Probe::ClientCapa => greeting.redirect,
            Probe::AclWhoami => greeting.ask_user,
            _ => true,
        };
        let may = wanted && greeting.may(probe);
        if may {
            control.send(words);
        }
        may.then_some(probe)
    });
    if let Some(database) = database {
        control.send(&[b"SELECT", database.as_bytes()]);
    }
    control.flush(deadline).await?;

    // The server answers HELLO itself in the new version.
    control.set_resp(greeting.resp);
    let hello = control.reply(deadline).await?;
    if let Some(line) = hello.error() {
        // HELLO failed, so the connection still speaks RESP2.
        control.set_resp(Resp::V2);
        if ServerError::of(line).is_not_ready() {
            return Err(GreetError::NotReady(line.clone()));
        }
    }
    let (mut role, mut user) = (None, None);
    for probe in asked.into_iter().flatten() {
        let reply = control.reply(deadline).await?;
        greeting.note(probe, &reply);
        match probe {
            // PING's error comes before HELLO's own refusal: it is the line that any command of a client would get.
            Probe::Ping => match reply.error() {
                Some(line) if ServerError::of(line) == ServerError::NoAuth => {
                    return Err(GreetError::AuthRequired(line.clone()));
                }
                Some(line) if ServerError::of(line).is_not_ready() => {
                    return Err(GreetError::NotReady(line.clone()));
                }
                // A server that answers MISCONF, BUSY or NOPERM is alive.
                Some(_) => {}
                None => expect_word(&reply, "PING", "PONG")?,
            },
            Probe::Role => role = Some(reply),
            Probe::AclWhoami => user = reply.text().map(str::to_owned),
            _ => tracing::trace!(?probe, refused = reply.error().is_some()),
        }
    }
    if let Some(line) = hello.error().filter(|line| ServerError::of(line) == ServerError::NoAuth) {
        return Err(GreetError::AuthRequired(line.clone()));
    }
    let says_primary = hello.field("role").and_then(Value::text) == Some("master");
    let id = hello.field("id").and_then(Value::integer).and_then(|id| id.try_into().ok());
    let server = match hello {
        Value::Error(line) if greeting.resp == Resp::V3 => return Err(GreetError::NoResp3(line)),
        Value::Error(_) => None,
        hello => Some(server_info(&hello)),
    };
    if database.is_some() {
        match control.reply(deadline).await? {
            Value::Error(line) if ServerError::of(&line).is_not_ready() => {
                return Err(GreetError::NotReady(line));
            }
            Value::Error(line) => return Err(GreetError::Select(line)),
            selected => expect_word(&selected, "SELECT", "OK")?,
        }
    }
    let role = match role {
        Some(Value::Error(line)) if ServerError::of(&line) == ServerError::NoAuth => {
            return Err(GreetError::AuthRequired(line));
        }
        // Above all BUSY. The role is unknown only for now, unlike a role that the ACL hides.
        Some(Value::Error(line)) if !ServerError::of(&line).denies_command() => {
            return Err(GreetError::NotReady(line));
        }
        // No ACL denies HELLO, so its reply shows the role of a primary to every user.
        None | Some(Value::Error(_)) if says_primary => Some(Role::Primary { offset: None }),
        None | Some(Value::Error(_)) if !greeting.may(Probe::Info) => None,
        None | Some(Value::Error(_)) => {
            let info = control.call(&[b"INFO", b"replication"], deadline).await?;
            greeting.note(Probe::Info, &info);
            match info {
                Value::Error(line) if !ServerError::of(&line).denies_command() => {
                    return Err(GreetError::NotReady(line));
                }
                info => info.text().and_then(role_from_info),
            }
        }
        Some(role) => Some(
            role_from_reply(&role)
                .ok_or_else(|| ControlError::Protocol("the reply to ROLE has an unknown shape".into()))?,
        ),
    };
    Ok(Greeted { role, server, needless_password, user, id })
}

/// Lets the greeting's selector select the database. Returns true if it did. If the server refuses the selector for any
/// other reason than not being ready, the user of the connection selects the database itself later.
async fn select_before<S>(
    control: &mut Control<S>,
    greeting: &Greeting<'_>,
    deadline: Instant,
) -> Result<bool, GreetError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(selector) = greeting.selector.filter(|_| greeting.database != 0) else { return Ok(false) };
    if let Some(credentials) = selector.credentials {
        match authenticate(control, credentials, deadline).await {
            Ok(()) => {}
            Err(GreetError::AuthRefused(line)) if ServerError::of(&line) == ServerError::NeedlessPassword => {
            }
            Err(GreetError::AuthRefused(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    let mut digits = itoa::Buffer::new();
    let database = digits.format(greeting.database).as_bytes();
    let reply = control.call(&[b"SELECT", database], deadline).await?;
    match reply.error() {
        Some(line) if ServerError::of(line).is_not_ready() => Err(GreetError::NotReady(line.clone())),
        Some(_) => Ok(false),
        None => Ok(true),
    }
}

/// Asks which node a greeted connection leads to. Returns `None` if the user may not ask, or if the server does not report a run
/// id now.
///
/// # Errors
///
/// Returns the errors of [`Control::call`]; the caller must then close the connection.
pub async fn ask_node<S>(
    control: &mut Control<S>,
    denied: Option<&Denied>,
    deadline: Instant,
) -> Result<Option<Node>, ControlError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Ok(ask_server(control, denied, deadline).await?.as_deref().and_then(node_from_info))
}

/// Asks for `INFO server`. Returns `None` if the user may not ask. If the server has `denied` the user INFO once, `ask_server` does
/// not ask again, because each attempt would add an entry to the server's ACL log.
///
/// # Errors
///
/// Returns the errors of [`Control::call`]; the caller must then close the connection.
pub async fn ask_server<S>(
    control: &mut Control<S>,
    denied: Option<&Denied>,
    deadline: Instant,
) -> Result<Option<String>, ControlError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if denied.is_some_and(|denied| denied.contains(Probe::Info)) {
        return Ok(None);
    }
    let info = control.call(&[b"INFO", b"server"], deadline).await?;
    if let (Some(denied), Some(line)) = (denied, info.error())
        && ServerError::of(line) == ServerError::NoPermission
    {
        denied.insert(Probe::Info);
    }
    Ok(info.text().map(str::to_owned))
}

async fn authenticate<S>(
    control: &mut Control<S>,
    credentials: &Credentials,
    deadline: Instant,
) -> Result<(), GreetError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let password = credentials.password.expose();
    let reply = match &credentials.username {
        Some(username) => control.call(&[b"AUTH", username.as_bytes(), password], deadline).await?,
        None => control.call(&[b"AUTH", password], deadline).await?,
    };
    match reply {
        Value::Error(line) if ServerError::of(&line).is_not_ready() => Err(GreetError::NotReady(line)),
        Value::Error(line) => Err(GreetError::AuthRefused(without_arguments(&line))),
        _ => Ok(()),
    }
}

/// Checks that `reply` is `word`. Another reply belongs to another command: the replies have shifted, and the next
/// command would get the wrong one.
fn expect_word(reply: &Value, command: &str, word: &str) -> Result<(), ControlError> {
    match reply.text() {
        Some(text) if text == word => Ok(()),
        _ => Err(ControlError::Protocol(format!("the reply to {command} is not {word}"))),
    }
}

#[cfg(test)]
mod tests;
