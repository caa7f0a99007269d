//! The resumable scanner of server replies: finds where each ends, and looks at nothing else.

use memchr::memchr;

/// A line (simple string, error, number) may have this many bytes.
const MAX_LINE: usize = 1024 * 1024;
/// A bulk may have this many bytes: twice the server's own default limit.
const MAX_BULK: u64 = 1 << 30;
/// An aggregate may have this many elements, and a frame this many elements still to come.
const MAX_ELEMENTS: u64 = 1 << 32;
/// Digits of a length.
const MAX_DIGITS: usize = 11;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// The reply to a command.
    Reply,
    /// An error reply to a command (`-`, or RESP3's `!`).
    Error,
    /// Out-of-band data (RESP3's `>`), never a reply by itself.
    Push,
}

/// What a scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScannedReply {
    /// More bytes are needed.
    Incomplete,
    /// A whole frame at the start of the buffer.
    Complete {
        /// Bytes of the frame, from the start of the buffer.
        len: usize,
        /// What it is.
        kind: ReplyKind,
    },
    /// The peer cannot be understood any more.
    Fault(ReplyFault),
}

/// Why a peer cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyFault {
    /// The first byte of an element is none of RESP's.
    #[error("no RESP type starts with byte {0:#04x}")]
    Type(u8),
    /// A length is not a canonical number, or out of bounds.
    #[error("a length is malformed or out of bounds")]
    Length,
    /// A line is too long.
    #[error("a line is longer than 1 MiB")]
    Line,
    /// No CRLF where one must be.
    #[error("CRLF is missing")]
    Crlf,
    /// A push inside a reply.
    #[error("a push stands inside a reply")]
    NestedPush,
    /// Aggregates are nested deeper than the caller of [`ReplyScanner::scan_seen`] bears.
    #[error("a reply is nested too deep")]
    Depth,
}

/// Where the scan of one frame stands. No recursion, no stack: only the number of elements still to come counts,
/// so depth costs nothing. Scanning a frame in pieces costs as much as scanning it at once.
#[derive(Clone, Debug, Default)]
pub struct ReplyScanner {
    /// Bytes known good, from the start of the buffer.
    at: usize,
    /// Bytes of bulk data (with its CRLF) that lie behind `at`.
    bulk: u64,
    /// Elements still to come; the frame itself is one. Zero: nothing has been scanned yet.
    remaining: u64,
    /// Of the first element that is no attribute.
    kind: Option<ReplyKind>,
    /// How far a line has been searched for its end.
    searched: usize,
    started: bool,
}

impl ReplyScanner {
    /// Scans on. `buf` starts at the frame's first byte (or where [`Self::rebase`] moved it); after
    /// `Incomplete`, call again with more bytes behind the same ones. After anything else the scanner is new.
    pub fn scan(&mut self, buf: &[u8]) -> ScannedReply {
        self.scan_seen(buf, |_| Ok(()))
    }

    /// As [`Self::scan`], and shows the caller, once and in order, of how many elements each element consists
    /// (an attribute: its keys, its values and what it describes). The caller may refuse it.
    pub fn scan_seen(
        &mut self,
        buf: &[u8],
        mut seen: impl FnMut(u64) -> Result<(), ReplyFault>,
    ) -> ScannedReply {
        match self.advance(buf, &mut seen) {
            Ok(false) => ScannedReply::Incomplete,
            Ok(true) => {
                let found =
                    ScannedReply::Complete { len: self.at, kind: self.kind.unwrap_or(ReplyKind::Reply) };
                *self = Self::default();
                found
            }
            Err(fault) => {
                *self = Self::default();
                ScannedReply::Fault(fault)
            }
        }
    }

    /// Bytes of the unfinished frame that are known good: they may be passed on before the rest has come.
    pub fn scanned(&self) -> usize {
        self.at
    }

    /// Bytes that the unfinished frame has at least: what is known good, and the rest of the string in it that has begun.
    pub fn announced(&self) -> u64 {
        self.at as u64 + self.bulk
    }

    /// The caller has dropped `count` scanned bytes from the front of the buffer.
    pub fn rebase(&mut self, count: usize) {
        self.at = self.at.saturating_sub(count);
        self.searched = self.searched.saturating_sub(count);
    }

    fn advance(
        &mut self,
        buf: &[u8],
        seen: &mut impl FnMut(u64) -> Result<(), ReplyFault>,
    ) -> Result<bool, ReplyFault> {
        if !self.started {
            self.started = true;
            self.remaining = 1;
        }
        loop {
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

    /// Passes over bulk data and checks its CRLF. False: it goes on behind the buffer.
    fn pass_bulk(&mut self, buf: &[u8]) -> Result<bool, ReplyFault> {
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
            Some(_) => Err(ReplyFault::Crlf),
        }
    }

    /// One element's header. False: it is not whole yet.
    fn element(
        &mut self,
        buf: &[u8],
        seen: &mut impl FnMut(u64) -> Result<(), ReplyFault>,
    ) -> Result<bool, ReplyFault> {
        let Some(&first) = buf.get(self.at) else { return Ok(false) };
        let Some(end) = self.line_end(buf, first)? else { return Ok(false) };
        let line = buf.get(self.at + 1..end - 2).unwrap_or_default();
        // Before the element proper only a top-level attribute's elements are still to come.
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
                        return Err(ReplyFault::Length);
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
            b'>' => return Err(ReplyFault::NestedPush),
            // An attribute is that many pairs in front of the element proper.
            b'|' => pairs(line)? + 1,
            other => return Err(ReplyFault::Type(other)),
        };
        seen(children)?;
        self.remaining = self
            .remaining
            .checked_add(children)
            .filter(|remaining| *remaining <= MAX_ELEMENTS)
            .ok_or(ReplyFault::Length)?
            - 1;
        if top && first != b'|' {
            self.kind = Some(kind);
        }
        self.at = end;
        Ok(true)
    }

    /// Where the line at `at` ends, behind its CRLF.
    fn line_end(&mut self, buf: &[u8], first: u8) -> Result<Option<usize>, ReplyFault> {
        let limit = match first {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => MAX_LINE,
            b'$' | b'=' | b'!' | b'*' | b'~' | b'%' | b'>' | b'|' => MAX_DIGITS + 3,
            other => return Err(ReplyFault::Type(other)),
        };
        let from = self.searched.max(self.at + 1);
        let rest = buf.get(from..).unwrap_or_default();
        let cr = match limit {
            MAX_LINE => memchr(b'\r', rest),
            // A length is shorter than what memchr is good for.
            _ => rest.iter().take(limit + 1).position(|byte| *byte == b'\r'),
        };
        match cr {
            Some(offset) => {
                let cr = from + offset;
                if cr - self.at > limit {
                    return Err(ReplyFault::Line);
                }
                match buf.get(cr + 1) {
                    Some(b'\n') => {
                        self.searched = 0;
                        Ok(Some(cr + 2))
                    }
                    Some(_) => Err(ReplyFault::Crlf),
                    None => {
                        self.searched = cr;
                        Ok(None)
                    }
                }
            }
            None => {
                self.searched = buf.len().max(from);
                if buf.len() - self.at > limit { Err(ReplyFault::Line) } else { Ok(None) }
            }
        }
    }
}

/// The elements of so many pairs.
fn pairs(line: &[u8]) -> Result<u64, ReplyFault> {
    Ok(length(line, false)?.unwrap_or(0) * 2)
}

/// A canonical length: digits (11 at most) without leading zeros, or, where there is a null of this type, `-1`.
fn length(line: &[u8], nullable: bool) -> Result<Option<u64>, ReplyFault> {
    match line {
        b"-1" if nullable => Ok(None),
        [] => Err(ReplyFault::Length),
        [b'0', _, ..] => Err(ReplyFault::Length),
        digits if digits.len() <= MAX_DIGITS => digits
            .iter()
            .try_fold(0u64, |value, byte| byte.is_ascii_digit().then(|| value * 10 + u64::from(byte - b'0')))
            .map(Some)
            .ok_or(ReplyFault::Length),
        _ => Err(ReplyFault::Length),
    }
}

#[cfg(test)]
mod tests;
