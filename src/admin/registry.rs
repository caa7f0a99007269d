//! Holds the metrics' present values.

use std::time::Duration;

use metrics::{Key, KeyName, Label, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::time::Instant;

use crate::cluster::ClusterTopology;
use crate::discovery::DiscoveryStatus;
use crate::discovery::read_replicas::health::{Obstacle, ReadTerms, ReplicaHealth};
use crate::discovery::replicas::Replication;
use crate::metrics::Snapshot;
use crate::metrics::counters::{FIGURES, Figure};
use crate::metrics::declared::{self, About, Kind, METRICS, Metric};
use crate::operator::OperatorStatus;
use crate::poll_meter::PollFigures;
use crate::rotation::Tally;
use crate::tenant::Tenant;
use crate::tenant::figures::Counted;
use crate::tenant::limits::refusal::Limit;
use crate::timeline::Timelines;
use crate::topology::{Address, Topology};
use crate::upstream::replica::counters::ReplicaCounts;

/// Holds the metrics' present values.
pub(super) struct MetricsRegistry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    pub(super) version: RegistryVersion,
}

/// Changes when tenants, replicas or upstreams have come or gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RegistryVersion {
    /// See [`crate::tenant::Tenants::version`].
    pub(super) tenants: u64,
    /// The number of each upstream, whether it is a cluster, the [`Replication::version`] of its replicas, and the [`ReplicaHealth::version`] of those that may
    /// serve reads.
    pub(super) upstreams: Vec<(usize, bool, u64, u64)>,
}

const META: Metadata<'static> = Metadata::new("respgate", metrics::Level::INFO, None);

impl MetricsRegistry {
    pub(super) fn new(version: RegistryVersion) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        for about in METRICS {
            describe(&recorder, about, about.name, about.help.into());
            if let Some(former) = about.former_name {
                describe(&recorder, about, former, format!("Deprecated: use {}.", about.name).into());
            }
        }
        Self { recorder, handle, version }
    }

    pub(super) fn publish_counters(&self, upstream: &str, snapshot: &Snapshot) {
        for (figure, value) in FIGURES.iter().zip(snapshot) {
            match figure {
                Figure::Plain(metric) => self.publish(metric, [upstream], *value),
                Figure::Labelled(metric, label) => self.publish(metric, [upstream, label], *value),
            }
        }
    }

    pub(super) fn publish_topology(&self, upstream: &str, topology: &Topology) {
        let known = topology.primary();
        self.publish(&declared::PRIMARY_KNOWN, [upstream], known.is_some().into());
        if let Some(primary) = known {
            self.publish(&declared::PRIMARY_GENERATION, [upstream], primary.generation.0);
            if let Some(epoch) = primary.config_epoch {
                self.publish(&declared::SENTINEL_CONFIG_EPOCH, [upstream], epoch);
            }
        }
    }

    pub(super) fn publish_cluster(
        &self,
        upstream: &str,
        cluster: &ClusterTopology,
        discovery: &DiscoveryStatus,
    ) {
        self.publish(&declared::CLUSTER_SHARDS, [upstream], cluster.shards.len() as u64);
        self.publish(&declared::CLUSTER_SLOTS_SERVED, [upstream], cluster.slots_with_primary() as u64);
        self.publish(&declared::CLUSTER_EPOCH, [upstream], cluster.epoch);
        self.publish(&declared::CLUSTER_REFRESHES, [upstream], discovery.asks);
    }

    pub(super) fn publish_replication(&self, upstream: &str, replication: &Replication) {
        for sample in &replication.replicas {
            let labels = [upstream, &sample.address.to_string()];
            self.publish(&declared::REPLICA_CONNECTED, labels, sample.is_connected().into());
            if let Some(bytes) = sample.lag_bytes {
                self.publish(&declared::REPLICA_LAG_BYTES, labels, bytes);
            }
            if let Some(lag) = sample.lag {
                self.publish_duration(&declared::REPLICA_LAG_SECONDS, labels, lag);
            }
        }
    }

    /// Publishes which replicas serve reads.
    pub(super) fn publish_replica_health(&self, upstream: &str, health: &ReplicaHealth, terms: ReadTerms) {
        let now = Instant::now();
        for report in &health.replicas {
            let (replica, obstacle) = (&report.address.to_string(), report.obstacle(terms, now));
            self.publish(&declared::REPLICA_SERVES, [upstream, replica], obstacle.is_none().into());
            let present = obstacle.as_ref().map(Obstacle::label);
            for label in Obstacle::LABELS {
                let value = present == Some(label);
                self.publish(&declared::REPLICA_OBSTACLE, [upstream, replica, label], value.into());
            }
        }
    }

    /// Publishes what the workers have counted for one replica.
    pub(super) fn publish_replica_counts(&self, upstream: &str, replica: &Address, counts: &ReplicaCounts) {
        let labels = [upstream, &replica.to_string()];
        self.publish(&declared::REPLICA_REQUESTS, labels, counts.reads);
        self.publish(&declared::REPLICA_OUTSTANDING, labels, counts.outstanding);
        self.publish(&declared::REPLICA_CONNECTIONS, labels, counts.connections);
        self.publish(&declared::REPLICA_CONNECT_ERRORS, labels, counts.connect_errors);
    }

    pub(super) fn publish_orders(&self, upstream: &str, ordered: &OperatorStatus) {
        self.publish(&declared::PAUSED, [upstream], ordered.paused.is_some().into());
        self.publish(&declared::SWITCHED, [upstream], ordered.switched.is_some().into());
        self.publish(&declared::SWITCHES, [upstream], ordered.switches);
    }

    pub(super) fn publish_polls(&self, polls: &[(usize, PollFigures)]) {
        for (worker, figures) in polls {
            let worker = worker.to_string();
            self.publish_duration(&declared::WORKER_LONGEST_POLL, [&worker], figures.longest);
            self.publish(&declared::WORKER_LONG_POLLS, [&worker], figures.long);
        }
    }

    pub(super) fn publish_reloads(&self, reloads: &[Tally]) {
        for tally in reloads {
            let outcomes = tally.outcomes();
            let labels = [tally.kind, &tally.name];
            for (outcome, count) in [("ok", outcomes.replaced), ("failed", outcomes.refused)] {
                self.publish(&declared::RELOADS, [tally.kind, &tally.name, outcome], count);
            }
            self.publish(&declared::RELOAD_FAILED, labels, outcomes.error.is_some().into());
            self.publish(&declared::RELOAD_READ_STUCK, labels, outcomes.stuck.is_some().into());
            self.publish(&declared::RELOAD_RESTART_NEEDED, labels, outcomes.restart.len() as u64);
        }
    }

    pub(super) fn publish_failovers(&self, upstream: &str, timelines: &Timelines) {
        let totals = timelines.totals();
        for (lossless, count) in [("true", totals.lossless), ("false", totals.other)] {
            self.publish(&declared::FAILOVERS, [upstream, lossless], count);
        }
        let Some(last) = timelines.past().pop() else { return };
        let phases = [
            ("held", last.held),
            ("named", last.named),
            ("verified", last.verified),
            ("first_success", last.first_success),
        ];
        for (phase, at) in phases {
            self.publish_duration(&declared::LAST_FAILOVER, [upstream, phase], at.unwrap_or_default());
        }
    }

    pub(super) fn publish_tenant(&self, tenant: &Tenant, counted: &Counted) {
        let name = tenant.config.name.as_str();
        self.publish(&declared::TENANT_COMMANDS, [name], counted.commands);
        if tenant.config.policy.is_some() {
            self.publish(&declared::TENANT_DENIED, [name], counted.denied);
        }
        self.publish(&declared::TENANT_CLIENTS, [name], tenant.connections.taken() as u64);
        for (metric, count) in [
            (&declared::TENANT_IN_FLIGHT, &tenant.in_flight),
            (&declared::TENANT_BUFFERED_BYTES, &tenant.buffered),
        ] {
            if count.limit().is_some() {
                self.publish(metric, [name], count.taken() as u64);
            }
        }
        for (limit, count) in [
            (Limit::Leased, &tenant.leased),
            (Limit::Blocked, &tenant.blocked),
            (Limit::Subscribed, &tenant.subscribed),
            (Limit::Transactions, &tenant.transactions),
        ] {
            self.publish(&declared::TENANT_LEASES, [name, limit.key()], count.taken() as u64);
        }
        // A limit that never took effect gets no sample, so that a tenant has few samples.
        for (at, limit) in Limit::ALL.into_iter().enumerate() {
            for (metric, figures) in
                [(&declared::TENANT_DELAYED, &counted.delayed), (&declared::TENANT_REFUSED, &counted.refused)]
            {
                if let Some(value) = figures.get(at).copied().filter(|value| *value > 0) {
                    self.publish(metric, [name, limit.key()], value);
                }
            }
        }
    }

    /// Returns the metrics as Prometheus text.
    pub(super) fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }

    /// Publishes a number. `labels` are the values of the metric's labels.
    pub(super) fn publish<const LABELS: usize>(
        &self,
        metric: &Metric<LABELS>,
        labels: [&str; LABELS],
        value: u64,
    ) {
        for key in keys(metric, labels) {
            match metric.about.kind {
                Kind::Counter => self.recorder.register_counter(&key, &META).absolute(value),
                Kind::Gauge => self.recorder.register_gauge(&key, &META).set(value as f64),
                // `histograms` writes them.
                Kind::Histogram => {}
            }
        }
    }

    /// Publishes a gauge in seconds.
    fn publish_duration<const LABELS: usize>(
        &self,
        metric: &Metric<LABELS>,
        labels: [&str; LABELS],
        value: Duration,
    ) {
        for key in keys(metric, labels) {
            self.recorder.register_gauge(&key, &META).set(value.as_secs_f64());
        }
    }
}

/// Returns the key of a sample under the metric's name, and under its deprecated name if there is
/// one.
fn keys<const LABELS: usize>(metric: &Metric<LABELS>, values: [&str; LABELS]) -> impl Iterator<Item = Key> {
    let About { name, former_name, former_labels, .. } = &metric.about;
    let mut labels = Vec::with_capacity(LABELS + former_labels.len());
    for (label, value) in metric.labels.iter().zip(values) {
        labels.push(Label::new(*label, value.to_owned()));
        let former = former_labels.iter().filter(|(_, new)| new == label);
        labels.extend(former.map(|(former, _)| Label::new(*former, value.to_owned())));
    }
    let former = former_name.map(|former| Key::from_parts(former, labels.clone()));
    [Key::from_parts(*name, labels)].into_iter().chain(former)
}

fn describe(recorder: &PrometheusRecorder, about: &About, name: &'static str, help: SharedString) {
    let (name, unit) = (KeyName::from(name), Some(about.unit));
    match about.kind {
        Kind::Counter => recorder.describe_counter(name, unit, help),
        Kind::Gauge => recorder.describe_gauge(name, unit, help),
        Kind::Histogram => {}
    }
}
