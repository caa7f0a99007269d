//! Tells the error replies of servers apart. No other file compares a server's error texts.

use bytes::Bytes;

/// What a server's error reply means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerError {
    /// `READONLY`: the node is a replica, and the command writes.
    ReadOnly,
    /// `MASTERDOWN`: the node is a replica that has lost its primary.
    MasterDown,
    /// `LOADING`: the node still loads its data.
    Loading,
    /// `REDIRECT`: the node is a replica. Only clients that sent `CLIENT CAPA redirect` get it (Valkey 8).
    Redirect,
    /// `UNBLOCKED force unblock`: the node became a replica while the command was blocked.
    ForceUnblocked,
    /// `NOAUTH`: the connection must authenticate first.
    NoAuth,
    /// The user or the password is wrong.
    WrongPassword,
    /// The command gave a password, and the default user has none. Every connection is that user already.
    NeedlessPassword,
    /// `NOPERM`: the ACL denies the command.
    NoPermission,
    /// `DENIED`: protected mode takes connections from the server's own machine only.
    ProtectedMode,
    /// The server has as many clients as its `maxclients` allows. It sends this line unasked, as if it replied to the
    /// first command, and closes the connection.
    TooManyClients,
    /// `BUSY`: a script or function runs for too long.
    Busy,
    /// `MISCONF`: the server takes no writes because it cannot save its data.
    Misconfigured,
    /// `NOQUORUM`: a Sentinel sees too few others.
    NoQuorum,
    /// The server does not know the command, or it was renamed.
    UnknownCommand,
    /// The command has the wrong number of arguments.
    WrongArity,
    /// The key that the command names does not exist.
    NoSuchKey,
    /// A MULTI or WATCH inside a transaction, which goes on. Valkey 8 refuses it in other words, and then discards the transaction.
    NestedTransaction,
    /// Any other error.
    Other,
}

/// The texts that tell errors of the code `ERR` apart (observed on valkey 8.0 and redis 7.0; the second and the last form come
/// from servers before Redis 6, which have no users).
const TEXTS: [(&[u8], ServerError); 9] = [
    (b"ERR AUTH <password> called without any password configured", ServerError::NeedlessPassword),
    (b"ERR Client sent AUTH, but no password is set", ServerError::NeedlessPassword),
    (b"ERR max number of clients", ServerError::TooManyClients),
    (b"ERR unknown command", ServerError::UnknownCommand),
    (b"ERR wrong number of arguments", ServerError::WrongArity),
    (b"ERR MULTI calls can not be nested", ServerError::NestedTransaction),
    (b"ERR WATCH inside MULTI is not allowed", ServerError::NestedTransaction),
    (b"ERR no such key", ServerError::NoSuchKey),
    (b"ERR invalid password", ServerError::WrongPassword),
];

impl ServerError {
    /// Classifies an error reply, with or without its leading `-` and its CRLF.
    pub fn of(line: &[u8]) -> Self {
        let line = line.strip_prefix(b"-").unwrap_or(line);
        match code(line) {
            b"READONLY" => Self::ReadOnly,
            b"MASTERDOWN" => Self::MasterDown,
            b"LOADING" => Self::Loading,
            b"REDIRECT" => Self::Redirect,
            // CLIENT UNBLOCK gives another text.
            b"UNBLOCKED" if line.starts_with(b"UNBLOCKED force unblock") => Self::ForceUnblocked,
            b"NOAUTH" => Self::NoAuth,
            b"WRONGPASS" => Self::WrongPassword,
            b"NOPERM" => Self::NoPermission,
            b"DENIED" => Self::ProtectedMode,
            b"BUSY" => Self::Busy,
            b"MISCONF" => Self::Misconfigured,
            b"NOQUORUM" => Self::NoQuorum,
            b"ERR" => TEXTS
                .iter()
                .find(|(start, _)| line.starts_with(start))
                .map_or(Self::Other, |(_, error)| *error),
            _ => Self::Other,
        }
    }

    /// Returns true if the command did not run because the node is not the primary, no longer or not yet. A server judges
    /// these before it runs a command (valkey's server.c, processCommand), or when it ends a blocked command.
    pub fn is_not_primary(self) -> bool {
        matches!(
            self,
            Self::ReadOnly | Self::MasterDown | Self::Loading | Self::Redirect | Self::ForceUnblocked
        )
    }

    /// Returns true if the server refuses everybody for now, not this user.
    pub fn is_not_ready(self) -> bool {
        matches!(self, Self::Loading | Self::MasterDown | Self::ProtectedMode | Self::TooManyClients)
    }

    /// Returns true if the user may not run the command, or the server does not know it.
    pub fn denies_command(self) -> bool {
        matches!(self, Self::NoPermission | Self::UnknownCommand)
    }
}

/// Returns the first word of an error line, which is its error code.
pub fn code(line: &[u8]) -> &[u8] {
    line.split(|byte| matches!(byte, b' ' | b'\r')).next().unwrap_or_default()
}

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
    match ServerError::of(line) {
        ServerError::NeedlessPassword => AuthRefusal::NeedlessPassword,
        error if error.is_not_ready() || error == ServerError::Busy => AuthRefusal::NotReady,
        _ => AuthRefusal::Wrong(without_arguments(line)),
    }
}

/// Returns the error line of a refused AUTH without quoted arguments, so that it can be shown. A server quotes the
/// arguments of a command that it does not know (`ERR unknown command 'AUTH', with args beginning with: '…'`, observed
/// on valkey 8.0 and redis 7.0), and an argument of AUTH is a password.
pub fn without_arguments(line: &Bytes) -> Bytes {
    memchr::memmem::find(line, b", with args beginning with")
        .map_or_else(|| line.clone(), |at| line.slice(..at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_by_code_and_text() {
        for (line, error) in [
            (&b"-READONLY You can't write against a read only replica.\r\n"[..], ServerError::ReadOnly),
            (b"LOADING Redis is loading the dataset in memory", ServerError::Loading),
            (b"-REDIRECT 127.0.0.1:6380\r\n", ServerError::Redirect),
            (b"-UNBLOCKED force unblock from blocking operation, ...", ServerError::ForceUnblocked),
            (b"-UNBLOCKED client unblocked via CLIENT UNBLOCK", ServerError::Other),
            (b"-ERR max number of clients reached\r\n", ServerError::TooManyClients),
            (b"-ERR no such key\r\n", ServerError::NoSuchKey),
            (b"ERR unknown command 'FOO', with args beginning with: ", ServerError::UnknownCommand),
            (b"-NOAUTH\r\n", ServerError::NoAuth),
            (b"-READONLYX no", ServerError::Other),
            (b"", ServerError::Other),
        ] {
            assert_eq!(ServerError::of(line), error, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn only_errors_before_execution_say_that_the_node_is_no_primary() {
        let not_primary = |line: &[u8]| ServerError::of(line).is_not_primary();
        for line in
            [&b"READONLY x"[..], b"MASTERDOWN x", b"LOADING x", b"REDIRECT a:1", b"UNBLOCKED force unblock"]
        {
            assert!(not_primary(line), "{}", line.escape_ascii());
        }
        for line in [&b"ERR READONLY x"[..], b"MISCONF x", b"BUSY x", b"MOVED 1 a:1", b"EXECABORT x"] {
            assert!(!not_primary(line), "{}", line.escape_ascii());
        }
    }
}
