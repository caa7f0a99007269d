//! Declares every metric that respgate publishes: its name, type, labels, unit and help text.
//!
//! No other file holds the name of a metric. `docs/metrics-and-alerts.md` is compared with this
//! declaration by a test.

use metrics::Unit;

/// How the value of a metric changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The value only rises.
    Counter,
    /// The value rises and falls.
    Gauge,
    /// Counts of times by their length.
    Histogram,
}

/// A metric that has `LABELS` labels.
#[derive(Debug)]
pub struct Metric<const LABELS: usize> {
    /// The names of the labels, in the order in which their values are published.
    pub labels: [&'static str; LABELS],
    /// Name, type and texts.
    pub about: About,
}

/// The name, type and texts of a metric.
#[derive(Debug)]
pub struct About {
    /// The metric's name.
    pub name: &'static str,
    /// The deprecated name, under which respgate publishes the metric for one more version.
    pub former_name: Option<&'static str>,
    /// The names of the labels.
    pub labels: &'static [&'static str],
    /// The deprecated names of labels, each with the new one. respgate publishes both for one more
    /// version.
    pub former_labels: &'static [(&'static str, &'static str)],
    /// How the value changes.
    pub kind: Kind,
    /// The unit of the value.
    pub unit: Unit,
    /// The help text, one sentence.
    pub help: &'static str,
}

const fn count(labels: &[&str]) -> usize {
    labels.len()
}

macro_rules! metrics {
    ($(
        $constant:ident: $kind:ident $name:literal [$($label:ident),*] $unit:ident, $help:literal
        $(, formerly $former:literal)? $(, labels formerly [$($old:ident = $new:ident),*])?;
    )*) => {
        $(
            #[doc = $help]
            pub static $constant: Metric<{ count(&[$(stringify!($label)),*]) }> = Metric {
                labels: [$(stringify!($label)),*],
                about: About {
                    name: $name,
                    former_name: metrics!(@former $($former)?),
                    labels: &[$(stringify!($label)),*],
                    former_labels: &[$($((stringify!($old), stringify!($new))),*)?],
                    kind: Kind::$kind,
                    unit: Unit::$unit,
                    help: $help,
                },
            };
        )*

        /// All metrics.
        pub static METRICS: &[&About] = &[$(&$constant.about),*];
    };
    (@former) => { None };
    (@former $former:literal) => { Some($former) };
}

metrics! {
    CLIENTS: Gauge "respgate_clients" [upstream] Count, "Clients connected now.";
    CLIENTS_ACCEPTED: Counter "respgate_clients_accepted_total" [upstream] Count, "Clients accepted.";
    CLIENTS_PINNED: Gauge "respgate_clients_pinned" [upstream] Count, "Clients that hold an upstream connection of their own now.";
    CLIENT_PINS: Gauge "respgate_client_pins" [upstream, reason] Count, "Reasons for which clients hold an upstream connection of their own now; a client may have several.";
    CLIENTS_HELD: Gauge "respgate_clients_held" [upstream] Count, "Clients whose commands wait for a primary now.";
    CLIENTS_CLOSED: Counter "respgate_clients_closed_total" [upstream, reason] Count, "Clients that respgate disconnected, by reason.";
    AUTH_REFUSED: Counter "respgate_auth_refused_total" [upstream] Count, "Failed AUTHs of respgate's own users.";
    AUTH_THROTTLED: Counter "respgate_auth_throttled_total" [upstream] Count, "AUTHs that respgate refused because too many wrong passwords came from their source.";
    CONNECTS_DELAYED: Counter "respgate_connects_delayed_total" [listener] Count, "New connections that waited because their source opened more than connects-per-second.";
    CONNECTS_REFUSED: Counter "respgate_connects_refused_total" [listener] Count, "New connections that respgate closed because their source opened more than connects-per-second.";
    BUFFERED_BYTES: Gauge "respgate_buffered_bytes" [] Bytes, "Bytes of requests and replies that respgate holds for clients now.";
    MAX_BUFFERED_BYTES: Gauge "respgate_max_buffered_bytes" [] Bytes, "Limit of respgate_buffered_bytes: max-buffered.";
    LISTENER_CLIENTS: Gauge "respgate_listener_clients" [listener] Count, "Clients connected to a listener now.";
    LISTENER_MAX_CLIENTS: Gauge "respgate_listener_max_clients" [listener] Count, "Limit of respgate_listener_clients: max-clients, or fewer if file descriptors are short.";
    CLIENTS_TURNED_AWAY: Counter "respgate_clients_turned_away_total" [listener] Count, "New connections that respgate closed because max-clients was reached or file descriptors were short.";

    COMMANDS: Counter "respgate_commands_total" [upstream, lane] Count, "Commands carried, by lane.";
    COMMANDS_REFUSED: Counter "respgate_commands_refused_total" [upstream, reason] Count, "Commands that respgate refused itself, by the setting that refuses them; limits: a limit of a tenant; other: none of these settings.";
    COMMANDS_RESENT: Counter "respgate_commands_resent_total" [upstream] Count, "Commands sent again after a connection was lost.";
    COMMAND_TIMEOUTS: Counter "respgate_command_timeouts_total" [upstream] Count, "Commands that got no reply within command-timeout.";
    REPLICA_READS: Counter "respgate_replica_reads_total" [upstream] Count, "Reads that were sent to a replica.";
    REPLICA_FALLBACKS: Counter "respgate_replica_fallbacks_total" [upstream, reason] Count, "Reads that went to the primary although the client reads from replicas, by reason.";
    REPLICA_READS_EXPIRED: Counter "respgate_replica_reads_expired_total" [upstream] Count, "Reads that failed because no replica could serve them within hold-timeout.";
    REPLICA_READS_RETURNED: Counter "respgate_replica_reads_returned_total" [upstream] Count, "Reads that a replica owed when it was lost or fell behind, or that a replica of a cluster redirected, and that went to another node.";
    CLUSTER_REDIRECTS: Counter "respgate_cluster_redirects_total" [upstream, kind] Count, "Commands that a node of a cluster did not run, by its reply: moved, ask, tryagain or clusterdown. respgate sent them again.";
    CLUSTER_REDIRECTS_FAILED: Counter "respgate_cluster_redirects_failed_total" [upstream] Count, "Redirected commands that failed, because no node ran them within hold-timeout or the nodes redirected them too often.";
    OUTCOME_UNKNOWN: Counter "respgate_outcome_unknown_total" [upstream] Count, "Writes answered with OUTCOMEUNKNOWN.";
    SESSIONS_MIGRATED: Counter "respgate_sessions_migrated_total" [upstream] Count, "Sessions whose state respgate moved to another connection.", formerly "respgate_sessions_transplanted_total";

    COMMAND_DURATION: Histogram "respgate_command_duration_seconds" [upstream, class] Seconds, "Time from reading a command to writing its reply, by class; a blocking command may wait for other clients.";
    COMMAND_PART_DURATION: Histogram "respgate_command_part_duration_seconds" [upstream, class, part] Seconds, "The parts of respgate_command_duration_seconds: waiting for a limit, for a primary (hold), for a lane or lease (wait), at the server, and in respgate.";
    COMMAND_NAME_DURATION: Histogram "respgate_command_name_duration_seconds" [upstream, command] Seconds, "Time from reading a command to reading its reply, by the command's name, if latency is commands.";
    SLOW_COMMANDS: Counter "respgate_slow_commands_total" [upstream] Count, "Commands that took slow-log-threshold or longer.";

    UPSTREAM_CONNECTIONS: Gauge "respgate_upstream_connections" [upstream, lane] Count, "Upstream connections open now, by lane.";
    UPSTREAM_MAX_CONNECTIONS: Gauge "respgate_upstream_max_connections" [upstream] Count, "Limit of respgate_upstream_connections over all lanes: max-connections.";
    UPSTREAM_MAX_LEASED: Gauge "respgate_upstream_max_leased" [upstream] Count, "Limit of leased upstream connections, idle ones included: max-leased. Each worker has an equal share.";
    UPSTREAM_CONNECTIONS_IDLE: Gauge "respgate_upstream_connections_idle" [upstream] Count, "Leased upstream connections that no session uses now.";
    UPSTREAM_CONNECTS: Counter "respgate_upstream_connects_total" [upstream] Count, "Upstream connections that respgate opened and that passed the handshake.";
    UPSTREAM_CONNECT_ERRORS: Counter "respgate_upstream_connect_errors_total" [upstream] Count, "Upstream connections that respgate could not open.";
    UPSTREAM_CONNECTIONS_LOST: Counter "respgate_upstream_connections_lost_total" [upstream] Count, "Upstream connections that broke.";
    UPSTREAM_CONNECTIONS_REPLACED: Counter "respgate_upstream_connections_replaced_total" [upstream] Count, "Shared upstream connections that respgate replaced because of their age or of new credentials.", formerly "respgate_upstream_connections_renewed_total";
    UPSTREAM_CONNECTIONS_ISOLATED: Counter "respgate_upstream_connections_isolated_total" [upstream] Count, "Shared upstream connections left to one client because its replies were too large to share them.";
    UPSTREAM_REAUTHENTICATED: Counter "respgate_upstream_reauthenticated_total" [upstream] Count, "Open upstream connections that respgate authenticated again with new credentials.";
    UPSTREAM_AUTH_REFUSED: Counter "respgate_upstream_auth_refused_total" [upstream] Count, "Times that the upstream refused the user or password of respgate or of one of its users.";
    UPSTREAM_ERROR_REPLIES: Counter "respgate_upstream_error_replies_total" [upstream] Count, "Error replies from the upstream.";
    UPSTREAM_READS: Counter "respgate_upstream_reads_total" [upstream] Count, "Socket reads from shared upstream connections.";
    UPSTREAM_WRITES: Counter "respgate_upstream_writes_total" [upstream] Count, "Socket writes to shared upstream connections.";
    UNSOLICITED_PUSHES: Counter "respgate_unsolicited_pushes_total" [upstream] Count, "Pushes from shared connections that no client had asked for and that respgate dropped.", formerly "respgate_unasked_pushes_total";
    USER_AUTH_REFUSED: Gauge "respgate_user_upstream_auth_refused" [upstream, user] Count, "1 while the upstream refuses the credentials that respgate has for this user, else 0.";
    LEASE_WAITS: Counter "respgate_lease_waits_total" [upstream] Count, "Times that a session had to wait for a lease.";
    LEASE_WAITING: Gauge "respgate_lease_waiting" [upstream] Count, "Sessions that wait for a lease now.";
    LEASE_TIMEOUTS: Counter "respgate_lease_timeouts_total" [upstream] Count, "Times that a session got no lease within lease-timeout.";

    PRIMARY_KNOWN: Gauge "respgate_primary_known" [upstream] Count, "1 if respgate knows a verified primary, else 0.";
    PAUSED: Gauge "respgate_upstream_paused" [upstream] Count, "1 while an operator has paused the upstream, else 0.";
    SWITCHED: Gauge "respgate_upstream_switched" [upstream] Count, "1 while an operator has switched the upstream to another address than that of the configuration, else 0.";
    SWITCHES: Counter "respgate_upstream_switches_total" [upstream] Count, "Times that the upstream was switched to another address since the start.";
    PRIMARY_GENERATION: Gauge "respgate_primary_generation" [upstream] Count, "Primaries followed since the start.";
    SENTINEL_CONFIG_EPOCH: Gauge "respgate_sentinel_config_epoch" [upstream] Count, "Sentinel's config-epoch of the primary.";
    SENTINELS: Gauge "respgate_sentinels" [upstream, view] Count, "Sentinels that respgate follows, by their view of the primary: agrees, other, unknown, refused, unreachable or pending.";
    CLUSTER_SHARDS: Gauge "respgate_cluster_shards" [upstream] Count, "Shards of the cluster, those without slots included; absent unless the upstream is a cluster.";
    CLUSTER_SLOTS_SERVED: Gauge "respgate_cluster_slots_served" [upstream] Count, "Slots of the cluster, of 16384, whose shard has a verified primary that is not failing.";
    CLUSTER_EPOCH: Gauge "respgate_cluster_epoch" [upstream] Count, "The newest config epoch that a node of the cluster has named.";
    CLUSTER_REFRESHES: Counter "respgate_cluster_refreshes_total" [upstream] Count, "Times that respgate asked the nodes of the cluster for their view.";
    FAILOVERS: Counter "respgate_failovers_total" [upstream, lossless] Count, "Failovers followed; lossless: the old primary had answered everything before.";
    LAST_FAILOVER: Gauge "respgate_last_failover_seconds" [upstream, phase] Seconds, "Seconds from the first sign of the last failover to each of its phases.";
    HOLDS: Counter "respgate_holds_total" [upstream] Count, "Times that commands began to wait for a primary.";
    HOLD_EXPIRED: Counter "respgate_hold_expired_total" [upstream] Count, "Commands that failed because respgate found no primary within hold-timeout.";

    REPLICA_CONNECTED: Gauge "respgate_replica_connected" [upstream, replica] Count, "1 while the replica's link to the primary is up, else 0.";
    REPLICA_LAG_BYTES: Gauge "respgate_replica_lag_bytes" [upstream, replica] Bytes, "Bytes of the primary's replication stream that the replica lacks.";
    REPLICA_LAG_SECONDS: Gauge "respgate_replica_lag_seconds" [upstream, replica] Seconds, "Age of the oldest write that the replica lacks, 0 if it lacks none.";

    REPLICA_SERVES: Gauge "respgate_replica_serves" [upstream, replica] Count, "1 if the replica may serve reads now, else 0; absent while no client reads from replicas.";
    REPLICA_OBSTACLE: Gauge "respgate_replica_obstacle" [upstream, replica, reason] Count, "1 for the reason why the replica serves no reads now, else 0.";
    REPLICA_REQUESTS: Counter "respgate_replica_requests_total" [upstream, replica] Count, "Reads that were sent to this replica.";
    REPLICA_OUTSTANDING: Gauge "respgate_replica_requests_outstanding" [upstream, replica] Count, "Reads that the replica has not answered yet.";
    REPLICA_CONNECTIONS: Gauge "respgate_replica_connections" [upstream, replica] Count, "Connections to the replica open now.";
    REPLICA_CONNECT_ERRORS: Counter "respgate_replica_connect_errors_total" [upstream, replica] Count, "Connections to the replica that respgate could not open, one for each user, database and protocol version.";

    FANIN_SUBSCRIBERS: Gauge "respgate_fanin_subscribers" [upstream] Count, "Clients with subscriptions by fan-in now.";
    FANIN_CHANNELS: Gauge "respgate_fanin_channels" [upstream] Count, "Channels, patterns and shard channels that fan-in is subscribed to now.";
    FANIN_MESSAGES: Counter "respgate_fanin_messages_total" [upstream] Count, "Messages that fan-in received from the upstream.";
    FANIN_DELIVERIES: Counter "respgate_fanin_deliveries_total" [upstream] Count, "Messages that fan-in delivered to clients.";

    TENANT_COMMANDS: Counter "respgate_tenant_commands_total" [tenant] Count, "Commands received from a tenant's clients.";
    TENANT_DENIED: Counter "respgate_tenant_denied_total" [tenant] Count, "Commands of a tenant's clients that its policy denied.";
    TENANT_CLIENTS: Gauge "respgate_tenant_clients" [tenant] Count, "Clients of a tenant connected now.";
    TENANT_LEASES: Gauge "respgate_tenant_leases" [tenant, kind] Count, "Upstream connections that a tenant's clients hold now, by kind.";
    TENANT_IN_FLIGHT: Gauge "respgate_tenant_commands_in_flight" [tenant] Count, "Commands of a tenant sent and unanswered now, where in-flight limits them.";
    TENANT_BUFFERED_BYTES: Gauge "respgate_tenant_buffered_bytes" [tenant] Bytes, "Bytes that wait for a tenant's clients now, where max-buffered limits them.";
    TENANT_DELAYED: Counter "respgate_tenant_delayed_total" [tenant, limit] Count, "Commands of a tenant that a limit delayed, by limit.";
    TENANT_REFUSED: Counter "respgate_tenant_refused_total" [tenant, limit] Count, "Commands and clients of a tenant that a limit refused, by limit.";
    RATES_SHARED: Gauge "respgate_rates_shared" [upstream] Count, "1 while respgate shares rates of tenants with other respgates, 0 while each keeps to its own part.";
    RATE_FALLBACKS: Counter "respgate_rate_fallbacks_total" [upstream] Count, "Times that respgate stopped sharing rates of tenants because the upstream did not answer.";

    RELOADS: Counter "respgate_reloads_total" [kind, name, outcome] Count, "Changes of files and credentials; ok: respgate uses the new version; failed: it cannot.", labels formerly [what = kind, of = name];
    RELOAD_FAILED: Gauge "respgate_reload_failed" [kind, name] Count, "1 while respgate cannot use the newest version, else 0.", formerly "respgate_reload_fault", labels formerly [what = kind, of = name];
    RELOAD_READ_STUCK: Gauge "respgate_reload_read_stuck" [kind, name] Count, "1 while a read of the files does not end, else 0.", labels formerly [what = kind, of = name];
    RELOAD_RESTART_NEEDED: Gauge "respgate_reload_restart_needed" [kind, name] Count, "Parts of the newest version that have no effect before a restart.", labels formerly [what = kind, of = name];
    TLS_HANDSHAKES: Counter "respgate_tls_handshakes_total" [listener, kind] Count, "TLS handshakes with clients, by kind.";
    TLS_HANDSHAKE_FAILURES: Counter "respgate_tls_handshake_failures_total" [listener, reason] Count, "TLS handshakes with clients that failed, by reason.";
    TLS_CERTIFICATE_EXPIRY: Gauge "respgate_tls_certificate_expiry_timestamp_seconds" [leg, name] Seconds, "When respgate's own certificate expires, in seconds since 1970.";

    WORKER_LONGEST_POLL: Gauge "respgate_worker_longest_poll_seconds" [worker] Seconds, "Longest time that one task kept all others of the worker waiting within the last 60 to 120 seconds.";
    WORKER_LONG_POLLS: Counter "respgate_worker_long_polls_total" [worker] Count, "Times that one task kept all others of the worker waiting for 20 ms or more.";
    LOG_LINES_SUPPRESSED: Counter "respgate_log_lines_suppressed_total" [module, level] Count, "Log lines that respgate left out because their cause repeats too often.";
    PROCESS_START_TIME: Gauge "process_start_time_seconds" [] Seconds, "When the process started, in seconds since 1970.";
    PROCESS_CPU: Counter "process_cpu_seconds_total" [] Seconds, "Processor time that the process has used, in whole seconds.";
    PROCESS_RESIDENT_MEMORY: Gauge "process_resident_memory_bytes" [] Bytes, "Resident memory of the process.";
    BUILD_INFO: Gauge "respgate_build_info" [version] Count, "Always 1; the label says which version runs.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for metric in METRICS {
            let name = metric.name;
            // The names that Prometheus's own client libraries use, and dashboards know.
            assert!(name.starts_with("respgate_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            let of_one = name.trim_end_matches("_total");
            assert_eq!(of_one.ends_with("_bytes"), metric.unit == Unit::Bytes, "{name}");
            assert_eq!(of_one.ends_with("_seconds"), metric.unit == Unit::Seconds, "{name}");
            assert!(metric.help.ends_with('.'), "{name}: {}", metric.help);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> =
            METRICS.iter().flat_map(|metric| [Some(metric.name), metric.former_name]).flatten().collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn a_deprecated_label_stands_for_one_that_the_metric_has() {
        for metric in METRICS {
            for (old, new) in metric.former_labels {
                assert!(metric.labels.contains(new), "{}: {new}", metric.name);
                assert!(!metric.labels.contains(old), "{}: {old}", metric.name);
            }
        }
    }
}
