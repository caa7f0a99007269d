//! Packs a command's name into one number, so that one comparison tells two names apart. Nearly all commands that clients send have
//! names of at most 8 bytes.

/// Returns a name of 1 to 8 bytes, in capital letters, as one number; `None` for a name of another length. Only names that differ in
/// length, by zero bytes at their end, have the same number.
#[inline]
pub(super) const fn pack(name: &[u8]) -> Option<u64> {
    let bytes = match name {
        [a] => *a as u64,
        [a, b] => *a as u64 | (*b as u64) << 8,
        [a, b, c] => *a as u64 | (*b as u64) << 8 | (*c as u64) << 16,
        _ => match (name.first_chunk::<4>(), name.last_chunk::<4>()) {
            // Two reads that may overlap. The bytes that both have are the same at the same place.
            (Some(first), Some(last)) if name.len() <= 8 => {
                u32::from_le_bytes(*first) as u64
                    | (u32::from_le_bytes(*last) as u64) << (8 * (name.len() - 4))
            }
            _ => return None,
        },
    };
    Some(capitals(bytes))
}

/// Makes each of 8 bytes a capital letter if it is a small one.
const fn capitals(bytes: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // Sums of bytes below 128 do not reach the next byte. The highest bit of a byte then says whether it is at least `a`, or above `z`.
    let low = bytes & (0x7f * EACH);
    let from_a = low + (0x80 - b'a' as u64) * EACH;
    let above_z = low + (0x7f - b'z' as u64) * EACH;
    let small = (from_a ^ above_z) & !bytes & (0x80 * EACH);
    bytes - (small >> 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_has_the_bytes_of_the_name_in_capital_letters(name in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut padded = name.to_ascii_uppercase();
            padded.resize(name.len().max(8), 0);
            let expected = padded.try_into().ok().map(u64::from_le_bytes).filter(|_| !name.is_empty());
            prop_assert_eq!(pack(&name), expected);
        }
    }
}
