//! Checks a cluster: the configured nodes, what they say together, and each primary.

use std::collections::{HashMap, HashSet};

use tokio::time::Instant;

use super::finding::{Finding, Section, Step, Subject};
use super::peer::{Channel, Peer};
use super::reach::reach;
use super::words::{count, list, quoted};
use crate::discovery::cluster::survey::{ClusterSurvey, NodeSurvey, SurveyedShard};
use crate::topology::Address;

/// The number of ranges of slots that are named.
const NAMED_RANGES: usize = 5;

/// Asks one configured node for its view of the cluster.
pub(super) async fn ask(
    upstream: String,
    peer: Peer,
    nat: HashMap<Address, Address>,
) -> (Section, Option<(Address, NodeSurvey)>) {
    let (mut findings, channel) = reach(&peer).await;
    let said = match channel {
        Some(mut channel) => {
            let (finding, said) = query(&mut channel, &peer, &nat).await;
            findings.push(finding);
            said
        }
        None => {
            findings.push(Finding::not_tried(Step::Cluster, "it needs a connection that is logged in"));
            None
        }
    };
    let address = peer.address.to_string();
    let section = Section { subject: Subject::Node, name: upstream, address, findings };
    (section, said.map(|said| (peer.address, said)))
}

async fn query(
    channel: &mut Channel,
    peer: &Peer,
    nat: &HashMap<Address, Address>,
) -> (Finding, Option<NodeSurvey>) {
    let deadline = Instant::now() + peer.answer_timeout();
    let failed = |error: &dyn std::fmt::Display| {
        let seen = format!("asked for the cluster, the node failed: {error}");
        (Finding::broken(Step::Cluster, seen, "look at its log, and whether the machine is overloaded"), None)
    };
    let nodes = match channel.call(&[b"CLUSTER", b"NODES"], deadline).await {
        Ok(nodes) => nodes,
        Err(error) => return failed(&error),
    };
    let slots = match channel.call(&[b"CLUSTER", b"SLOTS"], deadline).await {
        Ok(slots) => slots,
        Err(error) => return failed(&error),
    };
    if let Some(line) = nodes.error().or(slots.error()) {
        let seen = format!("asked for the cluster, it answers: {}", quoted(line, peer.credentials.as_ref()));
        let remedy = if line.starts_with(b"ERR This instance has cluster support disabled") {
            "the server belongs to no cluster (its `cluster-enabled` is no): name a node of the cluster; for a single server, \
             begin the url with redis://"
        } else {
            "allow respgate's user +cluster|nodes +cluster|slots +role"
        };
        return (Finding::broken(Step::Cluster, seen, remedy), None);
    }
    match NodeSurvey::read(&nodes, &slots, &peer.address, nat) {
        Some(said) => {
            let seen = format!("a node of a cluster; it knows {}", count(said.nodes(), "node"));
            (Finding::ok(Step::Cluster, seen).fact("nodes", said.nodes()), Some(said))
        }
        None => {
            let remedy = "check that the port is that of a Valkey or Redis server";
            (Finding::broken(Step::Cluster, "its answer to CLUSTER NODES makes no sense", remedy), None)
        }
    }
}

/// Judges what the nodes say together. Returns the findings.
pub(super) fn judge(survey: &ClusterSurvey) -> Vec<Finding> {
    vec![coverage(survey), epochs(survey), replicas(survey)]
}

fn coverage(survey: &ClusterSurvey) -> Finding {
    let serving = survey.shards.iter().filter(|shard| shard.slots > 0);
    let failing: Vec<String> = serving.clone().filter(|shard| shard.is_failing).map(shown).collect();
    let serving = serving.count();
    if !survey.unserved.is_empty() {
        let missing: usize = survey.unserved.iter().map(ExactSizeIterator::len).sum();
        let ranges = survey.unserved.iter().take(NAMED_RANGES);
        let ranges: Vec<String> = ranges.map(|range| format!("{}-{}", range.start(), range.end())).collect();
        let seen = format!("{} of 16384 slots have no primary: {}", missing, list(ranges));
        let remedy = "commands for their keys wait, and fail after hold-timeout: start the missing nodes again, or assign the slots \
                      (CLUSTER ADDSLOTSRANGE); with `cluster-require-full-coverage yes`, the nodes refuse all other commands too";
        return Finding::broken(Step::Cluster, seen, remedy).fact("unserved", missing);
    }
    if !failing.is_empty() {
        let seen = format!("most nodes find that these primaries have failed: {}", list(failing));
        let remedy =
            "commands for their slots wait until a replica takes over; if none does, start the node again";
        return Finding::broken(Step::Cluster, seen, remedy).fact("unserved", 0);
    }
    Finding::ok(Step::Cluster, format!("all 16384 slots are served, by {}", count(serving, "shard")))
        .fact("unserved", 0)
        .fact("primaries", serving)
}

fn epochs(survey: &ClusterSurvey) -> Finding {
    let mut seen_epochs = HashSet::new();
    let serving = survey.shards.iter().filter(|shard| shard.slots > 0);
    let shared: Vec<String> = serving.filter(|shard| !seen_epochs.insert(shard.epoch)).map(shown).collect();
    let newest = survey.shards.iter().map(|shard| shard.epoch).max().unwrap_or(0);
    if shared.is_empty() {
        return Finding::ok(
            Step::Agreement,
            format!("each primary has a config epoch of its own, up to {newest}"),
        )
        .fact("epoch", newest);
    }
    Finding::warning(
        Step::Agreement,
        format!("these primaries share a config epoch with another: {}", list(shared)),
        "the cluster mends this within seconds: run this again; if it lasts, the nodes do not reach each other's bus port",
    )
    .fact("epoch", newest)
}

fn replicas(survey: &ClusterSurvey) -> Finding {
    let serving = || survey.shards.iter().filter(|shard| shard.slots > 0);
    let alone: Vec<String> = serving().filter(|shard| shard.replicas.is_empty()).map(shown).collect();
    if alone.is_empty() {
        return Finding::ok(Step::Replicas, "each primary has a replica that could take over");
    }
    Finding::warning(
        Step::Replicas,
        format!("no replica could take over from {}", list(alone)),
        "if such a node fails, its slots have no primary: add a replica (CLUSTER REPLICATE)",
    )
}

fn shown(shard: &SurveyedShard) -> String {
    shard.primary.as_ref().map_or_else(|| shard.id.clone(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    fn shard(port: u16, epoch: u64, slots: usize, replicas: usize) -> SurveyedShard {
        SurveyedShard {
            id: format!("node{port}"),
            primary: Some(Address::tcp("10.0.0.1", port)),
            epoch,
            slots,
            replicas: (0..replicas).map(|_| Address::tcp("10.0.0.2", port)).collect(),
            is_failing: false,
        }
    }

    fn levels(survey: &ClusterSurvey) -> Vec<Level> {
        judge(survey).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn every_problem_has_a_finding() {
        let whole =
            ClusterSurvey { shards: vec![shard(1, 1, 8192, 1), shard(2, 2, 8192, 1)], unserved: Vec::new() };
        assert_eq!(levels(&whole), [Level::Ok; 3]);
        let gap = ClusterSurvey { unserved: vec![0..=99], ..whole.clone() };
        assert_eq!(levels(&gap), [Level::Broken, Level::Ok, Level::Ok]);
        assert!(judge(&gap)[0].seen.starts_with("100 of 16384 slots have no primary: 0-99"));
        let mut failing = whole.clone();
        failing.shards[0].is_failing = true;
        assert_eq!(levels(&failing)[0], Level::Broken);
        let mut alone = whole.clone();
        (alone.shards[0].replicas, alone.shards[1].epoch) = (Vec::new(), 1);
        assert_eq!(levels(&alone), [Level::Ok, Level::Warning, Level::Warning]);
        let mut spare = whole;
        spare.shards.push(shard(3, 0, 0, 0));
        assert_eq!(levels(&spare), [Level::Ok; 3], "a node without slots needs no replica");
    }
}
