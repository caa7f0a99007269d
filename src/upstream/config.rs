//! The settings of one upstream's connections. Limits are for the process; each worker gets its share.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::replica::LagBound;

/// The identity that clients act as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Clients need no AUTH: they act as the configured user, or as the server's default user. If a client sends AUTH, the server
    /// verifies it, and the client acts as that user from then on.
    Optional,
    /// Clients must send AUTH first. The configured credentials serve only respgate's own checks.
    Required,
}

/// How sessions share connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Commands without connection state share one connection for each worker, user, database and protocol version.
    Shared,
    /// Each session has an upstream connection to itself.
    Session,
}

/// Which unanswered writes are sent again when their connection is lost. They may then run twice, and undo what another client wrote
/// in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryWrites {
    /// None: the client gets OUTCOMEUNKNOWN.
    Never,
    /// Those that leave the same state and give the same reply when they run twice.
    SameReply,
    /// Also those that leave the same state, but whose second reply differs.
    Idempotent,
}

/// The answer to a client that is blocked in a pop when its connection is lost without a reply. The pop may or may not have run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockedPop {
    /// The reply of a timeout; OUTCOMEUNKNOWN if the pop has no timeout.
    TimesOut,
    /// Nothing yet: respgate sends the pop again with the time that is left, as the client itself would.
    Continues,
}

/// The treatment of open connections when respgate's own credentials change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reauth {
    /// It keeps them: servers go on serving a connection that was authenticated once.
    Keep,
    /// It replaces them with new ones within a few seconds. Clients do not notice.
    Reconnect,
    /// It replaces them as with `Reconnect`. Those of a session or of fan-in cannot be replaced; respgate authenticates them again
    /// as soon as nothing else is under way on them.
    Refresh,
}

/// Whose earlier writes a read from a replica shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadYourWrites {
    /// Those of the same connection.
    Session,
    /// Those of every client of the same tenant.
    Tenant,
    /// Nobody's: a read may miss them for `max-lag`.
    Off,
}

/// What becomes of the reads of clients that read from replicas while commands wait for a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadsInHold {
    /// They wait, too.
    Wait,
    /// Replicas that were in sync before answer them.
    Replica,
}

/// What becomes of MSET in a cluster if its keys are in several slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossSlotWrites {
    /// The client gets the error that a server gives.
    Refuse,
    /// respgate divides it by slot. Another client may see some of its writes before others, and some may fail.
    Split,
}

/// The settings of one upstream, without those of discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// The name that listeners refer to, and that metrics and logs carry.
    pub name: String,
    /// Whether clients must authenticate.
    pub client_auth: ClientAuth,
    /// The database in which a new session starts.
    pub database: u32,
    /// How sessions share connections.
    pub pool: Pool,
    /// The number of connections to this upstream, shared and leased.
    pub max_connections: usize,
    /// The number of leased connections; they count in `max_connections`.
    pub max_leased: usize,
    /// The number of connections to all nodes of a cluster together, which the limit of open files allows.
    pub max_open: usize,
    /// The number of discovery's connections to all nodes of a cluster, besides those to the nodes that it asks for slots.
    pub max_open_of_discovery: usize,
    /// The time after which a command fails whose session waits for a lease.
    pub lease_timeout: Duration,
    /// The time for look-up of the name, connect and greeting together.
    pub connect_timeout: Duration,
    /// The time within which the server must reply; it does not limit blocked commands and subscriptions. Zero: no limit.
    pub response_timeout: Duration,
    /// The time after which commands that wait for a primary fail.
    pub hold_timeout: Duration,
    /// The size of the commands that may wait for a primary, in bytes. A command that would exceed it fails at once.
    pub hold_buffer: usize,
    /// True if an unanswered read is sent again when its connection is lost.
    pub retry_reads: bool,
    /// Which unanswered writes are sent again when their connection is lost.
    pub retry_writes: RetryWrites,
    /// The answer to a client that is blocked in a pop when its connection is lost.
    pub blocked_pop: BlockedPop,
    /// The time after which an idle leased connection is closed.
    pub lease_idle_timeout: Duration,
    /// The time after which a quiet connection is pinged, and the interval in which discovery checks a working primary. Zero: neither
    /// happens.
    pub ping_interval: Duration,
    /// True if respgate samples how far the replicas are behind.
    pub replica_sampling: bool,
    /// The greatest lag of a replica that serves reads.
    pub lag_bound: LagBound,
    /// Whose earlier writes a read shows.
    pub read_your_writes: ReadYourWrites,
    /// What becomes of reads while commands wait for a primary.
    pub reads_in_hold: ReadsInHold,
    /// What becomes of writes to keys in several slots of a cluster.
    pub cross_slot_writes: CrossSlotWrites,
    /// The availability zone of respgate. Replicas that name the same one are preferred.
    pub availability_zone: Option<String>,
    /// The age at which a connection is replaced. Zero: no connection is.
    pub max_age: Duration,
    /// The treatment of open connections when respgate's own credentials change.
    pub reauth: Reauth,
}

impl UpstreamConfig {
    /// Returns true if replicas may answer reads while there is no primary.
    pub fn replicas_serve_alone(&self) -> bool {
        self.reads_in_hold == ReadsInHold::Replica
    }

    /// Returns the number of shared connections to one node.
    pub fn max_shared(&self) -> usize {
        self.max_connections.saturating_sub(self.max_leased).max(1)
    }

    /// Returns when a connection that is opened now must be replaced. The age is up to a tenth below `max-age`, at random, so that
    /// connections that were opened together are not replaced together.
    pub fn retires(&self, now: Instant) -> Option<Instant> {
        let age = self.max_age.mul_f64(1.0 - 0.1 * fastrand::f64());
        (!self.max_age.is_zero()).then(|| now.checked_add(age)).flatten()
    }

    /// Returns the defaults, which suit a sidecar.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            client_auth: ClientAuth::Optional,
            database: 0,
            pool: Pool::Shared,
            max_connections: 1088,
            max_leased: 1024,
            max_open: usize::MAX,
            max_open_of_discovery: usize::MAX,
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
            replica_sampling: true,
            lag_bound: LagBound { time: Duration::from_secs(1), bytes: 16 * 1024 * 1024 },
            read_your_writes: ReadYourWrites::Session,
            reads_in_hold: ReadsInHold::Wait,
            cross_slot_writes: CrossSlotWrites::Refuse,
            availability_zone: None,
            max_age: Duration::from_secs(3600),
            reauth: Reauth::Keep,
        }
    }
}

/// The settings of one upstream on one worker. A reload replaces them.
#[derive(Debug)]
pub struct LiveConfig {
    /// The upstream's name, which never changes.
    pub name: String,
    newest: RefCell<Rc<UpstreamConfig>>,
}

impl LiveConfig {
    /// Creates the settings that apply until the first [`Self::replace`].
    pub fn new(config: UpstreamConfig) -> Self {
        Self { name: config.name.clone(), newest: RefCell::new(Rc::new(config)) }
    }

    /// Returns the newest settings.
    pub fn get(&self) -> Rc<UpstreamConfig> {
        self.newest.borrow().clone()
    }

    /// Replaces the settings. Returns false if they are the same.
    pub fn replace(&self, config: UpstreamConfig) -> bool {
        let differs = **self.newest.borrow() != config;
        if differs {
            *self.newest.borrow_mut() = Rc::new(config);
        }
        differs
    }
}
