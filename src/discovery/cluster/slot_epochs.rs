//! Remembers the epoch under which each slot is served, so that no slot goes back to an older claim only because nobody repeats the newer
//! one at this moment. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::ShardNumber;
use crate::cluster::slot::{SLOTS, Slot};
use crate::cluster::slots::SlotTable;

/// How long slots with an older claim stay where they are. An operator may have moved them with `CLUSTER DELSLOTS` and `ADDSLOTS`, which
/// raises no epoch.
const PATIENCE: Duration = Duration::from_secs(3);

/// The epoch of each slot.
#[derive(Debug)]
pub(super) struct SlotEpochs {
    epochs: Box<[u64]>,
    /// Since when some slot has only an older claim.
    older_since: Option<Instant>,
}

impl Default for SlotEpochs {
    fn default() -> Self {
        Self { epochs: vec![0; SLOTS].into_boxed_slice(), older_since: None }
    }
}

impl SlotEpochs {
    /// Returns the next table. `claimed` gives the shard that claims a slot, and its epoch. `exists` returns true if a shard of the
    /// present table is still there.
    pub(super) fn assign(
        &mut self,
        table: &SlotTable,
        claimed: impl Fn(usize) -> Option<(ShardNumber, u64)>,
        exists: impl Fn(ShardNumber) -> bool,
        now: Instant,
    ) -> SlotTable {
        let is_over = self.older_since.is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE);
        let (mut next, mut is_any_older) = (SlotTable::default(), false);
        let mut known = None;
        for (epoch, number) in self.epochs.iter_mut().zip(0_u16..) {
            let Some(slot) = Slot::new(number) else { continue };
            let Some((shard, claim)) = claimed(usize::from(number)) else { continue };
            let former = table.shard(slot);
            let stays = claim < *epoch && !is_over && {
                // Slots of one shard follow each other, so the question is rarely asked.
                let (of, exists) = match known {
                    Some((of, exists)) if of == former => (of, exists),
                    _ => (former, former.is_none_or(&exists)),
                };
                known = Some((of, exists));
                exists
            };
            if stays {
                is_any_older = true;
                next.assign(slot, former);
            } else {
                *epoch = claim;
                next.assign(slot, Some(shard));
            }
        }
        self.older_since = is_any_older.then(|| self.older_since.unwrap_or(now));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ShardNumber = ShardNumber(1);
    const B: ShardNumber = ShardNumber(2);

    /// Returns the shard of slot 7 after these shards claimed it under these epochs, one second after the other.
    fn after(claims: &[Option<(ShardNumber, u64)>], exists: bool) -> Option<ShardNumber> {
        let (mut epochs, mut table, mut now) = (SlotEpochs::default(), SlotTable::default(), Instant::now());
        for claim in claims {
            now += Duration::from_secs(1);
            table = epochs.assign(&table, |slot| claim.filter(|_| slot == 7), |_| exists, now);
        }
        table.shard(Slot::new(7)?)
    }

    #[test]
    fn an_older_claim_counts_only_after_a_while() {
        assert_eq!(after(&[Some((A, 5)), Some((B, 6))], true), Some(B));
        assert_eq!(after(&[Some((A, 5)), Some((B, 4))], true), Some(A));
        assert_eq!(
            after(&[Some((A, 5)), Some((B, 4)), Some((A, 5)), Some((B, 4)), Some((B, 4))], true),
            Some(A)
        );
        let lasts = [Some((A, 5)), Some((B, 4)), Some((B, 4)), Some((B, 4)), Some((B, 4))];
        assert_eq!(after(&lasts, true), Some(B));
    }

    #[test]
    fn a_slot_that_nobody_claims_is_served_by_nobody() {
        assert_eq!(after(&[Some((A, 5)), None], true), None);
        assert_eq!(after(&[Some((A, 5)), None, Some((B, 4))], true), None);
    }

    #[test]
    fn the_slots_of_a_shard_that_is_gone_are_free() {
        assert_eq!(after(&[Some((A, 5)), Some((B, 4))], false), Some(B));
    }
}
