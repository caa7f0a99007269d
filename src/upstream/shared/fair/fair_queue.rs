//! Orders sessions that wait for room: self-clocked fair queueing (Golestani, 1994; Goyal, Vin, Cheng, 1996). Owners of
//! sessions (tenants) share by weight, and the sessions of one owner share evenly. No I/O.
//!
//! Each owner and each session has a tag. The tag rises with the units that were taken: by [`SCALE`] for each unit, divided by
//! the weight. The next turn goes to the lowest tag after that turn. A newcomer starts at the tag of the last turn, not at
//! zero. So a session that asks for little is soon next, although others have long been waiting for much, and nobody saves
//! up turns while it is idle.

use std::collections::{BTreeMap, HashMap};

/// The amount by which one unit raises a tag at weight 1. It is also the largest weight, so that a unit raises each tag.
const SCALE: u64 = 1000;
/// The most units of one turn. A session that asked for more waits for its next turn.
const QUANTUM: u32 = 64;
/// Every sixteenth turn goes to the lowest priority that waits, so that no priority starves.
const ANTI_STARVATION: u32 = 16;

const PRIORITIES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

/// The order between owners that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// Served before all others.
    High,
    /// The default.
    #[default]
    Normal,
    /// Served after all others.
    Low,
}

/// The configured share of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareConfig {
    /// The owner's weight beside others that wait, 1 to 1000.
    pub weight: u16,
    /// The owner's priority. Weights count among owners of one priority.
    pub priority: Priority,
}

impl Default for ShareConfig {
    fn default() -> Self {
        Self { weight: 1, priority: Priority::default() }
    }
}

/// The owner against whose share a session's requests count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// The number of the tenant. All sessions without a tenant (`None`) share as one owner.
    pub owner: Option<usize>,
    /// The owner's configured share.
    pub config: ShareConfig,
}

/// The sessions that wait.
#[derive(Debug, Default)]
pub(in crate::upstream) struct FairQueue {
    classes: [Class; 3],
    /// The entry of each waiting session.
    entries: HashMap<u64, QueueEntry>,
    arrivals: u64,
    taken: u32,
}

/// The tag of a session after its next turn, then its order of arrival. A session that asks for little thus stands before one
/// that asks for much.
type Start = (u64, u64);

#[derive(Debug)]
struct QueueEntry {
    share: Share,
    tag: u64,
    start: Start,
}

#[derive(Debug, Default)]
struct Class {
    /// The tag at which an owner starts that did not wait.
    now: u64,
    owners: HashMap<Option<usize>, OwnerQueue>,
}

#[derive(Debug, Default)]
struct OwnerQueue {
    tag: u64,
    weight: u16,
    arrival: u64,
    /// The tag at which a session starts that did not wait.
    now: u64,
    /// The tags of sessions that had turns and do not wait now.
    tags: HashMap<u64, u64>,
    tidy_at: usize,
    /// The waiting sessions, each with the units that it still asks for.
    waiting: BTreeMap<Start, (u64, u32)>,
}

impl FairQueue {
    /// Queues session `who`, which asks for `wanted` units, at least one. A session that waits already keeps its place.
    pub(in crate::upstream) fn join(&mut self, who: u64, share: Share, wanted: u32) {
        if self.entries.contains_key(&who) {
            return;
        }
        self.arrivals += 1;
        let class = class_mut(&mut self.classes, share.config.priority);
        let owner = class.owners.entry(share.owner).or_default();
        if owner.waiting.is_empty() {
            // An owner that did not wait starts at the present time: it cannot save up turns.
            owner.tag = owner.tag.max(class.now);
            owner.arrival = self.arrivals;
        }
        owner.weight = share.config.weight;
        owner.tidy();
        let wanted = wanted.max(1);
        let tag = owner.tags.get(&who).map_or(owner.now, |tag| owner.now.max(*tag));
        let start = (tag + quantum(wanted), self.arrivals);
        owner.waiting.insert(start, (who, wanted));
        self.entries.insert(who, QueueEntry { share, tag, start });
    }

    /// Takes one unit for session `who` if the next turn would be its own, and returns true; otherwise returns false.
    pub(in crate::upstream) fn try_bypass(&mut self, who: u64, share: Share) -> bool {
        if self.entries.contains_key(&who) {
            return false;
        }
        self.join(who, share, 1);
        let class = class_mut(&mut self.classes, share.config.priority);
        let (now, is_next) = (class.now, class.next() == Some(share.owner));
        let owner = class.owners.entry(share.owner).or_default();
        let first = owner.waiting.values().next().is_some_and(|(first, _)| *first == who);
        // `take` below moves both times.
        let before = (now, owner.now);
        if !first || !is_next || self.next_class() != Some(share.config.priority) {
            self.withdraw(who);
            return false;
        }
        self.take(share.config.priority, 1);
        // The bypass was no turn of those who wait: newcomers must not start at its tag.
        let class = class_mut(&mut self.classes, share.config.priority);
        class.now = before.0;
        class.owners.entry(share.owner).or_default().now = before.1;
        true
    }

    /// Takes session `who` out of the queue. Its tag stays, so that what it took still counts.
    pub(in crate::upstream) fn withdraw(&mut self, who: u64) {
        let Some(QueueEntry { share, tag, start }) = self.entries.remove(&who) else { return };
        let class = class_mut(&mut self.classes, share.config.priority);
        if let Some(owner) = class.owners.get_mut(&share.owner) {
            owner.waiting.remove(&start);
            owner.tags.insert(who, tag);
        }
    }

    /// Forgets session `who` and its tag.
    pub(in crate::upstream) fn leave(&mut self, who: u64) {
        self.withdraw(who);
        for owner in self.classes.iter_mut().flat_map(|class| class.owners.values_mut()) {
            owner.tags.remove(&who);
        }
    }

    /// Returns true if no session waits.
    pub(in crate::upstream) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the session whose turn it is, and the units that it takes, at most `room`. A session that asked for more keeps
    /// waiting for the rest.
    pub(in crate::upstream) fn next(&mut self, room: u32) -> Option<(u64, u32)> {
        let lowest_first = self.taken % ANTI_STARVATION == ANTI_STARVATION - 1;
        let priority = if lowest_first { self.last_class() } else { self.next_class() }?;
        self.taken = self.taken.wrapping_add(1);
        self.take(priority, room)
    }

    fn next_class(&mut self) -> Option<Priority> {
        PRIORITIES.into_iter().find(|priority| class_mut(&mut self.classes, *priority).next().is_some())
    }

    fn last_class(&mut self) -> Option<Priority> {
        PRIORITIES.into_iter().rfind(|priority| class_mut(&mut self.classes, *priority).next().is_some())
    }

    fn take(&mut self, priority: Priority, room: u32) -> Option<(u64, u32)> {
        let class = class_mut(&mut self.classes, priority);
        let id = class.next()?;
        let owner = class.owners.get_mut(&id)?;
        let ((_, arrival), (who, wanted)) = owner.waiting.pop_first()?;
        let entry = self.entries.get_mut(&who)?;
        let count = wanted.min(QUANTUM).min(room);
        let units = u64::from(count) * SCALE;
        class.now = class.now.max(owner.tag);
        owner.tag += units / u64::from(entry.share.config.weight.max(1));
        owner.now = owner.now.max(entry.tag);
        // The weight is divided between owners only: the sessions of one owner share evenly.
        entry.tag += units;
        if wanted > count {
            let rest = wanted - count;
            // The arrival stays, so that of two sessions with equal tags the one that came first is next.
            entry.start = (entry.tag + quantum(rest), arrival);
            owner.waiting.insert(entry.start, (who, rest));
        } else {
            owner.tags.insert(who, entry.tag);
            self.entries.remove(&who);
        }
        Some((who, count))
    }

    /// Forgets all sessions and tags: there is room for everybody again.
    pub(in crate::upstream) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Class {
    /// Returns the owner whose tag is the lowest after its next turn.
    fn next(&self) -> Option<Option<usize>> {
        let done = |owner: &OwnerQueue| {
            let (_, wanted) = owner.waiting.values().next()?;
            Some((owner.tag + quantum(*wanted) / u64::from(owner.weight.max(1)), owner.arrival))
        };
        let waiting = self.owners.iter().filter_map(|(id, owner)| Some((done(owner)?, *id)));
        waiting.min_by_key(|(done, _)| *done).map(|(_, id)| id)
    }
}

impl OwnerQueue {
    /// Drops the tags that are not above `now`: their sessions would start at `now` in any case. Runs when the map has doubled,
    /// so that its cost for each turn is constant.
    fn tidy(&mut self) {
        if self.tags.len() >= self.tidy_at {
            self.tags.retain(|_, tag| *tag > self.now);
            self.tidy_at = (self.tags.len() * 2).max(64);
        }
    }
}

/// Returns the amount by which the next turn of a session that asks for `wanted` units raises its tag at weight 1.
fn quantum(wanted: u32) -> u64 {
    u64::from(wanted.min(QUANTUM)) * SCALE
}

fn class_mut(classes: &mut [Class; 3], priority: Priority) -> &mut Class {
    let [high, normal, low] = classes;
    match priority {
        Priority::High => high,
        Priority::Normal => normal,
        Priority::Low => low,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(owner: usize, weight: u16, priority: Priority) -> Share {
        Share { owner: Some(owner), config: ShareConfig { weight, priority } }
    }

    fn equal(owner: usize) -> Share {
        share(owner, 1, Priority::Normal)
    }

    /// What everybody got of `room`, `everyone` asking for more than there is, again and again.
    fn shared(everyone: &[(u64, Share)], room: u32) -> HashMap<u64, u32> {
        let (mut turns, mut got) = (FairQueue::default(), HashMap::new());
        let mut left = room;
        while left > 0 {
            for (who, share) in everyone {
                turns.join(*who, *share, 1000);
            }
            let (who, count) = turns.next(left).unwrap();
            *got.entry(who).or_default() += count;
            left -= count;
        }
        got
    }

    fn near(got: Option<&u32>, expected: u32) -> bool {
        got.is_some_and(|got| got.abs_diff(expected) <= 2 * QUANTUM)
    }

    #[test]
    fn owners_share_by_weight_however_many_sessions_they_have() {
        let mut everyone: Vec<_> = (0..30).map(|who| (who, equal(1))).collect();
        everyone.push((100, equal(2)));
        everyone.push((200, share(3, 2, Priority::Normal)));
        let got = shared(&everyone, 40_000);
        assert!(near(got.get(&100), 10_000), "{got:?}");
        assert!(near(got.get(&200), 20_000), "{got:?}");
        for who in 0..30 {
            assert!(near(got.get(&who), 333), "{got:?}");
        }
    }

    #[test]
    fn who_asks_for_little_is_next() {
        for polite in [equal(2), equal(1)] {
            let mut turns = FairQueue::default();
            for who in 0..50 {
                turns.join(who, equal(1), 1000);
            }
            for _ in 0..200 {
                turns.next(64).unwrap();
            }
            let mut before = 0;
            for _ in 0..100 {
                // The others get on as fast as it does.
                for _ in 0..5 {
                    turns.next(16).unwrap();
                }
                turns.join(100, polite, 1);
                while turns.next(64).unwrap().0 != 100 {
                    before += 1;
                }
            }
            assert!(before <= 100, "{before} turns of others before 100 of its own");
        }
    }

    #[test]
    fn nobody_saves_up_turns_by_staying_away() {
        let mut turns = FairQueue::default();
        turns.join(2, equal(2), 1);
        turns.next(1).unwrap();
        turns.join(1, equal(1), u32::MAX);
        for _ in 0..1000 {
            turns.next(16).unwrap();
        }
        turns.join(2, equal(2), u32::MAX);
        let mine = (0..100).filter(|_| turns.next(16).unwrap().0 == 2).count();
        assert!((48..=52).contains(&mine), "{mine}");
    }

    #[test]
    fn priority_goes_before_weight_and_starves_nobody() {
        let everyone = [(1, share(1, 1, Priority::High)), (2, share(2, 1000, Priority::Low))];
        let got = shared(&everyone, 16_000);
        assert!(near(got.get(&2), 1000), "{got:?}");
    }

    #[test]
    fn who_leaves_has_no_turn() {
        let mut turns = FairQueue::default();
        turns.join(1, equal(1), 5);
        turns.join(2, equal(1), 5);
        turns.leave(1);
        turns.leave(1);
        assert_eq!(turns.next(3), Some((2, 3)));
        assert_eq!(turns.next(3), Some((2, 2)));
        assert_eq!(turns.next(3), None);
        assert!(turns.is_empty());
    }

    #[test]
    fn who_has_taken_little_cuts_in() {
        let mut turns = FairQueue::default();
        turns.join(1, equal(1), u32::MAX);
        turns.join(2, equal(2), u32::MAX);
        for _ in 0..20 {
            turns.next(16).unwrap();
        }
        assert!(!turns.try_bypass(1, equal(1)), "it waits");
        let often = (0..100).filter(|_| turns.try_bypass(3, equal(3))).count();
        assert!((1..=2 * QUANTUM as usize).contains(&often), "{often}");
        assert!(!turns.try_bypass(4, share(4, 1, Priority::Low)));
        assert!(turns.try_bypass(5, share(4, 1, Priority::High)));
        for _ in 0..4 {
            turns.next(16).unwrap();
        }
        assert!(turns.try_bypass(3, equal(3)), "the others went on");
        let mut alone = FairQueue::default();
        alone.join(1, equal(1), u32::MAX);
        alone.next(16).unwrap();
        assert!(alone.try_bypass(2, equal(1)), "another session of the only owner");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut turns = FairQueue::default();
        for who in 0..100_000 {
            turns.join(who, equal(1), 32);
            turns.next(1).unwrap();
            turns.leave(who);
        }
        let tags = &turns.classes[1].owners[&Some(1)].tags;
        assert!(tags.is_empty(), "{}", tags.len());
    }
}
