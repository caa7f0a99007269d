use std::time::Duration;

use tokio::time::Instant;

use super::super::reply::{ClusterView, NodeClaim};
use super::super::views::{ClusterViews, owners};
use super::*;
use crate::topology::Address;

fn id(name: &str) -> ClusterNodeId {
    format!("{name}{name}{name}{name}{name}{name}{name}{name}").into()
}

fn primary(name: &str, epoch: u64, slots: &[u16]) -> NodeClaim {
    NodeClaim {
        id: id(name),
        address: Some(Address::tcp(name, 1)),
        role: ClaimedRole::Primary,
        epoch,
        is_myself: false,
        has_failed: false,
        is_suspected: false,
        slots: slots.iter().map(|slot| *slot..=*slot).collect(),
        moving: Vec::new(),
    }
}

fn replica(name: &str, of: &str) -> NodeClaim {
    NodeClaim { role: ClaimedRole::Replica(id(of)), ..primary(name, 0, &[]) }
}

/// The numbers, after one view has been replaced by another again and again.
struct Bench {
    numbering: ShardNumbering,
    views: ClusterViews,
    /// The shard of each slot.
    slots: Vec<Option<ShardNumber>>,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self {
            numbering: ShardNumbering::default(),
            views: ClusterViews::default(),
            slots: Vec::new(),
            now: Instant::now(),
        }
    }

    /// Returns the primary of each shard.
    fn say(&mut self, nodes: Vec<NodeClaim>) -> Vec<(u32, String)> {
        self.now += Duration::from_millis(100);
        self.views.heard(Address::tcp("speaker", 1), ClusterView { nodes }, self.now);
        let claims = self.views.effective(|_| None, self.now);
        let owners = owners(&claims, |_| None);
        self.numbering.update(&claims, &owners, |slot| *self.slots.get(slot)?);
        let shard_of = |slot| self.numbering.shard_of_primary(&owners.owners[owners.of(slot)?]);
        self.slots = (0..16).map(shard_of).collect();
        self.numbering.primaries().map(|(number, primary)| (number.0, primary[..1].to_owned())).collect()
    }
}

fn shards(shards: &[(u32, &str)]) -> Vec<(u32, String)> {
    shards.iter().map(|(number, primary)| (*number, (*primary).to_owned())).collect()
}

#[test]
fn shards_are_numbered_in_the_order_of_their_slots_at_first() {
    let nodes = vec![primary("a", 3, &[5]), primary("b", 2, &[1, 9]), primary("c", 1, &[7])];
    assert_eq!(Bench::new().say(nodes), shards(&[(1, "b"), (2, "a"), (3, "c")]));
}

#[test]
fn a_shard_keeps_its_number_when_its_replica_takes_over() {
    let mut bench = Bench::new();
    let before = vec![primary("a", 1, &[1]), primary("b", 2, &[2]), replica("c", "a")];
    assert_eq!(bench.say(before), shards(&[(1, "a"), (2, "b")]));
    // The former primary is down, and the view still has it as a primary without slots.
    let crashed = vec![primary("a", 1, &[]), primary("b", 2, &[2]), primary("c", 3, &[1])];
    assert_eq!(bench.say(crashed), shards(&[(1, "c"), (2, "b")]));
    let back = vec![replica("a", "c"), primary("b", 2, &[2]), primary("c", 3, &[1])];
    assert_eq!(bench.say(back), shards(&[(1, "c"), (2, "b")]));
    let handed_back = vec![primary("a", 4, &[1]), primary("b", 2, &[2]), replica("c", "a")];
    assert_eq!(bench.say(handed_back), shards(&[(1, "a"), (2, "b")]));
}

#[test]
fn a_new_node_gets_a_new_number_and_a_removed_ones_number_is_not_used_again() {
    let mut bench = Bench::new();
    assert_eq!(bench.say(vec![primary("a", 1, &[1])]), shards(&[(1, "a")]));
    assert_eq!(bench.say(vec![primary("a", 1, &[1]), primary("b", 0, &[])]), shards(&[(1, "a"), (2, "b")]));
    assert_eq!(bench.say(vec![primary("a", 1, &[1])]), shards(&[(1, "a")]));
    assert_eq!(bench.say(vec![primary("a", 1, &[1]), primary("b", 0, &[])]), shards(&[(1, "a"), (3, "b")]));
}

#[test]
fn a_shard_without_slots_keeps_its_number() {
    let mut bench = Bench::new();
    bench.say(vec![primary("a", 1, &[1]), primary("b", 2, &[2])]);
    assert_eq!(
        bench.say(vec![primary("a", 3, &[1, 2]), primary("b", 2, &[])]),
        shards(&[(1, "a"), (2, "b")])
    );
    assert_eq!(bench.say(vec![primary("a", 3, &[1]), primary("b", 4, &[2])]), shards(&[(1, "a"), (2, "b")]));
}

#[test]
fn a_replica_that_gets_slots_of_its_own_is_another_shard() {
    let mut bench = Bench::new();
    bench.say(vec![primary("a", 1, &[1, 2]), replica("b", "a")]);
    // It is reset, and gets a slot of its former primary.
    assert_eq!(bench.say(vec![primary("a", 1, &[1, 2]), primary("b", 0, &[])]), shards(&[(1, "a")]));
    assert_eq!(bench.say(vec![primary("a", 1, &[1]), primary("b", 2, &[2])]), shards(&[(1, "a"), (2, "b")]));
    let mut bench = Bench::new();
    bench.say(vec![primary("a", 1, &[1]), replica("b", "a")]);
    assert_eq!(bench.say(vec![primary("a", 1, &[1]), primary("b", 2, &[2])]), shards(&[(1, "a"), (2, "b")]));
}

#[test]
fn a_stale_claim_of_the_former_primary_changes_nothing() {
    let mut bench = Bench::new();
    bench.say(vec![primary("a", 1, &[1, 2, 3]), replica("c", "a")]);
    // Slot 1 has moved elsewhere before the failover, and the speaker does not know that yet.
    let stale = vec![primary("a", 1, &[1, 2]), primary("c", 4, &[3])];
    assert_eq!(bench.say(stale.clone()), shards(&[(1, "c")]));
    assert_eq!(bench.say(stale), shards(&[(1, "c")]));
}

#[test]
fn a_primary_that_replicates_another_shard_ends_its_own() {
    let mut bench = Bench::new();
    bench.say(vec![primary("a", 1, &[1]), primary("b", 2, &[2])]);
    assert_eq!(bench.say(vec![primary("a", 3, &[1, 2]), replica("b", "a")]), shards(&[(1, "a")]));
}

#[test]
fn a_shard_keeps_its_number_while_only_the_former_primary_tells_of_a_failover() {
    let mut bench = Bench::new();
    bench.say(vec![primary("a", 1, &[1]), replica("c", "a")]);
    assert_eq!(bench.say(vec![replica("a", "c"), replica("c", "a")]), shards(&[(1, "a")]));
    assert_eq!(bench.say(vec![replica("a", "c"), primary("c", 2, &[1])]), shards(&[(1, "c")]));
}

#[test]
fn a_planned_failover_is_followed_before_the_slots_are() {
    let mut bench = Bench::new();
    bench.say(vec![primary("a", 1, &[1]), replica("c", "a")]);
    assert_eq!(bench.say(vec![replica("a", "c"), primary("c", 2, &[])]), shards(&[(1, "c")]));
}
