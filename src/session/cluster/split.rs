//! Divides a command with many keys into one command for each slot. No I/O.

use crate::cluster::slot::Slot;
use crate::resp::request::{self, Request};

/// The number of keys that a command with keys in several slots may have. The join of its parts takes one poll.
pub(super) const MAX_KEYS: usize = 100_000;

/// One part of a command: a request of its own, for one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The slot of its keys, or a slot of its shard.
    pub(super) slot: Slot,
    /// Where its frame begins among those of all parts.
    pub(super) start: usize,
    /// Where its frame ends.
    pub(super) end: usize,
    /// The number of its keys.
    pub(super) keys: usize,
    /// The place of its first key among the keys of the whole command.
    pub(super) first: usize,
}

/// The parts of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// The frames of all parts, one after the other.
    pub(super) frames: Vec<u8>,
    /// The parts, by slot.
    pub(super) parts: Vec<Part>,
    /// For each key of the whole command, its place among the keys of all parts, taken in order.
    pub(super) places: Vec<u32>,
}

impl Parts {
    /// Returns the number of bytes that the parts allocate.
    pub(super) fn allocated(&self) -> usize {
        self.frames.capacity()
            + self.parts.capacity() * size_of::<Part>()
            + self.places.capacity() * size_of::<u32>()
    }

    /// Returns the frame of a part.
    pub(super) fn frame(&self, part: &Part) -> &[u8] {
        self.frames.get(part.start..part.end).unwrap_or_default()
    }

    /// Replaces the frame of a command that has one part.
    pub(super) fn replace(&mut self, frame: Vec<u8>) {
        if let [part] = &mut self.parts[..] {
            (part.start, part.end) = (0, frame.len());
            self.frames = frame;
        }
    }

    /// Returns a part for each of these slots, with the same frame.
    pub(super) fn for_each(slots: impl Iterator<Item = Slot>, frame: &[u8]) -> Self {
        let part = |slot| Part { slot, start: 0, end: frame.len(), keys: 0, first: 0 };
        Self { frames: frame.to_vec(), parts: slots.map(part).collect(), places: Vec::new() }
    }
}

/// Returns true if the keys of a request are in more than one slot. The keys are every `step`th argument behind the first
/// `head` words.
pub(super) fn is_cross_slot(request: &Request<'_>, head: usize, step: usize) -> bool {
    let mut slots = request.args().skip(head).step_by(step.max(1)).map(Slot::of);
    let first = slots.next();
    slots.any(|slot| Some(slot) != first)
}

/// Divides a request by the slots of its keys. Each part has the first `head` words of the whole and its keys, in their order, each
/// with the `step - 1` arguments behind it. A key that occurs twice stays twice.
pub(super) fn by_slot(request: &Request<'_>, head: usize, step: usize) -> Parts {
    let args: Vec<&[u8]> = request.args().skip(head).collect();
    let groups = || args.chunks(step.max(1));
    let mut keys: Vec<(Slot, u32)> = groups()
        .zip(0_u32..)
        .map(|(group, place)| (Slot::of(group.first().copied().unwrap_or_default()), place))
        .collect();
    keys.sort_unstable();
    let mut parts = Parts { places: vec![0; keys.len()], ..Parts::default() };
    let mut joined = 0_u32;
    let mut words: Vec<&[u8]> = Vec::new();
    for of_slot in keys.chunk_by(|(a, _), (b, _)| a == b) {
        let Some((slot, first)) = of_slot.first() else { continue };
        words.clear();
        words.extend(request.args().take(head));
        for (_, place) in of_slot {
            let at = *place as usize * step.max(1);
            words.extend(args.iter().skip(at).take(step.max(1)));
            if let Some(entry) = parts.places.get_mut(*place as usize) {
                *entry = joined;
            }
            joined += 1;
        }
        let start = parts.frames.len();
        request::encode(&words, &mut parts.frames);
        parts.parts.push(Part {
            slot: *slot,
            start,
            end: parts.frames.len(),
            keys: of_slot.len(),
            first: *first as usize,
        });
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn frame(words: &[Vec<u8>]) -> Vec<u8> {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let mut frame = Vec::new();
        request::encode(&words, &mut frame);
        frame
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..6),
            prop::sample::select(vec![b"{a}1".to_vec(), b"{a}2".to_vec(), b"{b}".to_vec(), b"b".to_vec()]),
        ]
    }

    proptest! {
        #[test]
        fn the_parts_have_every_key_once_in_its_slot(
            keys in prop::collection::vec(key(), 1..40),
            head in 1..3_usize,
            step in 1..3_usize,
        ) {
            let head_words = [b"NAME".to_vec(), b"SUBCOMMAND".to_vec()];
            let head_words = &head_words[..head];
            let mut words = head_words.to_vec();
            for (number, key) in keys.iter().enumerate() {
                words.push(key.clone());
                (1..step).for_each(|_| words.push(format!("v{number}").into_bytes()));
            }
            let whole = frame(&words);
            let request = Request::parse(&whole).unwrap();
            let parts = by_slot(&request, head, step);
            let slots: BTreeSet<Slot> = keys.iter().map(|key| Slot::of(key)).collect();
            prop_assert_eq!(parts.parts.iter().map(|part| part.slot).collect::<Vec<_>>(), slots.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(is_cross_slot(&request, head, step), slots.len() > 1);
            // All groups in the order of the parts, and back in the order of the whole.
            let mut groups: Vec<Vec<Vec<u8>>> = Vec::new();
            for part in &parts.parts {
                let request = Request::parse(parts.frame(part)).unwrap();
                let mut front: Vec<Vec<u8>> = request.args().map(<[u8]>::to_vec).collect();
                let args = front.split_off(head);
                prop_assert_eq!(&front[..], head_words);
                prop_assert_eq!(args.len(), part.keys * step);
                prop_assert_eq!(&args[0], &keys[part.first]);
                for group in args.chunks(step) {
                    prop_assert_eq!(Slot::of(&group[0]), part.slot);
                    groups.push(group.to_vec());
                }
            }
            let again: Vec<Vec<u8>> = parts.places.iter().flat_map(|place| groups[*place as usize].clone()).collect();
            prop_assert_eq!(&again[..], &words[head..]);
        }
    }

    #[test]
    fn later_writes_of_one_key_stay_behind_earlier_ones() {
        let whole = frame(&["MSET", "a", "1", "b", "2", "a", "3"].map(|word| word.as_bytes().to_vec()));
        let parts = by_slot(&Request::parse(&whole).unwrap(), 1, 2);
        let of_a = parts.parts.iter().find(|part| part.slot == Slot::of(b"a")).unwrap();
        assert_eq!(
            parts.frame(of_a),
            frame(&["MSET", "a", "1", "a", "3"].map(|word| word.as_bytes().to_vec()))
        );
    }
}
