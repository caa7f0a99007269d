//! Holds a client's membership in a tenant: its policy, its limits, and the charge of its next request.

use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::charge::PendingCharge;
use super::timer::Timer;
use crate::resp::error_line::ErrorLine;
use crate::tenant::limits::member::Member;
use crate::tenant::limits::refusal::Limit;
use crate::tenant::policy::Policy;
use crate::upstream::shared::fair::fair_queue::Share;

/// Holds what a session knows of its client's tenant. A client without a tenant has no policy and no limits.
#[derive(Default)]
pub(super) struct Tenancy {
    /// The tenant's policy; `None` allows everything.
    pub(super) policy: Option<Arc<Policy>>,
    /// The client's membership, with the tenant's limits.
    pub(super) member: Option<Box<Member>>,
    /// The charge for the request at the front of the input.
    pub(super) pending_charge: PendingCharge,
    /// The timer of a request that waits for a limit.
    limit_timer: Timer,
}

impl Tenancy {
    /// Returns the tenant's name; empty if the client belongs to none.
    pub(super) fn name(&self) -> &str {
        self.member.as_ref().map_or("", |member| &*member.worker_tenant().tenant.config.name)
    }

    /// Returns the scheduler identity under which the session queues for a lane.
    pub(super) fn share(&self) -> Share {
        self.member.as_ref().map_or(Share::default(), |member| member.worker_tenant().share)
    }

    /// Updates the tenant's count of requests in flight.
    #[inline]
    pub(super) fn set_in_flight(&mut self, requests: usize) {
        if let Some(member) = &mut self.member {
            member.in_flight(requests);
        }
    }

    /// Counts the session against its tenant's limit on leases of one kind.
    ///
    /// # Errors
    /// Returns an error line if the tenant has reached that limit.
    pub(super) fn acquire(&mut self, limit: Limit) -> Result<(), ErrorLine> {
        self.member.as_mut().map_or(Ok(()), |member| member.take_place(limit))
    }

    /// Undoes [`Self::acquire`].
    pub(super) fn release(&mut self, limit: Limit) {
        if let Some(member) = &mut self.member {
            member.release_place(limit);
        }
    }

    /// Ready when a request that waits for a rate limit may be handled.
    pub(super) fn poll_rate_limit(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        self.limit_timer.poll_at(cx, due)
    }

    /// Ready when a request that waits for the tenant's in-flight limit is to be tried again, at `retry_at` at the
    /// latest.
    pub(super) fn poll_in_flight_limit(&mut self, cx: &mut Context<'_>, retry_at: Instant) -> Poll<()> {
        match &self.member {
            Some(member) if !member.room(cx.waker()) => self.poll_rate_limit(cx, retry_at),
            _ => Poll::Ready(()),
        }
    }
}
