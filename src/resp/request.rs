//! The strict scanner of client requests.
//!
//! Servers are more lenient than is safe for other clients on the same connection: valkey 8.0 and redis 7.0 check
//! neither the two bytes after a bulk nor the byte after a header's CR. This scanner accepts only the canonical form
//! `*N\r\n($L\r\n<L bytes>\r\n)`, so that nobody can read a forwarded request in two ways.

mod encode;
mod error;
mod inline;
mod limits;

pub use encode::encode;
pub use error::RequestError;
pub use inline::split_inline;
pub use limits::RequestLimits;

/// The server's own limits. Above them it rejects a number as malformed, even from an authenticated client (observed on
/// valkey 8.0 and redis 7.0).
const SERVER_MAX_ARGS: u32 = i32::MAX as u32;
const SERVER_MAX_BULK: usize = 512 * 1024 * 1024;

/// A request in canonical form.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    raw: &'a [u8],
    argc: u32,
    name: &'a [u8],
    /// The offset of the name's end in the frame. A line end follows.
    name_end: usize,
}

impl<'a> Request<'a> {
    /// Returns a view of a frame, or `None` if it is not exactly one canonical request.
    pub fn parse(raw: &'a [u8]) -> Option<Self> {
        match RequestScanner::default().scan(raw, &RequestLimits::default()) {
            Scanned::Request(request) if request.raw.len() == raw.len() => Some(request),
            _ => None,
        }
    }

    /// Returns the frame.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Returns the frame's length, in bytes.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Returns true if the request has no arguments, which never happens: a request has a name.
    pub fn is_empty(&self) -> bool {
        self.argc == 0
    }

    /// Returns the number of arguments, including the name.
    pub fn argc(&self) -> u32 {
        self.argc
    }

    /// Returns the first argument.
    pub fn name(&self) -> &'a [u8] {
        self.name
    }

    /// Returns all arguments, starting with the name.
    pub fn args(&self) -> Args<'a> {
        let header = memchr::memchr(b'\n', self.raw).map_or(self.raw.len(), |at| at + 1);
        Args { rest: self.raw.get(header..).unwrap_or_default() }
    }

    /// Returns the argument at index `place`; 0 is the name.
    // Inlined, it would make the look-up of every command slower.
    #[inline(never)]
    pub fn arg(&self, place: usize) -> Option<&'a [u8]> {
        match place.checked_sub(1) {
            None => Some(self.name),
            Some(behind_name) => {
                Args { rest: self.raw.get(self.name_end + 2..).unwrap_or_default() }.nth(behind_name)
            }
        }
    }
}

/// Iterates over the arguments of a canonical request.
#[derive(Clone, Debug)]
pub struct Args<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let Number::Value(len, header) = number(self.rest, b'$') else { return None };
        let end = header + usize::try_from(len).ok()?;
        let arg = self.rest.get(header..end)?;
        self.rest = self.rest.get(end + 2..)?;
        Some(arg)
    }
}

/// The result of a scan.
#[derive(Debug)]
pub enum Scanned<'a> {
    /// The request is incomplete: the scanner needs at least this many more bytes.
    Incomplete {
        /// A lower bound of the missing bytes.
        need: usize,
    },
    /// A whole request is at the start of the buffer.
    Request(Request<'a>),
    /// A whole inline command, which is not blank, is at the start of the buffer.
    Inline {
        /// The length of the line including its end, in bytes.
        consumed: usize,
    },
    /// This many bytes are without effect on the server: `*0`, `*-1`, or a blank line. The caller must not forward
    /// them.
    Skip(usize),
    /// The request is malformed: the caller sends the client an error and closes the connection.
    Malformed(RequestError),
}

/// Keeps the position in a request that arrives in pieces. Scanning it in pieces costs as much as scanning it at once.
#[derive(Clone, Debug, Default)]
pub struct RequestScanner {
    /// The offset of the next argument's header; 0 before the first scan.
    at: usize,
    argc: u32,
    left: u32,
    name: (u32, u32),
    /// The number of bytes of an inline line that have been searched for its end.
    searched: usize,
}

impl RequestScanner {
    /// Continues the scan. `buf` starts at the request's first byte. After `Incomplete`, the caller passes the same
    /// bytes again with more bytes appended. After any other result the scanner starts a new request.
    pub fn scan<'a>(&mut self, buf: &'a [u8], limits: &RequestLimits) -> Scanned<'a> {
        let scanned = match buf.first() {
            None => Scanned::Incomplete { need: 1 },
            Some(b'*') => self.multibulk(buf, limits),
            Some(_) => self.inline(buf, limits),
        };
        if !matches!(scanned, Scanned::Incomplete { .. }) {
            *self = Self::default();
        }
        scanned
    }

    fn multibulk<'a>(&mut self, buf: &'a [u8], limits: &RequestLimits) -> Scanned<'a> {
        if self.at == 0 {
            match number(buf, b'*') {
                Number::Value(count, end) => match u32::try_from(count) {
                    Ok(0) => return Scanned::Skip(end),
                    Ok(argc) if argc <= limits.max_args => {
                        (self.argc, self.left, self.at) = (argc, argc, end);
                    }
                    Ok(argc) if limits.unauthenticated && argc <= SERVER_MAX_ARGS => {
                        return malformed(RequestError::UnauthenticatedArgs);
                    }
                    _ => return malformed(RequestError::Args),
                },
                Number::Negative(end) => return Scanned::Skip(end),
                Number::Incomplete => return Scanned::Incomplete { need: 1 },
                Number::Malformed | Number::Missing(_) => return malformed(RequestError::Args),
            }
        }
        while self.left > 0 {
            let rest = buf.get(self.at..).unwrap_or_default();
            let (len, header) = match number(rest, b'$') {
                Number::Value(len, header) => (len, header),
                Number::Incomplete => return Scanned::Incomplete { need: 1 },
                Number::Missing(found) => return malformed(RequestError::NoDollar(found)),
                Number::Malformed | Number::Negative(_) => return malformed(RequestError::Bulk),
            };
            let len = match usize::try_from(len) {
                Ok(len) if len <= limits.max_bulk => len,
                Ok(len) if limits.unauthenticated && len <= SERVER_MAX_BULK => {
                    return malformed(RequestError::UnauthenticatedBulk);
                }
                _ => return malformed(RequestError::Bulk),
            };
            let start = self.at + header;
            let end = start + len;
            // Reject a request as soon as its header shows that it is too large, before its bytes arrive.
            if end + 2 > limits.max_request {
                return malformed(RequestError::Request(limits.max_request));
            }
            match buf.get(end..end + 2) {
                Some(b"\r\n") => {}
                Some(_) => return malformed(RequestError::Crlf),
                // A wrong first byte is enough for an error: do not wait for the second one.
                None if buf.get(end).is_some_and(|byte| *byte != b'\r') => {
                    return malformed(RequestError::Crlf);
                }
                None => return Scanned::Incomplete { need: end + 2 - buf.len() },
            }
            // This is the first argument, the name: its position is relative to the request's first byte, so it stays
            // valid when the buffer grows.
            if self.left == self.argc {
                self.name = (start as u32, len.min(u32::MAX as usize) as u32);
            }
            self.at = end + 2;
            self.left -= 1;
        }
        let (start, len) = (self.name.0 as usize, self.name.1 as usize);
        Scanned::Request(Request {
            raw: buf.get(..self.at).unwrap_or_default(),
            argc: self.argc,
            name: buf.get(start..start + len).unwrap_or_default(),
            name_end: start + len,
        })
    }

    fn inline<'a>(&mut self, buf: &'a [u8], limits: &RequestLimits) -> Scanned<'a> {
        // Search only the bytes that have arrived since the last scan.
        let fresh = buf.get(self.searched..).unwrap_or_default();
        match memchr::memchr2(b'\n', 0, fresh) {
            Some(offset) if self.searched + offset > limits.max_inline => malformed(RequestError::Inline),
            Some(offset) if fresh.get(offset) == Some(&0) => malformed(RequestError::Nul),
            Some(offset) => {
                let consumed = self.searched + offset + 1;
                let line = buf.get(..consumed).unwrap_or_default();
                if line.iter().all(|byte| inline::is_space(*byte)) {
                    Scanned::Skip(consumed)
                } else {
                    Scanned::Inline { consumed }
                }
            }
            None if buf.len() > limits.max_inline => malformed(RequestError::Inline),
            None => {
                self.searched = buf.len();
                Scanned::Incomplete { need: 1 }
            }
        }
    }
}

fn malformed<'a>(error: RequestError) -> Scanned<'a> {
    Scanned::Malformed(error)
}

enum Number {
    /// The value, and the offset after its line.
    Value(u64, usize),
    /// The value is negative. The offset after its line.
    Negative(usize),
    /// The line ends beyond the buffer.
    Incomplete,
    /// The first byte is this one, not the expected one.
    Missing(u8),
    /// The number is not canonical, or no CRLF follows it.
    Malformed,
}

/// Parses a header such as `$12\r\n`: digits without leading zeros and without a sign other than `-`, then CRLF.
fn number(buf: &[u8], kind: u8) -> Number {
    // Fast path: nearly all numbers have one or two digits.
    match buf {
        [first, ones @ b'0'..=b'9', b'\r', b'\n', ..] if *first == kind => {
            return Number::Value(u64::from(ones - b'0'), 4);
        }
        [first, tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', b'\n', ..] if *first == kind => {
            return Number::Value(u64::from(tens - b'0') * 10 + u64::from(ones - b'0'), 5);
        }
        _ => {}
    }
    match buf.first() {
        None => return Number::Incomplete,
        Some(first) if *first != kind => return Number::Missing(*first),
        Some(_) => {}
    }
    let negative = buf.get(1) == Some(&b'-');
    let digits = 1 + usize::from(negative);
    let mut value = 0u64;
    let mut at = digits;
    loop {
        match buf.get(at) {
            // 18 digits fit into a `u64` without overflow.
            Some(digit @ b'0'..=b'9') if at - digits < 18 => {
                value = value * 10 + u64::from(digit - b'0');
                at += 1;
            }
            Some(b'\r') => break,
            Some(_) => return Number::Malformed,
            None => return Number::Incomplete,
        }
    }
    let leading_zero = buf.get(digits) == Some(&b'0') && (at - digits > 1 || negative);
    if at == digits || leading_zero {
        return Number::Malformed;
    }
    match buf.get(at + 1) {
        Some(b'\n') if negative => Number::Negative(at + 2),
        Some(b'\n') => Number::Value(value, at + 2),
        Some(_) => Number::Malformed,
        None => Number::Incomplete,
    }
}

#[cfg(test)]
mod tests;
