//! Finds the row of a command in the table.

use super::short_name::pack;
use super::spec::{Flags, Spec, Trace};
use super::table::TABLE;
use crate::resp::request::Request;

/// A command that the table has, or a container of which it lacks the subcommand.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// The command, or the subcommand if the request has one.
    Spec(&'static Spec),
    /// The table has the container but not the subcommand.
    NoSuchSubcommand(&'static Spec),
}

/// Finds the command of a request. If the request has no subcommand, a container's bare name finds
/// the container.
pub fn find(request: &Request<'_>) -> Option<Found> {
    let spec = lookup(request.name())?;
    if !spec.flags.contains(Flags::CONTAINER) || request.argc() < 2 {
        return Some(Found::Spec(spec));
    }
    let subcommand = request.arg(1).unwrap_or_default();
    Some(lookup_subcommand(spec, subcommand).map_or(Found::NoSuchSubcommand(spec), Found::Spec))
}

/// Finds a command by its name, in any case. `CLIENT|ID` names a row, but is not a command: the
/// server does not know it either.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    match pack(name) {
        Some(packed) => lookup_short(packed, name.len()),
        None => lookup_long(name),
    }
}

/// Finds a command whose name has at most 8 bytes.
fn lookup_short(packed: u64, len: usize) -> Option<&'static Spec> {
    let mut slot = first_slot_of(packed);
    loop {
        let (known, row) = *SHORT_NAMES.get(slot)?;
        if known == packed {
            return TABLE.get(usize::from(row)).filter(|spec| spec.name.len() == len);
        }
        if row == EMPTY {
            return None;
        }
        slot = (slot + 1) % SHORT_SLOTS;
    }
}

fn lookup_long(name: &[u8]) -> Option<&'static Spec> {
    if name.len() > MAX_NAME || name.contains(&b'|') {
        return None;
    }
    probe(hash(OFFSET, name), |known| known.as_bytes().eq_ignore_ascii_case(name))
}

/// Finds a subcommand of a container by its name, in any case.
pub fn lookup_subcommand(container: &Spec, subcommand: &[u8]) -> Option<&'static Spec> {
    if subcommand.len() > MAX_NAME {
        return None;
    }
    let holder = container.name.as_bytes();
    probe(hash(hash(hash(OFFSET, holder), b"|"), subcommand), |known| {
        known
            .as_bytes()
            .strip_prefix(holder)
            .and_then(|rest| rest.strip_prefix(b"|"))
            .is_some_and(|rest| rest.eq_ignore_ascii_case(subcommand))
    })
}

/// Returns the state that a request can leave on the connection that runs it: `Unknown` for a
/// command that the table lacks.
pub fn trace_of(request: &Request<'_>) -> Trace {
    match find(request) {
        Some(Found::Spec(spec)) => spec.trace,
        Some(Found::NoSuchSubcommand(_)) | None => Trace::Unknown,
    }
}

/// Returns true if a token can be the name of a command or subcommand: 1 to 64 printable ASCII
/// bytes. The server compares names as C strings but hashes them whole, so `FLUSHALL\0x` may run
/// FLUSHALL (observed on valkey 8.0 and redis 7.0).
pub fn printable(token: &[u8]) -> bool {
    (1..=64).contains(&token.len()) && token.iter().all(|byte| (0x21..=0x7e).contains(byte))
}

/// Returns true if a request has a number of arguments that its command accepts.
pub fn arity_ok(spec: &Spec, argc: u32) -> bool {
    let argc = i64::from(argc);
    let arity = i64::from(spec.arity);
    if arity < 0 { argc >= -arity } else { argc == arity }
}

/// Length of the longest name in the table, in bytes. A client may send a name of 512 MiB; respgate
/// does not hash it.
const MAX_NAME: usize = 64;
const SLOTS: usize = 2048;
const EMPTY: u16 = u16::MAX;
const OFFSET: u32 = 0x811c_9dc5;

/// Maps the hash of a name to its row. The compiler builds it.
static ROW_OF_SLOT: [u16; SLOTS] = rows_of_slots();

/// Hashes the upper-cased name with FNV-1a, which takes a few multiplications for a command's few
/// bytes.
const fn hash(start: u32, name: &[u8]) -> u32 {
    let mut hash = start;
    let mut at = 0;
    while at < name.len() {
        hash = (hash ^ name[at].to_ascii_uppercase() as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    hash
}

const fn rows_of_slots() -> [u16; SLOTS] {
    let mut rows = [EMPTY; SLOTS];
    let mut row = 0;
    while row < TABLE.len() {
        // Open addressing with linear probing; `the_longest_probe_is_short` checks that look-ups
        // stay fast.
        let mut slot = first_slot(hash(OFFSET, TABLE[row].name.as_bytes()));
        while rows[slot] != EMPTY {
            slot = (slot + 1) % SLOTS;
        }
        rows[slot] = row as u16;
        row += 1;
    }
    rows
}

const fn first_slot(hash: u32) -> usize {
    (hash ^ (hash >> 16)) as usize % SLOTS
}

const SHORT_SLOTS: usize = 1024;

/// The names of at most 8 bytes, each with its row. The compiler builds it.
static SHORT_NAMES: [(u64, u16); SHORT_SLOTS] = rows_of_short_names();

const fn rows_of_short_names() -> [(u64, u16); SHORT_SLOTS] {
    let mut names = [(0, EMPTY); SHORT_SLOTS];
    let mut row = 0;
    while row < TABLE.len() {
        let name = TABLE[row].name.as_bytes();
        if let Some(packed) = pack(name)
            && !is_subcommand(name)
        {
            let mut slot = first_slot_of(packed);
            while names[slot].1 != EMPTY {
                slot = (slot + 1) % SHORT_SLOTS;
            }
            names[slot] = (packed, row as u16);
        }
        row += 1;
    }
    names
}

const fn is_subcommand(name: &[u8]) -> bool {
    let mut at = 0;
    while at < name.len() {
        if name[at] == b'|' {
            return true;
        }
        at += 1;
    }
    false
}

/// The multiplication spreads the bytes of a name over the highest bits (Fibonacci hashing).
const fn first_slot_of(packed: u64) -> usize {
    (packed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % SHORT_SLOTS
}

fn probe(hash: u32, is: impl Fn(&str) -> bool) -> Option<&'static Spec> {
    let mut slot = first_slot(hash);
    loop {
        let spec = TABLE.get(usize::from(*ROW_OF_SLOT.get(slot)?))?;
        if is(spec.name) {
            return Some(spec);
        }
        slot = (slot + 1) % SLOTS;
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::{Retry, RouteClass};
    use super::*;

    #[test]
    fn every_row_is_found_in_any_case_and_nothing_else_is() {
        for spec in &TABLE {
            let mixed: String = spec
                .name
                .chars()
                .enumerate()
                .map(|(i, c)| if i % 2 == 0 { c.to_ascii_lowercase() } else { c })
                .collect();
            let found = match mixed.split_once('|') {
                Some((holder, sub)) => lookup_subcommand(lookup(holder.as_bytes()).unwrap(), sub.as_bytes()),
                None => lookup(mixed.as_bytes()),
            };
            assert_eq!(found.unwrap().name, spec.name);
        }
        for name in [&b"FLUSHALL\0x"[..], b"", b"GETT", b"CLIENT|ID", b"\xffGET", &[b'G'; 4096]] {
            assert!(lookup(name).is_none());
        }
    }

    #[test]
    fn the_table_is_sorted_and_whole() {
        assert!(TABLE.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(TABLE.iter().all(|spec| spec.name.len() <= MAX_NAME));
        let count = |route| TABLE.iter().filter(|spec| spec.route == route).count();
        assert_eq!(TABLE.len(), 490);
        assert_eq!(count(RouteClass::SideConnection), 2);
        assert_eq!(count(RouteClass::LeaseIfBlock), 2);
        assert!(
            TABLE
                .iter()
                .filter(|s| s.route == RouteClass::Shared)
                .all(|s| !s.flags.contains(Flags::BLOCKING))
        );
        assert!(TABLE.iter().filter(|s| s.flags.contains(Flags::WRITE)).all(|s| s.retry != Retry::Safe));
    }

    #[test]
    fn only_commands_that_leave_nothing_share_a_connection() {
        for spec in &TABLE {
            let shared = matches!(
                spec.route,
                RouteClass::Shared
                    | RouteClass::Lease
                    | RouteClass::LeaseIfBlock
                    | RouteClass::SideConnection
            );
            assert!(!shared || spec.trace == Trace::Nothing, "{}", spec.name);
            // CONFIG GET runs on the shared lane if it reads harmless parameters only.
            let administrative = spec.route == RouteClass::Admin && spec.name != "CONFIG|GET";
            assert!(
                !administrative || matches!(spec.trace, Trace::Unknown | Trace::OtherProtocol),
                "{}",
                spec.name
            );
        }
        let named = |trace| {
            let rows = TABLE.iter().filter(|spec| spec.trace == trace).map(|spec| spec.name);
            rows.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            named(Trace::Followed),
            "CLIENT|NO-TOUCH DISCARD EXEC MULTI PSUBSCRIBE PUNSUBSCRIBE SELECT SSUBSCRIBE SUBSCRIBE \
             SUNSUBSCRIBE UNSUBSCRIBE UNWATCH WATCH"
        );
        assert_eq!(named(Trace::OtherProtocol), "PSYNC REPLCONF SCRIPT|DEBUG SYNC");
    }

    #[test]
    fn a_look_up_finds_what_a_search_of_the_whole_table_finds() {
        let search = |name: &[u8]| {
            let known = |spec: &&Spec| spec.name.as_bytes().eq_ignore_ascii_case(name);
            TABLE.iter().filter(|spec| !spec.name.contains('|')).find(known).map(|spec| spec.name)
        };
        for spec in &TABLE {
            let name = spec.name.as_bytes();
            for changed in 0..name.len() {
                for byte in
                    [0, b' ', b'|', b'A', b'[', b'`', b'{', 0x80, name[changed] ^ 0x80, name[changed] ^ 0x20]
                {
                    let mut near = name.to_vec();
                    near[changed] = byte;
                    assert_eq!(lookup(&near).map(|spec| spec.name), search(&near), "{near:?}");
                }
            }
            let longer = [name, b"\0"].concat();
            assert_eq!(lookup(&longer).map(|spec| spec.name), None);
            assert_eq!(lookup(&name[1..]).map(|spec| spec.name), search(&name[1..]));
        }
    }

    #[test]
    fn the_longest_probe_is_short() {
        let probes = |spec: &Spec| {
            let start = first_slot(hash(OFFSET, spec.name.as_bytes()));
            (0..SLOTS).find(|step| {
                TABLE
                    .get(usize::from(ROW_OF_SLOT[(start + step) % SLOTS]))
                    .is_some_and(|s| s.name == spec.name)
            })
        };
        assert!(TABLE.iter().map(|spec| probes(spec).unwrap()).max().unwrap() < 8);
        let full: Vec<bool> = SHORT_NAMES.iter().map(|(_, row)| *row != EMPTY).collect();
        let runs = full.split(|full| !full).map(<[bool]>::len);
        assert!(runs.max().unwrap() < 8);
    }
}
