//! The part of `/status` about a cluster.

use serde_json::{Value, json};

use super::primary::primary_json;
use crate::admin::sources::View;
use crate::cluster::{ClusterTopology, Shard};
use crate::discovery::cluster::status::{AskedNode, ClusterStatus};
use crate::topology::Topology;

/// The greatest number of ranges of slots that are shown of one shard.
const RANGES: usize = 64;

/// Returns the state of the cluster; null if the upstream is none.
pub(super) fn json(view: &View) -> Value {
    let Some(cluster) = view.cluster.borrow().clone() else { return Value::Null };
    let ClusterStatus { asked, refreshes, redirect_hints } =
        view.discovery.borrow().cluster.clone().unwrap_or_default();
    let home = cluster.home().map(|shard| shard.number.0);
    let shards = cluster.shards.iter().map(|shard| shard_json(&cluster, shard));
    json!({
        "epoch": cluster.epoch,
        "slots_served": cluster.slots_with_primary(),
        "slots_moving": cluster.moving.len(),
        "home": home,
        "refreshes": refreshes,
        "redirect_hints": redirect_hints,
        "nodes": asked.iter().map(node_json).collect::<Vec<_>>(),
        "shards": shards.collect::<Vec<_>>(),
    })
}

fn node_json(node: &AskedNode) -> Value {
    json!({
        "address": node.address.to_string(),
        "answers": node.answers,
        "error": node.error.as_ref().map(|error| error.text()),
    })
}

fn shard_json(cluster: &ClusterTopology, shard: &Shard) -> Value {
    let (state, reason) = match &shard.topology {
        Topology::Known(_) => ("serving", None),
        Topology::Failing(_, sign) if sign.is_ordered() => ("paused", Some(sign.to_string())),
        Topology::Failing(_, sign) => ("failing", Some(sign.to_string())),
        Topology::Unknown(outage) => ("no-primary", Some(outage.to_string())),
    };
    let own = cluster.slots.ranges().filter(|(_, owner)| *owner == Some(shard.number));
    let ranges: Vec<_> = own.map(|(range, _)| range).collect();
    let slots: usize = ranges.iter().map(ExactSizeIterator::len).sum();
    let shown = ranges.iter().take(RANGES).map(|range| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    });
    json!({
        "number": shard.number.0,
        "state": state,
        "reason": reason,
        "primary": shard.topology.primary().map(|primary| primary_json(primary)),
        "replicas": shard.replicas.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "slots": slots,
        "ranges": shown.collect::<Vec<_>>(),
    })
}
