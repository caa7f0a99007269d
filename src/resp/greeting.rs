//! The first words on a connection to a data server: who we are, which protocol, and is it a primary.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::resp::Resp;
use crate::resp::control::{Control, ControlError};
use crate::resp::value::Value;
use crate::rotation::denials::{Denied, Probe};
use crate::secret::Credentials;
use crate::topology::{Address, ModuleInfo, Node, NodeId, ServerInfo};

/// What a connection is opened as.
#[derive(Clone, Copy, Debug)]
pub struct Greeting<'a> {
    /// `None`: no AUTH is sent.
    pub credentials: Option<&'a Credentials>,
    /// The server has accepted these credentials before: if it has no password any more, it lets the connection in.
    pub accepted_before: bool,
    /// The protocol version.
    pub resp: Resp,
    /// The database.
    pub database: u32,
    /// Who selects the database, if not the user that the connection is opened as.
    pub selector: Option<Selector<'a>>,
    /// What the server denies the user: that is not sent. What it denies from now on is added.
    pub denied: Option<&'a Denied>,
    /// Whether a demoted node may answer `-REDIRECT` (`CLIENT CAPA redirect`). To be set only where respgate can tell
    /// the server's own `-REDIRECT` from one that a script forged: elsewhere the client would be shown it.
    pub redirect: bool,
}

/// A user that selects the database before another one authenticates: the server keeps a database that is selected
/// already, whether or not the later user may SELECT.
#[derive(Clone, Copy, Debug)]
pub struct Selector<'a> {
    /// `None`: the server's default, without AUTH.
    pub credentials: Option<&'a Credentials>,
}

impl<'a> Greeting<'a> {
    /// A greeting by which `credentials`, or the server's default user, opens a connection and selects `database`.
    pub fn new(credentials: Option<&'a Credentials>, resp: Resp, database: u32) -> Self {
        Self {
            credentials,
            accepted_before: false,
            resp,
            database,
            selector: None,
            denied: None,
            redirect: true,
        }
    }

    fn may(&self, probe: Probe) -> bool {
        !self.denied.is_some_and(|denied| denied.contains(probe))
    }

    /// Notes whether `reply` denies the user the command.
    fn note(&self, probe: Probe, reply: &Value) {
        if let (Some(denied), Some(line)) = (self.denied, reply.error())
            && has_code(line, b"NOPERM")
        {
            denied.insert(probe);
        }
    }
}

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeted {
    /// `None` when the user may run neither ROLE nor INFO.
    pub role: Option<Role>,
    /// `None` when the server refuses HELLO (Redis before 6).
    pub server: Option<ServerInfo>,
    /// A password was sent, and the server has none for its default user.
    pub needless_password: bool,
}

/// A node's own word on its place in replication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes writes.
    Primary {
        /// Replication offset in bytes; `None` when only INFO may be asked and does not say.
        offset: Option<u64>,
    },
    /// Follows another node.
    Replica {
        /// Whom it follows.
        of: Address,
        /// Whether the link to it is up.
        connected: bool,
    },
    /// A Sentinel, not a data server.
    Sentinel,
}

/// Why a connection cannot be used. Lines are the server's own, without the leading `-`, so that a client can be
/// shown them byte for byte.
#[derive(Debug, thiserror::Error)]
pub enum GreetError {
    /// AUTH failed: WRONGPASS, or a server without a password was sent one.
    #[error("the server refuses the credentials: {}", .0.escape_ascii())]
    AuthRefused(Bytes),
    /// NOAUTH: the server wants credentials and none were sent.
    #[error("the server wants credentials: {}", .0.escape_ascii())]
    AuthRequired(Bytes),
    /// SELECT failed.
    #[error("the server refuses the database: {}", .0.escape_ascii())]
    Select(Bytes),
    /// LOADING, MASTERDOWN, BUSY, DENIED, or too many clients: another attempt may succeed.
    #[error("the server is not ready: {}", .0.escape_ascii())]
    NotReady(Bytes),
    /// HELLO 3 failed.
    #[error("the server does not speak RESP3: {}", .0.escape_ascii())]
    NoResp3(Bytes),
    /// No usable answer came.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Opens a connection. AUTH travels alone and is answered before anything else is sent: Redis 7.4 to 8 drops the
/// reply to a failing AUTH in mid-pipeline (redis/redis#15640). The rest goes in one write:
///
/// - `HELLO`, for the protocol and the server's name and version;
/// - `CLIENT CAPA redirect` (Valkey 8), where the greeting says so: a demoted node then never serves old data;
/// - `CLIENT SETINFO LIB-NAME respgate` (Redis 7.2), for whoever reads CLIENT LIST;
/// - `PING`, which alone is refused while the server loads its data set or a replica has lost its primary: HELLO
///   and ROLE are answered then as ever;
/// - `ROLE`; where the user may not run it, HELLO's word counts, and for the rest `INFO replication` afterwards;
/// - `SELECT`, unless the database is 0 or has been selected by another user before AUTH.
///
/// What the server is known to deny the user is left out, so that its `ACL LOG` does not fill with it.
///
/// # Errors
///
/// See [`GreetError`]; the connection must then be closed.
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
            Err(GreetError::AuthRefused(line)) if greeting.accepted_before && wants_no_password(&line) => {
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
    let optional: [(Probe, &[&[u8]]); 4] = [
        (Probe::ClientCapa, &[b"CLIENT", b"CAPA", b"redirect"]),
        (Probe::ClientSetInfo, &[b"CLIENT", b"SETINFO", b"LIB-NAME", b"respgate"]),
        (Probe::Ping, &[b"PING"]),
        (Probe::Role, &[b"ROLE"]),
    ];
    let asked = optional.map(|(probe, words)| {
        let may = greeting.may(probe) && (greeting.redirect || probe != Probe::ClientCapa);
        if may {
            control.send(words);
        }
        may.then_some(probe)
    });
    if let Some(database) = database {
        control.send(&[b"SELECT", database.as_bytes()]);
    }
    control.flush(deadline).await?;

    control.set_resp(greeting.resp);
    let hello = control.reply(deadline).await?;
    if let Some(line) = hello.error() {
        // The connection still speaks what it spoke before.
        control.set_resp(Resp::V2);
        if not_ready(line) {
            return Err(GreetError::NotReady(line.clone()));
        }
    }
    let mut role = None;
    for probe in asked.into_iter().flatten() {
        let reply = control.reply(deadline).await?;
        greeting.note(probe, &reply);
        match probe {
            // Judged before HELLO's own refusal: PING gives the line that any command of a client would get.
            Probe::Ping => match reply.error() {
                Some(line) if has_code(line, b"NOAUTH") => {
                    return Err(GreetError::AuthRequired(line.clone()));
                }
                Some(line) if not_ready(line) => return Err(GreetError::NotReady(line.clone())),
                // MISCONF, BUSY and NOPERM come from a server that is alive.
                Some(_) => {}
                None => expect_word(&reply, "PING", "PONG")?,
            },
            Probe::Role => role = Some(reply),
            _ => tracing::trace!(?probe, refused = reply.error().is_some()),
        }
    }
    if let Some(line) = hello.error().filter(|line| has_code(line, b"NOAUTH")) {
        return Err(GreetError::AuthRequired(line.clone()));
    }
    let says_primary = hello.field("role").and_then(Value::text) == Some("master");
    let server = match hello {
        Value::Error(line) if greeting.resp == Resp::V3 => return Err(GreetError::NoResp3(line)),
        Value::Error(_) => None,
        hello => Some(server_info(&hello)),
    };
    if database.is_some() {
        match control.reply(deadline).await? {
            Value::Error(line) if not_ready(&line) => return Err(GreetError::NotReady(line)),
            Value::Error(line) => return Err(GreetError::Select(line)),
            selected => expect_word(&selected, "SELECT", "OK")?,
        }
    }
    let role = match role {
        Some(Value::Error(line)) if has_code(&line, b"NOAUTH") => return Err(GreetError::AuthRequired(line)),
        // BUSY, above all: the role stays unknown, which is not the same as being no one's business.
        Some(Value::Error(line)) if !forbidden(&line) => return Err(GreetError::NotReady(line)),
        // Everybody may send HELLO.
        None | Some(Value::Error(_)) if says_primary => Some(Role::Primary { offset: None }),
        None | Some(Value::Error(_)) if !greeting.may(Probe::Info) => None,
        None | Some(Value::Error(_)) => {
            let info = control.call(&[b"INFO", b"replication"], deadline).await?;
            greeting.note(Probe::Info, &info);
            match info {
                Value::Error(line) if !forbidden(&line) => return Err(GreetError::NotReady(line)),
                info => info.text().and_then(role_from_info),
            }
        }
        Some(role) => Some(
            role_from_reply(&role)
                .ok_or_else(|| ControlError::Protocol("the reply to ROLE has an unknown shape".into()))?,
        ),
    };
    Ok(Greeted { role, server, needless_password })
}

/// Has the greeting's selector select the database. Returns true if it did. Whatever else the server answers is left to
/// the user that the connection is opened as.
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
            Err(GreetError::AuthRefused(line)) if wants_no_password(&line) => {}
            Err(GreetError::AuthRefused(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    let mut digits = itoa::Buffer::new();
    let database = digits.format(greeting.database).as_bytes();
    let reply = control.call(&[b"SELECT", database], deadline).await?;
    match reply.error() {
        Some(line) if not_ready(line) => Err(GreetError::NotReady(line.clone())),
        Some(_) => Ok(false),
        None => Ok(true),
    }
}

/// Asks a greeted connection which node it leads to (`INFO server`). `None`: the user may not ask, or the server does not
/// say now. A user who was `denied` it once is not asked for again: that would fill the server's ACL log.
///
/// # Errors
///
/// As [`Control::call`]; the connection must then be closed.
pub async fn ask_node<S>(
    control: &mut Control<S>,
    denied: Option<&Denied>,
    deadline: Instant,
) -> Result<Option<Node>, ControlError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if denied.is_some_and(|denied| denied.contains(Probe::Info)) {
        return Ok(None);
    }
    let info = control.call(&[b"INFO", b"server"], deadline).await?;
    if let (Some(denied), Some(line)) = (denied, info.error())
        && has_code(line, b"NOPERM")
    {
        denied.insert(Probe::Info);
    }
    Ok(info.text().and_then(node_from_info))
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
        Value::Error(line) if not_ready(&line) => Err(GreetError::NotReady(line)),
        Value::Error(line) => Err(GreetError::AuthRefused(without_arguments(&line))),
        _ => Ok(()),
    }
}

/// Why a server refused an AUTH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthRefusal {
    /// The default user has no password: everybody is that user already.
    NeedlessPassword,
    /// The server cannot say at present.
    NotReady,
    /// The user or the password is wrong. The line quotes no password.
    Wrong(Bytes),
}

/// Judges the error line (without the leading `-` and without CRLF) that answered an AUTH.
pub fn auth_refusal(line: &Bytes) -> AuthRefusal {
    if wants_no_password(line) {
        AuthRefusal::NeedlessPassword
    } else if not_ready(line) || has_code(line, b"BUSY") {
        AuthRefusal::NotReady
    } else {
        AuthRefusal::Wrong(without_arguments(line))
    }
}

/// Returns true if the line refuses AUTH because the default user has no password: then everybody is that user already
/// (observed on valkey 8.0 and redis 7.0; the second is of servers before users).
fn wants_no_password(line: &[u8]) -> bool {
    line.starts_with(b"ERR AUTH <password> called without any password configured")
        || line.starts_with(b"ERR Client sent AUTH, but no password is set")
}

/// The error line of a refused AUTH, fit to be shown: of a command that it does not know, a server quotes the arguments
/// (`ERR unknown command 'AUTH', with args beginning with: '…'`, observed on valkey 8.0 and redis 7.0), and AUTH's are a
/// password.
pub fn without_arguments(line: &Bytes) -> Bytes {
    memchr::memmem::find(line, b", with args beginning with")
        .map_or_else(|| line.clone(), |at| line.slice(..at))
}

/// A reply that answers another question means that replies have shifted: the next command would get the wrong one.
fn expect_word(reply: &Value, command: &str, word: &str) -> Result<(), ControlError> {
    match reply.text() {
        Some(text) if text == word => Ok(()),
        _ => Err(ControlError::Protocol(format!("the reply to {command} is not {word}"))),
    }
}

/// Whether the line says "not now" and not "not you". A server with no room for another client says so unasked,
/// in what looks like the reply to the first command, and closes.
fn not_ready(line: &[u8]) -> bool {
    [&b"LOADING"[..], b"MASTERDOWN", b"DENIED"].iter().any(|code| has_code(line, code))
        || line.starts_with(b"ERR max number of clients")
}

/// Whether a command may not be run by this user, or has been renamed away.
fn forbidden(line: &[u8]) -> bool {
    has_code(line, b"NOPERM") || line.starts_with(b"ERR unknown command")
}

/// Whether an error line's first word is this code.
fn has_code(line: &[u8], code: &[u8]) -> bool {
    line.split(|byte| *byte == b' ').next() == Some(code)
}

/// The reply to HELLO, as documented for the command.
pub fn server_info(hello: &Value) -> ServerInfo {
    let text = |value: &Value, key: &str| value.field(key).and_then(Value::text).map(str::to_owned);
    let unknown = ServerInfo::default();
    let modules = hello.field("modules").and_then(Value::elements).unwrap_or_default();
    ServerInfo {
        server: text(hello, "server").unwrap_or(unknown.server),
        version: text(hello, "version").unwrap_or(unknown.version),
        modules: modules.iter().filter_map(module_info).collect(),
        availability_zone: text(hello, "availability_zone"),
    }
}

fn module_info(module: &Value) -> Option<ModuleInfo> {
    let text = |key: &str| module.field(key).and_then(Value::text).map(str::to_owned);
    let arguments = |value: &Value| {
        Some(value.elements()?.iter().filter_map(Value::text).map(str::to_owned).collect::<Vec<_>>())
    };
    Some(ModuleInfo {
        name: text("name")?,
        version: module.field("ver")?.integer()?,
        origin: text("path").zip(module.field("args").and_then(arguments)),
    })
}

/// The reply to ROLE, as documented for the command.
pub fn role_from_reply(reply: &Value) -> Option<Role> {
    let (role, rest) = reply.elements()?.split_first()?;
    match (role.bytes()?, rest) {
        (b"master", [offset, ..]) => {
            Some(Role::Primary { offset: offset.integer().and_then(|offset| offset.try_into().ok()) })
        }
        (b"slave", [host, port, link, ..]) => Some(Role::Replica {
            of: Address::tcp(host.text()?, port.integer()?.try_into().ok()?),
            connected: link.bytes()? == b"connected",
        }),
        (b"sentinel", _) => Some(Role::Sentinel),
        _ => None,
    }
}

/// The value of a line `key:value` of INFO.
fn info_field<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::trim_end))
}

/// The server section of INFO. `None` without a run id of plausible form.
pub fn node_from_info(info: &str) -> Option<Node> {
    let id = info_field(info, "run_id")
        .filter(|id| id.len() == 40 && id.bytes().all(|c| c.is_ascii_hexdigit()))?;
    let uptime = info_field(info, "uptime_in_seconds").and_then(|text| text.parse().ok());
    // Without an uptime nothing says that it has just started.
    Some(Node { id: NodeId(id.into()), uptime: uptime.map_or(Duration::MAX, Duration::from_secs) })
}

/// The replication section of INFO: lines of `key:value`.
pub fn role_from_info(info: &str) -> Option<Role> {
    let field = |key: &str| info_field(info, key);
    match field("role")? {
        "master" => {
            Some(Role::Primary { offset: field("master_repl_offset").and_then(|text| text.parse().ok()) })
        }
        "slave" => Some(Role::Replica {
            of: Address::tcp(field("master_host")?, field("master_port")?.parse().ok()?),
            connected: field("master_link_status") == Some("up"),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
