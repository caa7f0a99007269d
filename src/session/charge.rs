//! Says what a request was charged against its tenant's limits. Types only.

use super::step::Pause;
use crate::resp::error_line::ErrorLine;

/// Says what the request at the front of the input was charged.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum PendingCharge {
    /// The request has not been charged.
    #[default]
    Unseen,
    /// The request is charged and may be handled at this time, in nanoseconds of tenant time.
    Due(u64),
    /// The request is refused with this line, once earlier replies are delivered.
    Refused(ErrorLine),
}

impl PendingCharge {
    /// Shortens the wait to `then`, when the current rates have paid the debt back.
    pub(super) fn cap_at(&mut self, then: u64) {
        if let Self::Due(due) = self {
            *due = then.min(*due);
        }
    }

    /// Forgets the charge: a former tenant's limits do not make the request wait.
    pub(super) fn reset(&mut self) {
        if matches!(self, Self::Due(_)) {
            *self = Self::Unseen;
        }
    }
}

/// Says whether a request may be handled.
pub(super) enum Charged {
    /// It may be handled now.
    Passes,
    /// It must wait.
    Waits(Pause),
    /// It is answered with this error line.
    Refused(ErrorLine),
}
