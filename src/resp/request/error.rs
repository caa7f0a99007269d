//! Why a request is malformed, and the error reply for the client.

/// Why a request is malformed. respgate sends the client an error and closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The number of arguments is malformed or too large.
    Args,
    /// An argument's length is malformed or too large.
    Bulk,
    /// An argument starts with this byte instead of `$`.
    NoDollar(u8),
    /// No CRLF follows an argument. Servers before valkey 8.1 do not check this.
    Crlf,
    /// The request is larger than this many bytes.
    Request(usize),
    /// An inline command's line has no end within the limit.
    Inline,
    /// An inline command has an unclosed quote.
    Quotes,
    /// An inline command contains NUL. A server waits for more after a NUL, until its line is too long.
    Nul,
    /// The request has more arguments than a client may send before it authenticates.
    UnauthenticatedArgs,
    /// An argument is longer than a client may send before it authenticates.
    UnauthenticatedBulk,
}

impl RequestError {
    /// Returns the error reply, with CRLF. It is the server's own where the server has one (compared with valkey 8.0.1
    /// and redis 7.0.15).
    pub fn reply(&self) -> Vec<u8> {
        let text = match self {
            Self::Args => "invalid multibulk length".to_owned(),
            Self::Bulk => "invalid bulk length".to_owned(),
            Self::NoDollar(found) => {
                // The server prints the byte as it is, except for a byte that would end the line.
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
