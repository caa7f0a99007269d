//! Sends a command by the shared lane of the shard that serves its slot.

use super::lanes::ShardLane;
use super::place::Place;
use crate::cluster::slot::Slot;
use crate::latency::Class;
use crate::resp::request::Request;
use crate::session::order::{CommandKind, LaneId};
use crate::session::step::{Pause, Step};
use crate::session::{Session, refusal};
use crate::topology::Generation;
use crate::upstream::shared::lane::Admission;
use crate::upstream::shared::queue::IfLost;

impl Session {
    /// Returns the place of a request in the cluster.
    pub(in crate::session) fn place_of(&self, request: &Request<'_>) -> Place {
        Place::of(request, |found| self.find_learned(found, request))
    }

    /// Pushes a request to the shared lane of its shard, or says what it waits for. Returns `None` if it has no keys, so that it goes
    /// to the home shard.
    pub(in crate::session) fn push_by_slot(
        &mut self,
        request: &Request<'_>,
        if_lost: IfLost,
    ) -> Option<Step> {
        match self.place_of(request) {
            Place::Home => {
                if let Some(lanes) = &mut self.lanes.cluster {
                    lanes.wait_for(None);
                }
                None
            }
            Place::Slot(slot) => Some(self.push_to_slot(request, if_lost, slot)),
            Place::Several if !self.output.admits_unsent(CommandKind::Answer) => {
                Some(Step::Stay(Pause::Replies))
            }
            Place::Several => {
                self.refuse(refusal::CROSS_SLOT);
                Some(Step::Done)
            }
        }
    }

    /// Returns the generation of the primary that a request goes to.
    pub(in crate::session) fn generation_for(&self, request: &Request<'_>) -> Option<Generation> {
        match (self.ctx.upstream.shards(), self.ctx.upstream.is_cluster().then(|| self.place_of(request))) {
            (Some(shards), Some(Place::Slot(slot))) => shards.of(slot).generation(),
            _ => self.ctx.upstream.generation(),
        }
    }

    fn push_to_slot(&mut self, request: &Request<'_>, if_lost: IfLost, slot: Slot) -> Step {
        if self.output.awaited() >= self.output.replies.window(self.ctx.config.max_pipeline)
            || !self.follows_slots()
        {
            return Step::Stay(Pause::Replies);
        }
        let Some(at) = self.slot_lane(slot) else { return Step::Done };
        let kind = CommandKind::of_slot(if_lost);
        let Some(path) = self.output.reply_path(LaneId::of(&at.lane), kind) else {
            return Step::Stay(Pause::Replies);
        };
        if !at.lane.is_open()
            && let Some(step) = self.wait_for_shard(&at, request)
        {
            return step;
        }
        self.send_by(&at.lane, request, if_lost, kind, path);
        if let Some(reads) = &mut self.lanes.reads {
            reads.sent_to_shard(&at.shard, LaneId::of(&at.lane), kind);
        }
        Step::Done
    }

    /// Returns what a request waits for whose shard's lane is not open to every session; `None` if it may be pushed.
    #[cold]
    pub(in crate::session) fn wait_for_shard(
        &mut self,
        at: &ShardLane,
        request: &Request<'_>,
    ) -> Option<Step> {
        let pause = match at.shard.admission(&at.lane, self.asker(self.output.awaited() == 0)) {
            Admission::Open => return None,
            Admission::Full => Pause::Lane(None),
            Admission::Held(_) if !self.hold.is_held() && at.shard.hold_full(request.len()) => {
                if !self.output.admits_unsent(CommandKind::Answer) {
                    return Some(Step::Stay(Pause::Replies));
                }
                self.refuse(&at.shard.hold_overflow());
                return Some(Step::Done);
            }
            Admission::Held(deadline) => Pause::Lane(Some(deadline)),
            Admission::Refused(_) | Admission::Expired(_)
                if !self.output.admits_unsent(CommandKind::Answer) =>
            {
                Pause::Replies
            }
            Admission::Expired(line) => {
                self.ctx.upstream.counters.hold_expired.inc();
                self.refuse(&line);
                self.note_answered(request, Class::Shared);
                return Some(Step::Done);
            }
            Admission::Refused(line) => {
                self.refuse(&line);
                self.close_if_dead();
                return Some(self.closing.map_or(Step::Done, |close| Step::Taken(Pause::Close(close))));
            }
        };
        if matches!(pause, Pause::Lane(_))
            && let Some(lanes) = &mut self.lanes.cluster
        {
            lanes.wait_for(Some(at.clone()));
        }
        Some(Step::Stay(pause))
    }
}
