//! Says which commands of one session may be under way on several connections at a time. No I/O.
//!
//! Replies always reach the client in the order of its commands. This rule is about the commands themselves: a command on one
//! connection may run before an earlier one on another.

use std::rc::Rc;

use crate::upstream::shared::lane::Lane;
use crate::upstream::shared::queue::IfLost;

/// What a command does, as far as its order matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommandKind {
    /// respgate answers it from what the session knows.
    Answer,
    /// It only reads.
    Read,
    /// It may write, or change the server in another way.
    Write,
    /// It only reads, and all its keys belong to one slot of a cluster.
    SlotRead,
    /// It may write, and all its keys belong to one slot of a cluster.
    SlotWrite,
    /// It needs a connection of its own, waits for other clients, or changes the session.
    Exclusive,
}

impl CommandKind {
    /// Returns the kind of a command for a shared connection.
    #[inline]
    pub(super) fn of(if_lost: IfLost) -> Self {
        match if_lost {
            IfLost::Resend | IfLost::ReportLost => Self::Read,
            IfLost::ResendWrite | IfLost::ReportUnknown => Self::Write,
        }
    }
}

impl CommandKind {
    /// Returns the kind of a command whose keys belong to one slot of a cluster.
    #[inline]
    pub(super) fn of_slot(if_lost: IfLost) -> Self {
        match Self::of(if_lost) {
            Self::Read => Self::SlotRead,
            _ => Self::SlotWrite,
        }
    }
}

/// The kinds of commands whose replies are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UnderWay {
    /// A set of [`READS`], [`WRITES`], [`SLOT_READS`] and [`SLOT_WRITES`], because one operation adds to it.
    kinds: u8,
}

const READS: u8 = 1;
const WRITES: u8 = 2;
const SLOT_READS: u8 = 4;
const SLOT_WRITES: u8 = 8;

impl UnderWay {
    /// Adds a command.
    #[inline]
    pub(super) fn add(&mut self, kind: CommandKind) {
        self.kinds |= match kind {
            CommandKind::Answer => 0,
            CommandKind::Read => READS,
            CommandKind::Write | CommandKind::Exclusive => WRITES,
            CommandKind::SlotRead => SLOT_READS,
            CommandKind::SlotWrite => SLOT_WRITES,
        };
    }

    /// Adds other commands.
    pub(super) fn merge(&mut self, other: Self) {
        self.kinds |= other.kinds;
    }
}

/// Returns true if a command may run before `earlier` commands of its session that are under way on other connections. Reads run
/// beside reads, and an answer of respgate's own depends on none of them. Nothing overtakes a write, and a write overtakes nothing;
/// but commands that belong to slots overtake each other: those of one slot are on one connection.
pub(super) fn may_overtake(earlier: UnderWay, next: CommandKind) -> bool {
    match next {
        CommandKind::Answer => true,
        CommandKind::Read => earlier.kinds & (WRITES | SLOT_WRITES) == 0,
        CommandKind::SlotRead => earlier.kinds & WRITES == 0,
        CommandKind::SlotWrite => earlier.kinds & (READS | WRITES) == 0,
        CommandKind::Write | CommandKind::Exclusive => earlier.kinds == 0,
    }
}

/// Identifies the lane of commands that are under way; the default stands for respgate itself. The lane exists as long as their replies are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LaneId(usize);

impl LaneId {
    /// Returns the id of `lane`.
    #[inline]
    pub(super) fn of(lane: &Rc<Lane>) -> Self {
        Self(Rc::as_ptr(lane).addr())
    }

    /// Returns the id of the place from which the reply of a command with several parts comes. No lane has this id: addresses of lanes
    /// are even.
    pub(super) fn of_join(number: u32) -> Self {
        Self((number as usize) << 1 | 1)
    }

    /// Returns true if the replies come from the parts of a command.
    pub(super) fn is_of_join(self) -> bool {
        self.0 & 1 == 1
    }

    #[cfg(test)]
    pub(super) fn numbered(number: usize) -> Self {
        Self(number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds() -> impl Strategy<Value = CommandKind> {
        use CommandKind::{Answer, Exclusive, Read, SlotRead, SlotWrite, Write};
        prop::sample::select(vec![Answer, Read, Write, SlotRead, SlotWrite, Exclusive])
    }

    proptest! {
        #[test]
        fn only_reads_and_answers_overtake_and_nothing_overtakes_a_write(
            earlier in prop::collection::vec(kinds(), 0..6),
            next in kinds(),
        ) {
            let mut under_way = UnderWay::default();
            earlier.iter().for_each(|kind| under_way.add(*kind));
            let of_slot = |kind| matches!(kind, CommandKind::SlotRead | CommandKind::SlotWrite);
            let reads = |kind| matches!(kind, CommandKind::Read | CommandKind::SlotRead);
            let commutes = |kind: &CommandKind| match (*kind, next) {
                (_, CommandKind::Answer) | (CommandKind::Answer, _) => true,
                (first, second) => of_slot(first) && of_slot(second) || reads(first) && reads(second),
            };
            prop_assert_eq!(may_overtake(under_way, next), earlier.iter().all(commutes));
        }
    }
}
