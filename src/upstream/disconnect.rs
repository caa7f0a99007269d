//! Closes every connection of one worker, because an operator has paused the upstream at once.

use std::time::Duration;

use tokio::time::sleep_until;

use super::leased::state::Vacate;
use super::parts::Parts;

/// The time that the commands under way have for their replies. Without it, nearly every pause at once would leave writes with an
/// unknown outcome.
const GRACE: Duration = Duration::from_secs(1);

impl Parts {
    /// Closes every connection as soon as it owes no reply. After [`GRACE`], closes the others too, and settles their commands
    /// as those of a lost connection. No connection is opened before [`Self::end_disconnect`].
    pub(super) fn disconnect(&self) {
        let Some(began) = self.dialing.hold.begin_disconnect() else { return };
        self.pool.vacate(Vacate::AtOnce);
        self.fans.cut(None);
        self.lanes.vacate();
        let parts = self.clone();
        self.dialing.meter.spawn_local(async move {
            sleep_until(began + GRACE).await;
            // Another pause may have begun meanwhile, with a time of its own.
            if parts.dialing.hold.disconnecting_since() == Some(began) {
                parts.cut(None);
            }
        });
    }

    /// Permits connections again.
    pub(super) fn end_disconnect(&self) {
        if self.dialing.hold.end_disconnect() {
            self.lanes.stay();
        }
    }
}
