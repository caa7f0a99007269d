//! Applies a tenant's limits to a session.

use std::time::Duration;

use tokio::time::Instant;

use super::Session;
use super::charge::{Charged, PendingCharge};
use super::step::{Pause, Step};
use crate::resp::request::Request;
use crate::tenant::limits::member::LimitDecision;
use crate::tenant::limits::refusal::Limit;
use crate::upstream::shared::fair::scheduler::Asker;

impl Session {
    /// Charges the request at the front of the input, once: the result is kept until [`Self::note_handled`].
    pub(super) fn charge(&mut self, request: &Request<'_>) -> Charged {
        if self.tenancy.member.is_none() {
            return Charged::Passes;
        }
        let now = self.tenant_time();
        if self.tenancy.pending_charge == PendingCharge::Unseen {
            let awaited = self.output.awaited() as usize;
            let Some(member) = &mut self.tenancy.member else { return Charged::Passes };
            if awaited > 0 {
                member.in_flight(awaited);
            }
            match member.admit(now, request.len(), ends_or_greets(request.name())) {
                LimitDecision::Pass => self.tenancy.pending_charge = PendingCharge::Due(0),
                LimitDecision::PassAt(due) => self.tenancy.pending_charge = PendingCharge::Due(due),
                LimitDecision::Again(at) => return Charged::Waits(Pause::Room(self.instant_of(at))),
                LimitDecision::Refuse(line) => self.tenancy.pending_charge = PendingCharge::Refused(line),
            }
        }
        match &self.tenancy.pending_charge {
            PendingCharge::Due(due) if *due > now => {
                self.activity.touch(self.ctx.registry.now.get());
                Charged::Waits(Pause::Limit(self.instant_of(*due)))
            }
            PendingCharge::Refused(line) => Charged::Refused(line.clone()),
            PendingCharge::Due(_) | PendingCharge::Unseen => Charged::Passes,
        }
    }

    /// Forgets the charge of a request that was handled. A request that stays in the input is not charged again.
    pub(super) fn note_handled(&mut self, step: &Step) {
        if !matches!(step, Step::Stay(_)) {
            self.tenancy.pending_charge = PendingCharge::Unseen;
        }
    }

    /// Returns the tenant time: nanoseconds since the tenants' epoch.
    pub(super) fn tenant_time(&self) -> u64 {
        u64::try_from(self.ctx.tenants.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn instant_of(&self, time: u64) -> Instant {
        self.ctx.tenants.epoch + Duration::from_nanos(time)
    }

    /// Returns the identity of this session for the lane's scheduler. `idle` is true if the
    /// session has no request under way there.
    pub(super) fn asker(&self, idle: bool) -> Asker {
        Asker { who: self.client.id, share: self.tenancy.share(), idle }
    }

    /// Updates activity, reply sizes and counts after a lease has ended.
    pub(super) fn end_lease(&mut self) {
        let now = self.ctx.registry.now.get();
        self.activity.set_lease_state(now, false, false);
        self.view.set_leased_as(None);
        self.activity.set_reply_due(now, false, true);
        self.output.replies.sizes().lease_ended();
        self.tenancy.release(Limit::Leased);
        self.keep_shard_channels();
        if let Some(reads) = &mut self.lanes.reads {
            reads.note_leased();
        }
    }
}

/// Returns true for commands that end something or concern the connection. They are never refused or delayed,
/// since that would only make a transaction or a session last longer.
fn ends_or_greets(name: &[u8]) -> bool {
    const FREE: [&[u8]; 7] = [b"EXEC", b"DISCARD", b"UNWATCH", b"QUIT", b"RESET", b"AUTH", b"HELLO"];
    (4..=7).contains(&name.len()) && FREE.iter().any(|free| name.eq_ignore_ascii_case(free))
}
