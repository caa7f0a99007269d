//! Remembers which slots are on their way from one shard to another. Pure.
//!
//! While a slot is on its way, its keys leave the old primary one by one, and replicas of many servers say of a key that has left only
//! that it does not exist. A primary says itself which of its slots are on their way, and says it no more once the slot has left. The other
//! nodes learn of the new owner a little later, so a slot counts as moving for a while longer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::slot::Slot;

/// How long a slot counts as moving after a node has said so for the last time, if the nodes are asked often.
const LINGER: Duration = Duration::from_secs(3);

/// The slots on their way.
#[derive(Debug)]
pub(super) struct MovingSlots {
    /// When each slot was last said to be on its way.
    named: BTreeMap<Slot, Instant>,
    linger: Duration,
}

impl MovingSlots {
    /// Creates an empty set. The nodes are asked every `poll_interval`.
    pub(super) fn new(poll_interval: Duration) -> Self {
        Self { named: BTreeMap::new(), linger: LINGER.max(poll_interval * 3) }
    }

    /// Takes note of the slots that nodes say are on their way at `now`, and forgets those that nobody has named for long.
    pub(super) fn note(&mut self, named: impl Iterator<Item = Slot>, now: Instant) {
        for slot in named {
            self.named.insert(slot, now);
        }
        self.named.retain(|_, at| now.saturating_duration_since(*at) < self.linger);
    }

    /// Returns the slots, in order.
    pub(super) fn slots(&self) -> Arc<[Slot]> {
        self.named.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_counts_as_moving_for_a_while_longer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let [one, other] = [1, 2].map(|number| Slot::new(number).unwrap());
        let mut moving = MovingSlots::new(Duration::from_secs(1));
        moving.note([other, one].into_iter(), at(0));
        assert_eq!(*moving.slots(), [one, other]);
        moving.note([one].into_iter(), at(2));
        assert_eq!(*moving.slots(), [one, other]);
        moving.note(std::iter::empty(), at(3));
        assert_eq!(*moving.slots(), [one]);
        moving.note(std::iter::empty(), at(5));
        assert_eq!(*moving.slots(), []);
        let mut rare = MovingSlots::new(Duration::from_secs(60));
        rare.note([one].into_iter(), at(0));
        rare.note(std::iter::empty(), at(120));
        assert_eq!(*rare.slots(), [one], "the nodes were asked twice since then");
    }
}
