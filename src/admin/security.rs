//! What the admin listener shows of TLS: handshakes, and when certificates expire.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::Label;

use super::registry::MetricsRegistry;
use crate::listener::SourceCounts;
use crate::metrics::Kind;
use crate::net::tls::accept::Handshakes;
use crate::net::tls::certificate::shown_span;
use crate::net::tls::handshake_error::Reason;
use crate::net::tls::slot::Expiry;

const HANDSHAKES: &str = "respgate_tls_handshakes_total";
const FAILURES: &str = "respgate_tls_handshake_failures_total";
const CONNECTS_DELAYED: &str = "respgate_connects_delayed_total";
const CONNECTS_REFUSED: &str = "respgate_connects_refused_total";
const EXPIRY: &str = "respgate_tls_certificate_expiry_timestamp_seconds";

/// /readyz names certificates that expire within this time.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// What the admin listener reads about TLS.
#[derive(Clone, Default)]
pub struct TlsStatus {
    /// The listeners that speak TLS, each with its index in the workers' plan and its name.
    pub listeners: Vec<(usize, String)>,
    /// By listener, the counts of connections that exceeded the rate of their source.
    pub sources: Vec<(String, Arc<SourceCounts>)>,
    /// When respgate's own certificates expire.
    pub expiries: Vec<Expiry>,
    /// Legs on which respgate does not verify the server, for example "upstream main".
    pub unverified: Vec<String>,
}

impl TlsStatus {
    pub(super) fn describe(registry: &MetricsRegistry) {
        registry.describe(HANDSHAKES, Kind::Counter, "TLS handshakes with clients, by kind.");
        registry.describe(FAILURES, Kind::Counter, "TLS handshakes with clients that failed, by reason.");
        registry.describe(
            CONNECTS_DELAYED,
            Kind::Counter,
            "New connections that waited because their source opened more than connects-per-second.",
        );
        registry.describe(
            CONNECTS_REFUSED,
            Kind::Counter,
            "New connections that were closed because their source opened more than connects-per-second.",
        );
        registry.describe(
            EXPIRY,
            Kind::Gauge,
            "When respgate's own certificate runs out, in seconds since 1970.",
        );
    }

    /// Publishes the metrics. `handshakes` is indexed by the listeners' indexes in the workers'
    /// plan.
    pub(super) fn publish(&self, registry: &MetricsRegistry, handshakes: &[Handshakes]) {
        for (index, name) in &self.listeners {
            let Some(counted) = handshakes.get(*index) else { continue };
            let label = |key: &'static str, value: &'static str| {
                vec![Label::new("listener", name.clone()), Label::new(key, value)]
            };
            registry.publish(HANDSHAKES, Kind::Counter, label("kind", "full"), counted.full);
            registry.publish(HANDSHAKES, Kind::Counter, label("kind", "resumed"), counted.resumed);
            for (reason, count) in Reason::ALL.iter().zip(counted.failed) {
                if *reason == Reason::OnPlainPort {
                    continue; // Counted among the clients that were disconnected.
                }
                registry.publish(FAILURES, Kind::Counter, label("reason", reason.label()), count);
            }
        }
        for (name, counts) in &self.sources {
            let label = || vec![Label::new("listener", name.clone())];
            registry.publish(
                CONNECTS_DELAYED,
                Kind::Counter,
                label(),
                counts.delayed.load(Ordering::Relaxed),
            );
            registry.publish(
                CONNECTS_REFUSED,
                Kind::Counter,
                label(),
                counts.refused.load(Ordering::Relaxed),
            );
        }
        for expiry in &self.expiries {
            let Some(end) = expiry.not_after() else { continue };
            let labels = vec![Label::new("leg", expiry.leg.label()), Label::new("name", expiry.name.clone())];
            let seconds = end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            registry.publish(EXPIRY, Kind::Gauge, labels, seconds);
        }
    }

    /// Returns the warnings for a reader of /readyz. None of them makes respgate unready.
    pub(super) fn remarks(&self, now: SystemTime) -> String {
        let mut text = String::new();
        for leg in &self.unverified {
            text.push_str(&format!(
                "{leg}: TLS without verification: whoever stands between can read and change it\n"
            ));
        }
        for expiry in &self.expiries {
            let (leg, name) = (expiry.leg.label(), &expiry.name);
            match expiry.not_after().map(|end| end.duration_since(now)) {
                Some(Err(_)) => text.push_str(&format!("{leg} {name}: the certificate has expired\n")),
                Some(Ok(left)) if left < EXPIRES_SOON => {
                    text.push_str(&format!(
                        "{leg} {name}: the certificate expires in {}\n",
                        shown_span(left)
                    ));
                }
                _ => {}
            }
        }
        text
    }
}
