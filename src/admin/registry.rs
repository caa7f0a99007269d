//! Holds the metrics' names, descriptions and present values.

use metrics::{Key, KeyName, Label, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::metrics::{FIGURES, Figure, Kind};
use crate::poll_meter::PollFigures;
use crate::rotation::Tally;
use crate::tenant::Tenant;
use crate::tenant::figures::Counted;
use crate::tenant::limits::refusal::Limit;
use crate::timeline::Timelines;
use crate::topology::Topology;

/// Holds the metrics' present values.
pub(super) struct MetricsRegistry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// See [`crate::tenant::Tenants::version`].
    pub(super) version: u64,
}

const META: Metadata<'static> = Metadata::new("respgate", metrics::Level::INFO, None);

impl MetricsRegistry {
    pub(super) fn new(version: u64) -> Self {
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
        Self { recorder, handle, version }
    }

    pub(super) fn publish_topology(&self, name: &str, topology: &Topology) {
        let known = topology.primary();
        self.publish(PRIMARY_KNOWN, Kind::Gauge, labels(name, None), known.is_some().into());
        if let Some(primary) = known {
            self.publish(GENERATION, Kind::Gauge, labels(name, None), primary.generation.0);
            if let Some(epoch) = primary.config_epoch {
                self.publish(EPOCH, Kind::Gauge, labels(name, None), epoch);
            }
        }
    }

    pub(super) fn publish_polls(&self, polls: &[(usize, PollFigures)]) {
        for (worker, figures) in polls {
            let labels = || vec![Label::new("worker", worker.to_string())];
            let key = Key::from_parts(LONGEST_POLL, labels());
            self.recorder.register_gauge(&key, &META).set(figures.longest.as_secs_f64());
            self.publish(LONG_POLLS, Kind::Counter, labels(), figures.long);
        }
    }

    pub(super) fn publish_reloads(&self, reloads: &[Tally]) {
        for tally in reloads {
            let outcomes = tally.outcomes();
            let which = || vec![Label::new("what", tally.what), Label::new("of", tally.of.to_string())];
            for (outcome, count) in [("ok", outcomes.replaced), ("failed", outcomes.refused)] {
                let mut labels = which();
                labels.push(Label::new("outcome", outcome));
                self.publish(RELOADS, Kind::Counter, labels, count);
            }
            self.publish(RELOAD_FAULT, Kind::Gauge, which(), outcomes.error.is_some().into());
            self.publish(READ_STUCK, Kind::Gauge, which(), outcomes.stuck.is_some().into());
            self.publish(RESTART_NEEDED, Kind::Gauge, which(), outcomes.restart.len() as u64);
        }
    }

    pub(super) fn publish_failovers(&self, name: &str, timelines: &Timelines) {
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

    pub(super) fn publish_tenant(&self, tenant: &Tenant, counted: &Counted) {
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

    /// Returns the metrics as Prometheus text.
    pub(super) fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
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
pub(super) const USER_REFUSED: &str = "respgate_user_upstream_auth_refused";
pub(super) const RATES_SHARED: &str = "respgate_rates_shared";
pub(super) const FALLBACKS: &str = "respgate_rate_fallbacks_total";
const PRIMARY_KNOWN: &str = "respgate_primary_known";
const GENERATION: &str = "respgate_primary_generation";
const EPOCH: &str = "respgate_sentinel_config_epoch";
pub(super) const BUFFERED: &str = "respgate_buffered_bytes";
const LONGEST_POLL: &str = "respgate_worker_longest_poll_seconds";
const LONG_POLLS: &str = "respgate_worker_long_polls_total";
const FAILOVERS: &str = "respgate_failovers_total";
const LAST_FAILOVER: &str = "respgate_last_failover_seconds";
const RELOADS: &str = "respgate_reloads_total";
const RELOAD_FAULT: &str = "respgate_reload_fault";
const READ_STUCK: &str = "respgate_reload_read_stuck";
const RESTART_NEEDED: &str = "respgate_reload_restart_needed";
pub(super) const LINES_SUPPRESSED: &str = "respgate_log_lines_suppressed_total";
pub(super) const BUILD: &str = "respgate_build_info";

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

/// Returns the label with the name of an upstream, and a further one.
pub(super) fn labels(upstream: &str, label: Option<(&'static str, &'static str)>) -> Vec<Label> {
    let mut labels = vec![Label::new("upstream", upstream.to_owned())];
    labels.extend(label.map(|(name, value)| Label::new(name, value)));
    labels
}
