//! Declares what one worker counts for one upstream, and the metric that publishes each count.

use super::declared::{self, About, Metric};
use super::local::LocalCounter;

/// The metric that publishes a count.
#[derive(Debug)]
pub enum Figure {
    /// A metric whose only label is `upstream`.
    Plain(&'static Metric<1>),
    /// A metric with a second label, and the value of that label.
    Labelled(&'static Metric<2>, &'static str),
}

impl Figure {
    /// Returns the metric's declaration.
    pub fn about(&self) -> &'static About {
        match self {
            Self::Plain(metric) => &metric.about,
            Self::Labelled(metric, _) => &metric.about,
        }
    }

    /// Returns the value of the second label, if there is one.
    pub fn label(&self) -> Option<&'static str> {
        match self {
            Self::Plain(_) => None,
            Self::Labelled(_, label) => Some(label),
        }
    }
}

/// Returns the sum of a metric's counts in a snapshot.
pub fn sum(snapshot: &Snapshot, metric: &About) -> u64 {
    let counts = FIGURES.iter().zip(snapshot).filter(|(figure, _)| figure.about().name == metric.name);
    counts.map(|(_, count)| count).sum()
}

macro_rules! counters {
    ($($field:ident: $metric:ident $([$value:literal])?;)*) => {
        /// Holds one worker's counts for one upstream.
        #[derive(Default)]
        pub struct Counters {
            $(#[doc = concat!("Counts for [`declared::", stringify!($metric), "`]." $(, " Label: ", $value)?)] pub $field: LocalCounter,)*
        }

        /// The counts of one worker for one upstream at one moment, in the order of [`FIGURES`].
        pub type Snapshot = [u64; FIGURES.len()];

        /// The metrics of all counts, in the order of a [`Snapshot`].
        pub const FIGURES: &[Figure] = &[$(counters!(@figure $metric $($value)?)),*];

        impl Counters {
            /// Returns the present counts.
            pub fn snapshot(&self) -> Snapshot {
                [$(self.$field.get(),)*]
            }
        }
    };
    (@figure $metric:ident) => { Figure::Plain(&declared::$metric) };
    (@figure $metric:ident $value:literal) => { Figure::Labelled(&declared::$metric, $value) };
}

counters! {
    clients: CLIENTS;
    clients_accepted: CLIENTS_ACCEPTED;
    clients_pinned: CLIENTS_PINNED;
    pinned_transaction: CLIENT_PINS["transaction"];
    pinned_watch: CLIENT_PINS["watch"];
    pinned_subscription: CLIENT_PINS["subscription"];
    pinned_monitor: CLIENT_PINS["monitor"];
    pinned_tracking: CLIENT_PINS["tracking"];
    pinned_no_touch: CLIENT_PINS["no-touch"];
    pinned_import_source: CLIENT_PINS["import-source"];
    pinned_fieldsets: CLIENT_PINS["fieldsets"];
    pinned_unknown_command: CLIENT_PINS["unknown-command"];
    pinned_blocking: CLIENT_PINS["blocking"];
    pinned_session: CLIENT_PINS["session"];
    clients_held: CLIENTS_HELD;
    closed_protocol: CLIENTS_CLOSED["protocol"];
    closed_tls: CLIENTS_CLOSED["tls"];
    closed_slow: CLIENTS_CLOSED["slow"];
    closed_memory: CLIENTS_CLOSED["memory"];
    closed_upstream_lost: CLIENTS_CLOSED["upstream_lost"];
    closed_timeout: CLIENTS_CLOSED["timeout"];
    closed_tenant_full: CLIENTS_CLOSED["tenant_full"];
    closed_removed: CLIENTS_CLOSED["removed"];
    closed_credentials: CLIENTS_CLOSED["credentials"];
    closed_killed: CLIENTS_CLOSED["killed"];
    auth_refused: AUTH_REFUSED;
    auth_throttled: AUTH_THROTTLED;
    local: COMMANDS["local"];
    shared: COMMANDS["shared"];
    leased: COMMANDS["leased"];
    fanin: COMMANDS["fan-in"];
    refused_admin: COMMANDS_REFUSED["admin-commands"];
    refused_commands: COMMANDS_REFUSED["commands"];
    refused_read_only: COMMANDS_REFUSED["read-only"];
    refused_scripts: COMMANDS_REFUSED["scripts"];
    refused_key_prefixes: COMMANDS_REFUSED["key-prefixes"];
    refused_channel_prefixes: COMMANDS_REFUSED["channel-prefixes"];
    refused_limits: COMMANDS_REFUSED["limits"];
    refused_other: COMMANDS_REFUSED["other"];
    slow_commands: SLOW_COMMANDS;
    resent: COMMANDS_RESENT;
    command_timeouts: COMMAND_TIMEOUTS;
    outcome_unknown: OUTCOME_UNKNOWN;
    migrated: SESSIONS_MIGRATED;
    shared_open: UPSTREAM_CONNECTIONS["shared"];
    leased_open: UPSTREAM_CONNECTIONS["leased"];
    fanin_open: UPSTREAM_CONNECTIONS["fan-in"];
    max_connections: UPSTREAM_MAX_CONNECTIONS;
    max_leased: UPSTREAM_MAX_LEASED;
    leased_idle: UPSTREAM_CONNECTIONS_IDLE;
    connects: UPSTREAM_CONNECTS;
    connect_errors: UPSTREAM_CONNECT_ERRORS;
    lost: UPSTREAM_CONNECTIONS_LOST;
    replaced: UPSTREAM_CONNECTIONS_REPLACED;
    isolated: UPSTREAM_CONNECTIONS_ISOLATED;
    reauthenticated: UPSTREAM_REAUTHENTICATED;
    upstream_auth_refused: UPSTREAM_AUTH_REFUSED;
    error_replies: UPSTREAM_ERROR_REPLIES;
    redirects_moved: CLUSTER_REDIRECTS["moved"];
    redirects_ask: CLUSTER_REDIRECTS["ask"];
    redirects_tryagain: CLUSTER_REDIRECTS["tryagain"];
    redirects_clusterdown: CLUSTER_REDIRECTS["clusterdown"];
    redirects_failed: CLUSTER_REDIRECTS_FAILED;
    upstream_reads: UPSTREAM_READS;
    upstream_writes: UPSTREAM_WRITES;
    unsolicited_pushes: UNSOLICITED_PUSHES;
    lease_waits: LEASE_WAITS;
    lease_waiting: LEASE_WAITING;
    lease_timeouts: LEASE_TIMEOUTS;
    replica_reads: REPLICA_READS;
    replica_fallbacks_behind: REPLICA_FALLBACKS["behind"];
    replica_fallbacks_none: REPLICA_FALLBACKS["none"];
    replica_reads_expired: REPLICA_READS_EXPIRED;
    replica_reads_returned: REPLICA_READS_RETURNED;
    holds: HOLDS;
    hold_expired: HOLD_EXPIRED;
    fanin_subscribers: FANIN_SUBSCRIBERS;
    fanin_channels: FANIN_CHANNELS;
    fanin_messages: FANIN_MESSAGES;
    fanin_deliveries: FANIN_DELIVERIES;
}
