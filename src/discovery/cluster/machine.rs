//! Decides what discovery does and publishes: takes events and returns actions. It does no I/O and reads no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::asked::{AskedNodes, TURNS};
use super::home::HomeShard;
use super::moving::MovingSlots;
use super::numbering::ShardNumbering;
use super::pace::RoundPace;
use super::reply::{ClaimedRole, ClusterNodeId, ClusterView};
use super::shard::{FollowedShard, Generations};
use super::slot_epochs::SlotEpochs;
use super::status::{ClusterStatus, NodeError};
use super::views::{ClusterViews, EffectiveClaims, SlotOwners, owners};
use crate::cluster::slot::Slot;
use crate::cluster::slots::SlotTable;
use crate::cluster::{ClusterTopology, Shard, ShardNumber};
use crate::discovery::config::ClusterConfig;
use crate::discovery::verify::{AddressNews, Finding};
use crate::hint::Hint;
use crate::topology::{Address, Generation, Outage, Topology};

/// The least number of nodes to ask. Replicas fill up the list.
const MIN_ASKED: usize = 3;

/// How long the nodes are asked more often because a shard has no primary.
const UNSETTLED_FOR: Duration = Duration::from_secs(60);

/// An input of the machine.
#[derive(Debug)]
pub(super) enum ClusterEvent {
    /// A node told of the cluster.
    Viewed { node: Address, view: ClusterView },
    /// A node did not. The task that asks it tries again by itself.
    Failed { node: Address, error: NodeError },
    /// The probe with this ticket of a shard's primary ended.
    Probed { shard: ShardNumber, ticket: u64, finding: Finding },
    /// A connection of an upstream reported a sign of a change.
    Hinted(Hint),
    /// The time that [`ClusterMachine::wake_at`] returned has come. The driver also sends this as the first event.
    Tick,
}

/// An output of the machine: what the driver must do.
#[derive(Debug)]
pub(super) enum ClusterAction {
    /// Connect to a node and keep the connection open.
    Track(Address),
    /// Close the connection to a node.
    Forget(Address),
    /// Ask these nodes, or every connected one.
    Ask(Option<Vec<Address>>),
    /// Ask the primary of a shard for its role; on a new connection if `anew`. The driver aborts an earlier probe of that shard that has not ended.
    Probe { shard: ShardNumber, ticket: u64, address: Address, anew: bool },
    /// Abort the probe of a shard that is gone.
    StopProbe(ShardNumber),
    /// Publish the cluster, and the topology of its home shard.
    Publish { home: Topology, cluster: Arc<ClusterTopology> },
    /// Log a warning about what does not work. The machine returns it once per problem.
    Warn(String),
    /// Log that it works again.
    Inform(String),
}

/// Holds the whole state of discovery and turns events into actions.
#[derive(Debug)]
pub(super) struct ClusterMachine {
    /// The time between two probes of a working primary.
    interval: Duration,
    asked: AskedNodes,
    views: ClusterViews,
    /// True if a view has changed since all were combined.
    is_stale: bool,
    claims: EffectiveClaims,
    numbering: ShardNumbering,
    shards: BTreeMap<ShardNumber, FollowedShard>,
    generations: Generations,
    home: HomeShard,
    slots: Arc<SlotTable>,
    /// Under which epoch each slot is served.
    epochs: SlotEpochs,
    /// The slots on their way.
    moving: MovingSlots,
    /// The shards that serve any slot.
    serving: BTreeSet<ShardNumber>,
    /// Maps announced addresses to those to dial.
    nat: HashMap<Address, Address>,
    pace: RoundPace,
    /// True if the next round asks all nodes, because something has changed or may have.
    asks_all: bool,
    /// True if the last round asked some nodes only.
    asked_part: bool,
    /// Since when a shard that serves slots has had no primary.
    unsettled: Option<Instant>,
    published: Option<(Topology, Arc<ClusterTopology>)>,
    refreshes: u64,
    redirect_hints: u64,
}

impl ClusterMachine {
    /// Creates the machine. It probes a working primary every `interval`; if that is zero, only when something hints at a change.
    pub(super) fn new(config: &ClusterConfig, interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            asked: AskedNodes::new(config.seeds.clone(), config.poll_interval),
            views: ClusterViews::new(config.poll_interval * TURNS),
            is_stale: false,
            claims: EffectiveClaims::new(),
            numbering: ShardNumbering::default(),
            shards: BTreeMap::new(),
            generations: Generations::default(),
            home: HomeShard::default(),
            slots: Arc::default(),
            epochs: SlotEpochs::default(),
            moving: MovingSlots::new(config.poll_interval),
            serving: BTreeSet::new(),
            nat: config.nat.clone(),
            pace: RoundPace::new(config.poll_interval, now),
            asks_all: true,
            asked_part: false,
            unsettled: None,
            published: None,
            refreshes: 0,
            redirect_hints: 0,
        }
    }

    /// Returns the state for operators.
    pub(super) fn status(&self) -> ClusterStatus {
        ClusterStatus {
            asked: self.asked.status(),
            refreshes: self.refreshes,
            redirect_hints: self.redirect_hints,
        }
    }

    /// Returns why no node tells of the cluster; `None` if any does.
    pub(super) fn uncertainty(&self) -> Option<Outage> {
        let errors = self.asked.errors();
        let texts: Vec<&str> = errors.iter().map(|error| error.text()).collect();
        match (errors.first(), texts.join("; ")) {
            (None, _) => None,
            (Some(NodeError::Refused(_)), text) => Some(Outage::Refused(text)),
            (Some(_), text) => Some(Outage::Unverified(text)),
        }
    }

    /// Handles events and returns the actions that follow from all of them. The answers to one round of questions arrive together, and
    /// what follows from them takes time with every node.
    pub(super) fn handle(
        &mut self,
        events: impl IntoIterator<Item = ClusterEvent>,
        now: Instant,
    ) -> Vec<ClusterAction> {
        let mut actions = Vec::new();
        events.into_iter().for_each(|event| self.note(event, now, &mut actions));
        self.settle(now, &mut actions);
        actions
    }

    fn note(&mut self, event: ClusterEvent, now: Instant, actions: &mut Vec<ClusterAction>) {
        match event {
            ClusterEvent::Viewed { node, view } => {
                if self.asked.answered(&node, now) {
                    actions.push(ClusterAction::Inform(format!("{node} tells of the cluster again")));
                }
                let differs = self.views.heard(node, view, now);
                self.is_stale |= differs;
                if differs && self.asked_part {
                    // The others may know more.
                    self.ask_all_soon(now);
                }
            }
            ClusterEvent::Failed { node, error } => {
                let text = error.text().to_owned();
                self.views.silent(&node);
                self.asks_all = true;
                if self.asked.failed(&node, error) {
                    actions.push(ClusterAction::Warn(text));
                }
            }
            ClusterEvent::Probed { shard, ticket, finding } => {
                self.combine_stale(now);
                if let Some(shard) = self.shards.get_mut(&shard) {
                    shard.probed(ticket, finding, now);
                }
            }
            ClusterEvent::Hinted(hint) => {
                self.combine_stale(now);
                self.hinted(&hint, now);
            }
            ClusterEvent::Tick => {}
        }
    }

    /// Returns when the driver must send the next [`ClusterEvent::Tick`].
    pub(super) fn wake_at(&self) -> Instant {
        let shards = self.shards.values().filter_map(FollowedShard::wake_at);
        shards.chain([self.pace.wake_at()]).min().unwrap_or(self.pace.wake_at())
    }

    fn hinted(&mut self, hint: &Hint, now: Instant) {
        match hint {
            Hint::Lost(generation)
            | Hint::OtherNode(generation)
            | Hint::NotPrimary(generation)
            | Hint::ClusterDown(generation) => {
                let Some(number) = self.shard_of(*generation) else { return };
                if let Some(shard) = self.shards.get_mut(&number) {
                    shard.hint(hint, now);
                }
            }
            Hint::Moved { slot, to } => {
                let to = self.nat.get(to).unwrap_or(to);
                let present = self.slots.shard(*slot).and_then(|number| self.shards.get(&number));
                // The connection that was redirected only follows an older topology.
                if present.is_some_and(|shard| shard.address() == Some(to)) {
                    return;
                }
                self.redirect_hints += 1;
                self.asked.named(to.clone(), now);
            }
        }
        self.ask_all_soon(now);
    }

    fn ask_all_soon(&mut self, now: Instant) {
        self.asks_all = true;
        self.pace.hint(now);
    }

    /// Returns the shard to which this generation belongs.
    fn shard_of(&self, generation: Generation) -> Option<ShardNumber> {
        let generation = self.home.inner(generation).map_or(generation, |(_, own)| own);
        self.shards.iter().find(|(_, shard)| shard.has(generation)).map(|(number, _)| *number)
    }

    /// Combines all views anew if one has changed.
    fn combine_stale(&mut self, now: Instant) {
        if self.is_stale {
            self.combine(now);
        }
    }

    /// Combines all views anew.
    fn combine(&mut self, now: Instant) {
        self.is_stale = false;
        self.moving.note(self.views.moving(), now);
        let address_of = |id: &ClusterNodeId| {
            let shard = self.shards.get(&self.numbering.shard_of_primary(id)?)?;
            shard.address().cloned()
        };
        self.claims = self.views.effective(address_of, now);
        let slots = Arc::clone(&self.slots);
        let present = |slot: usize| {
            let slot = u16::try_from(slot).ok().and_then(Slot::new)?;
            self.numbering.primary(slots.shard(slot)?).cloned()
        };
        let owners = owners(&self.claims, present);
        let shard_of = |slot: usize| slots.shard(u16::try_from(slot).ok().and_then(Slot::new)?);
        self.numbering.update(&self.claims, &owners, shard_of);
        for (number, primary) in self.numbering.primaries() {
            let interval = self.interval;
            let shard =
                self.shards.entry(number).or_insert_with(|| FollowedShard::new(primary.clone(), interval));
            if let Some(known) = self.claims.get(primary) {
                shard.update(primary, known, now);
            }
            shard.replicas = replicas(&self.claims, primary);
        }
        self.assign(&owners, now);
    }

    /// Writes the table of slots anew.
    fn assign(&mut self, owners: &SlotOwners, now: Instant) {
        let claim =
            |owner| Some((self.numbering.shard_of_primary(owner)?, self.claims.get(owner)?.claim.epoch));
        let claims: Vec<Option<(ShardNumber, u64)>> = owners.owners.iter().map(claim).collect();
        let claimed = |slot| owners.of(slot).and_then(|owner| *claims.get(owner)?);
        let present = |number: ShardNumber| self.numbering.primary(number).is_some();
        let table = self.epochs.assign(&self.slots, claimed, present, now);
        if table != *self.slots {
            self.serving = table.ranges().filter_map(|(_, shard)| shard).collect();
            self.slots = Arc::new(table);
        }
    }

    /// Starts what is due, and publishes what has changed.
    fn settle(&mut self, now: Instant, actions: &mut Vec<ClusterAction>) {
        self.combine_stale(now);
        let numbering = &self.numbering;
        self.shards.retain(|number, _| {
            let stays = numbering.primary(*number).is_some();
            if !stays {
                actions.push(ClusterAction::StopProbe(*number));
            }
            stays
        });
        let cluster = self.cluster();
        let is_settled = self.is_settled(&cluster, now);
        if self.pace.start(is_settled, now) {
            self.refreshes += 1;
            actions.push(ClusterAction::Ask(self.part(is_settled)));
            if !self.views.is_empty() {
                // Views that have become old count less.
                self.combine(now);
            }
            self.shards.values_mut().for_each(|shard| shard.nudge(now));
        }
        let claims = &self.claims;
        let is_member =
            |address: &Address| claims.values().any(|known| known.address.as_ref() == Some(address));
        let wanted = self.wanted(&cluster);
        let change = self.asked.choose(wanted.into_iter(), is_member, now);
        actions.extend(change.forget.into_iter().map(ClusterAction::Forget));
        actions.extend(change.track.into_iter().map(ClusterAction::Track));
        for (number, shard) in &mut self.shards {
            if let Some((ticket, address, anew)) = shard.start_probe(now) {
                actions.push(ClusterAction::Probe { shard: *number, ticket, address, anew });
            }
            actions.extend(shard.take_news().into_iter().map(operator_message));
        }
        self.publish(actions);
    }

    /// Returns the nodes to ask in the round that begins. Returns `None` if all must be asked: a majority of a few says nothing, and what
    /// changes in a cluster is known to some of its nodes first.
    fn part(&mut self, is_settled: bool) -> Option<Vec<Address>> {
        let is_calm = is_settled && !std::mem::take(&mut self.asks_all) && self.unsettled.is_none();
        let is_still = is_calm && self.moving.slots().is_empty() && !self.views.suspects_any();
        let part = if is_still { self.asked.part() } else { None };
        self.asked_part = part.is_some();
        part
    }

    /// Returns true if every shard that serves slots has a primary, or has had none for so long that nothing is urgent.
    fn is_settled(&mut self, cluster: &ClusterTopology, now: Instant) -> bool {
        let is_known = |shard: &Shard| matches!(shard.topology, Topology::Known(_));
        let serves_all =
            cluster.shards.iter().all(|shard| is_known(shard) || !self.serving.contains(&shard.number));
        if serves_all && !cluster.shards.is_empty() {
            self.unsettled = None;
            return true;
        }
        let since = *self.unsettled.get_or_insert(now);
        now.saturating_duration_since(since) > UNSETTLED_FOR
    }

    /// Returns the nodes to ask, in the order in which they should be: primaries, the replicas of shards without a primary, then
    /// others.
    fn wanted(&self, cluster: &ClusterTopology) -> Vec<Address> {
        let mut wanted: Vec<Address> = Vec::new();
        let serving = cluster.shards.iter().filter(|shard| self.serving.contains(&shard.number));
        let address = |shard: &Shard| self.shards.get(&shard.number)?.address().cloned();
        wanted.extend(serving.clone().filter_map(address));
        let electing = serving.filter(|shard| !matches!(shard.topology, Topology::Known(_)));
        wanted.extend(electing.flat_map(|shard| shard.replicas.iter().cloned()));
        let others = cluster
            .shards
            .iter()
            .flat_map(|shard| address(shard).into_iter().chain(shard.replicas.iter().cloned()));
        let missing = MIN_ASKED.saturating_sub(wanted.len());
        let others: Vec<Address> = others.filter(|other| !wanted.contains(other)).take(missing).collect();
        wanted.extend(others);
        wanted
    }

    /// Returns what may be published now.
    fn cluster(&mut self) -> ClusterTopology {
        let generations = &mut self.generations;
        let shards = self.shards.iter_mut().map(|(number, shard)| Shard {
            number: *number,
            topology: shard.topology(generations),
            replicas: shard.replicas.clone(),
        });
        ClusterTopology {
            shards: shards.collect(),
            slots: Arc::clone(&self.slots),
            moving: self.moving.slots(),
            epoch: self.views.epoch(),
        }
    }

    fn publish(&mut self, actions: &mut Vec<ClusterAction>) {
        let cluster = self.cluster();
        let home = match self.serving.first().and_then(|number| cluster.shard(*number)) {
            Some(shard) => self.home.topology(shard.number, &shard.topology, &mut self.generations),
            None if self.views.is_empty() => {
                Topology::Unknown(Arc::new(self.uncertainty().unwrap_or(Outage::Starting)))
            }
            None => Topology::Unknown(Arc::new(Outage::Unverified(
                "no node of the cluster serves any slot; assign the slots, as with CLUSTER ADDSLOTSRANGE"
                    .into(),
            ))),
        };
        let is_published =
            self.published.as_ref().is_some_and(|(topology, known)| *topology == home && **known == cluster);
        if !is_published {
            let cluster = Arc::new(cluster);
            self.published = Some((home.clone(), Arc::clone(&cluster)));
            actions.push(ClusterAction::Publish { home, cluster });
        }
    }
}

/// Returns the addresses of the replicas of a primary that have not failed.
fn replicas(claims: &EffectiveClaims, primary: &ClusterNodeId) -> Vec<Address> {
    let replicas = claims.values().filter(|known| {
        matches!(&known.claim.role, ClaimedRole::Replica(of) if of == primary) && !known.is_failing
    });
    replicas.filter_map(|known| known.address.clone()).collect()
}

/// Returns the log message for the news about an address.
fn operator_message(news: AddressNews) -> ClusterAction {
    match news {
        AddressNews::Switched(address, former) => ClusterAction::Inform(format!(
            "the node at {address} has restarted, or is another one: connections to the former one (run_id {former}) are closed"
        )),
        AddressNews::Alternates(address) => ClusterAction::Warn(format!(
            "{address} leads to several nodes in turn; have each node announce an address of its own \
             (cluster-announce-ip or cluster-announce-hostname)"
        )),
    }
}

#[cfg(test)]
mod tests;
