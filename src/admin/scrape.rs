//! Collects what the workers counted and renders it as Prometheus text.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use metrics::{Key, KeyName, Metadata, Recorder};
use metrics::{Label, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::security::TlsStatus;
use super::{Sources, View};
use crate::metrics::{FIGURES, Figure, Kind, Snapshot};
use crate::net::tls::accept::Handshakes;
use crate::poll_meter::PollFigures;
use crate::rotation::Tally;
use crate::tenant::Tenant;
use crate::tenant::figures::Counted;
use crate::tenant::limits::refusal::Limit;
use crate::timeline::Timelines;
use crate::topology::Topology;
use crate::worker::Counted as WorkerCounts;

/// Time that a rendering waits for a busy worker. After it, the sums leave out that worker's
/// counts: gauges fall, and counters keep their last value.
const WORKER_TIMEOUT: Duration = Duration::from_secs(1);

/// Minimum time between the starts of two renderings.
const SPACING: Duration = Duration::from_millis(20);

/// Renders metrics on demand.
pub(super) struct MetricsEndpoint {
    upstreams: Vec<View>,
    sources: Sources,
    registry: Mutex<Arc<MetricsRegistry>>,
    /// Number of renderings that have begun.
    begun: AtomicU64,
    newest: tokio::sync::Mutex<Text>,
}

/// A rendered text and its number, from 1.
#[derive(Default)]
struct Text {
    number: u64,
    begun: Option<Instant>,
    bytes: Bytes,
}

/// Holds the metrics' present values.
pub(super) struct MetricsRegistry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// See [`crate::tenant::Tenants::version`].
    version: u64,
}

const META: Metadata<'static> = Metadata::new("respgate", metrics::Level::INFO, None);

impl MetricsEndpoint {
    pub(super) fn new(upstreams: Vec<View>, sources: Sources) -> Self {
        let registry = Mutex::new(Arc::new(MetricsRegistry::new(0)));
        Self { upstreams, sources, registry, begun: AtomicU64::new(0), newest: tokio::sync::Mutex::default() }
    }

    /// Returns the registry. Replaces it if users or tenants have changed: otherwise the metrics of
    /// removed users, tenants and limits would stay for ever.
    fn registry(&self, version: u64) -> Arc<MetricsRegistry> {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if registry.version != version {
            *registry = Arc::new(MetricsRegistry::new(version));
        }
        registry.clone()
    }

    /// Asks all workers for their counts at the same time. Leaves out those that do not answer
    /// within the timeout.
    async fn snapshots(&self) -> Vec<(usize, WorkerCounts)> {
        let mut asked = JoinSet::new();
        for (number, worker) in self.sources.workers.iter().cloned().enumerate() {
            asked.spawn(async move {
                let counted = timeout(WORKER_TIMEOUT, worker.snapshot()).await.ok().flatten()?;
                Some((number, counted))
            });
        }
        let mut counts = Vec::with_capacity(self.sources.workers.len());
        while let Some(counted) = asked.join_next().await {
            counts.extend(counted.ok().flatten());
        }
        counts
    }

    /// Returns the present metrics. Renderings run one after the other and start at least
    /// [`SPACING`] apart. All requests that arrive meanwhile share the next rendering, so that many
    /// requests cost no more than one.
    pub(super) async fn text(&self) -> Bytes {
        // A rendering that begins after this moment is recent enough for this request. Requests
        // wait for the lock; the first of them renders, and the others find its text.
        let before = self.begun.load(Ordering::Relaxed);
        let mut newest = self.newest.lock().await;
        if newest.number <= before {
            if let Some(begun) = newest.begun {
                sleep_until(begun + SPACING).await;
            }
            newest.begun = Some(Instant::now());
            let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
            // The client may leave before the text is ready, which drops this future. The next
            // request then renders again.
            let bytes = Bytes::from(self.render().await);
            (newest.number, newest.bytes) = (number, bytes);
        }
        newest.bytes.clone()
    }

    async fn render(&self) -> String {
        let mut sums: Vec<Snapshot> = vec![[0; FIGURES.len()]; self.upstreams.len()];
        let tenants = self.sources.tenants.borrow().clone();
        let mut counts: HashMap<usize, Counted> = HashMap::new();
        let mut buffered = 0;
        let mut handshakes: Vec<Handshakes> = Vec::new();
        let mut polls: Vec<(usize, PollFigures)> = Vec::new();
        for (number, counted) in self.snapshots().await {
            polls.push((number, counted.polls));
            buffered += counted.buffered as u64;
            for (tenant, counted) in &counted.tenants {
                counts.entry(*tenant).or_default().add(counted);
            }
            handshakes.resize_with(counted.handshakes.len(), Handshakes::default);
            handshakes.iter_mut().zip(&counted.handshakes).for_each(|(sum, counted)| sum.add(counted));
            for (sum, snapshot) in sums.iter_mut().zip(counted.upstreams) {
                sum.iter_mut().zip(snapshot).for_each(|(sum, value)| *sum += value);
            }
        }
        let registry = self.registry(tenants.version);
        for (View { name, topology, timelines, .. }, sum) in self.upstreams.iter().zip(sums) {
            for (figure, value) in FIGURES.iter().zip(sum) {
                registry.publish(figure.name, figure.kind, labels(name, figure.label), value);
            }
            registry.publish_topology(name, &topology.borrow());
            registry.publish_failovers(name, timelines);
            for user in tenants.users.iter().flat_map(|users| users.all()) {
                if let Some(login) = user.login(name) {
                    let mut labels = labels(name, None);
                    labels.push(Label::new("user", user.name.clone()));
                    registry.publish(USER_REFUSED, Kind::Gauge, labels, login.refusal().is_some().into());
                }
            }
        }
        for tenant in &tenants.all {
            registry.publish_tenant(tenant, &counts.remove(&tenant.number).unwrap_or_default());
        }
        for store in self.sources.stores.all() {
            let standing = store.standing();
            let shared = standing.fault.is_none().into();
            registry.publish(RATES_SHARED, Kind::Gauge, labels(&store.upstream, None), shared);
            registry.publish(FALLBACKS, Kind::Counter, labels(&store.upstream, None), standing.fallbacks);
        }
        registry.publish_reloads(&self.sources.reloads.all());
        for ((module, level), count) in self.sources.logs.suppressed() {
            let labels = vec![Label::new("module", module), Label::new("level", level)];
            registry.publish(LINES_SUPPRESSED, Kind::Counter, labels, count);
        }
        let version = vec![Label::new("version", env!("CARGO_PKG_VERSION"))];
        registry.publish(BUILD, Kind::Gauge, version, 1);
        self.sources.security.publish(&registry, &handshakes);
        registry.publish(BUFFERED, Kind::Gauge, Vec::new(), buffered);
        registry.publish_polls(&polls);
        registry.handle.run_upkeep();
        registry.handle.render()
    }
}

impl MetricsRegistry {
    fn new(version: u64) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        for Figure { name, kind, help, .. } in FIGURES {
            describe(&recorder, name, *kind, help);
        }
        describe(
            &recorder,
            PRIMARY_KNOWN,
            Kind::Gauge,
            "Whether a verified primary is known (1) or not (0).",
        );
        describe(&recorder, GENERATION, Kind::Gauge, "Primaries followed since the start.");
        describe(&recorder, EPOCH, Kind::Gauge, "Sentinel's config-epoch of the primary.");
        describe(
            &recorder,
            BUFFERED,
            Kind::Gauge,
            "Requests and replies held for clients now, of all workers, in bytes.",
        );
        describe(
            &recorder,
            LONGEST_POLL,
            Kind::Gauge,
            "The longest time that one task kept all others of a worker waiting within the last 60 to 120 seconds.",
        );
        describe(
            &recorder,
            LONG_POLLS,
            Kind::Counter,
            "How often a task kept all others of a worker waiting for 20 ms or more.",
        );
        describe(
            &recorder,
            FAILOVERS,
            Kind::Counter,
            "Failovers followed; lossless: the old primary had answered everything before.",
        );
        describe(
            &recorder,
            LAST_FAILOVER,
            Kind::Gauge,
            "When each phase of the last failover was reached, in seconds since its first sign.",
        );
        describe(
            &recorder,
            LINES_SUPPRESSED,
            Kind::Counter,
            "Log lines left out because their cause repeats too often, by module.",
        );
        describe(&recorder, BUILD, Kind::Gauge, "Always 1; its label says which version runs.");
        describe_tenants(&recorder);
        describe(
            &recorder,
            USER_REFUSED,
            Kind::Gauge,
            "Whether the upstream refuses what respgate authenticates with for one of its users (1).",
        );
        describe(
            &recorder,
            RELOADS,
            Kind::Counter,
            "Changes of files and credentials, by what became of them: a new version is used (ok), or cannot be (failed).",
        );
        describe(&recorder, RELOAD_FAULT, Kind::Gauge, "Whether the newest version cannot be used (1).");
        describe(&recorder, READ_STUCK, Kind::Gauge, "Whether a read of its files is stuck (1).");
        describe(
            &recorder,
            RESTART_NEEDED,
            Kind::Gauge,
            "How many parts of the newest version have no effect before a restart.",
        );
        let registry = Self { recorder, handle, version };
        TlsStatus::describe(&registry);
        registry
    }

    fn publish_topology(&self, name: &str, topology: &Topology) {
        let known = topology.primary();
        self.publish(PRIMARY_KNOWN, Kind::Gauge, labels(name, None), known.is_some().into());
        if let Some(primary) = known {
            self.publish(GENERATION, Kind::Gauge, labels(name, None), primary.generation.0);
            if let Some(epoch) = primary.config_epoch {
                self.publish(EPOCH, Kind::Gauge, labels(name, None), epoch);
            }
        }
    }

    fn publish_polls(&self, polls: &[(usize, PollFigures)]) {
        for (worker, figures) in polls {
            let labels = || vec![Label::new("worker", worker.to_string())];
            let key = Key::from_parts(LONGEST_POLL, labels());
            self.recorder.register_gauge(&key, &META).set(figures.longest.as_secs_f64());
            self.publish(LONG_POLLS, Kind::Counter, labels(), figures.long);
        }
    }

    fn publish_reloads(&self, reloads: &[Tally]) {
        for tally in reloads {
            let outcomes = tally.outcomes();
            let which = || vec![Label::new("what", tally.what), Label::new("of", tally.of.to_string())];
            for (outcome, count) in [("ok", outcomes.replaced), ("failed", outcomes.refused)] {
                let mut labels = which();
                labels.push(Label::new("outcome", outcome));
                self.publish(RELOADS, Kind::Counter, labels, count);
            }
            self.publish(RELOAD_FAULT, Kind::Gauge, which(), outcomes.fault.is_some().into());
            self.publish(READ_STUCK, Kind::Gauge, which(), outcomes.stuck.is_some().into());
            self.publish(RESTART_NEEDED, Kind::Gauge, which(), outcomes.restart.len() as u64);
        }
    }

    fn publish_failovers(&self, name: &str, timelines: &Timelines) {
        let totals = timelines.totals();
        for (lossless, count) in [("true", totals.lossless), ("false", totals.other)] {
            let labels = labels(name, Some(("lossless", lossless)));
            self.publish(FAILOVERS, Kind::Counter, labels, count);
        }
        let Some(last) = timelines.past().pop() else { return };
        let phases = [
            ("held", last.held),
            ("named", last.named),
            ("verified", last.verified),
            ("first_success", last.first_success),
        ];
        for (phase, at) in phases {
            let labels = labels(name, Some(("phase", phase)));
            let key = Key::from_parts(LAST_FAILOVER, labels);
            self.recorder.register_gauge(&key, &META).set(at.unwrap_or_default().as_secs_f64());
        }
    }

    fn publish_tenant(&self, tenant: &Tenant, counted: &Counted) {
        let labels = |more: Option<(&'static str, &'static str)>| {
            let mut labels = vec![Label::new("tenant", tenant.config.name.clone())];
            labels.extend(more.map(|(name, value)| Label::new(name, value)));
            labels
        };
        self.publish(TENANT_COMMANDS, Kind::Counter, labels(None), counted.commands);
        if tenant.config.policy.is_some() {
            self.publish(TENANT_DENIED, Kind::Counter, labels(None), counted.denied);
        }
        self.publish(TENANT_CLIENTS, Kind::Gauge, labels(None), tenant.connections.taken() as u64);
        for (limit, count) in [(Limit::InFlight, &tenant.in_flight), (Limit::Buffered, &tenant.buffered)] {
            if count.limit().is_some() {
                let name = if limit == Limit::InFlight { TENANT_IN_FLIGHT } else { TENANT_BUFFERED };
                self.publish(name, Kind::Gauge, labels(None), count.taken() as u64);
            }
        }
        for (limit, count) in [
            (Limit::Leased, &tenant.leased),
            (Limit::Blocked, &tenant.blocked),
            (Limit::Subscribed, &tenant.subscribed),
            (Limit::Transactions, &tenant.transactions),
        ] {
            self.publish(
                TENANT_LEASES,
                Kind::Gauge,
                labels(Some(("kind", limit.key()))),
                count.taken() as u64,
            );
        }
        // A limit that never took effect gets no sample, so that a tenant has few samples.
        for (at, limit) in Limit::ALL.into_iter().enumerate() {
            for (name, figures) in [(TENANT_DELAYED, &counted.delayed), (TENANT_REFUSED, &counted.refused)] {
                if let Some(value) = figures.get(at).copied().filter(|value| *value > 0) {
                    self.publish(name, Kind::Counter, labels(Some(("limit", limit.key()))), value);
                }
            }
        }
    }

    pub(super) fn describe(&self, name: &'static str, kind: Kind, help: &'static str) {
        describe(&self.recorder, name, kind, help);
    }

    pub(super) fn publish(&self, name: &'static str, kind: Kind, labels: Vec<Label>, value: u64) {
        let key = Key::from_parts(name, labels);
        match kind {
            Kind::Counter => self.recorder.register_counter(&key, &META).absolute(value),
            Kind::Gauge => self.recorder.register_gauge(&key, &META).set(value as f64),
        }
    }
}

const TENANT_COMMANDS: &str = "respgate_tenant_commands_total";
const TENANT_DENIED: &str = "respgate_tenant_denied_total";
const TENANT_CLIENTS: &str = "respgate_tenant_clients";
const TENANT_IN_FLIGHT: &str = "respgate_tenant_commands_in_flight";
const TENANT_BUFFERED: &str = "respgate_tenant_buffered_bytes";
const TENANT_LEASES: &str = "respgate_tenant_leases";
const TENANT_DELAYED: &str = "respgate_tenant_delayed_total";
const TENANT_REFUSED: &str = "respgate_tenant_refused_total";
const USER_REFUSED: &str = "respgate_user_upstream_auth_refused";
const RATES_SHARED: &str = "respgate_rates_shared";
const FALLBACKS: &str = "respgate_rate_fallbacks_total";
const PRIMARY_KNOWN: &str = "respgate_primary_known";
const GENERATION: &str = "respgate_primary_generation";
const EPOCH: &str = "respgate_sentinel_config_epoch";
const BUFFERED: &str = "respgate_buffered_bytes";
const LONGEST_POLL: &str = "respgate_worker_longest_poll_seconds";
const LONG_POLLS: &str = "respgate_worker_long_polls_total";
const FAILOVERS: &str = "respgate_failovers_total";
const LAST_FAILOVER: &str = "respgate_last_failover_seconds";
const RELOADS: &str = "respgate_reloads_total";
const RELOAD_FAULT: &str = "respgate_reload_fault";
const READ_STUCK: &str = "respgate_reload_read_stuck";
const RESTART_NEEDED: &str = "respgate_reload_restart_needed";
const LINES_SUPPRESSED: &str = "respgate_log_lines_suppressed_total";
const BUILD: &str = "respgate_build_info";

fn describe(recorder: &PrometheusRecorder, name: &'static str, kind: Kind, help: &'static str) {
    let (name, unit, help) = (KeyName::from(name), Some(Unit::Count), help.into());
    match kind {
        Kind::Counter => recorder.describe_counter(name, unit, help),
        Kind::Gauge => recorder.describe_gauge(name, unit, help),
    }
}

fn describe_tenants(recorder: &PrometheusRecorder) {
    for (name, kind, help) in [
        (TENANT_COMMANDS, Kind::Counter, "Commands taken from a tenant's clients."),
        (TENANT_DENIED, Kind::Counter, "Commands of a tenant's clients that its policy denied."),
        (TENANT_CLIENTS, Kind::Gauge, "Clients of a tenant connected now."),
        (
            TENANT_IN_FLIGHT,
            Kind::Gauge,
            "Commands of a tenant sent and unanswered now, where they are limited.",
        ),
        (TENANT_BUFFERED, Kind::Gauge, "Bytes that wait for a tenant's clients now, where they are limited."),
        (
            TENANT_LEASES,
            Kind::Gauge,
            "Upstream connections that a tenant's clients have to themselves now, by kind.",
        ),
        (TENANT_DELAYED, Kind::Counter, "Commands of a tenant that a limit delayed, by limit."),
        (
            RATES_SHARED,
            Kind::Gauge,
            "Whether rates of tenants are shared with other respgates (1), or each keeps to its own part (0).",
        ),
        (FALLBACKS, Kind::Counter, "How often rates of tenants could no longer be shared."),
        (TENANT_REFUSED, Kind::Counter, "Commands and clients of a tenant that a limit refused, by limit."),
    ] {
        describe(recorder, name, kind, help);
    }
}

fn labels(upstream: &str, label: Option<(&'static str, &'static str)>) -> Vec<Label> {
    let mut labels = vec![Label::new("upstream", upstream.to_owned())];
    labels.extend(label.map(|(name, value)| Label::new(name, value)));
    labels
}
