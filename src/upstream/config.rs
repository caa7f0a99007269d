//! What a user can ask of one upstream's connections. Limits are per process; each worker gets its share.

use std::time::Duration;

use tokio::time::Instant;

/// Whose identity clients act under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Clients need no AUTH: they act as the configured user (or the server's default user). A client that does
    /// send AUTH is verified against the upstream and acts as that user from then on.
    Optional,
    /// Clients must AUTH first; the configured credentials serve only respgate's own checks.
    Required,
}

/// How sessions share connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Commands without connection state travel together on one connection per worker, user, database and
    /// protocol version.
    Shared,
    /// Each session has an upstream connection of its own.
    Session,
}

/// Which writes are sent again that were sent and not answered when their connection was lost. They may then run twice,
/// and undo what another client wrote in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryWrites {
    /// None: OUTCOMEUNKNOWN.
    Never,
    /// Those that leave the same state and give the same reply when they run twice.
    SameReply,
    /// Also those that leave the same state, but whose second reply differs.
    Idempotent,
}

/// What a blocked pop gets whose connection was lost without a word: it may or may not have popped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockedPop {
    /// The reply of a timeout; without a timeout, OUTCOMEUNKNOWN.
    TimesOut,
    /// It is sent again with the time that is left, as the client's own loop would.
    Continues,
}

/// What becomes of open connections when respgate's own credentials change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reauth {
    /// Nothing: servers go on serving a connection that was authenticated once.
    Keep,
    /// They are replaced by new ones, within a few seconds and without clients noticing.
    Reconnect,
    /// As `Reconnect`; and those that a session or fan-in holds, which cannot be replaced, are authenticated again in
    /// place as soon as nothing else is under way on them.
    Refresh,
}

/// One upstream, apart from how its primary is found.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// The name that listeners refer to, and that metrics and logs carry.
    pub name: String,
    /// Whether clients must authenticate.
    pub client_auth: ClientAuth,
    /// The database a new session starts in.
    pub database: u32,
    /// Sharing.
    pub pool: Pool,
    /// All connections to this upstream, both lanes.
    pub max_connections: usize,
    /// Leased connections, out of `max_connections`.
    pub max_leased: usize,
    /// How long a session waits for a free lease before its command fails.
    pub lease_timeout: Duration,
    /// Name look-up, connect and greeting together.
    pub connect_timeout: Duration,
    /// How long an answer may take; blocking and subscribed waits are not meant. Zero: no limit.
    pub response_timeout: Duration,
    /// How long commands wait for a primary to be found before they fail.
    pub hold_timeout: Duration,
    /// Bytes that commands may take while they wait for a primary; what would take more fails at once.
    pub hold_buffer: usize,
    /// Whether a read that was sent and not answered is sent again when its connection is lost.
    pub retry_reads: bool,
    /// Which writes are.
    pub retry_writes: RetryWrites,
    /// What a blocked pop gets when its connection is lost and it may or may not have popped.
    pub blocked_pop: BlockedPop,
    /// Idle leased connections are closed after this.
    pub lease_idle_timeout: Duration,
    /// A connection that has been quiet for so long is pinged, and discovery looks at a working primary so often. Zero:
    /// neither.
    pub ping_interval: Duration,
    /// A connection that is older is replaced by a new one. Zero: none is.
    pub max_age: Duration,
    /// What becomes of open connections when respgate's own credentials change.
    pub reauth: Reauth,
}

impl UpstreamConfig {
    /// When a connection that is opened now is to be replaced: a random tenth less than `max-age`, so that those that
    /// were opened together are not replaced together.
    pub fn retires(&self, now: Instant) -> Option<Instant> {
        let age = self.max_age.mul_f64(1.0 - 0.1 * fastrand::f64());
        (!self.max_age.is_zero()).then(|| now.checked_add(age)).flatten()
    }

    /// The defaults, which suit a sidecar.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            client_auth: ClientAuth::Optional,
            database: 0,
            pool: Pool::Shared,
            max_connections: 1088,
            max_leased: 1024,
            lease_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(60),
            hold_timeout: Duration::from_secs(40),
            hold_buffer: 64 * 1024 * 1024,
            retry_reads: true,
            retry_writes: RetryWrites::Never,
            blocked_pop: BlockedPop::TimesOut,
            lease_idle_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(3),
            max_age: Duration::from_secs(3600),
            reauth: Reauth::Keep,
        }
    }
}
