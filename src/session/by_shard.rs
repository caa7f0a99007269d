//! A list with an entry for each shard that a session has used. No I/O.

use crate::cluster::ShardNumber;

/// The number of shards from which on an entry's place is no longer found at once, because two shards share a place in the index.
const INDEXED: usize = 512;

/// Holds an entry for each of some shards. With [`INDEXED`] shards or fewer, an entry is found in constant time in nearly all cases.
#[derive(Debug)]
pub(super) struct ByShard<T> {
    all: Vec<T>,
    /// For each number of a shard, modulo [`INDEXED`]: the place in `all` of the entry that was found last.
    places: Vec<u16>,
}

impl<T> Default for ByShard<T> {
    fn default() -> Self {
        Self { all: Vec::new(), places: Vec::new() }
    }
}

impl<T> ByShard<T> {
    /// Returns the place of the entry of a shard. `number`: the shard's number; `None` for a shard without one. `is_of` returns true for
    /// the shard's entry.
    #[inline]
    pub(super) fn find(&mut self, number: Option<ShardNumber>, is_of: impl Fn(&T) -> bool) -> Option<usize> {
        let place = self.places.get(index(number)).copied().map(usize::from);
        match place.filter(|place| self.all.get(*place).is_some_and(&is_of)) {
            None => self.look_for(number, is_of),
            known => known,
        }
    }

    #[cold]
    fn look_for(&mut self, number: Option<ShardNumber>, is_of: impl Fn(&T) -> bool) -> Option<usize> {
        let found = self.all.iter().position(is_of)?;
        self.note(number, found);
        Some(found)
    }

    /// Adds the entry of a shard. Returns its place.
    pub(super) fn add(&mut self, number: Option<ShardNumber>, entry: T) -> usize {
        let place = self.all.len();
        self.all.push(entry);
        self.note(number, place);
        place
    }

    fn note(&mut self, number: Option<ShardNumber>, place: usize) {
        let index = index(number);
        if self.places.len() <= index {
            self.places.resize(index + 1, u16::MAX);
        }
        if let (Some(known), Ok(place)) = (self.places.get_mut(index), u16::try_from(place)) {
            *known = place;
        }
    }

    /// Returns the entry at a place.
    #[inline]
    pub(super) fn get(&self, place: usize) -> Option<&T> {
        self.all.get(place)
    }

    /// Returns the entry at a place.
    #[inline]
    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.all.get_mut(place)
    }

    /// Returns true if there is no entry.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns all entries.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.all.iter_mut()
    }

    /// Drops the entries for which `stays` returns false. Others may get new places.
    pub(super) fn retain(&mut self, stays: impl FnMut(&T) -> bool) {
        self.all.retain(stays);
    }

    /// Takes out all entries.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.all.drain(..)
    }
}

#[inline]
fn index(number: Option<ShardNumber>) -> usize {
    number.map_or(0, |number| number.0 as usize % INDEXED)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Numbers that are far apart share places in the index, and shards leave.
        #[test]
        fn a_shard_is_found_wherever_it_stands(
            steps in prop::collection::vec((prop_oneof![Just(None), (0..1200_u32).prop_map(Some)], any::<bool>()), 1..100),
        ) {
            let (mut list, mut model) = (ByShard::default(), Vec::new());
            for (number, leaves) in steps {
                let number = number.map(ShardNumber);
                if leaves {
                    list.retain(|known| *known != number);
                    model.retain(|known| *known != number);
                }
                let found = list.find(number, |known| *known == number);
                prop_assert_eq!(found, model.iter().position(|known| *known == number));
                if found.is_none() {
                    prop_assert_eq!(list.add(number, number), model.len());
                    model.push(number);
                }
            }
            prop_assert!(list.places.len() <= INDEXED);
            for (place, number) in model.iter().enumerate() {
                prop_assert_eq!(list.find(*number, |known| known == number), Some(place));
            }
        }
    }
}
