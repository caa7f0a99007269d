//! Notes the times of commands on a lease.

use std::time::Duration;

use super::expect::{Awaited, Effect, Expect};
use super::{Leased, Session};
use crate::latency::{Class, CommandTimes};

/// Moments wrap after 71 minutes, so commands that blocked for longer than this are not counted.
const LONGEST_BLOCK: Duration = Duration::from_secs(3600);

impl Leased {
    /// Notes the times of the front request, whose reply has come. Subscriptions and MONITOR are not counted: they last.
    pub(super) fn note_front_times(&self, session: &Session) {
        let latency = &session.ctx.latency;
        if !latency.is_active() {
            return;
        }
        let Some((Expect::Reply(awaited), len)) = self.expected.front_entry() else { return };
        let Awaited { mute, effect, blocking, arrival, .. } = awaited;
        let blocked_long = blocking.is_some_and(|since| since.elapsed() > LONGEST_BLOCK);
        if *mute || blocked_long || !arrival.is_noted() || matches!(effect, Effect::Monitor) {
            return;
        }
        let class = match blocking.is_some() || matches!(effect, Effect::Wait) {
            true => Class::Blocking,
            false => Class::Leased,
        };
        // A lease writes a request in the poll in which the session passes it on.
        let times = CommandTimes { arrival: *arrival, sent: arrival.passed(), replied: latency.now(), class };
        session.note_replied(self.outbound.front(*len), times);
    }
}
