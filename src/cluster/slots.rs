//! Which shard serves each slot.

use std::fmt;
use std::ops::RangeInclusive;

use super::number::ShardNumber;
use super::slot::{SLOTS, Slot};

/// Which shard serves each slot. A look-up takes constant time.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotTable {
    shards: Box<[Option<ShardNumber>]>,
}

impl Default for SlotTable {
    /// Returns the table of a cluster in which no shard serves any slot.
    fn default() -> Self {
        Self { shards: vec![None; SLOTS].into_boxed_slice() }
    }
}

impl SlotTable {
    /// Returns the shard that serves `slot`; `None` if none does.
    #[inline]
    pub fn shard(&self, slot: Slot) -> Option<ShardNumber> {
        self.shards.get(usize::from(slot.number())).copied().flatten()
    }

    /// Lets `shard` serve `slot`; `None` lets no shard serve it.
    pub fn assign(&mut self, slot: Slot, shard: Option<ShardNumber>) {
        if let Some(entry) = self.shards.get_mut(usize::from(slot.number())) {
            *entry = shard;
        }
    }

    /// Returns true if this shard serves any slot.
    pub fn serves(&self, shard: ShardNumber) -> bool {
        self.shards.contains(&Some(shard))
    }

    /// Returns the lowest slot that this shard serves.
    pub fn first_of(&self, shard: ShardNumber) -> Option<Slot> {
        self.ranges()
            .find(|(_, owner)| *owner == Some(shard))
            .and_then(|(range, _)| Slot::new(*range.start()))
    }

    /// Returns all slots in order: ranges whose slots one shard serves, or none.
    pub fn ranges(&self) -> impl Iterator<Item = (RangeInclusive<u16>, Option<ShardNumber>)> {
        let mut start = 0_u16;
        self.shards.chunk_by(|a, b| a == b).map(move |chunk| {
            let first = start;
            start = start.saturating_add(u16::try_from(chunk.len()).unwrap_or(u16::MAX));
            (first..=start - 1, chunk.first().copied().flatten())
        })
    }
}

impl fmt::Debug for SlotTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.ranges()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_cover_every_slot_once() {
        let mut table = SlotTable::default();
        (100..200).filter_map(Slot::new).for_each(|slot| table.assign(slot, Some(ShardNumber(2))));
        let ranges: Vec<_> = table.ranges().collect();
        assert_eq!(ranges, [(0..=99, None), (100..=199, Some(ShardNumber(2))), (200..=16_383, None)]);
        assert_eq!(table.first_of(ShardNumber(2)).map(Slot::number), Some(100));
        assert!(table.serves(ShardNumber(2)) && !table.serves(ShardNumber(1)));
    }

    proptest! {
        #[test]
        fn a_slot_has_the_shard_that_it_was_given_last(
            changes in prop::collection::vec((0..16_384_u16, prop::option::of(0..4_u32)), 1..64),
        ) {
            let mut table = SlotTable::default();
            let mut expected = std::collections::HashMap::new();
            for (number, shard) in changes {
                let shard = shard.map(ShardNumber);
                if let Some(slot) = Slot::new(number) {
                    table.assign(slot, shard);
                    expected.insert(slot, shard);
                }
            }
            for (slot, shard) in &expected {
                prop_assert_eq!(table.shard(*slot), *shard);
            }
            for (range, shard) in table.ranges() {
                for slot in range.filter_map(Slot::new) {
                    prop_assert_eq!(expected.get(&slot).copied().flatten(), shard);
                }
            }
        }
    }
}
