//! Reports the state of a lease to the timeouts, to the tenant and to the byte budget.

use super::expect::Expect;
use super::{LeaseEnd, Leased};
use crate::session::Session;
use crate::session::activity::Expiry;
use crate::session::close::Close;
use crate::session::view::LeaseView;
use crate::tenant::limits::refusal::Limit;

impl Leased {
    /// Updates the activity and the tenant's counts with the reason for the lease. `came` is true if something
    /// came for the client.
    pub(super) fn note_state(&mut self, session: &mut Session, came: bool) {
        let now = session.ctx.registry.now.get();
        let due = self.expected.due();
        let listens = self.pins.subscribed() || self.pins.monitoring;
        let subscribed_beside = session.has_private_channels();
        let transaction = self.pins.transaction.is_some() || self.pins.watching;
        session.activity.touch(now);
        session.activity.set_reply_due(now, due, came);
        let blocked = self.expected.gated && !due;
        session.activity.set_lease_state(now, listens || blocked, transaction);
        session.view.set_lease(LeaseView {
            server_id: self.lease.server_id(),
            subscriptions: self.pins.subscription_counts(),
            multi: self.pins.transaction.as_ref().map(|transaction| transaction.queued),
            watch: self.pins.watched_keys,
            blocked,
            watch_broken: self.pins.watch_broken,
            monitoring: self.pins.monitoring,
            tracking: self.pins.tracking.is_some(),
            no_touch: self.pins.no_touch,
            import_source: self.pins.import_source,
        });
        session.view.set_waiting_input(session.input.len());
        if let Some(member) = &mut session.tenancy.member {
            member.in_flight(self.in_flight());
            // A count ends only when the reply that ends the state has come.
            if !self.expected.gated {
                session.tenancy.release(Limit::Blocked);
            }
            if !listens && self.expected.is_empty() && !subscribed_beside {
                session.tenancy.release(Limit::Subscribed);
            }
            if !transaction && self.expected.is_empty() {
                session.tenancy.release(Limit::Transactions);
            }
        }
    }

    /// Updates the count of allocated bytes.
    pub(super) fn update_charge(&mut self) {
        let read = self.lease.read_capacity();
        self.charge.set(self.outbound.capacity() + self.expected.capacity() + self.pins.capacity() + read);
    }

    /// Handles an expired timeout. Returns how the lease ends, or `None` if it goes on.
    pub(super) fn expire(&mut self, session: &mut Session, expiry: Expiry) -> Option<LeaseEnd> {
        if expiry == Expiry::Command {
            session.ctx.upstream.counters.command_timeouts.inc();
            return Some(self.end_without_reply(session));
        }
        session.expire(expiry).map(LeaseEnd::Close)
    }

    /// Handles a server that has not answered in time. Sending the requests again would only make the client wait
    /// longer, so the session answers them, or ends if it has connection state.
    pub(super) fn end_without_reply(&mut self, session: &mut Session) -> LeaseEnd {
        if matches!(self.expected.front(), Some(Expect::Alive | Expect::Name | Expect::Auth(_))) {
            return LeaseEnd::Lost;
        }
        if self.pins.any() || self.streaming.is_some() {
            return LeaseEnd::Close(Close::UpstreamLost);
        }
        for (expect, _) in self.expected.take() {
            match expect {
                Expect::Reply(awaited) if !awaited.mute => {
                    let outcome = awaited.if_lost.outcome_of_silence();
                    session.output.replies.answer(|out| out.extend_from_slice(&outcome.reply()));
                }
                Expect::Confirmations { .. } => return LeaseEnd::Close(Close::UpstreamLost),
                Expect::Discarded(reply) | Expect::Decided(reply) => {
                    session.output.replies.answer(|out| out.extend_from_slice(&reply));
                }
                Expect::Reply(_)
                | Expect::Nonce(_)
                | Expect::Newest(_)
                | Expect::Publish
                | Expect::Alive
                | Expect::Name
                | Expect::Auth(_)
                | Expect::Restored(_) => {}
            }
        }
        LeaseEnd::Abandoned
    }
}
