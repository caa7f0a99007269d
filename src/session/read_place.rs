//! Decides whether a read goes to the primary, goes on at the session's replica, or waits. Pure.
//!
//! Replies always reach the client in the order of its commands. Here it is about what they show: a read that a client sends after it
//! has got a reply shows nothing older than that reply did. Reads that it sends without waiting may run at the same moment on two
//! nodes, and have no order among them.

use crate::replica::Reads;

/// The facts that decide where a read goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadFacts {
    /// Where the client wants its reads.
    pub(super) mode: Reads,
    /// True if a write is under way.
    pub(super) behind_write: bool,
    /// True if a reply of the primary is due. Other ones may have come meanwhile, so nobody knows how new a replica must be.
    pub(super) primary_due: bool,
    /// True if reads have gone to the primary for long.
    pub(super) long_away: bool,
}

/// Where a read goes, as far as that follows from the session itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadPlace {
    /// It goes to the primary. `behind` is true if that is because no replica has what the client has seen.
    Primary { behind: bool },
    /// The session's replica answers it.
    Kept,
    /// It waits for replies that are due.
    Replies,
    /// Any replica may answer it. The session may leave its own.
    Any,
}

impl ReadFacts {
    /// Returns where the read goes. `replica_serves` returns true if the session's replica may serve the read, and `replica_due` if a
    /// reply of that replica is due.
    pub(super) fn place(
        self,
        replica_serves: impl FnOnce() -> bool,
        replica_due: impl FnOnce() -> bool,
    ) -> ReadPlace {
        let only_replicas = self.mode == Reads::Replica;
        if self.behind_write {
            // Only the primary keeps the order of a read behind a write that is under way.
            return if only_replicas { ReadPlace::Replies } else { ReadPlace::Primary { behind: false } };
        }
        if self.primary_due {
            // A client that always has reads under way at the primary would never leave it otherwise.
            let waits = only_replicas || self.long_away;
            return if waits { ReadPlace::Replies } else { ReadPlace::Primary { behind: true } };
        }
        if replica_serves() {
            return ReadPlace::Kept;
        }
        match replica_due() {
            // The replies of one replica must have come before another one answers.
            true if only_replicas => ReadPlace::Replies,
            true => ReadPlace::Primary { behind: true },
            false => ReadPlace::Any,
        }
    }
}

#[cfg(test)]
mod tests;
