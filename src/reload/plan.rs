//! Turns a configuration into the settings of the workers and of the admin listener, at the start and at each reload.

use crate::admin::security::TlsStatus;
use crate::admin::{ListenerView, UpstreamLimits};
use crate::certificates::Certificates;
use crate::config::{Config, Upstream};
use crate::listener::set::{Listeners, Prepared};
use crate::upstream::config::UpstreamConfig;
use crate::worker::ListenerPlan;

/// Returns the workers' settings of prepared listeners. `number` returns the number of an upstream by its name.
pub fn listeners(
    number: impl Fn(&str) -> Option<usize>,
    prepared: &Prepared,
    certificates: &Certificates,
) -> Vec<ListenerPlan> {
    let plans = prepared.iter().filter_map(|(listener_number, listener, clients)| {
        // The check of the configuration has found the upstream.
        let upstream = number(&listener.upstream)?;
        Some(ListenerPlan {
            number: listener_number,
            name: listener.name.clone(),
            session: listener.session.clone(),
            upstream,
            tls: certificates.listener(&listener.name),
            moving_endpoint: listener.moving_endpoint.clone(),
            clients: clients.clone(),
        })
    });
    plans.collect()
}

/// Returns the settings of an upstream with one worker's share of the limits.
pub fn share(config: &UpstreamConfig, workers: usize) -> UpstreamConfig {
    let (mut share, workers) = (config.clone(), workers.max(1));
    share.max_connections = (share.max_connections / workers).max(1);
    share.max_leased = (share.max_leased / workers).max(1);
    share.max_open /= workers;
    share.hold_buffer /= workers;
    share
}

/// Returns what the admin listener shows of TLS and of listeners.
pub fn tls_status(config: &Config, listeners: &Listeners, certificates: &Certificates) -> TlsStatus {
    let encrypted = config.listeners.iter().filter(|listener| listener.tls.is_some());
    let numbered =
        encrypted.filter_map(|listener| Some((listeners.number(&listener.name)?, listener.name.clone())));
    TlsStatus { listeners: numbered.collect(), connections: listeners.counts(), legs: certificates.legs() }
}

/// Returns what the admin listener shows of the listeners.
pub fn listener_views(config: &Config, listeners: &Listeners) -> Vec<ListenerView> {
    let counts = listeners.counts();
    let views = config.listeners.iter().filter_map(|listener| {
        let (_, counts) = counts.iter().find(|(name, _)| *name == listener.name)?;
        Some(ListenerView {
            name: listener.name.clone(),
            address: listeners.address(&listener.name).unwrap_or_else(|| listener.bind.to_string()),
            upstream: listener.upstream.clone(),
            tenant: listener.tenant.clone(),
            tls: listener.tls.is_some(),
            counts: counts.clone(),
        })
    });
    views.collect()
}

/// Returns what the admin listener shows of an upstream's limits.
pub fn limits(upstream: &Upstream, workers: usize) -> UpstreamLimits {
    UpstreamLimits {
        max_connections: upstream.config.max_connections,
        max_leased: upstream.config.max_leased,
        max_open: upstream.config.max_open,
        workers,
        hold_timeout: upstream.config.hold_timeout,
        lag_bound: upstream.config.lag_bound,
        reads_in_hold: upstream.config.replicas_serve_alone(),
    }
}
