//! Finds the keys of a command by its row in the table, for the data path.

use super::keys::{KEYS, Keys};
use super::spec::Spec;
use super::table::TABLE;

/// Where the keys of each command are, by row. The compiler builds it.
static KEYS_OF_ROW: [Keys; TABLE.len()] = keys_of_rows();

/// Returns where the keys of a command are, in constant time.
pub fn keys_of(spec: &Spec) -> Keys {
    KEYS_OF_ROW.get(usize::from(spec.row)).copied().unwrap_or(Keys::None)
}

#[allow(clippy::indexing_slicing, reason = "the compiler runs it")]
const fn keys_of_rows() -> [Keys; TABLE.len()] {
    let mut rows = [Keys::None; TABLE.len()];
    let mut list = 0;
    while list < KEYS.len() {
        let (keys, names) = KEYS[list];
        let names = names.as_bytes();
        let mut at = 0;
        while at < names.len() {
            let start = at;
            while at < names.len() && names[at] != b' ' {
                at += 1;
            }
            if at > start
                && let Some(row) = row_of(names, start, at)
            {
                rows[row] = keys;
            }
            at += 1;
        }
        list += 1;
    }
    rows
}

/// Finds the row of the name that stands in `names` from `start` to `end`. The rows are sorted by name.
#[allow(clippy::indexing_slicing, reason = "the compiler runs it")]
const fn row_of(names: &[u8], start: usize, end: usize) -> Option<usize> {
    let (mut low, mut high) = (0, TABLE.len());
    while low < high {
        let middle = (low + high) / 2;
        match order(TABLE[middle].name.as_bytes(), names, start, end) {
            0 => return Some(middle),
            ..0 => low = middle + 1,
            _ => high = middle,
        }
    }
    None
}

/// Returns a number below zero if `known` comes before the name in `names`, zero if they are equal, and one above zero otherwise.
#[allow(clippy::indexing_slicing, reason = "the compiler runs it")]
const fn order(known: &[u8], names: &[u8], start: usize, end: usize) -> i32 {
    let mut at = 0;
    while at < known.len() && start + at < end {
        if known[at] != names[start + at] {
            return known[at] as i32 - names[start + at] as i32;
        }
        at += 1;
    }
    known.len() as i32 - (end - start) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_the_keys_that_the_list_says() {
        for spec in &TABLE {
            assert_eq!(keys_of(spec), Keys::of(spec), "{}", spec.name);
        }
        assert!(TABLE.iter().any(|spec| spec.name == "GET" && keys_of(spec) != Keys::None));
    }
}
