//! Follows discovery: a newer primary, a failover that has begun, no primary at all.

use std::sync::Arc;

use super::parts::Parts;
use crate::topology::{Generation, Outage, Primary, ServerInfo, Sign, Topology};

impl Parts {
    /// Takes over a newer topology. Cuts every connection to a superseded primary here, before anything else can be written to it.
    pub(super) fn adopt(&self, topology: &Topology) {
        let hold = &self.dialing.hold;
        hold.set_ordered(matches!(topology, Topology::Failing(_, sign) if sign.is_ordered()));
        match topology {
            Topology::Unknown(outage) => {
                hold.note_reason(outage.to_string());
                let refused = matches!(**outage, Outage::Refused(_));
                let never_authenticated = refused && self.dialing.identities.own().never_worked();
                hold.set_never_authenticated(never_authenticated);
                if let Some(before) = hold.set_primary(None) {
                    self.dialing.reports.timelines.named(before.generation, self.lanes.are_drained());
                    self.cut(None);
                }
                hold.begin();
                if never_authenticated {
                    // Commands that wait fail at once.
                    self.lanes.every_lane().iter().for_each(|lane| lane.wake_waiting());
                }
            }
            Topology::Failing(primary, Sign::Closing) => {
                self.follow_primary(primary);
                hold.note_reason(Sign::Closing.to_string());
                self.begin_failover();
                hold.set_closing(true);
                // A session that blocks on a lease must leave it before the server closes it: only then is it certain that
                // the server has not run the blocked command.
                self.pool.cut(None);
            }
            Topology::Failing(primary, sign) => {
                self.follow_primary(primary);
                hold.note_reason(sign.to_string());
                self.dialing.reports.timelines.sign(primary.generation, &sign.to_string(), true);
                self.begin_failover();
                if *sign == Sign::PausedAtOnce {
                    self.disconnect();
                }
            }
            Topology::Known(primary) => {
                self.follow_primary(primary);
                self.end_disconnect();
                // The server has closed the connections, but this worker may not have read that yet: a request written to
                // such a connection would have an unknown outcome.
                if hold.set_closing(false) {
                    self.cut(None);
                }
                self.end_failover();
            }
        }
        hold.notify_changed();
    }

    fn follow_primary(&self, primary: &Arc<Primary>) {
        let (hold, timelines) = (&self.dialing.hold, &self.dialing.reports.timelines);
        if let Some(server) = &primary.server {
            self.dialing.server.set_info(ServerInfo::clone(server));
        }
        hold.set_never_authenticated(false);
        let before = hold.set_primary(Some(primary.clone()));
        if before.as_ref().is_some_and(|before| before.generation == primary.generation) {
            return;
        }
        if let Some(before) = before {
            timelines.named(before.generation, self.lanes.are_drained());
        }
        timelines.verified(primary);
        // The time of an outage without commands must not count against the next command.
        hold.end();
        self.dialing.use_newest_access();
        let own = self.dialing.identities.own().credentials();
        self.dialing.server.forget(matches!(own, Ok(None)) && primary.server.is_none());
        self.cut(Some(primary.generation));
    }

    /// Closes the gate of every lane: no new request is sent, and requests under way still get their replies.
    fn begin_failover(&self) {
        self.dialing.hold.begin();
        self.dialing.hold.set_failing_over(true);
        self.lanes.close_gates(true);
    }

    /// Opens the gate of every lane again.
    fn end_failover(&self) {
        let hold = &self.dialing.hold;
        if hold.set_failing_over(false) {
            self.lanes.close_gates(false);
            hold.end();
            self.dialing.reports.timelines.dismissed_unless_switched(hold.generation());
            self.pool.wake();
            self.fans.wake();
        }
    }

    /// Cuts every connection that is not of the `newest` generation.
    pub(super) fn cut(&self, newest: Option<Generation>) {
        self.lanes.cut();
        self.pool.cut(newest);
        self.fans.cut(newest);
    }
}
