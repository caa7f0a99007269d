//! Configures the sessions of one listener: their permissions and bounds.

use std::time::Duration;

use crate::replica::Reads;
use crate::resp::request::RequestLimits;

/// Says whether administrative commands (`deny-admin` in the command table) reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminCommands {
    /// They are answered with the server's NOPERM text and the setting that causes it.
    Deny,
    /// Those that only show something are sent; see [`super::diagnostics`].
    ReadOnly,
    /// They are sent on a leased connection.
    Allow,
}

impl AdminCommands {
    /// Returns the level as the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::ReadOnly => "read-only",
            Self::Allow => "allow",
        }
    }
}

/// Holds the bounds and permissions of a listener's sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// See [`RequestLimits`].
    pub request: RequestLimits,
    /// Limit of the reply bytes that wait for one client. A client that exceeds it is disconnected.
    pub max_reply_buffer: usize,
    /// Limit of one client's commands that are sent and unanswered. respgate stops reading from the client at
    /// this number.
    pub max_pipeline: usize,
    /// A client that takes no byte of its waiting replies for this long is disconnected.
    pub write_timeout: Duration,
    /// Which administrative commands are forwarded.
    pub admin_commands: AdminCommands,
    /// The nodes that answer the clients' reads, unless a tenant decides.
    pub reads: Reads,
    /// The timeouts of inactive and busy clients.
    pub timeouts: Timeouts,
}

/// Holds the timeouts of inactive and busy clients. They are checked once per second. `None` sets no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Time with nothing sent and nothing awaited. A client that is blocked, subscribed, monitoring or in a
    /// transaction is not idle.
    pub idle: Option<Duration>,
    /// Time from MULTI or WATCH to the end of the transaction.
    pub transaction: Option<Duration>,
    /// Time from the connection to the first command or, where clients must authenticate, to a successful
    /// authentication.
    pub first_command: Option<Duration>,
    /// Time until the reply to a command that does not wait for other clients.
    pub command: Option<Duration>,
    /// Reply bytes above which a slow client's time starts.
    pub slow_reader_soft: Option<usize>,
    /// How long more than `slow_reader_soft` bytes may wait.
    pub slow_reader_soft_time: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            idle: None,
            transaction: None,
            first_command: None,
            command: None,
            slow_reader_soft: None,
            slow_reader_soft_time: Duration::from_secs(60),
        }
    }
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            request: RequestLimits::default(),
            max_reply_buffer: 256 * 1024 * 1024,
            max_pipeline: 1024,
            write_timeout: Duration::from_secs(60),
            admin_commands: AdminCommands::Deny,
            reads: Reads::Primary,
            timeouts: Timeouts::default(),
        }
    }
}
