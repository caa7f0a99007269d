//! The part of `/status` about one upstream.

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::primary::primary_json;
use super::sampler::{Sample, millis, rounded};
use super::{cluster, replicas};
use crate::admin::sources::View;
use crate::discovery::sentinel_table::{SentinelState, SentinelStatus};
use crate::metrics::Snapshot;
use crate::metrics::counters::{FIGURES, Figure, sum};
use crate::metrics::declared::{self, About, Kind};
use crate::operator::{Pause, PauseStatus, SwitchStatus};
use crate::topology::{Primary, Topology};

/// The number of past failovers in the document.
const FAILOVERS: usize = 8;

/// Returns the state of an upstream.
pub(super) fn json(view: &View, sample: &Sample) -> Value {
    let counts = sample.sums.upstream(view.number);
    let rates = sample.rates.get(&view.number).copied().unwrap_or([0.0; FIGURES.len()]);
    let topology = view.topology.borrow().clone();
    let (state, reason) = match &topology {
        Topology::Known(_) => ("serving", None),
        Topology::Failing(_, sign) if sign.is_ordered() => ("paused", Some(sign.to_string())),
        Topology::Failing(_, sign) => ("failing", Some(sign.to_string())),
        Topology::Unknown(outage) => ("no-primary", Some(outage.to_string())),
    };
    let primary = topology.primary();
    let limits = view.limits.borrow().clone();
    let discovery = view.discovery.borrow().clone();
    let sentinels = discovery.sentinels.iter().map(|status| sentinel(status, primary.map(|known| &**known)));
    let now = |metric: &About| sum(&counts, metric);
    let past = view.timelines.past();
    let failovers = past.iter().rev().take(FAILOVERS).map(|line| line.json(&view.name));
    let rate_entries = FIGURES.iter().zip(rates).filter(|(figure, _)| figure.about().kind == Kind::Counter);
    json!({
        "name": view.name,
        "kind": view.target.borrow().kind(),
        "state": state,
        "reason": reason,
        "primary": primary.map(|primary| primary_json(primary)),
        "sentinels": sentinels.collect::<Vec<_>>(),
        "uncertainty": discovery.uncertainty.as_ref().map(ToString::to_string),
        "replication": replicas::json(view, sample),
        "cluster": cluster::json(view),
        "clients": {
            "connected": now(&declared::CLIENTS.about),
            "pinned": now(&declared::CLIENTS_PINNED.about),
            "held": now(&declared::CLIENTS_HELD.about),
        },
        "pins": entries(FIGURES.iter().zip(counts).filter(|(figure, _)| is(figure, &declared::CLIENT_PINS.about)))
            .remove("client_pins"),
        "connections": {
            "shared": of(&counts, &declared::UPSTREAM_CONNECTIONS.about, "shared"),
            "leased": of(&counts, &declared::UPSTREAM_CONNECTIONS.about, "leased"),
            "fan_in": of(&counts, &declared::UPSTREAM_CONNECTIONS.about, "fan-in"),
            "max": limits.max_connections,
        },
        "leases": {
            "in_use": now(&declared::CLIENTS_PINNED.about),
            "idle": now(&declared::UPSTREAM_CONNECTIONS_IDLE.about),
            "max": limits.max_leased,
            "waiting": now(&declared::LEASE_WAITING.about),
            "timeouts": now(&declared::LEASE_TIMEOUTS.about),
        },
        "hold": {
            "active": state != "serving",
            "clients": now(&declared::CLIENTS_HELD.about),
            "timeout_seconds": limits.hold_timeout.as_secs_f64(),
        },
        "pause": view.ordered.borrow().paused.as_ref().map(pause_json),
        "switch": view.ordered.borrow().switching.as_ref().map(switch_json),
        "switched_to": view.ordered.borrow().switched.as_deref(),
        "latency": sample.latency.get(&view.number).copied().unwrap_or_default().json(),
        "failover": view.timelines.under_way().map(|(line, elapsed)| {
            let mut failover = line.json(&view.name);
            failover["elapsed_ms"] = millis(elapsed).into();
            failover
        }),
        "failovers": failovers.collect::<Vec<_>>(),
        "figures": entries(FIGURES.iter().zip(counts)),
        "per_second": entries(rate_entries.map(|(figure, rate)| (figure, rounded(rate)))),
    })
}

fn pause_json(paused: &PauseStatus) -> Value {
    json!({
        "at_once": paused.pause == Pause::AtOnce,
        "by": &*paused.by,
        "elapsed_ms": millis(paused.since.elapsed()),
        "ends_in_ms": millis(paused.until.saturating_duration_since(Instant::now())),
    })
}

fn switch_json(switch: &SwitchStatus) -> Value {
    json!({ "to": &*switch.to, "by": &*switch.by, "elapsed_ms": millis(switch.since.elapsed()) })
}

fn sentinel(status: &SentinelStatus, primary: Option<&Primary>) -> Value {
    let (state, error, claim) = match &status.state {
        SentinelState::Pending => ("pending", None, None),
        SentinelState::Answered(view) => ("answering", None, view.claim.as_ref()),
        SentinelState::Failed(error) => ("failed", Some(error.text()), None),
    };
    json!({
        "address": status.address.to_string(),
        "configured": status.seed,
        "subscribed": status.subscribed,
        "state": state,
        "error": error,
        "primary": claim.map(|claim| claim.address.to_string()),
        "config_epoch": claim.map(|claim| claim.epoch),
        "flags": claim.map(|claim| &claim.flags),
        "failover_state": claim.and_then(|claim| claim.failover_state.as_ref()),
        "agrees": claim.is_some_and(|claim| primary.is_some_and(|primary| primary.address == claim.address)),
    })
}

fn is(figure: &Figure, metric: &About) -> bool {
    figure.about().name == metric.name
}

/// Returns the count of a metric under one value of its second label.
fn of(counts: &Snapshot, metric: &About, label: &str) -> u64 {
    let fits =
        FIGURES.iter().zip(counts).filter(|(figure, _)| is(figure, metric) && figure.label() == Some(label));
    fits.map(|(_, count)| count).sum()
}

/// Returns an object with a key for each metric, without `respgate_` and `_total`. The value of a metric with a second
/// label is an object with a key for each value of the label.
fn entries<V: Into<Value>>(values: impl Iterator<Item = (&'static Figure, V)>) -> Map<String, Value> {
    let mut all = Map::new();
    for (figure, value) in values {
        let name = figure.about().name;
        let name = name.strip_prefix("respgate_").unwrap_or(name);
        let name = name.strip_suffix("_total").unwrap_or(name);
        match figure.label() {
            None => {
                all.insert(name.to_owned(), value.into());
            }
            Some(label) => {
                let entry = all.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(labels) = entry {
                    labels.insert(label.to_owned(), value.into());
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_become_keys() {
        let entries = entries(FIGURES.iter().map(|figure| (figure, 1)));
        assert_eq!(entries["clients"], 1);
        assert_eq!(entries["commands"]["shared"], 1);
        assert_eq!(entries["client_pins"]["blocking"], 1);
    }
}
