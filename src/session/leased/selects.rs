//! Tracks the SELECTs of one transaction, and which of them EXEC's reply confirms. No I/O.

use crate::resp::reply::{ReplyScanner, ScannedReply};

/// Tracks the database that a transaction selects. EXEC's reply is read piece by piece, so that it need not be
/// kept until it is whole. The work is linear in the reply's bytes and in the number of SELECTs.
#[derive(Debug, Default)]
pub(super) struct Selects {
    /// For each SELECT, in order, the element of EXEC's reply that answers it, and the database.
    queued: Vec<(usize, u32)>,
    /// Number of SELECTs of `queued` whose elements have been read.
    answered: usize,
    /// The database of the last SELECT that the server confirmed.
    database: Option<u32>,
    position: Position,
    /// Number of elements read to their end.
    elements: usize,
    /// Scans the element that is being read.
    scanner: ReplyScanner,
    /// Bytes that were not read, because the end of their line has not come.
    carry: Vec<u8>,
}

/// Says what the next byte of EXEC's reply belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Position {
    /// The array's header.
    #[default]
    Header,
    /// The first byte of an element.
    Element,
    /// The rest of an element.
    Inside,
    /// Bytes to be ignored: EXEC ran nothing.
    End,
}

impl Selects {
    /// Returns the number of bytes allocated.
    pub(super) fn capacity(&self) -> usize {
        self.queued.capacity() * size_of::<(usize, u32)>() + self.carry.capacity()
    }

    /// Adds a SELECT of `database` that is answered by the `element`th element of EXEC's reply. Calls must be in
    /// the order of the elements.
    pub(super) fn push(&mut self, element: usize, database: u32) {
        self.queued.push((element, database));
    }

    /// Reads the next piece of EXEC's reply.
    pub(super) fn read(&mut self, piece: &[u8]) {
        if self.answered == self.queued.len() || self.position == Position::End {
            return;
        }
        if self.carry.is_empty() {
            let read = self.advance(piece);
            self.carry.extend_from_slice(piece.get(read..).unwrap_or_default());
        } else {
            let mut joined = std::mem::take(&mut self.carry);
            joined.extend_from_slice(piece);
            let read = self.advance(&joined);
            joined.drain(..read);
            self.carry = joined;
        }
    }

    /// Returns the database that is selected after EXEC, if the transaction changed it. Valid once the whole
    /// reply has been read.
    pub(super) fn selected(&self) -> Option<u32> {
        self.database
    }

    /// Reads as much of `piece` as can be scanned. Returns how many bytes were read.
    fn advance(&mut self, piece: &[u8]) -> usize {
        let mut at = 0;
        if self.position == Position::Header {
            if !piece.starts_with(b"*") {
                self.position = Position::End;
                return piece.len();
            }
            // The header's line may be cut: keep it until its end comes.
            let Some(end) = memchr::memchr(b'\n', piece) else { return 0 };
            at = end + 1;
            self.position = Position::Element;
        }
        while let Some(rest) = piece.get(at..).filter(|rest| !rest.is_empty()) {
            let Some((element, database)) = self.queued.get(self.answered).copied() else {
                return piece.len();
            };
            let begins = self.position == Position::Element;
            match self.scanner.scan(rest) {
                ScannedReply::Complete { len, .. } => {
                    if element == self.elements {
                        self.answered += 1;
                        if begins && rest.starts_with(b"+OK") {
                            self.database = Some(database);
                        }
                    }
                    self.elements += 1;
                    self.position = Position::Element;
                    at += len;
                }
                ScannedReply::Incomplete => {
                    // Free what is scanned of a cut element. The scanner continues inside it, so its first byte
                    // is not seen again.
                    let scanned = self.scanner.scanned().min(rest.len());
                    if scanned > 0 {
                        self.scanner.rebase(scanned);
                        self.position = Position::Inside;
                    }
                    return at + scanned;
                }
                ScannedReply::Malformed(_) => {
                    self.position = Position::End;
                    return piece.len();
                }
            }
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selected(pieces: &[&[u8]], queued: &[(usize, u32)]) -> Option<u32> {
        let mut selects = Selects::default();
        queued.iter().for_each(|(element, database)| selects.push(*element, *database));
        pieces.iter().for_each(|piece| selects.read(piece));
        selects.selected()
    }

    #[test]
    fn the_last_successful_select_of_a_transaction_counts() {
        let exec = b"*3\r\n+OK\r\n$1\r\nx\r\n-ERR DB index is out of range\r\n";
        assert_eq!(selected(&[exec], &[(0, 4), (2, 99)]), Some(4));
        assert_eq!(selected(&[b"*-1\r\n"], &[(0, 4)]), None);
        assert_eq!(selected(&[b"_\r\n"], &[(0, 4)]), None);
        assert_eq!(selected(&[b"-EXECABORT x\r\n"], &[(0, 4)]), None);
        assert_eq!(selected(&[exec], &[]), None);
    }

    #[derive(Clone, Debug)]
    enum Element {
        Selected(u32),
        Refused(u32),
        Other(Vec<u8>),
    }

    fn element() -> impl Strategy<Value = Element> {
        let looks_like_ok = prop_oneof![
            Just(b"$3\r\n+OK\r\n".to_vec()),
            Just(b"*2\r\n+OK\r\n*1\r\n+OK\r\n".to_vec()),
            Just(b"+QUEUED\r\n".to_vec()),
            Just(b"*0\r\n".to_vec()),
            Just(b"$0\r\n\r\n".to_vec()),
            Just(b":7\r\n".to_vec()),
        ];
        prop_oneof![
            any::<u32>().prop_map(Element::Selected),
            any::<u32>().prop_map(Element::Refused),
            looks_like_ok.prop_map(Element::Other),
        ]
    }

    proptest! {
        /// However the reply is cut, the database is that of the last SELECT that it confirms.
        #[test]
        fn pieces_of_any_size_give_the_same_answer(
            elements in prop::collection::vec(element(), 0..40),
            size in 1usize..40,
        ) {
            let mut exec = format!("*{}\r\n", elements.len()).into_bytes();
            let (mut queued, mut expected) = (Vec::new(), None);
            for (place, element) in elements.iter().enumerate() {
                match element {
                    Element::Selected(database) => {
                        exec.extend_from_slice(b"+OK\r\n");
                        queued.push((place, *database));
                        expected = Some(*database);
                    }
                    Element::Refused(database) => {
                        exec.extend_from_slice(b"-ERR no\r\n");
                        queued.push((place, *database));
                    }
                    Element::Other(bytes) => exec.extend_from_slice(bytes),
                }
            }
            let pieces: Vec<&[u8]> = exec.chunks(size).collect();
            prop_assert_eq!(selected(&pieces, &queued), expected);
        }
    }

    /// Ten times as many SELECTs cost about ten times the time. The former quadratic search took a hundred times.
    #[test]
    fn the_work_is_linear_in_the_number_of_selects() {
        let time = |count: usize| {
            let exec = [format!("*{count}\r\n").into_bytes(), b"+OK\r\n".repeat(count)].concat();
            let queued: Vec<(usize, u32)> = (0..count).map(|element| (element, 0)).collect();
            let began = std::time::Instant::now();
            assert_eq!(selected(&[&exec], &queued), Some(0));
            began.elapsed()
        };
        let linear = || time(200_000) < time(20_000) * 30;
        assert!((0..5).any(|_| linear()), "ten times the SELECTs cost more than thirty times the time");
    }
}
