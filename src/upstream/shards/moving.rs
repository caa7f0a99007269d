//! Knows which slots are on their way from one shard to another. Reads of these go to primaries: a replica of many servers says of a key
//! that has left its primary only that it does not exist.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::slot::Slot;

/// How long a slot counts as moving after a node has redirected a command of this worker. By then, discovery has asked the nodes.
const LINGER: Duration = Duration::from_secs(10);

/// The slots on their way, as one worker knows them.
#[derive(Debug, Default)]
pub(super) struct MovingSlots {
    /// Those that the nodes name, in order.
    named: RefCell<Arc<[Slot]>>,
    /// Those for which a node has redirected a command, each with the time of the newest redirect.
    met: RefCell<BTreeMap<Slot, Instant>>,
}

impl MovingSlots {
    /// Replaces those that the nodes name.
    pub(super) fn name(&self, named: &Arc<[Slot]>) {
        self.named.replace(named.clone());
    }

    /// Takes note that a node has redirected a command because the slot is on its way.
    pub(super) fn meet(&self, slot: Slot, now: Instant) {
        let mut met = self.met.borrow_mut();
        met.retain(|_, at| now.saturating_duration_since(*at) < LINGER);
        met.insert(slot, now);
    }

    /// Returns true if the slot is on its way. The time is read only for a slot for which a node has redirected a command.
    pub(super) fn contains(&self, slot: Slot, now: impl FnOnce() -> Instant) -> bool {
        let is_met = |at: &Instant| now().saturating_duration_since(*at) < LINGER;
        self.named.borrow().binary_search(&slot).is_ok() || self.met.borrow().get(&slot).is_some_and(is_met)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_name_slots_and_redirects_show_some_sooner() {
        let now = Instant::now();
        let [one, other] = [1, 2].map(|number| Slot::new(number).unwrap());
        let moving = MovingSlots::default();
        moving.meet(one, now);
        moving.name(&[other].into());
        let later = || now + LINGER;
        assert!(moving.contains(one, || now) && moving.contains(other, || now));
        assert!(!moving.contains(one, later) && moving.contains(other, later));
        moving.name(&Arc::default());
        assert!(!moving.contains(other, || now));
    }
}
