//! Serves the shard channels of a client in front of a cluster: those of any slots. They take no lease, so the session goes on using the
//! other lanes beside them, and other subscriptions come by a lease or by fan-in.

use std::collections::HashSet;
use std::rc::Rc;

use crate::resp::error_line::ErrorLine;
use crate::resp::pubsub::Kind;
use crate::resp::request::Request;
use crate::session::step::Step;
use crate::session::{Session, local, refusal};
use crate::tenant::limits::refusal::Limit;
use crate::upstream::connection::identity::Identity;
use crate::upstream::shared::fair::fair_queue::Share;

/// The limits of a tenant that count a client whose shard channels have connections to themselves.
const LIMITS: [Limit; 2] = [Limit::Leased, Limit::Subscribed];

impl Session {
    /// Returns true if subscriptions of this kind come neither by a lease nor by the fan-in of one node.
    pub(in crate::session) fn has_own_way(&self, kind: Kind) -> bool {
        kind == Kind::Shard && (self.lanes.shard_channels.is_some() || self.ctx.upstream.is_cluster())
    }

    /// Returns true if the client has any shard channel of a cluster.
    pub(in crate::session) fn has_shard_channels(&self) -> bool {
        self.lanes.shard_channels.as_ref().is_some_and(|channels| channels.is_subscribed())
    }

    /// Returns true if the client has shard channels on connections to themselves.
    pub(in crate::session) fn has_private_channels(&self) -> bool {
        self.lanes.shard_channels.as_ref().is_some_and(|channels| channels.is_private())
    }

    /// Begins or ends shard channels. All earlier replies must have been delivered.
    pub(in crate::session) fn change_shard_channels(&mut self, request: &Request<'_>, begins: bool) -> Step {
        if begins {
            if let Err(line) = self.begin_shard_channels(request) {
                self.end_if_unsubscribed();
                self.refuse(&line);
            }
            return Step::Done;
        }
        match &self.lanes.shard_channels {
            // Confirmations are shown whatever CLIENT REPLY says, as on the server, but they use up a single skip.
            Some(channels) => {
                channels.unsubscribe(request);
                self.client.mutes();
                self.end_if_unsubscribed();
            }
            None => local::unsubscribe(self, request),
        }
        Step::Done
    }

    fn begin_shard_channels(&mut self, request: &Request<'_>) -> Result<(), ErrorLine> {
        let upstream = self.ctx.upstream.clone();
        let Some(identity) = self.client.identity.clone() else { return Ok(()) };
        let private = (!self.uses_fan_in()).then(|| self.tenancy.share());
        self.open_shard_channels(&identity, private);
        let Some(channels) = &self.lanes.shard_channels else { return Ok(()) };
        if let Some(line) = channels.hold_overflow(request) {
            return Err(line);
        }
        if channels.would_exceed(request) {
            return Err(refusal::too_many_subscriptions());
        }
        if channels.is_private() {
            upstream.counters.leased.inc();
            if let Err(line) = LIMITS.into_iter().try_for_each(|limit| self.tenancy.acquire(limit)) {
                self.end_if_unsubscribed();
                self.refuse_for_limit(&line);
                return Ok(());
            }
        } else {
            upstream.counters.fanin.inc();
            if upstream.fan_in_full(request) {
                return Err(refusal::SUBSCRIPTIONS_FULL.into());
            }
        }
        let mute = self.client.mutes();
        if let Some(channels) = &self.lanes.shard_channels {
            channels.subscribe(request, mute);
            self.view.set_shard_channels(Some(channels.counter()));
        }
        Ok(())
    }

    /// Takes over the shard channels of a lease, because a cluster has replaced the only primary.
    pub(in crate::session) fn adopt_shard_channels(&mut self, names: HashSet<Box<[u8]>>) {
        let Some(identity) = self.client.identity.clone() else { return };
        if names.is_empty() {
            return;
        }
        self.open_shard_channels(&identity, Some(self.tenancy.share()));
        if let Some(channels) = &self.lanes.shard_channels {
            channels.adopt(names);
            self.view.set_shard_channels(Some(channels.counter()));
        }
    }

    /// Opens the client's shard channels, unless they are open. With `private`, they have connections to themselves.
    fn open_shard_channels(&mut self, identity: &Rc<Identity>, private: Option<Share>) {
        if self.lanes.shard_channels.is_none() {
            let sink = (self.client.resp, &self.output.replies);
            self.lanes.shard_channels =
                self.ctx.upstream.shard_channels(identity, sink, private).map(Box::new);
            self.note_subscribed();
        }
    }

    /// Ends all shard channels of a cluster.
    pub(in crate::session) fn end_shard_channels(&mut self) {
        let Some(channels) = self.lanes.shard_channels.take() else { return };
        self.view.set_shard_channels(None);
        self.note_unsubscribed();
        if channels.is_private() && !self.view.has_lease() {
            self.tenancy.release(Limit::Leased);
        }
    }

    /// Counts the client's shard channels against the limits of its tenant, even beyond them: the client has them already.
    pub(in crate::session) fn keep_shard_channels(&mut self) {
        if self.has_private_channels()
            && let Some(member) = &mut self.tenancy.member
        {
            LIMITS.into_iter().for_each(|limit| member.keep(limit));
        }
    }
}
