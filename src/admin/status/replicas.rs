//! The part of `/status` about the replicas of an upstream: how far they are behind, and the reads that they serve.

use serde_json::{Value, json};
use tokio::time::Instant;

use super::sampler::{Sample, rounded};
use crate::admin::sources::View;
use crate::discovery::read_replicas::health::{Obstacle, ReadTerms, ReplicaReport};
use crate::discovery::replicas::ReplicaSample;

/// Returns what is known of the replicas. A replica that serves reads and that the lag is not sampled of has an entry, too.
pub(super) fn json(view: &View, sample: &Sample) -> Value {
    let sampled = view.sampled();
    let unavailable = match &sampled {
        Some(replication) => replication.unavailable.clone(),
        None => Some("replica-sampling is off".into()),
    };
    let all = view.read_replicas();
    let reads = |(terms, report): (ReadTerms, &ReplicaReport)| reads(report, terms, view.number, sample);
    let reports = all.iter().flat_map(|of| of.health.replicas.iter().map(|report| (of.terms, report)));
    let mut unmatched: Vec<(ReadTerms, &ReplicaReport)> = reports.collect();
    let known = sampled.iter().flat_map(|replication| &replication.replicas);
    let mut replicas: Vec<Value> = known
        .map(|known| {
            let at = unmatched.iter().position(|(_, report)| report.is_at(&known.address));
            let mut entry = lag(known);
            entry["reads"] = at.map(|at| reads(unmatched.remove(at))).into();
            entry
        })
        .collect();
    replicas.extend(unmatched.into_iter().map(|known| {
        json!({
            "address": known.1.address.to_string(),
            "link": null,
            "offset": null,
            "lag_bytes": null,
            "lag_seconds": null,
            "error": null,
            "reads": reads(known),
        })
    }));
    json!({
        "sampled": sampled.is_some(),
        "offset": sampled.as_ref().and_then(|replication| replication.offset),
        "unavailable": unavailable,
        "replicas": replicas,
    })
}

fn lag(sample: &ReplicaSample) -> Value {
    json!({
        "address": sample.address.to_string(),
        "link": sample.link,
        "offset": sample.offset,
        "lag_bytes": sample.lag_bytes,
        "lag_seconds": sample.lag.map(|lag| rounded(lag.as_secs_f64())),
        "error": sample.error,
    })
}

fn reads(report: &ReplicaReport, terms: ReadTerms, upstream: usize, sample: &Sample) -> Value {
    let now = Instant::now();
    let obstacle = report.obstacle(terms, now);
    let applied = report.answer.as_ref().ok().map(|sample| sample.applied);
    let key = (upstream, report.address.clone());
    let counts = sample.sums.replicas.get(&key).cloned().unwrap_or_default();
    let age = applied.map(|applied| now.saturating_duration_since(applied.until));
    json!({
        "serves": obstacle.is_none(),
        "obstacle": obstacle.as_ref().map(Obstacle::label),
        "reason": obstacle.as_ref().map(ToString::to_string),
        "lag_seconds": age.map(|age| (age.as_secs_f64() * 1000.0).round() / 1000.0),
        "lag_bytes": applied.map(|applied| applied.lag_bytes),
        "per_second": rounded(sample.replica_rates.get(&key).copied().unwrap_or_default()),
        "total": counts.reads,
        "outstanding": counts.outstanding,
        "connections": counts.connections,
        "connect_errors": counts.connect_errors,
        "connect_error": counts.connect_error.as_deref(),
    })
}
