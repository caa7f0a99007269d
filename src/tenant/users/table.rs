//! Implements a table of bounded size that forgets the entry with the least weight. No I/O; time is passed in, in
//! milliseconds.

/// Number of entries in a set. A lookup compares all of them.
const WAYS: usize = 8;
/// Number of sets in a new table.
const FIRST_SETS: usize = 32;

/// A value of a [`Table`].
pub trait Entry: Copy {
    /// Returns how much is lost if the table forgets the value. 0 means nothing: the value says no more than a
    /// missing entry.
    fn weight(&self, now: u64) -> u64;
}

/// Maps 64-bit keys to values. The key must be a keyed hash, so that a peer cannot choose which keys share a set.
///
/// The table is set-associative: a key belongs to one set of 8 entries. An insertion always succeeds and takes
/// constant time, except for the doublings up to the limit. It replaces an entry without weight or, at the limit,
/// the entry of its set with the least weight.
#[derive(Debug)]
pub struct Table<V> {
    entries: Vec<Option<(u64, V)>>,
    /// Limit of the number of sets, a power of two.
    most_sets: usize,
}

impl<V: Entry> Table<V> {
    /// Creates an empty table that grows to `limit` entries, rounded up to a power of two.
    pub fn new(limit: usize) -> Self {
        let most_sets = (limit / WAYS).max(FIRST_SETS).next_power_of_two();
        Self { entries: vec![None; FIRST_SETS * WAYS], most_sets }
    }

    /// Returns the value of a key.
    pub fn get(&self, key: u64) -> Option<V> {
        let found = self.set(key).iter().flatten().find(|(known, _)| *known == key);
        found.map(|(_, value)| *value)
    }

    /// Sets the value of a key.
    pub fn put(&mut self, key: u64, value: V, now: u64) {
        loop {
            // The order in which entries are replaced: the key's own, an empty one, then the one with the least
            // weight.
            let weight = |entry: &Option<(u64, V)>| match entry {
                Some((known, _)) if *known == key => (0, 0),
                Some((_, value)) => (2, value.weight(now)),
                None => (1, 0),
            };
            let full = self.sets() >= self.most_sets;
            let place = self.set_mut(key).iter_mut().min_by_key(|entry| weight(entry));
            let Some(place) = place else { return };
            if full || weight(place) <= (2, 0) {
                *place = Some((key, value));
                return;
            }
            self.double(now);
        }
    }

    /// Forgets a key.
    pub fn remove(&mut self, key: u64) {
        let found =
            self.set_mut(key).iter_mut().find(|entry| matches!(entry, Some((known, _)) if *known == key));
        if let Some(entry) = found {
            *entry = None;
        }
    }

    fn sets(&self) -> usize {
        self.entries.len() / WAYS
    }

    fn range(&self, key: u64) -> std::ops::Range<usize> {
        let first = (key as usize & (self.sets() - 1)) * WAYS;
        first..first + WAYS
    }

    fn set(&self, key: u64) -> &[Option<(u64, V)>] {
        self.entries.get(self.range(key)).unwrap_or_default()
    }

    fn set_mut(&mut self, key: u64) -> &mut [Option<(u64, V)>] {
        let range = self.range(key);
        self.entries.get_mut(range).unwrap_or_default()
    }

    /// Doubles the number of sets. One more bit of the keys splits each set in two, so no entry with weight is
    /// lost.
    fn double(&mut self, now: u64) {
        let twice = vec![None; self.entries.len() * 2];
        let before = std::mem::replace(&mut self.entries, twice);
        for (key, value) in before.into_iter().flatten().filter(|(_, value)| value.weight(now) > 0) {
            if let Some(place) = self.set_mut(key).iter_mut().find(|entry| entry.is_none()) {
                *place = Some((key, value));
            }
        }
    }

    /// Returns the number of entries, including those without weight.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.iter().flatten().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::hash::{BuildHasher, RandomState};

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Until(u64);

    impl Entry for Until {
        fn weight(&self, now: u64) -> u64 {
            self.0.saturating_sub(now)
        }
    }

    #[test]
    fn nothing_is_lost_while_it_may_grow() {
        let (mut table, hasher) = (Table::new(1 << 18), RandomState::new());
        let keys: Vec<_> = (0..4000).map(|number| hasher.hash_one(number)).collect();
        for (at, key) in keys.iter().enumerate() {
            table.put(*key, Until(1 + at as u64), 0);
        }
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(table.get(*key), Some(Until(1 + at as u64)));
        }
        table.remove(keys[7]);
        assert_eq!((table.get(keys[7]), table.len()), (None, 3999));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// A newcomer is always taken in, the table keeps to its limit, and what it forgets weighs no more than what
        /// is left in its set.
        #[test]
        fn the_least_goes_first(weights in proptest::collection::vec(1..1000_u64, 1..3000), limit in 1..1024_usize) {
            let (mut table, hasher) = (Table::new(limit), RandomState::new());
            let bound = limit.next_power_of_two().max(FIRST_SETS * WAYS);
            for (at, weight) in weights.iter().enumerate() {
                let key = hasher.hash_one(at);
                let before: Vec<_> = table.set(key).iter().flatten().copied().collect();
                table.put(key, Until(*weight), 0);
                prop_assert_eq!(table.get(key), Some(Until(*weight)));
                prop_assert!(table.len() <= bound);
                let kept = table.set(key);
                for (gone, value) in before.iter().filter(|(known, _)| table.get(*known).is_none()) {
                    let rest = kept.iter().flatten().filter(|(known, _)| *known != key);
                    prop_assert!(rest.clone().all(|(_, other)| other.0 >= value.0), "{gone}");
                }
            }
        }
    }
}
