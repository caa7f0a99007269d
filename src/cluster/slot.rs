//! The slot of a key: `CRC16(key) mod 16384`, where a hash tag between braces stands for the whole key (the specification of Redis
//! Cluster, "Hash tags").

use redis_protocol::redis_keyslot;

/// The number of slots of every cluster.
pub const SLOTS: usize = 16_384;

/// A slot, below [`SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// Returns the slot of this number; `None` if there is none.
    pub fn new(number: u16) -> Option<Self> {
        (usize::from(number) < SLOTS).then_some(Self(number))
    }

    /// Returns the slot of a key.
    pub fn of(key: &[u8]) -> Self {
        Self(redis_keyslot(key))
    }

    /// Returns the slot's number.
    pub fn number(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_tag_stands_for_the_key() {
        // Seen with CLUSTER KEYSLOT on Valkey 8.0.
        assert_eq!(Slot::of(b"foo").number(), 12_182);
        assert_eq!(Slot::of(b"{foo}bar"), Slot::of(b"foo"));
        assert_eq!(Slot::of(b"a{foo}{bar}"), Slot::of(b"foo"));
        assert_ne!(Slot::of(b"{}foo"), Slot::of(b"foo"));
        assert_eq!(Slot::of(b"").number(), 0);
    }

    #[test]
    fn only_numbers_below_the_number_of_slots_are_slots() {
        assert_eq!(Slot::new(16_383).map(Slot::number), Some(16_383));
        assert_eq!(Slot::new(16_384), None);
    }
}
