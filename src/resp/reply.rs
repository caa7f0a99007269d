//! The resumable scanner of server replies. It finds the end of each reply and does not decode its content.

use memchr::memchr;

/// The longest line (simple string, error, number), in bytes.
const MAX_LINE: usize = 1024 * 1024;
/// The longest bulk, in bytes: twice the server's own default limit.
const MAX_BULK: u64 = 1 << 30;
/// The greatest number of elements of an aggregate, and of missing elements of a frame.
const MAX_ELEMENTS: u64 = 1 << 32;
/// The greatest number of digits of a length.
const MAX_DIGITS: usize = 11;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// The frame is the reply to a command.
    Reply,
    /// The frame is an error reply to a command (`-`, or RESP3's `!`).
    Error,
    /// The frame is out-of-band data (RESP3's `>`), which never replies to a command.
    Push,
}

/// The result of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScannedReply {
    /// The frame is incomplete.
    Incomplete,
    /// A whole frame is at the start of the buffer.
    Complete {
        /// The length of the frame, in bytes.
        len: usize,
        /// The kind of the frame.
        kind: ReplyKind,
    },
    /// The bytes are not RESP: the peer cannot be understood any more.
    Malformed(ReplyError),
}

/// Why the peer cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The first byte of an element is none of RESP's.
    #[error("no RESP type starts with byte {0:#04x}")]
    Type(u8),
    /// A length is not a canonical number, or out of bounds.
    #[error("a length is malformed or out of bounds")]
    Length,
    /// A line is too long.
    #[error("a line is longer than 1 MiB")]
    Line,
    /// CRLF is missing where the protocol requires it.
    #[error("CRLF is missing")]
    Crlf,
    /// A push occurs inside a reply.
    #[error("a push is nested in a reply")]
    NestedPush,
    /// Aggregates are nested deeper than the caller of [`ReplyScanner::scan_seen`] allows.
    #[error("a reply is nested too deep")]
    Depth,
}

/// Keeps the position in a frame that arrives in pieces. Scanning it in pieces costs as much as scanning it at once.
/// The scanner needs neither recursion nor a stack, whatever the nesting: it only counts the elements that are still
/// missing.
#[derive(Clone, Debug, Default)]
pub struct ReplyScanner {
    /// The number of scanned bytes from the start of the buffer.
    at: usize,
    /// The number of bytes of bulk data, including its CRLF, that follow `at`.
    bulk: u64,
    /// The number of missing elements, counting the frame itself as one. Zero before the first scan.
    remaining: u64,
    /// The kind of the first element that is not an attribute.
    kind: Option<ReplyKind>,
    /// The number of bytes of a line that have been searched for its end.
    searched: usize,
    started: bool,
}

impl ReplyScanner {
    /// Continues the scan. `buf` starts at the frame's first byte, or at the byte to which [`Self::rebase`] moved the
    /// start. After `Incomplete`, the caller passes the same bytes again with more bytes appended. After any other
    /// result the scanner starts a new frame.
    pub fn scan(&mut self, buf: &[u8]) -> ScannedReply {
        self.scan_seen(buf, |_| Ok(()))
    }

    /// Like [`Self::scan`], but also calls `seen` once for each element, in order, with the number of its own elements.
    /// For an attribute this number counts its keys, its values and the element that it describes. `seen` may refuse an
    /// element.
    pub fn scan_seen(
        &mut self,
        buf: &[u8],
        mut seen: impl FnMut(u64) -> Result<(), ReplyError>,
    ) -> ScannedReply {
        match self.advance(buf, &mut seen) {
            Ok(false) => ScannedReply::Incomplete,
            Ok(true) => {
                let found =
                    ScannedReply::Complete { len: self.at, kind: self.kind.unwrap_or(ReplyKind::Reply) };
                *self = Self::default();
                found
            }
            Err(error) => {
                *self = Self::default();
                ScannedReply::Malformed(error)
            }
        }
    }

    /// Returns the number of scanned bytes of the unfinished frame. The caller may forward them before the rest
    /// arrives.
    pub fn scanned(&self) -> usize {
        self.at
    }

    /// Returns the least length of the unfinished frame, in bytes: the scanned bytes, and the rest of the string that
    /// has begun.
    pub fn announced(&self) -> u64 {
        self.at as u64 + self.bulk
    }

    /// Notes that the caller has dropped `count` scanned bytes from the front of the buffer.
    pub fn rebase(&mut self, count: usize) {
        self.at = self.at.saturating_sub(count);
        self.searched = self.searched.saturating_sub(count);
    }

    fn advance(
        &mut self,
        buf: &[u8],
        seen: &mut impl FnMut(u64) -> Result<(), ReplyError>,
    ) -> Result<bool, ReplyError> {
        if !self.started {
            self.started = true;
            self.remaining = 1;
        }
        loop {
            // The content of a bulk comes before the next element, and its end may complete the frame.
            if self.bulk > 0 && !self.pass_bulk(buf)? {
                return Ok(false);
            }
            if self.remaining == 0 {
                return Ok(true);
            }
            if !self.element(buf, seen)? {
                return Ok(false);
            }
        }
    }

    /// Skips bulk data and checks its CRLF. Returns false if the data continues beyond the buffer.
    fn pass_bulk(&mut self, buf: &[u8]) -> Result<bool, ReplyError> {
        let there = (buf.len() - self.at.min(buf.len())) as u64;
        let data = self.bulk.saturating_sub(2);
        let passed = data.min(there);
        self.at += passed as usize;
        self.bulk -= passed;
        if self.bulk > 2 {
            return Ok(false);
        }
        match buf.get(self.at..self.at + 2) {
            None => Ok(false),
            Some(b"\r\n") => {
                self.at += 2;
                self.bulk = 0;
                Ok(true)
            }
            Some(_) => Err(ReplyError::Crlf),
        }
    }

    /// Scans the header of one element. Returns false if the header is incomplete.
    fn element(
        &mut self,
        buf: &[u8],
        seen: &mut impl FnMut(u64) -> Result<(), ReplyError>,
    ) -> Result<bool, ReplyError> {
        let Some(&first) = buf.get(self.at) else { return Ok(false) };
        let Some(end) = self.line_end(buf, first)? else { return Ok(false) };
        let line = buf.get(self.at + 1..end - 2).unwrap_or_default();
        // Before the frame's own element only the elements of a top-level attribute can be missing.
        let top = self.kind.is_none() && self.remaining == 1;
        let mut kind = ReplyKind::Reply;
        let children = match first {
            b'+' | b':' | b'_' | b'#' | b',' | b'(' => 0,
            b'-' => {
                kind = ReplyKind::Error;
                0
            }
            b'$' | b'=' | b'!' => {
                if let Some(len) = length(line, first == b'$')? {
                    if len > MAX_BULK {
                        return Err(ReplyError::Length);
                    }
                    self.bulk = len + 2;
                }
                if first == b'!' {
                    kind = ReplyKind::Error;
                }
                0
            }
            b'*' | b'~' => length(line, first == b'*')?.unwrap_or(0),
            b'%' => pairs(line)?,
            b'>' if top => {
                kind = ReplyKind::Push;
                length(line, false)?.unwrap_or(0)
            }
            b'>' => return Err(ReplyError::NestedPush),
            // An attribute consists of its pairs and the element that it describes.
            b'|' => pairs(line)? + 1,
            other => return Err(ReplyError::Type(other)),
        };
        seen(children)?;
        // This element is no longer missing; its own elements are.
        self.remaining = self
            .remaining
            .checked_add(children)
            .filter(|remaining| *remaining <= MAX_ELEMENTS)
            .ok_or(ReplyError::Length)?
            - 1;
        if top && first != b'|' {
            self.kind = Some(kind);
        }
        self.at = end;
        Ok(true)
    }

    /// Returns the offset after the line at `at` and its CRLF, or `None` if the line is incomplete.
    fn line_end(&mut self, buf: &[u8], first: u8) -> Result<Option<usize>, ReplyError> {
        let limit = match first {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => MAX_LINE,
            b'$' | b'=' | b'!' | b'*' | b'~' | b'%' | b'>' | b'|' => MAX_DIGITS + 3,
            other => return Err(ReplyError::Type(other)),
        };
        let from = self.searched.max(self.at + 1);
        let rest = buf.get(from..).unwrap_or_default();
        let cr = match limit {
            MAX_LINE => memchr(b'\r', rest),
            // A length is too short for memchr to pay off.
            _ => rest.iter().take(limit + 1).position(|byte| *byte == b'\r'),
        };
        match cr {
            Some(offset) => {
                let cr = from + offset;
                if cr - self.at > limit {
                    return Err(ReplyError::Line);
                }
                match buf.get(cr + 1) {
                    Some(b'\n') => {
                        self.searched = 0;
                        Ok(Some(cr + 2))
                    }
                    Some(_) => Err(ReplyError::Crlf),
                    None => {
                        self.searched = cr;
                        Ok(None)
                    }
                }
            }
            None => {
                self.searched = buf.len().max(from);
                if buf.len() - self.at > limit { Err(ReplyError::Line) } else { Ok(None) }
            }
        }
    }
}

/// Returns the number of elements of a map or attribute: two for each of its pairs.
fn pairs(line: &[u8]) -> Result<u64, ReplyError> {
    Ok(length(line, false)?.unwrap_or(0) * 2)
}

/// Parses a canonical length: at most 11 digits without leading zeros. If the type has a null (`nullable`), `-1` stands
/// for it.
fn length(line: &[u8], nullable: bool) -> Result<Option<u64>, ReplyError> {
    match line {
        b"-1" if nullable => Ok(None),
        [] => Err(ReplyError::Length),
        [b'0', _, ..] => Err(ReplyError::Length),
        digits if digits.len() <= MAX_DIGITS => digits
            .iter()
            .try_fold(0u64, |value, byte| byte.is_ascii_digit().then(|| value * 10 + u64::from(byte - b'0')))
            .map(Some)
            .ok_or(ReplyError::Length),
        _ => Err(ReplyError::Length),
    }
}

#[cfg(test)]
mod tests;
