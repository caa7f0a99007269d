//! Applies a tenant's limits to a session.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::denied::permits_words;
use super::turn::{Pause, Step, poll_timer};
use super::{Close, Session};
use crate::resp::error_line::ErrorLine;
use crate::resp::request::Request;
use crate::tenant::figures::Counted;
use crate::tenant::identity::{Known, Rules, TenantId};
use crate::tenant::limits::member::{LimitDecision, Member};
use crate::tenant::limits::refusal::Limit;
use crate::tenant::users::Users;
use crate::tenant::users::throttle::Throttle;
use crate::tenant::{Tenant, Tenants, WorkerTenant};
use crate::upstream::shared::fair::fair_queue::Share;
use crate::upstream::shared::fair::scheduler::Asker;

/// Holds the tenants as one worker's sessions see them.
#[derive(Debug)]
pub struct WorkerTenants {
    index: RefCell<Rc<TenantIndex>>,
    users: Option<Arc<Users>>,
    throttle: Arc<Throttle>,
    epoch: Instant,
}

/// Finds a client's tenant in one configuration.
#[derive(Debug)]
struct TenantIndex {
    /// The worker's tenants, indexed by [`TenantId`].
    tenants: Vec<Rc<WorkerTenant>>,
    rules: Arc<Rules>,
    /// The tenant of each listener, indexed by the listener's number.
    listeners: Arc<[Option<TenantId>]>,
}

impl TenantIndex {
    /// Builds the index. `known` holds the worker's tenants so far; one whose configuration has not changed is
    /// kept.
    fn new(tenants: &Tenants, known: &[Rc<WorkerTenant>]) -> Rc<Self> {
        let worker_tenant =
            |tenant: &Arc<Tenant>| match known.iter().find(|d| d.tenant.number == tenant.number) {
                Some(worker_tenant) if Arc::ptr_eq(&worker_tenant.tenant, tenant) => worker_tenant.clone(),
                Some(worker_tenant) => worker_tenant.reconfigured(tenant),
                None => WorkerTenant::new(tenant),
            };
        Rc::new(Self {
            tenants: tenants.all.iter().map(worker_tenant).collect(),
            rules: tenants.rules.clone(),
            listeners: tenants.listeners.clone(),
        })
    }
}

impl WorkerTenants {
    /// Creates the tenants of one worker.
    pub fn new(tenants: &Tenants) -> Rc<Self> {
        Rc::new(Self {
            index: RefCell::new(TenantIndex::new(tenants, &[])),
            users: tenants.users.clone(),
            throttle: tenants.throttle.clone(),
            epoch: tenants.epoch,
        })
    }

    /// Takes over a new configuration's tenants. The caller must then tell the sessions.
    pub fn adopt(&self, tenants: &Tenants) {
        let next = TenantIndex::new(tenants, &self.index().tenants);
        *self.index.borrow_mut() = next;
    }

    /// Returns true if there is any tenant.
    pub(super) fn has_tenants(&self) -> bool {
        !self.index().tenants.is_empty()
    }

    fn index(&self) -> Rc<TenantIndex> {
        self.index.borrow().clone()
    }

    /// Returns respgate's own users; `None` if the upstream checks passwords.
    pub fn users(&self) -> Option<Arc<Users>> {
        self.users.clone()
    }

    /// Returns the throttle that precedes every check of a password.
    pub fn throttle(&self) -> Arc<Throttle> {
        self.throttle.clone()
    }

    /// Returns this worker's counts, each with the tenant's number.
    pub fn figures(&self) -> Vec<(usize, Counted)> {
        let index = self.index();
        index
            .tenants
            .iter()
            .map(|worker_tenant| (worker_tenant.tenant.number, worker_tenant.figures.snapshot()))
            .collect()
    }
}

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
    fn cap_at(&mut self, then: u64) {
        if let Self::Due(due) = self {
            *due = then.min(*due);
        }
    }

    /// Forgets the charge: a former tenant's limits do not make the request wait.
    fn reset(&mut self) {
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

impl Session {
    /// Charges the request at the front of the input, once: the result is kept until [`Self::charged`].
    pub(super) fn charge(&mut self, request: &Request<'_>) -> Charged {
        if self.member.is_none() {
            return Charged::Passes;
        }
        let now = self.tenant_time();
        if self.pending_charge == PendingCharge::Unseen {
            let awaited = self.replies.awaited() as usize;
            let Some(member) = &mut self.member else { return Charged::Passes };
            if awaited > 0 {
                member.in_flight(awaited);
            }
            match member.admit(now, request.len(), ends_or_greets(request.name())) {
                LimitDecision::Pass => self.pending_charge = PendingCharge::Due(0),
                LimitDecision::PassAt(due) => self.pending_charge = PendingCharge::Due(due),
                LimitDecision::Again(at) => return Charged::Waits(Pause::Room(self.instant(at))),
                LimitDecision::Refuse(line) => self.pending_charge = PendingCharge::Refused(line),
            }
        }
        match &self.pending_charge {
            PendingCharge::Due(due) if *due > now => {
                self.activity.touch(self.ctx.registry.now.get());
                Charged::Waits(Pause::Limit(self.instant(*due)))
            }
            PendingCharge::Refused(line) => Charged::Refused(line.clone()),
            PendingCharge::Due(_) | PendingCharge::Unseen => Charged::Passes,
        }
    }

    /// Forgets the charge of a request that was handled. A request that stays in the input is not charged again.
    pub(super) fn charged(&mut self, step: &Step) {
        if !matches!(step, Step::Stay(_)) {
            self.pending_charge = PendingCharge::Unseen;
        }
    }

    /// Returns the tenant time: nanoseconds since the tenants' epoch.
    fn tenant_time(&self) -> u64 {
        u64::try_from(self.ctx.tenants.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn instant(&self, time: u64) -> Instant {
        self.ctx.tenants.epoch + Duration::from_nanos(time)
    }

    /// Ready when a request that waits for a limit can be looked at again.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let timer = self.limit.get_or_insert_with(|| Box::pin(sleep_until(due)));
        let poll = poll_timer(timer, due, cx);
        if poll.is_ready() {
            self.limit = None;
        }
        poll
    }

    /// Ready when a request that waits for the in-flight limit of its tenant can be looked at again.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>, again: Instant) -> Poll<()> {
        match &self.member {
            Some(member) if !member.room(cx.waker()) => self.poll_due(cx, again),
            _ => Poll::Ready(()),
        }
    }

    /// Charges the bytes that were written, and updates the counts of requests in flight and of waiting bytes.
    /// Returns false if the output limit is reached. The session is then woken when the limit allows more.
    pub(super) fn charge_output(&mut self, cx: &mut Context<'_>, in_flight: usize) -> bool {
        if self.member.is_none() {
            return true;
        }
        let (now, progress) = (self.tenant_time(), self.replies.progress());
        let waiting = self.input.len() + self.replies.waiting();
        let Some(member) = &mut self.member else { return true };
        member.in_flight(in_flight);
        let over_share = member.buffers(waiting);
        if let Some(line) = over_share.filter(|_| self.closing.is_none()) {
            self.refuse_for_limit(&line);
            self.closing = Some(Close::Memory);
            return true;
        }
        if !member.meters_output() {
            return true;
        }
        match member.wrote(now, progress) {
            0 => true,
            wait => self.poll_due(cx, self.instant(now.saturating_add(wait))).is_ready(),
        }
    }

    /// Returns the scheduler identity under which this session queues for a lane.
    pub(super) fn scheduler_share(&self) -> Share {
        self.member.as_ref().map_or(Share::default(), |member| member.worker_tenant().share)
    }

    /// Returns the identity of this session for the lane's scheduler. `idle` is true if no request of it is under
    /// way there.
    pub(super) fn asks(&self, idle: bool) -> Asker {
        Asker { who: self.client.id, share: self.scheduler_share(), idle }
    }

    /// Counts this session against its tenant's limit on leases of one kind.
    ///
    /// # Errors
    /// Returns an error line if the tenant has reached that limit.
    pub(super) fn take_place(&mut self, limit: Limit) -> Result<(), ErrorLine> {
        self.member.as_mut().map_or(Ok(()), |member| member.take_place(limit))
    }

    /// Undoes [`Self::take_place`].
    pub(super) fn release_place(&mut self, limit: Limit) {
        if let Some(member) = &mut self.member {
            member.release_place(limit);
        }
    }

    /// Updates activity, reply sizes and counts after a lease has ended.
    pub(super) fn end_lease(&mut self) {
        let now = self.ctx.registry.now.get();
        self.activity.set_lease_state(now, false, false);
        self.activity.set_reply_due(now, false, true);
        self.replies.sizes().lease_ended();
        self.release_place(Limit::Leased);
    }

    /// Assigns the client to the tenant that the rules give for `user` and the client name `name`. A refusal
    /// changes nothing.
    ///
    /// # Errors
    /// Returns an error line if that tenant has reached its limit of clients.
    pub(super) fn assign(&mut self, user: Option<&str>, name: &[u8]) -> Result<(), ErrorLine> {
        let worker_tenant = self.tenant_of(user, name);
        if self.is_in_tenant(worker_tenant.as_ref()) {
            return Ok(());
        }
        let (from, progress) = (self.member.as_deref(), self.replies.progress());
        let next = worker_tenant
            .as_ref()
            .map(|worker_tenant| Member::join(worker_tenant, from, progress))
            .transpose()?;
        self.member = next.map(Box::new);
        self.policy = worker_tenant.and_then(|worker_tenant| worker_tenant.tenant.config.policy.clone());
        Ok(())
    }

    /// Returns the tenant that the rules give for `user` and the client name `name`.
    fn tenant_of(&self, user: Option<&str>, name: &[u8]) -> Option<Rc<WorkerTenant>> {
        let index = self.ctx.tenants.index();
        if index.tenants.is_empty() {
            return None;
        }
        let listener = index.listeners.get(self.ctx.listener).copied().flatten();
        let known = Known { identity: &self.client.known, user, listener, name };
        index.rules.decide(&known).and_then(|TenantId(at)| index.tenants.get(at).cloned())
    }

    /// Returns true if the session is in this tenant, under this configuration.
    fn is_in_tenant(&self, worker_tenant: Option<&Rc<WorkerTenant>>) -> bool {
        match (&self.member, worker_tenant) {
            (Some(member), Some(worker_tenant)) => Rc::ptr_eq(member.worker_tenant(), worker_tenant),
            (None, None) => true,
            _ => false,
        }
    }

    /// Follows a reload of users or tenants: assigns the client to its tenant by the new rules, and applies that
    /// tenant's new configuration. A client that is connected already is never refused because the tenant is
    /// full.
    ///
    /// # Errors
    /// Returns the reason to close if the client's user was removed or a subscription is denied now.
    pub(super) fn follow_reload(&mut self) -> Result<(), Close> {
        if let (Some(users), Some(login)) = (self.ctx.tenants.users(), &self.client.login) {
            let Some(user) = users.find(login) else {
                tracing::info!(
                    client = self.client.id,
                    peer = self.client.peer,
                    "respgate disconnects a client: its user was removed"
                );
                return Err(Close::Removed);
            };
            let identity = self.identity_of(&user);
            self.identity_stale = self.client.identity.as_ref().is_none_or(|mine| mine.id() != identity.id());
        }
        let worker_tenant = self.tenant_of(self.client.login.as_deref(), &self.client.name);
        if self.is_in_tenant(worker_tenant.as_ref()) {
            return Ok(());
        }
        let (now, progress) = (self.tenant_time(), self.replies.progress());
        self.policy =
            worker_tenant.as_ref().and_then(|worker_tenant| worker_tenant.tenant.config.policy.clone());
        self.member = match (worker_tenant, self.member.take()) {
            (Some(worker_tenant), Some(mut member))
                if member.worker_tenant().tenant.number == worker_tenant.tenant.number =>
            {
                member.change_tenant_config(&worker_tenant, now);
                self.pending_charge.cap_at(now.saturating_add(member.debt(now)));
                Some(member)
            }
            (worker_tenant, from) => {
                self.pending_charge.reset();
                worker_tenant.map(|worker_tenant| {
                    Box::new(Member::join_unchecked(&worker_tenant, from.as_deref(), progress))
                })
            }
        };
        match &self.policy {
            Some(policy) if self.fan_hears(|kind, name| !permits_words(policy, &[kind.begin(), name])) => {
                Err(self.close_denied_subscriber())
            }
            _ => Ok(()),
        }
    }

    /// As [`Self::assign`], with the client's current user and name.
    pub(super) fn reassign(&mut self) -> Result<(), ErrorLine> {
        let (user, name) = (self.client.login.clone(), self.client.name.to_vec());
        self.assign(user.as_deref(), &name)
    }
}

/// Returns true for commands that end something or concern the connection. They are never refused or delayed,
/// since that would only make a transaction or a session last longer.
fn ends_or_greets(name: &[u8]) -> bool {
    const FREE: [&[u8]; 7] = [b"EXEC", b"DISCARD", b"UNWATCH", b"QUIT", b"RESET", b"AUTH", b"HELLO"];
    (4..=7).contains(&name.len()) && FREE.iter().any(|free| name.eq_ignore_ascii_case(free))
}
