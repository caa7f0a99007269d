//! The slot of a key: `CRC16(key) mod 16384`, where a hash tag between braces stands for the whole key (the specification of Redis
//! Cluster, "Hash tags").

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
        Self(crc16(hashed_part(key)) & (SLOTS as u16 - 1))
    }

    /// Returns the slot's number.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// Returns what stands between the first `{` and the first `}` behind it, if anything does, and otherwise the whole key.
fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else { return key };
    let tagged = key.get(open + 1..).unwrap_or_default();
    match memchr::memchr(b'}', tagged) {
        None | Some(0) => key,
        Some(close) => tagged.get(..close).unwrap_or(key),
    }
}

/// The CRC of each byte.
static CRC_OF_BYTE: [u16; 256] = crc_of_bytes();

/// Returns the CRC-16 of the servers: XMODEM, whose polynomial is 0x1021.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        let [high, _] = crc.to_be_bytes();
        (crc << 8) ^ CRC_OF_BYTE.get(usize::from(high ^ byte)).copied().unwrap_or_default()
    })
}

#[allow(clippy::indexing_slicing, reason = "the compiler runs it")]
const fn crc_of_bytes() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let (mut crc, mut bit) = ((byte as u16) << 8, 0);
        while bit < 8 {
            crc = (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slots_are_those_of_another_implementation(key in "[a{}]{0,9}|.{0,40}") {
            prop_assert_eq!(Slot::of(key.as_bytes()).number(), redis_protocol::redis_keyslot(key.as_bytes()));
        }
    }

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
