//! The state of a running respgate, and its JSON document.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::samples::Samples;
use crate::metrics::declared;

/// The state of a running respgate.
#[derive(Clone, Debug)]
pub struct Status {
    pub(super) address: SocketAddr,
    pub(super) ready: bool,
    /// The lines of `/readyz`.
    pub(super) readiness: Vec<String>,
    pub(super) earlier: Samples,
    pub(super) now: Samples,
    pub(super) elapsed: Duration,
    pub(super) failovers: Vec<Value>,
}

impl Status {
    /// Returns true if the running respgate can serve clients.
    pub fn ready(&self) -> bool {
        self.ready
    }

    /// Returns the JSON document for machines.
    pub fn document(&self) -> Value {
        let upstreams: serde_json::Map<String, Value> = self
            .now
            .values_of("upstream")
            .into_iter()
            .map(|upstream| {
                let metrics = self.now.of("upstream", &upstream);
                (
                    upstream,
                    Value::Object(metrics.into_iter().map(|(name, value)| (name, value.into())).collect()),
                )
            })
            .collect();
        json!({
            "address": self.address.to_string(),
            "version": self.now.text(declared::BUILD_INFO.about.name, "version"),
            "ready": self.ready,
            "readiness": self.readiness,
            "upstreams": upstreams,
            "failovers": self.failovers,
        })
    }
}
