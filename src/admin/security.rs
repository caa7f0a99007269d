//! What the admin listener shows of TLS: handshakes, and when certificates expire.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::registry::MetricsRegistry;
use super::warning::{Severity, Warning};
use crate::listener::ListenerCounts;
use crate::metrics::declared;
use crate::net::tls::accept::Handshakes;
use crate::net::tls::certificate::shown_span;
use crate::net::tls::handshake_error::Reason;
use crate::net::tls::slot::Legs;

/// /readyz names certificates that expire within this time.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// What the admin listener reads about TLS.
#[derive(Clone, Default)]
pub struct TlsStatus {
    /// The listeners that speak TLS, each with its number and its name.
    pub listeners: Vec<(usize, String)>,
    /// The counts of each listener's connections.
    pub connections: Vec<(String, Arc<ListenerCounts>)>,
    /// The legs that speak TLS.
    pub legs: Legs,
}

impl TlsStatus {
    /// Publishes the metrics. `handshakes` holds those of each listener, by its number.
    pub(super) fn publish(&self, registry: &MetricsRegistry, handshakes: &HashMap<usize, Handshakes>) {
        for (number, name) in &self.listeners {
            let Some(counted) = handshakes.get(number) else { continue };
            registry.publish(&declared::TLS_HANDSHAKES, [name, "full"], counted.full);
            registry.publish(&declared::TLS_HANDSHAKES, [name, "resumed"], counted.resumed);
            for (reason, count) in Reason::ALL.iter().zip(counted.failed) {
                if *reason == Reason::OnPlainPort {
                    continue; // Counted among the clients that were disconnected.
                }
                registry.publish(&declared::TLS_HANDSHAKE_FAILURES, [name, reason.label()], count);
            }
        }
        for (name, counts) in &self.connections {
            let clients = counts.clients.load(Ordering::Relaxed);
            registry.publish(&declared::LISTENER_CLIENTS, [name], clients as u64);
            let max_clients = counts.max_clients.load(Ordering::Relaxed);
            registry.publish(&declared::LISTENER_MAX_CLIENTS, [name], max_clients as u64);
            let turned_away = counts.turned_away.load(Ordering::Relaxed);
            registry.publish(&declared::CLIENTS_TURNED_AWAY, [name], turned_away);
            let delayed = counts.delayed.load(Ordering::Relaxed);
            registry.publish(&declared::CONNECTS_DELAYED, [name], delayed);
            let refused = counts.refused.load(Ordering::Relaxed);
            registry.publish(&declared::CONNECTS_REFUSED, [name], refused);
        }
        for expiry in self.legs.expiries() {
            let Some(end) = expiry.not_after() else { continue };
            let seconds = end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let labels = [expiry.leg.label(), expiry.name.as_str()];
            registry.publish(&declared::TLS_CERTIFICATE_EXPIRY, labels, seconds);
        }
    }

    /// Returns the warnings about TLS. None of them makes respgate unready.
    pub(super) fn warnings(&self, now: SystemTime) -> Vec<Warning> {
        let unverified = self.legs.unverified().into_iter().map(|leg| {
            Warning::new(
                Severity::Warning,
                leg,
                "respgate does not verify the server: an attacker on the network can read and change the traffic",
                "remove tls-dangerously-skip-verification and name the authority with tls-ca",
            )
        });
        let expiring = self.legs.expiries().into_iter().filter_map(|expiry| {
            let (severity, text) = match expiry.not_after()?.duration_since(now) {
                Err(_) => (Severity::Critical, "the certificate has expired".to_owned()),
                Ok(left) if left < EXPIRES_SOON => {
                    (Severity::Warning, format!("the certificate expires in {}", shown_span(left)))
                }
                Ok(_) => return None,
            };
            let subject = format!("{} {}", expiry.leg.label(), expiry.name);
            Some(Warning::new(severity, subject, text, "replace its files; respgate reads them by itself"))
        });
        unverified.chain(expiring).collect()
    }
}
