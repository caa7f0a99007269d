//! Names the reasons why a session ends.

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The client left, or its connection failed.
    Left,
    /// The client sent QUIT, or a drain ended the session.
    Finished,
    /// The client sent bytes that are not RESP.
    Protocol,
    /// The client speaks TLS to a plain-text port, or broke its TLS connection.
    Tls,
    /// The client did not take its replies.
    Slow,
    /// The byte budget of the process or of the tenant was spent, and this client held most of it.
    Memory,
    /// The session lost an upstream connection together with part of a reply or with connection state.
    UpstreamLost,
    /// One of the session's timeouts expired.
    Expired,
    /// The tenant has reached its limit of clients.
    Full,
    /// The client's user was removed, or the policy now denies one of the client's subscriptions.
    Removed,
    /// The server refuses the client's own password, which it accepted before.
    Credentials,
    /// CLIENT KILL, or control, disconnected the client.
    Killed,
}

impl Close {
    /// Returns true if the session closes without waiting for the client to take its remaining replies. `blocked`
    /// is true if the client takes no bytes now.
    pub(super) fn is_at_once(self, blocked: bool) -> bool {
        match self {
            Self::Slow | Self::Expired | Self::Killed => true,
            Self::Memory => blocked,
            Self::Left
            | Self::Finished
            | Self::Protocol
            | Self::Tls
            | Self::UpstreamLost
            | Self::Full
            | Self::Removed
            | Self::Credentials => false,
        }
    }
}
