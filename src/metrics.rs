//! Declares what respgate counts and the metric names that publish it.
//!
//! A worker counts in plain cells. When the metrics endpoint is read, the admin listener asks each
//! worker for a [`Snapshot`] and publishes the sums through the `metrics` crate. The data path
//! touches no atomic.

use std::cell::Cell;

/// How the value of a metric changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The value only rises.
    Counter,
    /// The value rises and falls.
    Gauge,
}

/// A published value: its metric, one label, and its meaning.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// The metric's name.
    pub name: &'static str,
    /// A label and its value, besides the label `upstream`.
    pub label: Option<(&'static str, &'static str)>,
    /// How the value changes.
    pub kind: Kind,
    /// The help text, one sentence.
    pub help: &'static str,
}

macro_rules! figures {
    ($($field:ident: $kind:ident $name:literal $({ $label:literal = $value:literal })? , $help:literal;)*) => {
        /// Holds one worker's counts for one upstream.
        #[derive(Default)]
        pub struct Counters {
            $(#[doc = $help] pub $field: LocalCounter,)*
        }

        /// The counts of one worker for one upstream at one moment, in the order of [`FIGURES`].
        pub type Snapshot = [u64; FIGURES.len()];

        /// All published values, in the order of a [`Snapshot`].
        pub const FIGURES: &[Figure] = &[
            $(Figure { name: $name, label: figures!(@label $($label = $value)?), kind: Kind::$kind, help: $help },)*
        ];

        impl Counters {
            /// Returns the present counts.
            pub fn snapshot(&self) -> Snapshot {
                [$(self.$field.get(),)*]
            }
        }
    };
    (@label) => { None };
    (@label $label:literal = $value:literal) => { Some(($label, $value)) };
}

figures! {
    clients: Gauge "respgate_clients", "Clients connected now.";
    clients_total: Counter "respgate_clients_accepted_total", "Clients accepted.";
    clients_pinned: Gauge "respgate_clients_pinned", "Clients that hold an upstream connection of their own now.";
    closed_fault: Counter "respgate_clients_closed_total" { "reason" = "protocol" }, "Clients disconnected by respgate, by reason.";
    closed_tls: Counter "respgate_clients_closed_total" { "reason" = "tls" }, "Clients disconnected by respgate, by reason.";
    closed_slow: Counter "respgate_clients_closed_total" { "reason" = "slow" }, "Clients disconnected by respgate, by reason.";
    closed_memory: Counter "respgate_clients_closed_total" { "reason" = "memory" }, "Clients disconnected by respgate, by reason.";
    closed_lost: Counter "respgate_clients_closed_total" { "reason" = "upstream_lost" }, "Clients disconnected by respgate, by reason.";
    closed_timeout: Counter "respgate_clients_closed_total" { "reason" = "timeout" }, "Clients disconnected by respgate, by reason.";
    closed_limit: Counter "respgate_clients_closed_total" { "reason" = "tenant_full" }, "Clients disconnected by respgate, by reason.";
    closed_removed: Counter "respgate_clients_closed_total" { "reason" = "removed" }, "Clients disconnected by respgate, by reason.";
    closed_credentials: Counter "respgate_clients_closed_total" { "reason" = "credentials" }, "Clients disconnected by respgate, by reason.";
    command_timeouts: Counter "respgate_command_timeouts_total", "Commands that got no reply within command-timeout.";
    users_refused: Counter "respgate_auth_refused_total", "AUTHs of respgate's own users that failed.";
    auth_throttled: Counter "respgate_auth_throttled_total", "AUTHs refused because too many wrong passwords came from their source.";
    local: Counter "respgate_commands_total" { "lane" = "local" }, "Commands carried, by lane.";
    shared: Counter "respgate_commands_total" { "lane" = "shared" }, "Commands carried, by lane.";
    leased: Counter "respgate_commands_total" { "lane" = "leased" }, "Commands carried, by lane.";
    subscribes: Counter "respgate_commands_total" { "lane" = "fan-in" }, "Commands carried, by lane.";
    refused: Counter "respgate_commands_refused_total" { "reason" = "other" }, "Commands that respgate refused itself, by the setting that refuses them; limits: a tenant's; other: none of these settings.";
    refused_admin: Counter "respgate_commands_refused_total" { "reason" = "admin-commands" }, "Commands that respgate refused itself, by the setting that refuses them; limits: a tenant's; other: none of these settings.";
    refused_commands: Counter "respgate_commands_refused_total" { "reason" = "commands" }, "Commands that respgate refused itself, by the setting that refuses them; limits: a tenant's; other: none of these settings.";
    refused_read_only: Counter "respgate_commands_refused_total" { "reason" = "read-only" }, "Commands that respgate refused itself, by the setting that refuses them; limits: a tenant's; other: none of these settings.";
    refused_scripts: Counter "respgate_commands_refused_total" { "reason" = "scripts" }, "Commands that respgate refused itself, by the setting that refuses them; limits: a tenant's; other: none of these settings.";
    refused_key_prefixes: Counter "respgate_commands_refused_total" { "reason" = "key-prefixes" }, "Commands that respgate refused itself, by the setting that refuses them; limits: a tenant's; other: none of these settings.";
    refused_channel_prefixes: Counter "respgate_commands_refused_total" { "reason" = "channel-prefixes" }, "Commands that respgate refused itself, by the setting that refuses them; limits: a tenant's; other: none of these settings.";
    refused_limits: Counter "respgate_commands_refused_total" { "reason" = "limits" }, "Commands that respgate refused itself, by the setting that refuses them; limits: a tenant's; other: none of these settings.";
    errors: Counter "respgate_upstream_error_replies_total", "Error replies from the upstream.";
    unknown: Counter "respgate_outcome_unknown_total", "Writes answered with OUTCOMEUNKNOWN.";
    resent: Counter "respgate_commands_resent_total", "Requests sent again after a connection was lost.";
    transplanted: Counter "respgate_sessions_transplanted_total", "Sessions whose state was moved to another connection.";
    pushes: Counter "respgate_unasked_pushes_total", "Pushes dropped from a shared connection.";
    shared_open: Gauge "respgate_upstream_connections" { "lane" = "shared" }, "Upstream connections open now, by lane.";
    leased_open: Gauge "respgate_upstream_connections" { "lane" = "leased" }, "Upstream connections open now, by lane.";
    fanin_open: Gauge "respgate_upstream_connections" { "lane" = "fan-in" }, "Upstream connections open now, by lane.";
    leased_idle: Gauge "respgate_upstream_connections_idle", "Leased connections that wait for a session.";
    opened: Counter "respgate_upstream_connects_total", "Upstream connections opened and greeted.";
    open_failed: Counter "respgate_upstream_connect_errors_total", "Upstream connections that could not be opened.";
    renewed: Counter "respgate_upstream_connections_renewed_total", "Shared upstream connections replaced because of their age or of new credentials.";
    reauthenticated: Counter "respgate_upstream_reauthenticated_total", "Open upstream connections that were authenticated again with new credentials.";
    auth_refused: Counter "respgate_upstream_auth_refused_total", "Times the upstream refused respgate's own user or password, or what it authenticates with for one of its users.";
    isolated: Counter "respgate_upstream_connections_isolated_total", "Shared upstream connections left to one client whose replies had outgrown them.";
    lost: Counter "respgate_upstream_connections_lost_total", "Upstream connections that broke.";
    lease_waits: Counter "respgate_lease_waits_total", "Times a session had to wait for a lease.";
    lease_timeouts: Counter "respgate_lease_timeouts_total", "Times a session waited for a lease in vain.";
    holds: Counter "respgate_holds_total", "Times that commands began to wait for a primary.";
    held: Gauge "respgate_clients_held", "Clients whose commands wait for a primary now.";
    hold_expired: Counter "respgate_hold_expired_total", "Commands failed because no primary was found in time.";
    fanned: Gauge "respgate_fanin_subscribers", "Clients with subscriptions on fan-in now.";
    fanin_names: Gauge "respgate_fanin_channels", "Channels, patterns and shard channels that fan-in is subscribed to now.";
    fanin_messages: Counter "respgate_fanin_messages_total", "Messages that fan-in got from the upstream.";
    fanin_deliveries: Counter "respgate_fanin_deliveries_total", "Messages that fan-in gave to clients.";
    upstream_reads: Counter "respgate_upstream_reads_total", "Socket reads from shared upstream connections.";
    upstream_writes: Counter "respgate_upstream_writes_total", "Socket writes to shared upstream connections.";
}

/// A counter that only one thread uses.
#[derive(Debug, Default)]
pub struct LocalCounter(Cell<u64>);

impl LocalCounter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.set(self.0.get().wrapping_add(count));
    }

    /// Subtracts one (gauges only).
    pub fn fall(&self) {
        self.0.set(self.0.get().saturating_sub(1));
    }

    /// Sets the value (gauges only).
    pub fn set(&self, value: u64) {
        self.0.set(value);
    }

    /// Returns the present value.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// Adds one to a gauge while it lives, and subtracts it again when it is dropped.
pub struct Gauged {
    counters: std::rc::Rc<Counters>,
    which: fn(&Counters) -> &LocalCounter,
}

impl Gauged {
    /// Adds one to the gauge that `which` selects.
    pub fn new(counters: &std::rc::Rc<Counters>, which: fn(&Counters) -> &LocalCounter) -> Self {
        which(counters).inc();
        Self { counters: counters.clone(), which }
    }
}

impl Drop for Gauged {
    fn drop(&mut self) {
        (self.which)(&self.counters).fall();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_falls_when_its_guard_is_dropped() {
        let counters = std::rc::Rc::new(Counters::default());
        let guard = Gauged::new(&counters, |c| &c.clients);
        assert_eq!(counters.clients.get(), 1);
        drop(guard);
        assert_eq!(counters.clients.get(), 0);
    }

    #[test]
    fn one_metric_has_one_kind_and_one_text() {
        for a in FIGURES {
            for b in FIGURES.iter().filter(|b| b.name == a.name) {
                assert_eq!((a.kind, a.help), (b.kind, b.help), "{}", a.name);
            }
            assert_eq!(a.name.ends_with("_total"), a.kind == Kind::Counter, "{}", a.name);
        }
    }
}
