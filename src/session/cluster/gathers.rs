//! The commands of one session whose parts go to several shards.

use super::gather::Gather;

/// The commands of a session whose parts are under way. Only the last one can have parts that are still to be sent.
#[derive(Default)]
pub(in crate::session) struct Gathers {
    pub(super) all: Vec<Gather>,
    /// True if the last one has parts that are still to be sent.
    pub(super) sending: bool,
    /// The number of commands so far.
    pub(super) count: u32,
}

impl Gathers {
    /// Returns true if no such command is under way.
    #[inline]
    pub(in crate::session) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns true if parts of a command are still to be sent. No later command may be handled before.
    #[inline]
    pub(in crate::session) fn is_sending(&self) -> bool {
        self.sending
    }

    /// Gives up all commands. Their replies are dropped.
    pub(in crate::session) fn clear(&mut self) {
        self.all.clear();
        self.sending = false;
    }
}
