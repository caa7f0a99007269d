//! Tells the error lines of servers apart.

use bytes::Bytes;

/// Why a server refused an AUTH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthRefusal {
    /// The default user has no password, so that every connection already is that user.
    NeedlessPassword,
    /// The server cannot check credentials at present.
    NotReady,
    /// The user or the password is wrong. The line contains no password.
    Wrong(Bytes),
}

/// Classifies the error line (without the leading `-` and without CRLF) that answered an AUTH.
pub fn auth_refusal(line: &Bytes) -> AuthRefusal {
    if wants_no_password(line) {
        AuthRefusal::NeedlessPassword
    } else if not_ready(line) || has_code(line, b"BUSY") {
        AuthRefusal::NotReady
    } else {
        AuthRefusal::Wrong(without_arguments(line))
    }
}

/// Returns true if the line refuses AUTH because the default user has no password. Every connection is that user
/// already (observed on valkey 8.0 and redis 7.0; the second form comes from servers before Redis 6, which have no
/// users).
pub(super) fn wants_no_password(line: &[u8]) -> bool {
    line.starts_with(b"ERR AUTH <password> called without any password configured")
        || line.starts_with(b"ERR Client sent AUTH, but no password is set")
}

/// Returns the error line of a refused AUTH without quoted arguments, so that it can be shown. A server quotes the
/// arguments of a command that it does not know (`ERR unknown command 'AUTH', with args beginning with: '…'`, observed
/// on valkey 8.0 and redis 7.0), and an argument of AUTH is a password.
pub fn without_arguments(line: &Bytes) -> Bytes {
    memchr::memmem::find(line, b", with args beginning with")
        .map_or_else(|| line.clone(), |at| line.slice(..at))
}

/// Returns true if the server refuses everybody for now, not this user. A server that has no room for another client
/// sends such a line unasked, as if it replied to the first command, and closes the connection.
pub(super) fn not_ready(line: &[u8]) -> bool {
    [&b"LOADING"[..], b"MASTERDOWN", b"DENIED"].iter().any(|code| has_code(line, code))
        || line.starts_with(b"ERR max number of clients")
}

/// Returns true if the user may not run the command, or the server does not know the command because it was renamed.
pub(super) fn forbidden(line: &[u8]) -> bool {
    has_code(line, b"NOPERM") || line.starts_with(b"ERR unknown command")
}

/// Returns true if the first word of the error line is `code`.
pub(super) fn has_code(line: &[u8], code: &[u8]) -> bool {
    line.split(|byte| *byte == b' ').next() == Some(code)
}
