//! The newest view of each node, and what follows from all of them together. Pure.
//!
//! # The rules
//!
//! - Of several claims about one node, the one with the highest epoch counts; then the node's own, if it is fresh; then the newest.
//! - A slot belongs to the primary with the highest epoch that claims it. If two have the same epoch, it stays where it was.
//! - A view outlives the connection to its speaker by [`RETENTION`], so that a node that was cut off cannot win with an older epoch.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::reply::{ClaimedRole, ClusterNodeId, ClusterView, NodeClaim};
use crate::cluster::slot::{SLOTS, Slot};
use crate::topology::Address;

/// How long a view counts whose speaker does not answer any more, if the nodes are asked often.
pub(super) const RETENTION: Duration = Duration::from_secs(30);

/// The age after which a view tells nothing of failures, and is not preferred as a node's own, if the nodes are asked often.
const FRESH: Duration = Duration::from_secs(4);

/// The newest view of each node that was asked.
#[derive(Debug)]
pub(super) struct ClusterViews {
    by_speaker: HashMap<Address, Spoken>,
    retention: Duration,
    fresh: Duration,
}

#[derive(Debug)]
struct Spoken {
    view: ClusterView,
    at: Instant,
    /// True if the speaker has not answered since.
    is_silent: bool,
}

impl Default for ClusterViews {
    fn default() -> Self {
        Self::new(Duration::ZERO)
    }
}

/// What all views say of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EffectiveClaim {
    pub(super) claim: NodeClaim,
    /// The address of the node at which it is known by most.
    pub(super) address: Option<Address>,
    /// True if most of the others find that it has failed.
    pub(super) is_failing: bool,
}

/// What all views say, by node.
pub(super) type EffectiveClaims = BTreeMap<ClusterNodeId, EffectiveClaim>;

/// The owner of each slot: a place in the list of owners.
#[derive(Debug, Default)]
pub(super) struct SlotOwners {
    pub(super) owners: Vec<ClusterNodeId>,
    slots: Vec<Option<u16>>,
}

impl SlotOwners {
    /// Returns the place of a slot's owner in the list.
    pub(super) fn of(&self, slot: usize) -> Option<usize> {
        (*self.slots.get(slot)?).map(usize::from)
    }

    /// Returns the owners that have any slot, in the order of their lowest slots.
    pub(super) fn serving(&self) -> Vec<&ClusterNodeId> {
        let mut seen = vec![false; self.owners.len()];
        let mut serving = Vec::new();
        for owner in self.slots.iter().flatten().map(|owner| usize::from(*owner)) {
            if let (Some(seen @ false), Some(id)) = (seen.get_mut(owner), self.owners.get(owner)) {
                *seen = true;
                serving.push(id);
            }
        }
        serving
    }
}

impl ClusterViews {
    /// Creates an empty set. Each node is asked within `cycle` again.
    pub(super) fn new(cycle: Duration) -> Self {
        let (retention, fresh) = (RETENTION.max(cycle * 2), FRESH.max(cycle));
        Self { by_speaker: HashMap::new(), retention, fresh }
    }

    /// Takes note that a node did not answer: its view tells nothing of failures any more.
    pub(super) fn silent(&mut self, speaker: &Address) {
        if let Some(spoken) = self.by_speaker.get_mut(speaker) {
            spoken.is_silent = true;
        }
    }

    /// Returns true if a node finds that a primary which serves slots may have failed.
    pub(super) fn suspects_any(&self) -> bool {
        let claims = self.by_speaker.values().flat_map(|spoken| &spoken.view.nodes);
        let mut serving =
            claims.filter(|claim| claim.role == ClaimedRole::Primary && !claim.slots.is_empty());
        serving.any(|claim| claim.is_suspected)
    }

    /// Takes over the newest view of a node. Returns true if it differs from the former one. Drops the views that are older than
    /// this one by [`RETENTION`]; the last ones stay while nobody answers.
    pub(super) fn heard(&mut self, speaker: Address, view: ClusterView, now: Instant) -> bool {
        let mut dropped = false;
        self.by_speaker.retain(|_, spoken| {
            let stays = now.saturating_duration_since(spoken.at) < self.retention;
            dropped |= !stays;
            stays
        });
        let differs = self.by_speaker.get(&speaker).is_none_or(|spoken| spoken.view != view);
        self.by_speaker.insert(speaker, Spoken { view, at: now, is_silent: false });
        dropped || differs
    }

    /// Returns true if nobody has answered.
    pub(super) fn is_empty(&self) -> bool {
        self.by_speaker.is_empty()
    }

    /// Returns the newest epoch that a node has named.
    pub(super) fn epoch(&self) -> u64 {
        let claims = self.by_speaker.values().flat_map(|spoken| &spoken.view.nodes);
        claims.map(|claim| claim.epoch).max().unwrap_or(0)
    }

    /// Returns the slots that nodes say are on their way from them or to them.
    pub(super) fn moving(&self) -> impl Iterator<Item = Slot> {
        let claims = self.by_speaker.values().flat_map(|spoken| &spoken.view.nodes);
        claims.flat_map(|claim| claim.moving.iter().copied())
    }

    /// Returns what all views say together. `known` is where each node was reached before: it keeps its address while anybody
    /// names that.
    pub(super) fn effective(
        &self,
        known: impl Fn(&ClusterNodeId) -> Option<Address>,
        now: Instant,
    ) -> EffectiveClaims {
        let mut claims: BTreeMap<&ClusterNodeId, Vec<Said<'_>>> = BTreeMap::new();
        for spoken in self.by_speaker.values() {
            let is_fresh = !spoken.is_silent && now.saturating_duration_since(spoken.at) < self.fresh;
            for claim in &spoken.view.nodes {
                claims.entry(&claim.id).or_default().push(Said { claim, at: spoken.at, is_fresh });
            }
        }
        let effective = claims.into_iter().filter_map(|(id, claims)| {
            let rank = |said: &&Said<'_>| (said.claim.epoch, said.claim.is_myself && said.is_fresh, said.at);
            let newest = claims.iter().max_by_key(rank)?;
            let others = claims.iter().filter(|said| !said.claim.is_myself && said.is_fresh);
            let (count, failures) = others.fold((0_usize, 0_usize), |(count, failures), said| {
                (count + 1, failures + usize::from(said.claim.has_failed))
            });
            let effective = EffectiveClaim {
                claim: NodeClaim::clone(newest.claim),
                address: address(&claims, known(id), self.fresh),
                is_failing: failures * 2 > count,
            };
            Some((id.clone(), effective))
        });
        effective.collect()
    }
}

/// One node's claim about a node.
struct Said<'a> {
    claim: &'a NodeClaim,
    at: Instant,
    /// True if the speaker has said so lately.
    is_fresh: bool,
}

/// Chooses the address of a node: the known one if a newest view still names it, else the one that most name.
fn address(claims: &[Said<'_>], known: Option<Address>, fresh: Duration) -> Option<Address> {
    let mut votes: Vec<(&Address, usize, Instant)> = Vec::new();
    for Said { claim, at, .. } in claims {
        let Some(address) = &claim.address else { continue };
        match votes.iter_mut().find(|(voted, ..)| *voted == address) {
            Some((_, count, newest)) => (*count, *newest) = (*count + 1, (*newest).max(*at)),
            None => votes.push((address, 1, *at)),
        }
    }
    let newest = votes.iter().map(|(.., at)| *at).max()?;
    // A node that moves is named at its former address only by views that are older than others.
    let is_current = |at: Instant| newest.saturating_duration_since(at) < fresh;
    let current = || votes.iter().filter(|(.., at)| is_current(*at));
    known.filter(|known| current().any(|(voted, ..)| *voted == known)).or_else(|| {
        current().max_by_key(|(_, count, at)| (*count, *at)).map(|(address, ..)| (*address).clone())
    })
}

/// Finds the owner of each slot. `present` is the owner of each slot until now.
pub(super) fn owners(
    claims: &EffectiveClaims,
    present: impl Fn(usize) -> Option<ClusterNodeId>,
) -> SlotOwners {
    let primaries = || claims.values().filter(|known| known.claim.role == ClaimedRole::Primary);
    let mut owners: Vec<&NodeClaim> =
        primaries().map(|known| &known.claim).filter(|claim| !claim.slots.is_empty()).collect();
    owners.sort_by(|one, other| (one.epoch, &other.id).cmp(&(other.epoch, &one.id)));
    owners.truncate(usize::from(u16::MAX));
    let mut slots: Vec<Option<u16>> = vec![None; SLOTS];
    let epoch_of = |owner: u16| owners.get(usize::from(owner)).map_or(0, |claim| claim.epoch);
    for (claim, owner) in owners.iter().zip(0_u16..) {
        for slot in claim.slots.iter().flat_map(Clone::clone).map(usize::from) {
            let Some(entry) = slots.get_mut(slot) else { continue };
            let stays = entry.is_some_and(|former| {
                let former_id = owners.get(usize::from(former)).map(|claim| &claim.id);
                epoch_of(former) == claim.epoch && present(slot).as_ref() == former_id
            });
            if !stays {
                *entry = Some(owner);
            }
        }
    }
    SlotOwners { owners: owners.iter().map(|claim| claim.id.clone()).collect(), slots }
}

#[cfg(test)]
mod tests;
