//! An error reply: one line for a client.

use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

/// An error reply without its CRLF, such as `-ERR unknown command`. It begins with `-`. A clone is cheap.
#[derive(Clone, PartialEq, Eq)]
pub struct ErrorLine {
    line: Rc<[u8]>,
    /// True if a server sent it; false if respgate wrote it.
    of_server: bool,
}

impl ErrorLine {
    /// Returns a server's error as a client sees it. `text` lacks the leading `-`.
    pub fn of_server(text: &[u8]) -> Self {
        Self { line: [b"-", text].concat().into(), of_server: true }
    }

    /// Returns true if a server sent the error, and false if respgate wrote it.
    pub fn is_of_server(&self) -> bool {
        self.of_server
    }
}

/// Appends an error reply to `out`, with CRLF. `line` begins with `-`.
pub fn write(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(line);
    out.extend_from_slice(b"\r\n");
}

impl Deref for ErrorLine {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.line
    }
}

impl From<Vec<u8>> for ErrorLine {
    fn from(line: Vec<u8>) -> Self {
        Self { line: line.into(), of_server: false }
    }
}

impl From<String> for ErrorLine {
    fn from(line: String) -> Self {
        line.into_bytes().into()
    }
}

impl From<&[u8]> for ErrorLine {
    fn from(line: &[u8]) -> Self {
        Self { line: line.into(), of_server: false }
    }
}

impl fmt::Debug for ErrorLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_with_its_end() {
        let line = ErrorLine::from("-NOPERM x".to_owned());
        let mut out = Vec::new();
        write(&mut out, &line);
        assert_eq!(out, b"-NOPERM x\r\n");
        assert_eq!(format!("{line:?}"), "\"-NOPERM x\"");
        let of_server = ErrorLine::of_server(b"NOPERM x");
        assert_eq!(of_server[..], line[..]);
        assert!(of_server.is_of_server() && !line.is_of_server());
    }
}
