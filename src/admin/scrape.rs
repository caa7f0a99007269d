//! Collects what the workers counted and renders it as Prometheus text.

use std::time::Duration;

use metrics::{Key, KeyName, Metadata, Recorder};
use metrics::{Label, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::View;
use super::security::Security;
use crate::metrics::{FIGURES, Figure, Kind, Snapshot};
use crate::net::tls::accept::Handshakes;
use crate::timeline::Timelines;
use crate::topology::Topology;
use crate::worker::Worker;

/// How long a scrape waits for a busy worker before it leaves that worker's figures as they were.
const PATIENCE: Duration = Duration::from_secs(1);

/// Renders metrics on demand.
pub(super) struct Scrape {
    upstreams: Vec<View>,
    security: Security,
    workers: Vec<Worker>,
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

const META: Metadata<'static> = Metadata::new("respgate", metrics::Level::INFO, None);

impl Scrape {
    pub(super) fn new(upstreams: Vec<View>, security: Security, workers: Vec<Worker>) -> Self {
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
        describe(&recorder, BUILD, Kind::Gauge, "Always 1; its label says which version runs.");
        let scrape = Self { upstreams, security, workers, recorder, handle };
        Security::describe(&scrape);
        scrape
    }

    /// The metrics now.
    pub(super) async fn render(&self) -> String {
        let mut sums: Vec<Snapshot> = vec![[0; FIGURES.len()]; self.upstreams.len()];
        let mut buffered = 0;
        let mut handshakes: Vec<Handshakes> = Vec::new();
        for worker in &self.workers {
            if let Ok(Some(counted)) = tokio::time::timeout(PATIENCE, worker.snapshot()).await {
                buffered += counted.buffered as u64;
                handshakes.resize_with(counted.handshakes.len(), Handshakes::default);
                handshakes.iter_mut().zip(&counted.handshakes).for_each(|(sum, counted)| sum.add(counted));
                for (sum, snapshot) in sums.iter_mut().zip(counted.upstreams) {
                    sum.iter_mut().zip(snapshot).for_each(|(sum, value)| *sum += value);
                }
            }
        }
        for (View { name, topology, timelines }, sum) in self.upstreams.iter().zip(sums) {
            for (figure, value) in FIGURES.iter().zip(sum) {
                self.publish(figure.name, figure.kind, labels(name, figure.label), value);
            }
            self.publish_topology(name, &topology.borrow());
            self.publish_failovers(name, timelines);
        }
        let version = vec![Label::new("version", env!("CARGO_PKG_VERSION"))];
        self.publish(BUILD, Kind::Gauge, version, 1);
        self.security.publish(self, &handshakes);
        self.publish(BUFFERED, Kind::Gauge, Vec::new(), buffered);
        self.handle.run_upkeep();
        self.handle.render()
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

const PRIMARY_KNOWN: &str = "respgate_primary_known";
const GENERATION: &str = "respgate_primary_generation";
const EPOCH: &str = "respgate_sentinel_config_epoch";
const BUFFERED: &str = "respgate_buffered_bytes";
const FAILOVERS: &str = "respgate_failovers_total";
const LAST_FAILOVER: &str = "respgate_last_failover_seconds";
const BUILD: &str = "respgate_build_info";

fn describe(recorder: &PrometheusRecorder, name: &'static str, kind: Kind, help: &'static str) {
    let (name, unit, help) = (KeyName::from(name), Some(Unit::Count), help.into());
    match kind {
        Kind::Counter => recorder.describe_counter(name, unit, help),
        Kind::Gauge => recorder.describe_gauge(name, unit, help),
    }
}

fn labels(upstream: &str, label: Option<(&'static str, &'static str)>) -> Vec<Label> {
    let mut labels = vec![Label::new("upstream", upstream.to_owned())];
    labels.extend(label.map(|(name, value)| Label::new(name, value)));
    labels
}
