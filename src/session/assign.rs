//! Assigns a client to a tenant, and follows a reload of users or tenants.

use std::rc::Rc;

use super::Session;
use super::close::Close;
use super::denied::permits_words;
use crate::resp::error_line::ErrorLine;
use crate::tenant::WorkerTenant;
use crate::tenant::identity::{Known, TenantId};
use crate::tenant::limits::member::Member;

impl Session {
    /// Assigns the client to the tenant that the rules give for `user` and the client name `name`. A refusal
    /// changes nothing.
    ///
    /// # Errors
    /// Returns an error line if that tenant has reached its limit of clients.
    pub(super) fn assign(&mut self, user: Option<&str>, name: &[u8]) -> Result<(), ErrorLine> {
        self.measured.client_changed();
        let worker_tenant = self.tenant_of(user, name);
        if self.is_in_tenant(worker_tenant.as_ref()) {
            return Ok(());
        }
        let (from, progress) = (self.tenancy.member.as_deref(), self.output.replies.progress());
        let next = worker_tenant
            .as_ref()
            .map(|worker_tenant| Member::join(worker_tenant, from, progress))
            .transpose()?;
        self.tenancy.member = next.map(Box::new);
        self.keep_shard_channels();
        self.tenancy.policy =
            worker_tenant.and_then(|worker_tenant| worker_tenant.tenant.config.policy.clone());
        self.follow_read_policy();
        Ok(())
    }

    /// As [`Self::assign`], with the client's current user and name.
    pub(super) fn reassign(&mut self) -> Result<(), ErrorLine> {
        let (user, name) = (self.client.login.clone(), self.client.name.to_vec());
        self.assign(user.as_deref(), &name)
    }

    /// Returns the tenant that the rules give for `user` and the client name `name`.
    fn tenant_of(&self, user: Option<&str>, name: &[u8]) -> Option<Rc<WorkerTenant>> {
        let index = self.ctx.tenants.index();
        if index.tenants.is_empty() {
            return None;
        }
        let listener = index.listeners.get(&self.ctx.listener).copied();
        let known = Known { identity: &self.client.known, user, listener, name };
        index.rules.decide(&known).and_then(|TenantId(at)| index.tenants.get(at).cloned())
    }

    /// Takes over the newest settings of the listener and of its upstream. What already runs goes on.
    fn follow_settings(&mut self) {
        let Some(newest) = self.ctx.newest.get().filter(|newest| !Rc::ptr_eq(newest, &self.ctx)) else {
            return;
        };
        self.activity.set_timeouts(newest.config.timeouts);
        self.output.replies.set_limit(newest.config.max_reply_buffer);
        self.ctx = newest;
    }

    /// Returns true if the session is in this tenant, under this configuration.
    fn is_in_tenant(&self, worker_tenant: Option<&Rc<WorkerTenant>>) -> bool {
        match (&self.tenancy.member, worker_tenant) {
            (Some(member), Some(worker_tenant)) => Rc::ptr_eq(member.worker_tenant(), worker_tenant),
            (None, None) => true,
            _ => false,
        }
    }

    /// Follows a reload: takes over the listener's settings, assigns the client to its tenant by the new rules, and applies that
    /// tenant's new configuration. A client that is connected already is never refused because the tenant is
    /// full.
    ///
    /// # Errors
    /// Returns the reason to close if the client's user was removed or a subscription is denied now.
    pub(super) fn follow_reload(&mut self) -> Result<(), Close> {
        self.follow_settings();
        self.measured.client_changed();
        if let (Some(users), Some(login)) = (self.ctx.tenants.users(), &self.client.login) {
            let Some(user) = users.find(login) else {
                tracing::info!(
                    client = self.client.id,
                    peer = self.client.peer,
                    "respgate disconnects a client: its user was removed"
                );
                return Err(Close::Removed);
            };
            if self.has_lost_certificate(&user) {
                return Err(Close::Removed);
            }
            let identity = self.identity_of(&user);
            self.client.identity_stale =
                self.client.identity.as_ref().is_none_or(|mine| mine.id() != identity.id());
        }
        let worker_tenant = self.tenant_of(self.client.login.as_deref(), &self.client.name);
        if self.is_in_tenant(worker_tenant.as_ref()) {
            self.follow_read_policy();
            return Ok(());
        }
        let (now, progress) = (self.tenant_time(), self.output.replies.progress());
        self.tenancy.policy =
            worker_tenant.as_ref().and_then(|worker_tenant| worker_tenant.tenant.config.policy.clone());
        self.tenancy.member = match (worker_tenant, self.tenancy.member.take()) {
            (Some(worker_tenant), Some(mut member))
                if member.worker_tenant().tenant.number == worker_tenant.tenant.number =>
            {
                member.change_tenant_config(&worker_tenant, now);
                self.tenancy.pending_charge.cap_at(now.saturating_add(member.debt(now)));
                Some(member)
            }
            (worker_tenant, from) => {
                self.tenancy.pending_charge.reset();
                worker_tenant.map(|worker_tenant| {
                    Box::new(Member::join_unchecked(&worker_tenant, from.as_deref(), progress))
                })
            }
        };
        self.keep_shard_channels();
        self.follow_read_policy();
        match &self.tenancy.policy {
            Some(policy)
                if self.has_subscription(|kind, name| !permits_words(policy, &[kind.begin(), name])) =>
            {
                Err(self.close_denied_subscriber())
            }
            _ => Ok(()),
        }
    }
}
