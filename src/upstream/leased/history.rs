//! Records what ran on a lease, and decides whether its connection may serve another session. No I/O.

use crate::command::Trace;

/// The state that the requests of one lease can have left on the connection.
#[derive(Debug, Default)]
pub struct History {
    /// The size of the noted requests, in bytes.
    noted: u64,
    /// The number of bytes written to the connection.
    written: u64,
    /// True if a request may have left state whose end the server does not confirm.
    unknown: bool,
}

impl History {
    /// Notes a request of `bytes` bytes that can leave `trace`. The caller writes it later, or never.
    pub fn note(&mut self, trace: Trace, bytes: usize) {
        self.noted += bytes as u64;
        self.unknown |= match trace {
            Trace::Nothing | Trace::Followed => false,
            Trace::Unknown | Trace::OtherProtocol => true,
        };
    }

    /// Notes that the connection took `bytes` bytes.
    pub(in crate::upstream) fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    /// Returns true if exactly the bytes of the noted requests were written, and each request leaves nothing, or state whose end the
    /// server has confirmed to its session.
    pub(in crate::upstream) fn leaves_nothing(&self) -> bool {
        !self.unknown && self.noted == self.written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(noted: &[(Trace, usize)], written: usize) -> bool {
        let mut history = History::default();
        noted.iter().for_each(|(trace, bytes)| history.note(*trace, *bytes));
        history.wrote(written);
        history.leaves_nothing()
    }

    #[test]
    fn only_what_is_known_to_leave_nothing_proves_it() {
        assert!(after(&[], 0));
        assert!(after(&[(Trace::Nothing, 10), (Trace::Followed, 5)], 15));
        for trace in [Trace::Unknown, Trace::OtherProtocol] {
            assert!(!after(&[(trace, 10)], 10));
            assert!(!after(&[(trace, 10), (Trace::Nothing, 5)], 15), "what follows proves nothing");
        }
    }

    #[test]
    fn a_byte_that_no_request_accounts_for_leaves_it_open() {
        assert!(!after(&[], 1));
        assert!(!after(&[(Trace::Nothing, 10)], 11));
        assert!(!after(&[(Trace::Nothing, 10)], 9), "part of a request waits to be written");
    }
}
