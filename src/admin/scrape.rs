//! Collects what the workers counted and renders it as Prometheus text.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::histograms;
use super::process::ProcessFigures;
use super::registry::{MetricsRegistry, RegistryVersion};
use super::sentinels;
use super::sources::{Sources, View, Views};
use super::worker_sums::WorkerSums;
use crate::metrics::declared;

/// Minimum time between the starts of two renderings.
const SPACING: Duration = Duration::from_millis(20);

/// Renders metrics on demand.
pub(super) struct MetricsEndpoint {
    upstreams: Views,
    sources: Sources,
    registry: Mutex<Arc<MetricsRegistry>>,
    process: ProcessFigures,
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

impl MetricsEndpoint {
    pub(super) fn new(upstreams: Views, sources: Sources) -> Self {
        Self {
            upstreams,
            sources,
            registry: Mutex::new(Arc::new(MetricsRegistry::new(RegistryVersion::default()))),
            process: ProcessFigures::new(),
            begun: AtomicU64::new(0),
            newest: tokio::sync::Mutex::default(),
        }
    }

    /// Returns the registry. Replaces it if users, tenants, upstreams or replicas have changed: otherwise the metrics
    /// of removed ones would stay for ever.
    fn registry(&self, version: RegistryVersion) -> Arc<MetricsRegistry> {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if registry.version != version {
            *registry = Arc::new(MetricsRegistry::new(version));
        }
        registry.clone()
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
        let mut sums = WorkerSums::collect(&self.sources.workers).await;
        let upstreams = self.upstreams.borrow().clone();
        let tenants = self.sources.tenants.borrow().clone();
        let replications: Vec<_> = upstreams.iter().map(View::sampled).collect();
        let versions = upstreams.iter().zip(&replications).map(|(view, replication)| {
            let replicas = replication.as_ref().map_or(0, |replication| replication.version);
            (view.number, view.cluster.borrow().is_some(), replicas, view.read_replicas_version())
        });
        let version = RegistryVersion { tenants: tenants.version, upstreams: versions.collect() };
        let registry = self.registry(version);
        for (view, replication) in upstreams.iter().zip(&replications) {
            if let Some(replication) = replication {
                registry.publish_replication(&view.name, replication);
            }
        }
        for view in &upstreams {
            let View { number, name, topology, cluster, discovery, timelines, ordered, .. } = view;
            registry.publish_counters(name, &sums.upstream(*number));
            for replicas in view.read_replicas() {
                registry.publish_replica_health(name, &replicas.health, replicas.terms);
            }
            for ((_, replica), counts) in sums.replicas.iter().filter(|((of, _), _)| of == number) {
                registry.publish_replica_counts(name, replica, counts);
            }
            registry.publish_topology(name, &topology.borrow());
            for (view, count) in sentinels::views(&discovery.borrow(), &topology.borrow()) {
                registry.publish(&declared::SENTINELS, [name, view], count);
            }
            if let Some(cluster) = cluster.borrow().clone() {
                registry.publish_cluster(name, &cluster, &discovery.borrow());
            }
            registry.publish_failovers(name, timelines);
            registry.publish_orders(name, &ordered.borrow());
            for user in tenants.users.iter().flat_map(|users| users.all()) {
                if let Some(login) = user.login(name) {
                    let refused = login.refusal().is_some().into();
                    registry.publish(&declared::USER_AUTH_REFUSED, [name, &user.name], refused);
                }
            }
        }
        for tenant in &tenants.all {
            registry.publish_tenant(tenant, &sums.tenants.remove(&tenant.number).unwrap_or_default());
        }
        for store in self.sources.stores.all() {
            let status = store.status();
            let shared = status.error.is_none().into();
            registry.publish(&declared::RATES_SHARED, [&store.upstream], shared);
            registry.publish(&declared::RATE_FALLBACKS, [&store.upstream], status.fallbacks);
        }
        registry.publish_reloads(&self.sources.reloads.all());
        for ((module, level), count) in self.sources.logs.suppressed() {
            registry.publish(&declared::LOG_LINES_SUPPRESSED, [module, level], count);
        }
        registry.publish(&declared::BUILD_INFO, [env!("CARGO_PKG_VERSION")], 1);
        self.sources.security.borrow().publish(&registry, &sums.handshakes);
        registry.publish(&declared::BUFFERED_BYTES, [], sums.buffered);
        registry.publish(&declared::MAX_BUFFERED_BYTES, [], self.sources.budget.limit() as u64);
        self.process.publish(&registry);
        registry.publish_polls(&sums.polls);
        let mut text = registry.render();
        let latency =
            upstreams.iter().map(|view| (&*view.name, sums.latency.remove(&view.number).unwrap_or_default()));
        histograms::append(&mut text, &latency.collect::<Vec<_>>());
        text
    }
}
