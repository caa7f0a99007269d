//! Follows one shard: verifies that its primary says itself that it is one, and numbers its generations. Pure.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::reply::{ClaimedRole, ClusterNodeId};
use super::views::EffectiveClaim;
use crate::discovery::verify::{AddressNews, Finding, Verifier};
use crate::hint::Hint;
use crate::topology::{Address, Generation, Outage, Primary, Sign, Topology};

/// Numbers the generations of all shards of a cluster.
#[derive(Debug, Default)]
pub(super) struct Generations(u64);

impl Generations {
    /// Returns a generation that no shard had before.
    pub(super) fn next(&mut self) -> Generation {
        self.0 += 1;
        Generation(self.0)
    }
}

/// One shard.
#[derive(Debug)]
pub(super) struct FollowedShard {
    verifier: Verifier,
    /// The node that is verified, and where.
    node: ClusterNodeId,
    address: Option<Address>,
    /// The verifier's newest generation that was published, and its number within the cluster.
    generation: Option<(Generation, Generation)>,
    /// True if the next probe must open a new connection, because something hints at a change.
    anew: bool,
    /// True if most of the other nodes find that the primary has failed.
    is_failing: bool,
    /// The addresses of its replicas.
    pub(super) replicas: Vec<Address>,
}

impl FollowedShard {
    /// Begins to follow the shard of this primary. It probes a working primary every `interval`.
    pub(super) fn new(node: ClusterNodeId, interval: Duration) -> Self {
        Self {
            verifier: Verifier::new(interval),
            node,
            address: None,
            generation: None,
            anew: true,
            is_failing: false,
            replicas: Vec::new(),
        }
    }

    /// Follows what the nodes say of its primary now.
    pub(super) fn update(&mut self, id: &ClusterNodeId, known: &EffectiveClaim, now: Instant) {
        self.is_failing = known.is_failing;
        // A node without an address stays where it was.
        let address = known.address.as_ref().or(self.address.as_ref().filter(|_| self.node == *id));
        let Some(address) = address.cloned() else { return };
        let epoch = known.claim.epoch;
        if self.node == *id && self.address.as_ref() == Some(&address) {
            self.verifier.set_epoch(epoch);
        } else {
            self.anew = true;
            self.verifier.aim(address.clone(), Some(epoch), now);
            (self.node, self.address) = (id.clone(), Some(address));
        }
        if let (ClaimedRole::Replica(of), true, Some((inner, _))) =
            (&known.claim.role, known.claim.is_myself, self.generation)
        {
            let text = format!("{id} says that it is a replica of {of} by now");
            self.anew = true;
            self.verifier.denied(inner, text, now);
        }
    }

    /// Where its primary is.
    pub(super) fn address(&self) -> Option<&Address> {
        self.address.as_ref()
    }

    /// Returns its topology, and numbers a generation that is new.
    pub(super) fn topology(&mut self, generations: &mut Generations) -> Topology {
        let unknown = || Topology::Unknown(Arc::new(Outage::Starting));
        match self.verifier.topology().unwrap_or_else(unknown) {
            Topology::Known(primary) => {
                let primary = self.renumbered(&primary, generations);
                if self.is_failing {
                    Topology::Failing(primary, Sign::Down)
                } else {
                    Topology::Known(primary)
                }
            }
            Topology::Failing(primary, sign) => {
                Topology::Failing(self.renumbered(&primary, generations), sign)
            }
            unknown @ Topology::Unknown(_) => unknown,
        }
    }

    fn renumbered(&mut self, primary: &Arc<Primary>, generations: &mut Generations) -> Arc<Primary> {
        let outer = match self.generation {
            Some((inner, outer)) if inner == primary.generation => outer,
            _ => generations.next(),
        };
        self.generation = Some((primary.generation, outer));
        Arc::new(Primary { generation: outer, ..Primary::clone(primary) })
    }

    /// Returns true if this is its newest generation.
    pub(super) fn has(&self, generation: Generation) -> bool {
        self.generation.is_some_and(|(_, outer)| outer == generation)
    }

    /// Handles a hint about its newest generation.
    pub(super) fn hint(&mut self, hint: &Hint, now: Instant) {
        let Some((inner, _)) = self.generation else { return };
        let hint = match hint {
            Hint::Lost(_) => Hint::Lost(inner),
            Hint::OtherNode(_) => Hint::OtherNode(inner),
            Hint::NotPrimary(_) => Hint::NotPrimary(inner),
            Hint::Moved { .. } | Hint::ClusterDown(_) => return,
        };
        self.anew = true;
        self.verifier.hint(hint, now);
    }

    /// Notes that a node has told of a change, so that a primary that is not verified is asked soon.
    pub(super) fn nudge(&mut self, now: Instant) {
        self.verifier.nudge(now);
    }

    /// Starts the probe that is due now, if any. Returns its ticket, the address, and true if the probe must open a new connection.
    pub(super) fn start_probe(&mut self, now: Instant) -> Option<(u64, Address, bool)> {
        self.verifier.lapse(now);
        let (ticket, address) = self.verifier.start_probe(now)?;
        Some((ticket, address, std::mem::take(&mut self.anew)))
    }

    /// Handles the result of a probe.
    pub(super) fn probed(&mut self, ticket: u64, finding: Finding, now: Instant) {
        self.verifier.probed(ticket, finding, now);
    }

    /// Takes the findings that the operator does not know yet.
    pub(super) fn take_news(&mut self) -> Vec<AddressNews> {
        self.verifier.take_news()
    }

    /// Returns when a probe is due, or a demoted node is given up.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.verifier.wake_at()
    }
}
