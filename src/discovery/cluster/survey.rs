//! What nodes say of their cluster, put together once, for people who look for a mistake. By the rules of discovery. Pure.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use tokio::time::Instant;

use super::reply::{self, ClaimedRole, ClusterView};
use super::views::{ClusterViews, EffectiveClaim, owners};
use crate::cluster::slot::SLOTS;
use crate::resp::value::Value;
use crate::topology::Address;

/// What one node says of its cluster.
#[derive(Clone, Debug)]
pub struct NodeSurvey {
    view: ClusterView,
}

impl NodeSurvey {
    /// Reads the replies to CLUSTER NODES and CLUSTER SLOTS of the node at `asked`; `nat` maps announced addresses to those to dial.
    /// Returns `None` if the first reply is none of CLUSTER NODES.
    pub fn read(
        nodes: &Value,
        slots: &Value,
        asked: &Address,
        nat: &HashMap<Address, Address>,
    ) -> Option<Self> {
        reply::view(nodes, slots, asked, nat).map(|view| Self { view })
    }

    /// Returns the number of nodes of which the node speaks, itself included.
    pub fn nodes(&self) -> usize {
        self.view.nodes.len()
    }
}

/// A primary of the cluster, with its replicas.
#[derive(Clone, Debug)]
pub struct SurveyedShard {
    /// The id under which the cluster knows the primary.
    pub id: String,
    /// Where the primary is; `None` if nobody knows.
    pub primary: Option<Address>,
    /// Its config epoch.
    pub epoch: u64,
    /// The number of slots that it serves.
    pub slots: usize,
    /// Its replicas that have not failed.
    pub replicas: Vec<Address>,
    /// True if most of the other nodes find that it has failed.
    pub is_failing: bool,
}

/// What all nodes say together.
#[derive(Clone, Debug, Default)]
pub struct ClusterSurvey {
    /// The primaries that serve slots, by id, then those that serve none.
    pub shards: Vec<SurveyedShard>,
    /// The slots that no primary serves.
    pub unserved: Vec<RangeInclusive<u16>>,
}

impl ClusterSurvey {
    /// Puts together what the nodes at these addresses say.
    pub fn of(said: Vec<(Address, NodeSurvey)>) -> Self {
        let (now, mut views) = (Instant::now(), ClusterViews::default());
        for (speaker, NodeSurvey { view }) in said {
            views.heard(speaker, view, now);
        }
        let claims = views.effective(|_| None, now);
        let owners = owners(&claims, |_| None);
        let mut served = vec![0_usize; owners.owners.len()];
        let mut unserved: Vec<RangeInclusive<u16>> = Vec::new();
        for (slot, number) in (0..SLOTS).zip(0_u16..) {
            if let Some(count) = owners.of(slot).and_then(|owner| served.get_mut(owner)) {
                *count += 1;
            } else {
                match unserved.last_mut() {
                    Some(range) if range.end().checked_add(1) == Some(number) => {
                        *range = *range.start()..=number
                    }
                    _ => unserved.push(number..=number),
                }
            }
        }
        let count = |known: &EffectiveClaim| {
            let owner = owners.owners.iter().position(|owner| *owner == known.claim.id);
            owner.and_then(|owner| served.get(owner)).copied().unwrap_or(0)
        };
        let primaries = claims.values().filter(|known| known.claim.role == ClaimedRole::Primary);
        let mut shards: Vec<SurveyedShard> = primaries
            .map(|known| SurveyedShard {
                id: known.claim.id.to_string(),
                primary: known.address.clone(),
                epoch: known.claim.epoch,
                slots: count(known),
                replicas: claims
                    .values()
                    .filter(|other| matches!(&other.claim.role, ClaimedRole::Replica(of) if *of == known.claim.id))
                    .filter(|other| !other.is_failing)
                    .filter_map(|other| other.address.clone())
                    .collect(),
                is_failing: known.is_failing,
            })
            .collect();
        shards.sort_by_key(|shard| shard.slots == 0);
        Self { shards, unserved }
    }
}
