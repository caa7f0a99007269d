//! Keeps the requests of one lease until their replies come, so that they can be sent again elsewhere. No I/O.

use crate::net::write::WriteSource;

/// Holds requests in order. Answered requests are dropped from the front.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    bytes: Vec<u8>,
    /// The offset of the first unanswered request.
    head: usize,
    /// The offset of the first byte that the connection has not taken.
    written: usize,
}

impl Outbound {
    /// Appends a request. Returns its length in bytes.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        let before = self.bytes.len();
        write(&mut self.bytes);
        self.bytes.len() - before
    }

    /// Drops the front request, of `len` bytes, which was answered.
    pub(super) fn answered(&mut self, len: usize) {
        self.head += len;
        if self.head >= self.bytes.len() {
            *self = Self::default();
        // Compact only when more than 64 KiB and over half are answered, so that each byte moves a bounded number
        // of times.
        } else if self.head > 64 * 1024 && self.head > self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.written = self.written.saturating_sub(self.head);
            self.head = 0;
        }
    }

    /// Replaces the last request, of `len` bytes, by the form to send again after a lost connection. Only a
    /// request that was written whole can be replaced. Returns its new length.
    pub(super) fn amend_last(
        &mut self,
        len: usize,
        amend: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Option<usize> {
        let start = self.bytes.len().checked_sub(len).filter(|start| *start >= self.head)?;
        if !self.unwritten().is_empty() {
            return None;
        }
        let amended = amend(self.bytes.get(start..)?)?;
        self.bytes.truncate(start);
        self.bytes.extend_from_slice(&amended);
        self.written = self.bytes.len();
        Some(amended.len())
    }

    /// Returns the front request, of `len` bytes.
    pub(super) fn front(&self, len: usize) -> &[u8] {
        self.bytes.get(self.head..self.head + len).unwrap_or_default()
    }

    /// Returns the number of bytes allocated.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Returns the number of unanswered bytes.
    pub(super) fn unanswered_bytes(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Returns the unanswered requests, given their lengths, each with true if it was written whole.
    pub(super) fn requests(&self, lengths: impl Iterator<Item = usize>) -> Vec<(&[u8], bool)> {
        let mut at = self.head;
        lengths
            .map(|len| {
                let end = at + len;
                let request = self.bytes.get(at..end).unwrap_or_default();
                at = end;
                (request, end <= self.written)
            })
            .collect()
    }
}

impl WriteSource for Outbound {
    fn unwritten(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    fn wrote(&mut self, count: usize) {
        self.written = (self.written + count).min(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_as_sent_with_its_last_byte() {
        let mut outbound = Outbound::default();
        let lengths: Vec<usize> = [&b"one"[..], b"two", b"three"]
            .iter()
            .map(|r| outbound.push(|out| out.extend_from_slice(r)))
            .collect();
        outbound.wrote(5);
        assert_eq!(outbound.unwritten(), b"othree");
        outbound.answered(3);
        let left = outbound.requests(lengths.into_iter().skip(1));
        assert_eq!(left, [(&b"two"[..], false), (&b"three"[..], false)]);
        outbound.wrote(1);
        assert!(outbound.requests([3, 5].into_iter())[0].1);
    }

    #[test]
    fn only_what_was_written_is_kept_in_another_form() {
        let mut outbound = Outbound::default();
        for request in [&b"one"[..], b"two"] {
            outbound.push(|out| out.extend_from_slice(request));
        }
        outbound.wrote(5);
        assert_eq!(outbound.amend_last(3, |_| Some(b"three".to_vec())), None);
        outbound.wrote(1);
        outbound.answered(3);
        assert_eq!(outbound.amend_last(4, |_| Some(b"three".to_vec())), None, "that is not all its own");
        assert_eq!(outbound.amend_last(3, |_| Some(b"three".to_vec())), Some(5));
        assert_eq!(outbound.requests([5].into_iter()), [(&b"three"[..], true)]);
        assert!(outbound.unwritten().is_empty(), "it is not written twice");
    }
}
