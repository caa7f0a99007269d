//! What makes a request unreadable, and what the client is told.

/// What makes a request unreadable. The client loses its connection after the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFault {
    /// The number of arguments is malformed or too large.
    Args,
    /// An argument's length is malformed or too large.
    Bulk,
    /// An argument does not start with `$` but with this byte.
    NoDollar(u8),
    /// No CRLF behind an argument. A server before valkey 8.1 does not look.
    Crlf,
    /// The request is larger than this many bytes.
    Request(usize),
    /// An inline command has no end.
    Inline,
    /// An inline command has an unclosed quote.
    Quotes,
    /// An inline command contains NUL, which stalls a server until its line is too long.
    Nul,
    /// More arguments than a client may send before it has authenticated.
    UnauthenticatedArgs,
    /// A longer argument than a client may send before it has authenticated.
    UnauthenticatedBulk,
}

impl RequestFault {
    /// The reply, with CRLF: the server's own where it has one (compared with valkey 8.0.1 and redis 7.0.15).
    pub fn reply(&self) -> Vec<u8> {
        let text = match self {
            Self::Args => "invalid multibulk length".to_owned(),
            Self::Bulk => "invalid bulk length".to_owned(),
            Self::NoDollar(found) => {
                // The server prints the byte as it is, but never one that would end the line.
                let mut line = b"-ERR Protocol error: expected '$', got '".to_vec();
                line.push(if matches!(found, b'\r' | b'\n' | 0) { b' ' } else { *found });
                line.extend_from_slice(b"'\r\n");
                return line;
            }
            Self::Crlf => "expected CRLF after an argument".to_owned(),
            Self::Request(limit) => format!("request larger than {limit} bytes (respgate's max-request)"),
            Self::Inline => "too big inline request".to_owned(),
            Self::Quotes => "unbalanced quotes in request".to_owned(),
            Self::Nul => "NUL in inline request".to_owned(),
            Self::UnauthenticatedArgs => "unauthenticated multibulk length".to_owned(),
            Self::UnauthenticatedBulk => "unauthenticated bulk length".to_owned(),
        };
        format!("-ERR Protocol error: {text}\r\n").into_bytes()
    }
}
