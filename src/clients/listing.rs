//! Merges the lines that the workers send into one list in the order of the ids, a few lines at a time.
//!
//! A list is never sorted as a whole, and no step handles more than [`LINES_PER_STEP`] lines, however many clients there
//! are. The lines of all workers are kept until the list is complete: two lists that are made at the same time could
//! otherwise each wait for the worker that waits for the other.

use std::collections::{BTreeMap, VecDeque};

/// Number of lines that one step handles.
pub const LINES_PER_STEP: usize = 64;

/// Limit of the bytes of one step's lines. A step ends with the line that exceeds it.
pub const BYTES_PER_STEP: usize = 64 * 1024;

/// Where lines come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LineSource {
    /// The clients of the worker with this number.
    Worker(usize),
    /// The server's own list.
    Server,
}

/// Lines of CLIENT LIST, sorted by id.
#[derive(Debug)]
pub struct Lines {
    /// Where the lines come from.
    pub source: LineSource,
    /// The lines, each with its line feed.
    pub bytes: Vec<u8>,
    /// The id of each client, and where its line ends in `bytes`.
    pub ends: Vec<(u64, usize)>,
}

impl Lines {
    /// Creates an empty part of a list.
    pub fn new(source: LineSource) -> Self {
        Self { source, bytes: Vec::new(), ends: Vec::new() }
    }

    /// Adds the line that `write` appends, with its line feed.
    pub fn push(&mut self, id: u64, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push((id, self.bytes.len()));
    }

    /// Returns true if a step must not add another line.
    pub fn is_full(&self) -> bool {
        self.ends.len() >= LINES_PER_STEP || self.bytes.len() >= BYTES_PER_STEP
    }

    /// Returns the number of allocated bytes.
    fn capacity(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<(u64, usize)>()
    }
}

/// A list of clients. The lines of one source are added in the order of their ids.
#[derive(Debug, Default)]
pub struct Listing {
    sources: BTreeMap<LineSource, VecDeque<Part>>,
    clients: usize,
    len: usize,
    capacity: usize,
}

/// Lines of which the first were taken.
#[derive(Debug)]
struct Part {
    lines: Lines,
    /// Number of lines that were taken.
    taken: usize,
    /// Where the next line begins.
    start: usize,
}

impl Part {
    /// Returns the id and the end of the next line.
    fn next(&self) -> Option<(u64, usize)> {
        self.lines.ends.get(self.taken).copied()
    }
}

impl Listing {
    /// Adds the next lines of a source.
    pub fn add(&mut self, lines: Lines) {
        if lines.ends.is_empty() {
            return;
        }
        self.clients += lines.ends.len();
        self.len += lines.bytes.len();
        self.capacity += lines.capacity();
        self.sources.entry(lines.source).or_default().push_back(Part { lines, taken: 0, start: 0 });
    }

    /// Returns the number of clients that are left.
    pub fn clients(&self) -> usize {
        self.clients
    }

    /// Returns the number of bytes of the lines that are left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns true if no line is left.
    pub fn is_empty(&self) -> bool {
        self.clients == 0
    }

    /// Returns the number of allocated bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Calls `take` with each of the next lines, in the order of the ids, and frees them: [`LINES_PER_STEP`] lines at
    /// most, and none after the one with which they have [`BYTES_PER_STEP`] bytes.
    pub fn step(&mut self, mut take: impl FnMut(&[u8])) {
        let (mut lines, mut bytes) = (0, 0);
        while lines < LINES_PER_STEP && bytes < BYTES_PER_STEP {
            let heads = self.sources.values_mut().filter_map(|parts| {
                let next = parts.front()?.next()?;
                Some((next, parts))
            });
            let Some(((_, end), parts)) = heads.min_by_key(|((id, _), _)| *id) else { return };
            let Some(part) = parts.front_mut() else { return };
            let line = part.lines.bytes.get(part.start..end).unwrap_or_default();
            take(line);
            lines += 1;
            bytes += line.len();
            self.clients -= 1;
            self.len -= line.len();
            (part.taken, part.start) = (part.taken + 1, end);
            if part.next().is_none() {
                self.capacity -= part.lines.capacity();
                parts.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: LineSource, ids: impl Iterator<Item = u64>) -> Lines {
        let mut lines = Lines::new(source);
        ids.for_each(|id| lines.push(id, |out| out.extend_from_slice(format!("{id}\n").as_bytes())));
        lines
    }

    fn taken(listing: &mut Listing) -> Vec<String> {
        let mut all = Vec::new();
        while !listing.is_empty() {
            let before = all.len();
            listing.step(|line| all.push(String::from_utf8_lossy(line).trim().to_owned()));
            assert!((1..=LINES_PER_STEP).contains(&(all.len() - before)));
        }
        all
    }

    #[test]
    fn lines_of_several_workers_are_merged_a_few_at_a_time() {
        let mut listing = Listing::default();
        for start in [0, 300, 600] {
            for worker in 0..3 {
                let ids = (start..start + 300).filter(|id| id % 3 == worker);
                listing.add(lines(LineSource::Worker(worker as usize), ids));
            }
        }
        listing.add(lines(LineSource::Server, [9000, 9001].into_iter()));
        assert_eq!(listing.clients(), 902);
        let expected: Vec<String> = (0..900).chain([9000, 9001]).map(|id| id.to_string()).collect();
        assert_eq!(listing.len(), expected.iter().map(|line| line.len() + 1).sum::<usize>());
        assert_eq!(taken(&mut listing), expected);
        assert_eq!((listing.len(), listing.capacity()), (0, 0));
    }

    #[test]
    fn long_lines_end_a_step() {
        let mut listing = Listing::default();
        let mut long = Lines::new(LineSource::Server);
        (0..5).for_each(|id| long.push(id, |out| out.resize(out.len() + BYTES_PER_STEP / 2 + 1, b'x')));
        assert!(long.is_full());
        listing.add(long);
        let mut steps = Vec::new();
        while !listing.is_empty() {
            let mut lines = 0;
            listing.step(|_| lines += 1);
            steps.push(lines);
        }
        assert_eq!(steps, [2, 2, 1]);
    }

    #[test]
    fn what_was_taken_is_freed() {
        let mut listing = Listing::default();
        (0..10).for_each(|part| listing.add(lines(LineSource::Worker(0), part * 64..(part + 1) * 64)));
        let all = listing.capacity();
        listing.step(|_| {});
        assert!(listing.capacity() <= all * 9 / 10, "{} of {all}", listing.capacity());
    }
}
