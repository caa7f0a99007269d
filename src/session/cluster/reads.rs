//! Sends a read to a replica of the shard that serves its slot, if the client wants that.

use super::place::Place;
use crate::resp::request::Request;
use crate::session::Session;
use crate::session::step::{Pause, Step};
use crate::upstream::shared::queue::IfLost;

impl Session {
    /// Sends a read to a replica of its shard or to the primary, or says what it waits for. Reads without keys in one slot go to
    /// primaries, and so do those of a slot on its way from one shard to another.
    pub(in crate::session) fn send_slot_read(&mut self, request: &Request<'_>, if_lost: IfLost) -> Step {
        let Place::Slot(slot) = self.place_of(request) else { return self.send_shared(request, if_lost) };
        // Earlier commands of the slot may be under way at another shard.
        if !self.follows_slots() {
            return Step::Stay(Pause::Replies);
        }
        let Some(shards) = self.ctx.upstream.shards() else { return self.send_shared(request, if_lost) };
        let shard = shards.of(slot);
        let is_served = shard.number().is_some() && !shards.is_moving(slot);
        let Some(reads) = self.lanes.reads.as_mut().filter(|_| is_served) else {
            return self.send_shared(request, if_lost);
        };
        let site = reads.site(&shard);
        self.send_read_at(request, if_lost, site, shard.replicas())
    }
}
