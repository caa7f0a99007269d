//! What a user can ask of the sessions of one listener, and the bounds they live within.

use std::sync::Arc;
use std::time::Duration;

use crate::resp::request::RequestLimits;
use crate::tenant::policy::Policy;

/// Whether administrative commands (`deny-admin` in the command table) reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminCommands {
    /// Answered with the server's own NOPERM text.
    Deny,
    /// Sent on a leased connection.
    Allow,
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
    /// What else is allowed, and on which keys and channels; `None`: everything.
    pub policy: Option<Arc<Policy>>,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            request: RequestLimits::default(),
            max_reply_buffer: 256 * 1024 * 1024,
            max_pipeline: 1024,
            write_timeout: Duration::from_secs(60),
            admin_commands: AdminCommands::Deny,
            policy: None,
        }
    }
}
