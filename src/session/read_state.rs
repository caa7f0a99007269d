//! Tracks where a session's reads go, and what the session has seen of each primary.
//!
//! In front of a cluster, each shard has its own moments. What belongs to no single slot counts for all shards: commands without keys,
//! commands for several shards, and what ran on a connection of the session's own.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::by_shard::ByShard;
use super::order::{CommandKind, LaneId};
use super::seen::Seen;
use crate::replica::Reads;
use crate::upstream::replica::lane::ReplicaLane;
use crate::upstream::replica::reads::ReplicaReads;
use crate::upstream::shards::Shard;

/// Tracks where a session's reads go, and what the session has seen.
#[derive(Default)]
pub(super) struct ReadState {
    /// The rule of the listener or the tenant.
    pub(super) policy: Reads,
    /// What the client has asked for: READONLY (true) or READWRITE (false).
    pub(super) asked: Option<bool>,
    /// True if `read-your-writes` is off, so that nothing is known of earlier writes.
    pub(super) forgets: bool,
    /// The only primary. In front of a cluster: what counts for all shards.
    pub(super) common: PrimaryReads,
    /// The shards of a cluster that the session has used.
    shards: ByShard<ShardReads>,
    /// True if anything that was sent to a shard is not settled.
    shards_unsettled: bool,
    /// When a read that waits for a replica gives up.
    pub(super) waits_until: Option<Instant>,
    /// The replicas that the session waits for.
    waits_for: Option<Rc<ReplicaReads>>,
}

/// What a session has seen of one primary, and the replica of it that the session reads from.
#[derive(Default)]
pub(super) struct PrimaryReads {
    pub(super) seen: Seen,
    /// The replica that the session has read from last. The session keeps the lane as long as its replies are due: the order of replies
    /// knows them by its address, also when another node gives them.
    pub(super) lane: Option<Rc<ReplicaLane>>,
}

/// The same for one shard.
struct ShardReads {
    shard: Rc<Shard>,
    /// The lane at the shard's primary that the session has used last.
    place: LaneId,
    reads: PrimaryReads,
}

/// The primary whose data a command reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadSite {
    /// The only one.
    Only,
    /// That of the shard at this place in the list.
    Shard(usize),
}

impl PrimaryReads {
    /// Leaves the replica's lane.
    fn leave_lane(&mut self, now: Instant) {
        if self.lane.take().is_some() {
            self.seen.leave_node(now);
        }
    }
}

impl ReadState {
    pub(super) fn mode(&self) -> Reads {
        match (self.policy, self.asked) {
            (Reads::OnRequest, Some(true)) => Reads::PreferReplica,
            (Reads::OnRequest, _) | (_, Some(false)) => Reads::Primary,
            (policy, _) => policy,
        }
    }

    /// Returns the place of a shard. Begins to track it if it is new.
    pub(super) fn site(&mut self, shard: &Rc<Shard>) -> ReadSite {
        let known = self.shards.find(shard.number(), |known| Rc::ptr_eq(&known.shard, shard));
        ReadSite::Shard(known.unwrap_or_else(|| {
            let (place, reads) = Default::default();
            self.shards.add(shard.number(), ShardReads { shard: shard.clone(), place, reads })
        }))
    }

    fn of_shard(&self, site: ReadSite) -> Option<&ShardReads> {
        match site {
            ReadSite::Only => None,
            ReadSite::Shard(place) => self.shards.get(place),
        }
    }

    fn at(&self, site: ReadSite) -> &PrimaryReads {
        self.of_shard(site).map_or(&self.common, |shard| &shard.reads)
    }

    /// Returns what the session has seen of one primary.
    pub(super) fn at_mut(&mut self, site: ReadSite) -> &mut PrimaryReads {
        match site {
            ReadSite::Shard(place) => match self.shards.get_mut(place) {
                Some(shard) => &mut shard.reads,
                None => &mut self.common,
            },
            ReadSite::Only => &mut self.common,
        }
    }

    /// Returns the replica that the session has read from last.
    pub(super) fn lane(&self, site: ReadSite) -> Option<&Rc<ReplicaLane>> {
        self.at(site).lane.as_ref()
    }

    /// Takes note that a command was sent to the primary of a shard by the lane `place`.
    pub(super) fn sent_to_shard(&mut self, shard: &Rc<Shard>, place: LaneId, kind: CommandKind) {
        self.waits_until = None;
        if kind == CommandKind::SlotWrite {
            self.common.seen.wrote_elsewhere();
        }
        if let ReadSite::Shard(at) = self.site(shard)
            && let Some(known) = self.shards.get_mut(at)
        {
            known.place = place;
            known.reads.seen.sent(kind);
            self.shards_unsettled = true;
        }
    }

    /// Takes note that slots have other shards now. No reply is due. What the session has seen of one shard may be at another one, so
    /// a replica must have applied everything that was answered before `now`.
    pub(super) fn slots_changed(&mut self, is_there: impl Fn(&Rc<Shard>) -> bool, now: Instant) {
        let saw_any = self.common.seen.has_seen_any() || !self.shards.is_empty();
        if saw_any {
            self.common.seen.leave_node(now);
        }
        self.shards.retain(|known| is_there(&known.shard));
    }

    /// Takes note that commands ran on a connection of the session's own, to the primary.
    pub(super) fn note_leased(&mut self) {
        self.waits_until = None;
        self.common.seen.note_lease();
    }

    /// Returns true if anything that was sent to any primary is not settled.
    pub(super) fn is_unsettled(&self) -> bool {
        self.common.seen.is_unsettled() || self.shards_unsettled
    }

    /// Returns true if anything that may concern this primary is not settled.
    pub(super) fn is_unsettled_at(&self, site: ReadSite) -> bool {
        let of_shard = self.of_shard(site);
        self.common.seen.is_unsettled() || of_shard.is_some_and(|shard| shard.reads.seen.is_unsettled())
    }

    /// Forgets what was sent, because reads need not show it.
    pub(super) fn forget_sent(&mut self) {
        self.common.seen.forget_sent();
        self.shards.iter_mut().for_each(|shard| shard.reads.seen.forget_sent());
        self.shards_unsettled = false;
    }

    /// Moves the floor of each primary that has answered everything. `common_due` says whether anything is due that counts for all, and
    /// `is_due` whether a lane owes a reply. Calls `settled` with the replicas that may serve again once they have come as far.
    pub(super) fn settle(
        &mut self,
        common_due: bool,
        is_due: impl Fn(LaneId) -> bool,
        now: Instant,
        mut settled: impl FnMut(Option<&Rc<ReplicaReads>>),
    ) {
        let common = self.common.seen.is_unsettled() && !common_due;
        if common {
            self.common.seen.settle(now);
            settled(None);
        }
        self.shards_unsettled = false;
        for known in self.shards.iter_mut() {
            let unsettled = known.reads.seen.is_unsettled();
            if unsettled && is_due(known.place) {
                self.shards_unsettled = true;
            } else if unsettled || common {
                if unsettled {
                    known.reads.seen.settle(now);
                }
                settled(Some(known.shard.replicas()));
            }
        }
    }

    /// Returns the moment up to which a replica must have come for the next read; see [`Seen::floor`].
    pub(super) fn floor(&mut self, site: ReadSite, moved: u64, again: bool) -> Option<Instant> {
        let common = self.common.seen.floor(moved, again);
        let ReadSite::Shard(place) = site else { return common };
        let Some(shard) = self.shards.get_mut(place) else { return common };
        common.max(shard.reads.seen.floor(moved, again)).max(shard.shard.gained())
    }

    /// Returns true if reads have gone to the primary for long.
    pub(super) fn is_long_away(&self, site: ReadSite, now: Instant) -> bool {
        let common = &self.common.seen;
        let is_of_shard = |shard: &ShardReads| shard.reads.seen.is_away_for(common.patience(), now);
        common.is_long_away(now) || self.of_shard(site).is_some_and(is_of_shard)
    }

    /// Takes note that a replica serves the reads of this primary.
    pub(super) fn reached_replica(&mut self, site: ReadSite, lane: Rc<ReplicaLane>) {
        self.waits_until = None;
        self.common.seen.reached_replica();
        let reads = self.at_mut(site);
        reads.seen.reached_replica();
        reads.lane = Some(lane);
    }

    /// Leaves the replica of one primary.
    pub(super) fn leave_lane_at(&mut self, site: ReadSite, now: Instant) {
        self.at_mut(site).leave_lane(now);
    }

    /// Leaves all replicas, because the client's identity, database or protocol version has changed.
    pub(super) fn leave_lanes(&mut self) {
        let now = Instant::now();
        self.common.leave_lane(now);
        self.shards.iter_mut().for_each(|shard| shard.reads.leave_lane(now));
    }

    /// Begins to wait for these replicas, and no others. Returns until when.
    pub(super) fn wait_for(&mut self, replicas: &Rc<ReplicaReads>, client: u64) {
        let same = self.waits_for.as_ref().is_some_and(|known| Rc::ptr_eq(known, replicas));
        if !same {
            self.stop_waiting(client);
            self.waits_for = Some(replicas.clone());
        }
    }

    /// Returns the replicas that the session waits for.
    pub(super) fn waits_for(&self) -> Option<&Rc<ReplicaReads>> {
        self.waits_for.as_ref()
    }

    /// Waits for no replica any more.
    pub(super) fn stop_waiting(&mut self, client: u64) {
        if let Some(replicas) = self.waits_for.take() {
            replicas.stop_waiting(client);
        }
    }

    /// Returns until when a read waits for a replica; `None` if it has waited for `limit` already.
    pub(super) fn wait_until(&mut self, limit: Duration, now: Instant) -> Option<Instant> {
        let until = *self.waits_until.get_or_insert(now + limit);
        if now < until {
            return Some(until);
        }
        self.waits_until = None;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_chooses_where_it_may() {
        let mode = |policy, asked| ReadState { policy, asked, ..ReadState::default() }.mode();
        assert_eq!(mode(Reads::OnRequest, None), Reads::Primary);
        assert_eq!(mode(Reads::OnRequest, Some(true)), Reads::PreferReplica);
        assert_eq!(mode(Reads::PreferReplica, Some(false)), Reads::Primary);
        assert_eq!(mode(Reads::Replica, Some(true)), Reads::Replica);
        assert_eq!(mode(Reads::Primary, Some(true)), Reads::Primary);
    }
}
