//! The strict scanner of client requests.
//!
//! A server is more lenient than is safe for others on the same connection: valkey 8.0 and redis 7.0 do not look
//! at the two bytes behind a bulk, nor at the byte behind a header's CR. Only the canonical form
//! `*N\r\n($L\r\n<L bytes>\r\n)` is accepted here, so that what is forwarded cannot be read in two ways.

mod fault;
mod inline;

pub use fault::RequestFault;
pub use inline::split_inline;

/// Above these the server finds a number malformed, whoever sent it (observed on valkey 8.0 and redis 7.0).
const SERVER_MAX_ARGS: u32 = i32::MAX as u32;
const SERVER_MAX_BULK: usize = 512 * 1024 * 1024;

/// Bounds on one request.
#[derive(Clone, Debug)]
pub struct RequestLimits {
    /// Whole request, in bytes.
    pub max_request: usize,
    /// One argument, in bytes (the server's proto-max-bulk-len, 512 MiB there).
    pub max_bulk: usize,
    /// Arguments of one request.
    pub max_args: u32,
    /// An inline command's line, in bytes.
    pub max_inline: usize,
    /// The client has not authenticated: the server's own, lower bounds and error texts apply.
    pub unauthenticated: bool,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            max_request: 512 * 1024 * 1024,
            max_bulk: 512 * 1024 * 1024,
            max_args: 1024 * 1024,
            max_inline: 64 * 1024,
            unauthenticated: false,
        }
    }
}

impl RequestLimits {
    /// What the server takes from a client that must authenticate first (networking.c, processMultibulkBuffer).
    pub fn unauthenticated(&self) -> Self {
        Self {
            max_request: self.max_request.min(1024 * 1024),
            max_bulk: self.max_bulk.min(16384),
            max_args: self.max_args.min(10),
            max_inline: self.max_inline,
            unauthenticated: true,
        }
    }
}

/// A request in canonical form.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    raw: &'a [u8],
    argc: u32,
    name: &'a [u8],
}

impl<'a> Request<'a> {
    /// Views a frame that is known to be canonical.
    pub fn parse(raw: &'a [u8]) -> Option<Self> {
        match RequestScanner::default().scan(raw, &RequestLimits::default()) {
            Scanned::Request(request) if request.raw.len() == raw.len() => Some(request),
            _ => None,
        }
    }

    /// The frame.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The frame's length, in bytes.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Never true: a request has a name.
    pub fn is_empty(&self) -> bool {
        self.argc == 0
    }

    /// Arguments, the name included.
    pub fn argc(&self) -> u32 {
        self.argc
    }

    /// The first argument.
    pub fn name(&self) -> &'a [u8] {
        self.name
    }

    /// All arguments, the name first.
    pub fn args(&self) -> Args<'a> {
        let header = memchr::memchr(b'\n', self.raw).map_or(self.raw.len(), |at| at + 1);
        Args { rest: self.raw.get(header..).unwrap_or_default() }
    }

    /// One argument; 0 is the name.
    pub fn arg(&self, place: usize) -> Option<&'a [u8]> {
        self.args().nth(place)
    }
}

/// The arguments of a canonical request.
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

/// What a scan found.
#[derive(Debug)]
pub enum Scanned<'a> {
    /// More bytes are needed, at least this many.
    Incomplete {
        /// A lower bound.
        need: usize,
    },
    /// A whole request at the start of the buffer.
    Request(Request<'a>),
    /// A whole inline command that is not blank.
    Inline {
        /// Its length with the line's end, in bytes.
        consumed: usize,
    },
    /// Bytes that the server ignores: `*0`, `*-1`, blank lines. They must not be forwarded.
    Skip(usize),
    /// The client gets an error and loses its connection.
    Fault(RequestFault),
}

/// Where the scan of one request stands. Scanning a request in pieces costs as much as scanning it at once.
#[derive(Clone, Debug, Default)]
pub struct RequestScanner {
    /// Where the next argument's header starts; 0: nothing has been scanned yet.
    at: usize,
    argc: u32,
    left: u32,
    name: (u32, u32),
    /// How far an inline line has been searched for its end.
    searched: usize,
}

impl RequestScanner {
    /// Scans on. `buf` starts at the request's first byte; after `Incomplete`, call again with more bytes behind
    /// the same ones. After anything else the scanner is new.
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
                        return fault(RequestFault::UnauthenticatedArgs);
                    }
                    _ => return fault(RequestFault::Args),
                },
                Number::Negative(end) => return Scanned::Skip(end),
                Number::Incomplete => return Scanned::Incomplete { need: 1 },
                Number::Malformed | Number::Missing(_) => return fault(RequestFault::Args),
            }
        }
        while self.left > 0 {
            let rest = buf.get(self.at..).unwrap_or_default();
            let (len, header) = match number(rest, b'$') {
                Number::Value(len, header) => (len, header),
                Number::Incomplete => return Scanned::Incomplete { need: 1 },
                Number::Missing(found) => return fault(RequestFault::NoDollar(found)),
                Number::Malformed | Number::Negative(_) => return fault(RequestFault::Bulk),
            };
            let len = match usize::try_from(len) {
                Ok(len) if len <= limits.max_bulk => len,
                Ok(len) if limits.unauthenticated && len <= SERVER_MAX_BULK => {
                    return fault(RequestFault::UnauthenticatedBulk);
                }
                _ => return fault(RequestFault::Bulk),
            };
            let start = self.at + header;
            let end = start + len;
            if end + 2 > limits.max_request {
                return fault(RequestFault::Request(limits.max_request));
            }
            match buf.get(end..end + 2) {
                Some(b"\r\n") => {}
                Some(_) => return fault(RequestFault::Crlf),
                // One wrong byte is enough, however long the other one takes.
                None if buf.get(end).is_some_and(|byte| *byte != b'\r') => return fault(RequestFault::Crlf),
                None => return Scanned::Incomplete { need: end + 2 - buf.len() },
            }
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
        })
    }

    fn inline<'a>(&mut self, buf: &'a [u8], limits: &RequestLimits) -> Scanned<'a> {
        let fresh = buf.get(self.searched..).unwrap_or_default();
        match memchr::memchr2(b'\n', 0, fresh) {
            Some(offset) if self.searched + offset > limits.max_inline => fault(RequestFault::Inline),
            Some(offset) if fresh.get(offset) == Some(&0) => fault(RequestFault::Nul),
            Some(offset) => {
                let consumed = self.searched + offset + 1;
                let line = buf.get(..consumed).unwrap_or_default();
                if line.iter().all(|byte| inline::is_space(*byte)) {
                    Scanned::Skip(consumed)
                } else {
                    Scanned::Inline { consumed }
                }
            }
            None if buf.len() > limits.max_inline => fault(RequestFault::Inline),
            None => {
                self.searched = buf.len();
                Scanned::Incomplete { need: 1 }
            }
        }
    }
}

fn fault<'a>(fault: RequestFault) -> Scanned<'a> {
    Scanned::Fault(fault)
}

enum Number {
    /// The value, and where its line ends.
    Value(u64, usize),
    /// Below zero; where its line ends.
    Negative(usize),
    /// The line goes on behind the buffer.
    Incomplete,
    /// Another byte than the expected one comes first.
    Missing(u8),
    /// Not a canonical number, or no CRLF behind it.
    Malformed,
}

/// A header such as `$12\r\n`: digits without sign (but a minus) or leading zeros, and CRLF.
fn number(buf: &[u8], kind: u8) -> Number {
    // Nearly all numbers have one digit or two.
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

/// Appends a request in canonical form.
pub fn encode(args: &[&[u8]], out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    out.push(b'*');
    out.extend_from_slice(digits.format(args.len()).as_bytes());
    out.extend_from_slice(b"\r\n");
    for arg in args {
        super::write::bulk(out, arg);
    }
}

#[cfg(test)]
mod tests;
