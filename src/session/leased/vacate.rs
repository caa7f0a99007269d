//! Leaves a lease's connection for another one because an operator ordered it.

use super::Leased;
use crate::net::write::WriteSource;
use crate::session::Session;
use crate::upstream::leased::state::Vacate;

impl Leased {
    /// Returns true if the session should leave its connection now. A blocked command is moved.
    pub(super) fn should_vacate(&self, session: &Session) -> bool {
        let may_leave = match self.lease.vacate() {
            Vacate::No => return false,
            Vacate::Unnoticed => self.moves_unnoticed() && !session.ctx.upstream.holding(),
            Vacate::AtOnce => true,
        };
        may_leave
            && self.expected.unblocked() == 0
            && self.streaming.is_none()
            && self.outbound.unwritten().is_empty()
    }

    /// Returns true if the client does not notice that the connection is another one. A transaction would be sent again, and watched
    /// keys would count as changed.
    fn moves_unnoticed(&self) -> bool {
        let pins = &self.pins;
        pins.transaction.is_none()
            && !pins.watches()
            && !pins.caching
            && !pins.is_pinned_for_unknown()
            && !pins.fieldsets
    }
}
