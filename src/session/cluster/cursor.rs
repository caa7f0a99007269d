//! The cursor of SCAN in a cluster: which shard is scanned, and how far. No I/O.
//!
//! A client may go on with a cursor by any respgate, so the cursor itself says everything: a slot of the shard, a mark of the server
//! process that gave the rest, and that server's own cursor. A server's cursor is worth nothing to another process, because the order
//! of keys depends on a seed that each process draws when it starts. The mark shows that: the shard is then scanned from its
//! beginning, and the client may see keys twice, which SCAN allows.

use crate::cluster::slot::Slot;
use crate::topology::NodeId;

/// The bits of the slot.
const SLOT_BITS: u32 = 14;
/// The bits of the mark.
const MARK_BITS: u32 = 8;
/// The server's cursor must be less than this power of 2, so that the whole stays below 2^63: many clients read it as signed.
const CURSOR_BITS: u32 = 63 - SLOT_BITS - MARK_BITS;

/// Marks a server process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u8);

impl Mark {
    /// The mark of a process whose id is unknown.
    pub(super) const UNKNOWN: Self = Self(0);

    /// Returns the mark of a process. It is the same in every respgate.
    pub(super) fn of(node: Option<&NodeId>) -> Self {
        let Some(node) = node else { return Self::UNKNOWN };
        // FNV-1a. 0 and 255 stand for no process.
        let hash = node
            .0
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self((hash % 254) as u8 + 1)
    }

    /// Returns true if both may be the same process.
    pub(super) fn may_be(self, other: Self) -> bool {
        self == Self::UNKNOWN || other == Self::UNKNOWN || self == other
    }
}

/// Where a scan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScanCursor {
    /// A slot of the shard.
    pub(super) slot: Slot,
    /// The process that gave `cursor`.
    pub(super) mark: Mark,
    /// The server's own cursor; 0 at the beginning of a shard.
    pub(super) cursor: u64,
}

/// Parses the cursor of a SCAN; `None` if a server refuses it. Servers read a C string: it may have a sign, and ends at a NUL (observed on
/// valkey 8.0 and redis 7.0, which do not agree about empty, negative and indented ones: those are refused).
pub(super) fn parse(text: &[u8]) -> Option<u64> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl ScanCursor {
    /// Returns what a client's cursor means; `None` for 0, with which a scan begins. Any number means something: bits that no cursor
    /// has are ignored.
    pub(super) fn decode(number: u64) -> Option<Self> {
        if number == 0 {
            return None;
        }
        let slot = u16::try_from(number & ((1 << SLOT_BITS) - 1)).ok().and_then(Slot::new)?;
        let mark = Mark(u8::try_from((number >> SLOT_BITS) & ((1 << MARK_BITS) - 1)).ok()?);
        let cursor = (number >> (SLOT_BITS + MARK_BITS)) & ((1 << CURSOR_BITS) - 1);
        Some(Self { slot, mark, cursor })
    }

    /// Returns the number that a client gets, below 2^63; `None` if the server's cursor is too large for that.
    pub(super) fn encode(self) -> Option<u64> {
        (self.cursor < 1 << CURSOR_BITS).then(|| {
            self.cursor << (SLOT_BITS + MARK_BITS)
                | u64::from(self.mark.0) << SLOT_BITS
                | u64::from(self.slot.number())
        })
    }

    /// Returns the cursor to send to the process `mark`: 0 if another process gave this one.
    pub(super) fn for_process(self, mark: Mark) -> u64 {
        if self.mark.may_be(mark) { self.cursor } else { 0 }
    }
}

/// Returns the number that a client gets after a shard has answered with its own `cursor`; 0 after the last shard. `starts` are the
/// first slots of all shards, in order, and `slot` belongs to the shard that answered.
///
/// # Errors
/// Returns an error if the server's cursor does not fit.
pub(super) fn next(cursor: u64, slot: Slot, mark: Mark, starts: &[Slot]) -> Result<u64, TooLarge> {
    if cursor != 0 {
        return ScanCursor { slot, mark, cursor }.encode().ok_or(TooLarge);
    }
    let following = starts.iter().copied().filter(|start| *start > slot).min();
    match following {
        None => Ok(0),
        Some(slot) => ScanCursor { slot, mark: Mark::UNKNOWN, cursor: 0 }.encode().ok_or(TooLarge),
    }
}

/// Returns the number with which a client begins the shard of this slot anew. It is not 0, also for the first shard.
pub(super) fn anew(slot: Slot) -> u64 {
    u64::from(u8::MAX) << SLOT_BITS | u64::from(slot.number())
}

/// A server's cursor is too large to be part of a client's cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slot() -> impl Strategy<Value = Slot> {
        (0..16_384_u16).prop_map(|number| Slot::new(number).unwrap())
    }

    proptest! {
        #[test]
        fn a_cursor_comes_back_as_it_was(slot in slot(), mark in any::<u8>(), cursor in 1..1_u64 << CURSOR_BITS) {
            let scan = ScanCursor { slot, mark: Mark(mark), cursor };
            let number = scan.encode().unwrap();
            prop_assert!(number < 1 << 63 && number != 0);
            prop_assert_eq!(ScanCursor::decode(number), Some(scan));
        }

        #[test]
        fn any_number_means_something(number in 1..u64::MAX) {
            let scan = ScanCursor::decode(number).unwrap();
            prop_assert!(scan.encode().is_some());
        }

        #[test]
        fn a_scan_visits_every_shard_once(mut starts in prop::collection::btree_set(slot(), 1..20)) {
            starts.insert(Slot::new(0).unwrap());
            let starts: Vec<Slot> = starts.into_iter().collect();
            let mut visited = vec![starts[0]];
            loop {
                let last = *visited.last().unwrap();
                let number = next(0, last, Mark(7), &starts).unwrap();
                let Some(scan) = ScanCursor::decode(number) else { break };
                prop_assert_eq!(scan.cursor, 0);
                visited.push(scan.slot);
            }
            prop_assert_eq!(visited, starts);
        }
    }

    #[test]
    fn another_process_begins_anew() {
        let process = |id: &str| Mark::of(Some(&NodeId(id.into())));
        let (one, other) = (process("1a"), process("2b"));
        assert_ne!(one, other);
        let scan = ScanCursor { slot: Slot::of(b"k"), mark: one, cursor: 9 };
        assert_eq!((scan.for_process(one), scan.for_process(other)), (9, 0));
        assert_eq!(scan.for_process(Mark::UNKNOWN), 9);
        let anew = ScanCursor::decode(anew(Slot::of(b"")));
        assert_eq!(anew.map(|scan| (scan.slot, scan.for_process(one))), Some((Slot::of(b""), 0)));
    }

    #[test]
    fn cursors_are_numbers_as_servers_read_them() {
        assert_eq!((parse(b"0"), parse(b"7\0x"), parse(b"+7")), (Some(0), Some(7), Some(7)));
        assert_eq!(parse(b"18446744073709551615"), Some(u64::MAX));
        for refused in [&b""[..], b"18446744073709551616", b"1x", b" 1", b"-1", b"+", b"\0"] {
            assert_eq!(parse(refused), None);
        }
        let slot = Slot::of(b"k");
        assert_eq!(next(1 << CURSOR_BITS, slot, Mark(1), &[slot]), Err(TooLarge));
    }
}
