//! What a user can ask of the sessions of one listener, and the bounds they live within.

use std::time::Duration;

use crate::resp::request::RequestLimits;

/// Whether administrative commands (`deny-admin` in the command table) reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminCommands {
    /// Answered with the server's NOPERM text, and with the setting that causes it.
    Deny,
    /// Those that only show something are sent; see [`super::diagnostics`].
    ReadOnly,
    /// Sent on a leased connection.
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

/// Bounds and permissions of a listener's sessions.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// See [`RequestLimits`].
    pub request: RequestLimits,
    /// Replies waiting for one client, in bytes; a client that lets more pile up is disconnected.
    pub max_reply_buffer: usize,
    /// Commands of one client that are sent and unanswered; reading from it stops at this number.
    pub max_pipeline: usize,
    /// A client that takes no byte of its waiting replies for this long is disconnected.
    pub write_timeout: Duration,
    /// Whether administrative commands are forwarded.
    pub admin_commands: AdminCommands,
    /// How long a client may be still, or at one thing.
    pub timeouts: Timeouts,
}

/// How long a client may be still, or at one thing; looked at once a second. What is not set is not limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Nothing sent and nothing awaited. Who is blocked, subscribed, monitoring or in a transaction is not meant.
    pub idle: Option<Duration>,
    /// From MULTI or WATCH to its end.
    pub transaction: Option<Duration>,
    /// From the connection to the first command; where clients must authenticate, until they have.
    pub first_command: Option<Duration>,
    /// Until the reply to a command that waits for no other client.
    pub command: Option<Duration>,
    /// Bytes of replies that may wait for long.
    pub slow_reader_soft: Option<usize>,
    /// How long more than that may wait.
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
            timeouts: Timeouts::default(),
        }
    }
}
