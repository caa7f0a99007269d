//! Gives each shard its number, and says which node is its primary. Pure.
//!
//! A shard is known by its nodes. When a replica of its primary serves its slots, the shard has another primary and the same number.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::reply::{ClaimedRole, ClusterNodeId};
use super::views::{EffectiveClaims, SlotOwners};
use crate::cluster::ShardNumber;
use crate::cluster::slot::SLOTS;

/// The greatest number of shards that respgate follows.
const MAX_SHARDS: usize = 512;

/// The primary of each shard, by number.
#[derive(Debug, Default)]
pub(super) struct ShardNumbering {
    primaries: BTreeMap<ShardNumber, ClusterNodeId>,
    /// The shard of each node that is known.
    shards: HashMap<ClusterNodeId, ShardNumber>,
    /// The nodes that were replicas at the last update.
    replicas: HashSet<ClusterNodeId>,
    /// The number of shards so far.
    count: u32,
}

impl ShardNumbering {
    /// Returns each shard with its primary.
    pub(super) fn primaries(&self) -> impl Iterator<Item = (ShardNumber, &ClusterNodeId)> {
        self.primaries.iter().map(|(number, primary)| (*number, primary))
    }

    /// Returns the primary of a shard; `None` if there is no such shard.
    pub(super) fn primary(&self, number: ShardNumber) -> Option<&ClusterNodeId> {
        self.primaries.get(&number)
    }

    /// Returns the shard of which this node is the primary.
    pub(super) fn shard_of_primary(&self, node: &ClusterNodeId) -> Option<ShardNumber> {
        let number = *self.shards.get(node)?;
        (self.primaries.get(&number) == Some(node)).then_some(number)
    }

    /// Follows what the nodes say now. `present` is the shard of each slot until now.
    pub(super) fn update(
        &mut self,
        claims: &EffectiveClaims,
        owners: &SlotOwners,
        present: impl Fn(usize) -> Option<ShardNumber>,
    ) {
        let by_slots = owners.serving();
        let serving: HashSet<&ClusterNodeId> = by_slots.iter().copied().collect();
        // Primaries with the newest epoch choose first.
        let mut primaries: Vec<_> = claims
            .values()
            .map(|known| &known.claim)
            .filter(|claim| claim.role == ClaimedRole::Primary)
            .collect();
        primaries.sort_by(|one, other| (other.epoch, &one.id).cmp(&(one.epoch, &other.id)));
        if self.count == 0 {
            // Nothing is numbered yet: let people find the shards in the order of their slots.
            primaries.sort_by_key(|claim| by_slots.iter().position(|owner| **owner == claim.id));
        }
        let inherited = inherited(owners, present);
        for claim in primaries.iter().filter(|claim| serving.contains(&claim.id)) {
            if self.shard_of_primary(&claim.id).is_some() {
                continue;
            }
            let Some((number, leader)) = self.former(&claim.id) else {
                self.lead(&claim.id, None);
                continue;
            };
            let is_newer = claims.get(&leader).is_none_or(|known| claim.epoch > known.claim.epoch);
            let slots = |node: &ClusterNodeId| inherited.get(&(number, node)).copied().unwrap_or(0);
            // The former primary may still claim slots that have left it before, and whose new owner has not spoken yet.
            let is_promoted = self.replicas.contains(&claim.id) && slots(&claim.id) > 0;
            let has_more = slots(&claim.id) > slots(&leader);
            if !serving.contains(&leader) || is_newer && (is_promoted || has_more) {
                self.lead(&claim.id, Some(number));
            } else if is_newer {
                // It has got slots of its own since. An older claim is what somebody has not forgotten yet.
                self.lead(&claim.id, None);
            }
        }
        self.follow_demotions(claims);
        // A primary without slots is a new node, which will get some; or a former primary, whose shard has another one.
        for claim in primaries.iter().filter(|claim| !serving.contains(&claim.id)) {
            if !self.shards.contains_key(&claim.id) {
                self.lead(&claim.id, None);
            }
        }
        let gone: Vec<ShardNumber> = self
            .primaries
            .iter()
            .filter(|(_, primary)| !serving.contains(primary) && !self.may_lead(primary, claims))
            .map(|(number, _)| *number)
            .collect();
        gone.iter().for_each(|number| {
            self.primaries.remove(number);
        });
        self.note_members(claims);
    }

    /// Returns the shard to which a node belongs, and its primary.
    fn former(&self, node: &ClusterNodeId) -> Option<(ShardNumber, ClusterNodeId)> {
        let number = *self.shards.get(node)?;
        Some((number, self.primaries.get(&number)?.clone()))
    }

    /// Returns true if a node that leads a shard without slots is a primary, or has just stepped down for a node that does not say yet
    /// that it is one.
    fn may_lead(&self, node: &ClusterNodeId, claims: &EffectiveClaims) -> bool {
        match claims.get(node).map(|known| &known.claim.role) {
            Some(ClaimedRole::Primary) => true,
            Some(ClaimedRole::Replica(of)) => claims.contains_key(of) && self.shard_of_primary(of).is_none(),
            None => false,
        }
    }

    /// Lets a shard follow its primary's own primary, if that leads no other shard.
    fn follow_demotions(&mut self, claims: &EffectiveClaims) {
        let demoted: Vec<(ShardNumber, ClusterNodeId)> = self
            .primaries
            .iter()
            .filter_map(|(number, primary)| match &claims.get(primary)?.claim.role {
                ClaimedRole::Replica(of) => Some((*number, of.clone())),
                ClaimedRole::Primary => None,
            })
            .collect();
        for (number, successor) in demoted {
            let leads = claims.get(&successor).is_some_and(|known| known.claim.role == ClaimedRole::Primary);
            if leads && self.shard_of_primary(&successor).is_none() {
                self.lead(&successor, Some(number));
            }
        }
    }

    /// Makes a node the primary of a shard; without a number, of a new one.
    fn lead(&mut self, node: &ClusterNodeId, number: Option<ShardNumber>) {
        let number = match number {
            Some(number) => number,
            None if self.primaries.len() >= MAX_SHARDS => return,
            None => {
                self.count = self.count.saturating_add(1);
                ShardNumber(self.count)
            }
        };
        self.primaries.insert(number, node.clone());
        self.shards.insert(node.clone(), number);
    }

    /// Notes to which shard each node belongs.
    fn note_members(&mut self, claims: &EffectiveClaims) {
        self.shards.retain(|node, number| claims.contains_key(node) && self.primaries.contains_key(number));
        self.replicas.clear();
        for (node, known) in claims {
            if known.claim.role != ClaimedRole::Primary {
                self.replicas.insert(node.clone());
            }
            let ClaimedRole::Replica(of) = &known.claim.role else { continue };
            if let Some(number) = self.shard_of_primary(of) {
                self.shards.insert(node.clone(), number);
            }
        }
    }
}

/// Returns the number of slots that each owner has of each shard's slots until now.
fn inherited(
    owners: &SlotOwners,
    present: impl Fn(usize) -> Option<ShardNumber>,
) -> HashMap<(ShardNumber, &ClusterNodeId), usize> {
    let mut inherited = HashMap::new();
    // Slots of one shard and owner follow each other, so few counts change the map.
    let mut run: Option<((ShardNumber, usize), usize)> = None;
    let mut close = |run: Option<((ShardNumber, usize), usize)>| {
        if let Some(((number, owner), count)) = run
            && let Some(owner) = owners.owners.get(owner)
        {
            *inherited.entry((number, owner)).or_insert(0) += count;
        }
    };
    for slot in 0..SLOTS {
        let key = present(slot).zip(owners.of(slot));
        match (&mut run, key) {
            (Some((known, count)), Some(key)) if *known == key => *count += 1,
            (_, key) => close(std::mem::replace(&mut run, key.map(|key| (key, 1)))),
        }
    }
    close(run);
    inherited
}

#[cfg(test)]
mod tests;
