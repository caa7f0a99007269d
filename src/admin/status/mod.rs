//! `GET /status`: the state of respgate as one JSON document, for the status page, `respgate status` and other
//! programs. `docs/status.schema.json` describes it.
//!
//! `sampler` asks the workers once a second, so that any number of readers costs no more. `upstream`, `replicas` and `tenant`
//! write their parts of the document.

pub(super) mod clients;
mod cluster;
mod latency;
mod primary;
mod replicas;
mod sampler;
mod tenant;
mod upstream;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use self::sampler::{Sample, Sampler, millis};
use super::sources::{Sources, Views};
use super::warning::{Severity, Warning};
use super::{replica_warnings, warnings};
use crate::drain::Draining;

/// The JSON Schema of the document.
pub(super) const SCHEMA: &str = include_str!("../../../docs/status.schema.json");

/// Time that a request waits for the first sample.
const FIRST_SAMPLE: Duration = Duration::from_secs(2);

/// Writes the document.
pub(super) struct StatusEndpoint {
    upstreams: Views,
    sources: Sources,
    draining: Draining,
    sampler: Sampler,
    started: Instant,
}

impl StatusEndpoint {
    /// Starts to sample the workers.
    pub(super) fn new(upstreams: Views, sources: Sources, draining: Draining) -> Self {
        let sampler = Sampler::spawn(sources.workers.clone(), upstreams.clone());
        Self { upstreams, sources, draining, sampler, started: Instant::now() }
    }

    /// Returns the document. `control` says which actions the reader may take; `ready` is what `/readyz` answers.
    pub(super) async fn document(&self, control: Value, ready: bool) -> Value {
        let mut newest = self.sampler.newest.clone();
        let sample = match timeout(FIRST_SAMPLE, newest.wait_for(Option::is_some)).await {
            Ok(Ok(sample)) => sample.clone().unwrap_or_default(),
            _ => Arc::default(),
        };
        let now = SystemTime::now();
        let mut others = self.warnings(&sample);
        others.sort_by_key(|warning| warning.severity);
        // An operator who has forgotten a pause must see it first.
        let mut warnings = self.orders(&sample);
        warnings.append(&mut others);
        let upstreams: Vec<_> =
            self.upstreams.borrow().iter().map(|view| upstream::json(view, &sample)).collect();
        let tenants = self.sources.tenants.borrow().clone();
        json!({
            "time_unix_ms": millis(now.duration_since(UNIX_EPOCH).unwrap_or_default()),
            "process": {
                "version": env!("CARGO_PKG_VERSION"),
                "uptime_seconds": self.started.elapsed().as_secs(),
                "workers": self.sources.workers.len(),
                "ready": ready,
                "draining": self.draining.begun(),
                "buffered_bytes": sample.sums.buffered,
                "max_buffered_bytes": self.sources.budget.limit(),
            },
            "warnings": warnings.iter().map(Warning::json).collect::<Vec<_>>(),
            "upstreams": upstreams,
            "listeners": self.listeners(),
            "certificates": self.certificates(now),
            "tenants": tenants.all.iter().map(|tenant| tenant::json(tenant, &sample)).collect::<Vec<_>>(),
            "control": control,
        })
    }

    /// Returns the rates and gauges of the last minutes.
    pub(super) fn history(&self) -> Value {
        self.sampler.history(&self.upstreams.borrow())
    }

    fn orders(&self, sample: &Sample) -> Vec<Warning> {
        let upstreams = self.upstreams.borrow();
        let orders = upstreams
            .iter()
            .flat_map(|view| warnings::of_orders(view, Some(&sample.sums.upstream(view.number))));
        orders.collect()
    }

    fn warnings(&self, sample: &Sample) -> Vec<Warning> {
        let users = self.sources.tenants.borrow().users.clone();
        let mut all = Vec::new();
        if self.draining.begun() {
            all.push(Warning::new(
                Severity::Critical,
                "respgate",
                "draining: no new clients are accepted",
                "start respgate again, or send its clients to another one",
            ));
        }
        all.extend(warnings::of_upgrade(&self.sources));
        for view in &*self.upstreams.borrow() {
            all.extend(warnings::of_upstream(view, users.as_deref()));
            all.extend(warnings::of_details(view, &sample.sums.upstream(view.number)));
            all.extend(replica_warnings::of_view(view));
        }
        all.extend(warnings::of_reloads(&self.sources.reloads));
        all.extend(warnings::of_stores(&self.sources.stores));
        all.extend(warnings::of_tls(&self.sources.security.borrow()));
        all.extend(warnings::of_listeners(&self.sources.listeners.borrow()));
        all
    }

    fn listeners(&self) -> Value {
        let known = self.sources.listeners.borrow();
        let listeners = known.iter().map(|listener| {
            json!({
                "name": listener.name,
                "address": listener.address,
                "upstream": listener.upstream,
                "tenant": listener.tenant,
                "tls": listener.tls,
                "clients": listener.connected(),
                "max_clients": listener.max_clients(),
                "turned_away": listener.turned_away(),
                "connects_delayed": listener.delayed(),
                "connects_refused": listener.refused(),
            })
        });
        listeners.collect()
    }

    fn certificates(&self, now: SystemTime) -> Value {
        let security = self.sources.security.borrow();
        let certificates = security.legs.expiries().into_iter().filter_map(|expiry| {
            let end = expiry.not_after()?;
            let left = end
                .duration_since(now)
                .map_or_else(|past| -past.duration().as_secs_f64(), |left| left.as_secs_f64());
            Some(json!({
                "leg": expiry.leg.label(),
                "name": expiry.name,
                "expires_unix": end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
                "days_left": (left / 86_400.0).floor(),
            }))
        });
        certificates.collect()
    }
}
