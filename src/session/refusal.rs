//! Defines the error lines that respgate writes in the server's own words. The texts were compared with valkey
//! 8.0.1 and redis 7.0.15. All lack their CRLF, except [`COMMAND_TIMEOUT`].

use std::borrow::Cow;

use crate::resp::error_line::ErrorLine;
use crate::resp::pubsub::{MAX_NAME_BYTES, MAX_SUBSCRIPTIONS};
use crate::resp::request::Request;
use crate::resp::server_error::ServerError;
use crate::tenant::users::Refused;
use crate::tenant::users::throttle::{AuthDecision, TooSoon};
use crate::topology::ServerInfo;

/// The error for a command before AUTH.
pub const NO_AUTH: &[u8] = b"-NOAUTH Authentication required.";
/// The error for HELLO before AUTH and without its AUTH option.
pub const NO_AUTH_HELLO: &[u8] = b"-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";
/// The error for a cursor of SCAN that is not a number.
pub const INVALID_CURSOR: &[u8] = b"-ERR invalid cursor";
/// The error for options that make no sense.
pub const SYNTAX: &[u8] = b"-ERR syntax error";
/// The error for an argument that is not an integer.
pub const NOT_AN_INTEGER: &[u8] = b"-ERR value is not an integer or out of range";
/// The error for a number that does not fit into 32 bits.
pub const NOT_AN_INT: &[u8] = b"-ERR value is out of range, value must between -2147483648 and 2147483647";
/// The error for a database number below zero. For one that is too large, the server answers.
pub const NO_SUCH_DATABASE: &[u8] = b"-ERR DB index is out of range";
/// The error for HELLO with a version that is not an integer.
pub const PROTOCOL_NOT_AN_INTEGER: &[u8] = b"-ERR Protocol version is not an integer or out of range";
/// The error for HELLO with a version other than 2 and 3.
pub const NO_PROTOCOL: &[u8] = b"-NOPROTO unsupported protocol version";
/// The error for an invalid name in CLIENT SETNAME or HELLO SETNAME.
pub const BAD_NAME: &[u8] = b"-ERR Client names cannot contain spaces, newlines or special characters.";
/// The error for CLUSTER and ASKING.
pub const NO_CLUSTER: &[u8] = b"-ERR This instance has cluster support disabled";
/// The error for a command whose keys belong to several slots of a cluster.
pub const CROSS_SLOT: &[u8] = b"-CROSSSLOT Keys in request don't hash to the same slot";
/// The error for EXEC outside a transaction.
pub const EXEC_WITHOUT_MULTI: &[u8] = b"-ERR EXEC without MULTI";
/// The error for DISCARD outside a transaction.
pub const DISCARD_WITHOUT_MULTI: &[u8] = b"-ERR DISCARD without MULTI";
/// The error for EXEC of a transaction in which a command was refused.
pub const EXEC_ABORTED: &[u8] = b"-EXECABORT Transaction discarded because of previous errors.";

/// Names state that a client has on its connection, and that belongs to its user and its protocol version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinReason {
    /// MULTI without EXEC.
    Transaction,
    /// Watched keys.
    Watch,
    /// Channels, patterns or shard channels.
    Subscription,
    /// MONITOR.
    Monitor,
    /// CLIENT TRACKING ON.
    Tracking,
    /// CLIENT NO-TOUCH ON.
    NoTouch,
    /// CLIENT IMPORT-SOURCE ON.
    ImportSource,
    /// HIMPORT PREPARE.
    Fieldsets,
    /// State that a command of this name may have left, which respgate does not know.
    UnknownCommand(Box<str>),
}

impl PinReason {
    /// Returns what the state is called, and which commands end it.
    fn words(&self) -> (Cow<'_, str>, &'static str) {
        let (name, end) = match self {
            Self::Transaction => ("a transaction", "EXEC or DISCARD"),
            Self::Watch => ("WATCH", "UNWATCH"),
            Self::Subscription => ("a subscription", "UNSUBSCRIBE, PUNSUBSCRIBE and SUNSUBSCRIBE"),
            Self::Monitor => ("MONITOR", "RESET"),
            Self::Tracking => ("CLIENT TRACKING ON", "CLIENT TRACKING OFF"),
            Self::NoTouch => ("CLIENT NO-TOUCH ON", "CLIENT NO-TOUCH OFF"),
            Self::ImportSource => ("CLIENT IMPORT-SOURCE ON", "CLIENT IMPORT-SOURCE OFF"),
            Self::Fieldsets => ("HIMPORT PREPARE", "HIMPORT DISCARDALL"),
            Self::UnknownCommand(name) => {
                let kept = format!("what {name} left, a command that respgate does not know");
                return (Cow::Owned(kept), "RESET");
            }
        };
        (Cow::Borrowed(name), end)
    }
}

/// Returns the error for AUTH or HELLO while the connection has state that cannot move to another connection.
pub fn pinned_state(reasons: &[PinReason]) -> ErrorLine {
    let reasons: Vec<String> = reasons
        .iter()
        .map(|reason| {
            let (name, end) = reason.words();
            format!("{name}, which {end} ends")
        })
        .collect();
    let reasons = reasons.join("; and ");
    format!("-ERR respgate: neither the user nor the protocol version can change while the connection keeps {reasons}")
        .into()
}

/// Returns the error for replication and the script debugger, where administrative commands are allowed.
pub fn other_protocol(name: &str) -> ErrorLine {
    let name = name.replace('|', " ");
    format!("-ERR respgate: {name} switches the connection to a protocol that respgate cannot relay; send it to the server directly")
        .into()
}

/// The error for a command that got no reply within `command-timeout`, with CRLF.
pub const COMMAND_TIMEOUT: &[u8] = b"-OUTCOMEUNKNOWN respgate: no reply came within command-timeout; the command may or may not have run\r\n";

/// The error for AUTH with a password that no user has.
pub const WRONG_PASSWORD: &[u8] = b"-WRONGPASS invalid username-password pair or user is disabled.";

/// Returns the error for an AUTH that failed.
pub fn not_authenticated(refused: &Refused) -> ErrorLine {
    match refused {
        Refused::Wrong => WRONG_PASSWORD.into(),
        Refused::TooSoon(TooSoon(wait)) => {
            format!("-ERR respgate: too many wrong passwords came from this address; retry in {wait} ms")
                .into()
        }
        Refused::Busy => b"-ERR respgate: too many passwords wait to be checked; try again".as_slice().into(),
    }
}

/// Interprets a refusal of AUTH. `line` is the server's error, or respgate's if it could not ask the server.
pub fn auth_decision(line: &ErrorLine) -> AuthDecision {
    let text: &[u8] = line;
    match ServerError::of(text) {
        _ if !line.is_of_server() => AuthDecision::Undecided(text.into()),
        ServerError::WrongPassword => AuthDecision::Wrong(text.into()),
        _ => AuthDecision::Inapplicable(text.into()),
    }
}

/// Limit of the bytes that an error repeats: of a name, and of all arguments together.
const REPEATED: usize = 128;

/// Returns the error for an unknown command.
pub fn unknown_command(request: &Request<'_>) -> ErrorLine {
    let mut args = request.args();
    let mut line = b"-ERR unknown command '".to_vec();
    line.extend_from_slice(c_string(args.next().unwrap_or_default(), REPEATED));
    line.extend_from_slice(b"', with args beginning with: ");
    let start = line.len();
    for arg in args {
        let repeated = line.len() - start;
        if repeated >= REPEATED {
            break;
        }
        line.push(b'\'');
        line.extend_from_slice(c_string(arg, REPEATED - repeated));
        line.extend_from_slice(b"' ");
    }
    one_line(line)
}

/// Returns the error for an unknown subcommand.
pub fn unknown_subcommand(container: &str, subcommand: &[u8]) -> ErrorLine {
    let mut line = b"-ERR unknown subcommand '".to_vec();
    line.extend_from_slice(c_string(subcommand, REPEATED));
    line.extend_from_slice(format!("'. Try {container} HELP.").as_bytes());
    one_line(line)
}

/// Returns the error for a wrong number of arguments. `name` is as in the command table.
pub fn wrong_arity(name: &str) -> ErrorLine {
    format!("-ERR wrong number of arguments for '{}' command", name.to_ascii_lowercase()).into()
}

/// Returns the error for a command that a RESP2 subscriber may not run. `name` is as in the command table or in
/// the client's spelling.
pub fn only_subscriptions(name: &str) -> ErrorLine {
    let name = name.to_ascii_lowercase();
    one_line(
        format!("-ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context")
            .into_bytes(),
    )
}

/// Returns the error for an unknown option of CLIENT SETINFO.
pub fn unrecognized_option(option: &[u8]) -> ErrorLine {
    one_line([b"-ERR Unrecognized option '", c_string(option, usize::MAX), b"'"].concat())
}

/// Returns the error for an option of HELLO that is unknown or lacks its value.
pub fn bad_hello_option(option: &[u8]) -> ErrorLine {
    one_line([b"-ERR Syntax error in HELLO option '", c_string(option, usize::MAX), b"'"].concat())
}

/// Returns the error for a CLIENT TRACKING of more than `most` bytes.
pub fn too_many_prefixes(most: usize) -> ErrorLine {
    format!("-ERR respgate: CLIENT TRACKING may take {most} bytes; give fewer or shorter prefixes").into()
}

/// Returns the error for a subscription that exceeds a client's limit of names or bytes.
pub fn too_many_subscriptions() -> ErrorLine {
    format!("-ERR respgate: more than {MAX_SUBSCRIPTIONS} subscriptions of one client, or {MAX_NAME_BYTES} bytes of names")
        .into()
}

/// The error for a subscription while the subscriptions of all clients have reached their limit.
pub const SUBSCRIPTIONS_FULL: &[u8] =
    b"-ERR respgate: the subscriptions of all clients take a quarter of max-buffered, which is their limit; raise max-buffered, or subscribe to less";

/// Says how the server's ACL words a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wording {
    /// With the user's name: Valkey, and Redis from 7.2 on.
    Named,
    /// Without the user's name: Redis before 7.2.
    Nameless,
}

impl Wording {
    /// Returns a server's wording. For a server that is not known yet, returns the newer wording.
    pub fn of(server: Option<&ServerInfo>) -> Self {
        let nameless = server.is_some_and(|server| {
            let mut parts = server.version.split('.').map_while(|part| part.parse::<u32>().ok());
            server.server == "redis" && (parts.next(), parts.next()) < (Some(7), Some(2))
        });
        if nameless { Self::Nameless } else { Self::Named }
    }
}

/// Returns the error for a command that the user may not run. `name` is as in the command table.
pub fn no_permission(wording: Wording, user: &str, name: &str) -> ErrorLine {
    let name = name.to_ascii_lowercase();
    one_line(match wording {
        Wording::Named => {
            format!("-NOPERM User {user} has no permissions to run the '{name}' command").into_bytes()
        }
        Wording::Nameless => {
            format!("-NOPERM this user has no permissions to run the '{name}' command").into_bytes()
        }
    })
}

/// Returns the error for a key that the user may not access.
pub fn no_key_permission(wording: Wording) -> &'static [u8] {
    match wording {
        Wording::Named => b"-NOPERM No permissions to access a key",
        Wording::Nameless => {
            b"-NOPERM this user has no permissions to access one of the keys used as arguments"
        }
    }
}

/// Returns the error for a channel that the user may not access.
pub fn no_channel_permission(wording: Wording) -> &'static [u8] {
    match wording {
        Wording::Named => b"-NOPERM No permissions to access a channel",
        Wording::Nameless => {
            b"-NOPERM this user has no permissions to access one of the channels used as arguments"
        }
    }
}

/// Returns the error for a refused EXEC, which ends the transaction. `line` is the error that another command
/// would get.
pub fn exec_aborted_because(line: &[u8]) -> ErrorLine {
    // The server's own format drops the generic code ERR, but no other.
    let why = line.strip_prefix(b"-ERR ").or_else(|| line.strip_prefix(b"-")).unwrap_or(line);
    [b"-EXECABORT Transaction discarded because of: ", why].concat().into()
}

/// Returns the bytes that C's `%.*s` prints.
fn c_string(bytes: &[u8], limit: usize) -> &[u8] {
    let end = memchr::memchr(0, bytes).unwrap_or(bytes.len()).min(limit);
    bytes.get(..end).unwrap_or_default()
}

/// Turns CR and LF into spaces, as the server does: an error is one line.
pub(super) fn one_line(mut line: Vec<u8>) -> ErrorLine {
    for byte in &mut line {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    line.into()
}
