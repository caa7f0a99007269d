//! Keeps a lease at the node of its commands' keys, in a cluster.
//!
//! A lease that nothing pins ends when a command belongs to another node. State that pins it stays at its node: keys of another slot are
//! refused in a transaction and beside watched keys, as a node refuses them, and other commands run beside the lease. Settings of the
//! connection, such as NO-TOUCH, move with a command that needs a lease.

use super::placement::MAX_REDIRECTS;
use super::{LeaseEnd, Leased};
use crate::cluster::redirect::Redirect;
use crate::cluster::slot::Slot;
use crate::command::{self, Found, Tracking, Verb};
use crate::hint::Hint;
use crate::resp::Resp;
use crate::resp::pubsub::Kind;
use crate::resp::request::{self, Request};
use crate::session::cluster::{LeaseTarget, NEEDS_OWN, NO_TRACKING, Place};
use crate::session::shared_pubsub::subscription_change;
use crate::session::step::{AsyncOp, Pause, Step};
use crate::session::{Session, refusal};

impl Leased {
    /// Returns true while a failover of the lease's shard is under way.
    pub(super) fn is_holding(&self, session: &Session) -> bool {
        match &self.placement.shard {
            Some(shard) => shard.holding(),
            None => session.ctx.upstream.holding(),
        }
    }

    /// Returns the step of a request that cannot go by this lease, in a cluster; `None` if it can.
    pub(super) fn admit_placed(&mut self, session: &mut Session, request: &Request<'_>) -> Option<Step> {
        let in_transaction = self.pins.transaction.is_some();
        // Shard channels have links of their own.
        if !in_transaction && changes_shard_channels(request) {
            return None;
        }
        if !in_transaction && !self.pins.watches() {
            self.placement.slot = None;
        }
        // Such a client may only change its subscriptions, and gets an error for all else, wherever its keys are.
        if self.pins.subscribed() && session.client.resp == Resp::V2 && !changes_subscriptions(request) {
            return None;
        }
        if !in_transaction && begins_tracking(request) {
            return Some(self.when_answered(|_| {
                session.refuse(NO_TRACKING);
                Step::Done
            }));
        }
        let place = match session.place_of(request) {
            // In a transaction, it asks the transaction's node.
            _ if in_transaction && counts_subscribers(request) => Place::Home,
            place => place,
        };
        match place {
            Place::Home if !in_transaction && session.is_for_shards(request) => Some(self.run_aside()),
            Place::Home => self.admit_unplaced(),
            Place::Several if in_transaction => Some(self.refuse_and_poison(session, refusal::CROSS_SLOT)),
            Place::Several => Some(self.run_aside()),
            Place::Slot(slot) if in_transaction => self.admit_to_transaction(session, slot),
            Place::Slot(slot) => self.admit_with_slot(session, request, slot),
        }
    }

    /// A command without keys goes by any node where the session has state, and else by the home shard.
    fn admit_unplaced(&self) -> Option<Step> {
        let leaves = self.placement.shard.is_some() && !self.pins.any() && self.used;
        leaves.then_some(Step::Stay(Pause::Replies))
    }

    /// Returns true if the lease is at the node that serves a slot.
    fn is_at(&self, session: &Session, slot: Slot) -> bool {
        let shard = session.ctx.upstream.shards().map(|shards| shards.of(slot));
        match (&self.placement.shard, shard) {
            // The node to which the slot is being moved.
            (Some(known), _)
                if self.placement.asks && known.generation() == Some(self.lease.generation()) =>
            {
                true
            }
            (_, Some(shard)) => shard.generation() == Some(self.lease.generation()),
            (_, None) => true,
        }
    }

    fn admit_to_transaction(&mut self, session: &mut Session, slot: Slot) -> Option<Step> {
        match self.placement.slot {
            Some(known) if known != slot => Some(self.refuse_and_poison(session, refusal::CROSS_SLOT)),
            Some(_) => None,
            None if self.is_at(session, slot) => {
                self.placement.slot = Some(slot);
                None
            }
            // What an unknown command did to the connection cannot move.
            None if self.pins.is_pinned_for_unknown() || self.pins.fieldsets => {
                Some(self.refuse_and_poison(session, NEEDS_OWN))
            }
            // The commands before this one had no keys, so the transaction may still move.
            None => Some(self.when_answered(|leased| {
                leased.placement.slot = Some(slot);
                leased.leave_for(LeaseTarget::Slot(slot));
                Step::Stay(Pause::Replies)
            })),
        }
    }

    fn admit_with_slot(&mut self, session: &mut Session, request: &Request<'_>, slot: Slot) -> Option<Step> {
        let here = self.is_at(session, slot);
        if !self.pins.any() {
            if here && is_watch(request) {
                self.placement.slot = Some(slot);
            }
            // The lease ends once its replies have come.
            return (!here).then_some(Step::Stay(Pause::Replies));
        }
        if is_watch(request) {
            if self.placement.slot.is_some_and(|known| known != slot) || !here {
                return Some(self.when_answered(|_| {
                    session.refuse(refusal::CROSS_SLOT);
                    Step::Done
                }));
            }
            self.placement.slot = Some(slot);
        }
        if here {
            return None;
        }
        if self.pins.only_settings() && session.route(request).needs_lease() {
            return Some(self.when_answered(|leased| {
                leased.leave_for(LeaseTarget::Slot(slot));
                Step::Stay(Pause::Replies)
            }));
        }
        Some(self.run_aside())
    }

    /// Runs a command on the shared lanes while the session keeps the lease.
    fn run_aside(&mut self) -> Step {
        if !self.pins.any() && !self.for_session {
            return Step::Stay(Pause::Replies);
        }
        self.when_answered(|leased| {
            leased.decided_end = Some(LeaseEnd::Beside(Box::new(AsyncOp::Aside)));
            Step::Stay(Pause::Replies)
        })
    }

    /// Has the session go on at another node.
    fn leave_for(&mut self, target: LeaseTarget) {
        self.placement.moves_to = Some(target);
        self.decided_end = Some(LeaseEnd::Lost);
    }

    /// Handles an error by which a node of a cluster says that it did not run the front request, because another one must. Returns true
    /// if `frame` is such an error. The session then leaves the connection, and sends the request where it belongs.
    pub(super) fn is_redirected(&mut self, session: &Session, frame: &[u8]) -> bool {
        let Some(shards) = session.ctx.upstream.shards() else { return false };
        if !self.awaits_judgement() {
            return false;
        }
        let reason = frame.strip_prefix(b"-EXECABORT Transaction discarded because of: ").unwrap_or(frame);
        let Some(redirect) = Redirect::of(reason) else { return false };
        if matches!(redirect, Redirect::Moved { .. } | Redirect::Ask { .. }) {
            self.placement.redirects += 1;
            // A script that writes such lines itself would run for ever.
            if self.placement.redirects > MAX_REDIRECTS {
                return false;
            }
        }
        let generation = self.lease.generation();
        let asked = self.placement.shard.as_ref().and_then(|shard| shard.address());
        let asked = asked.or_else(|| session.ctx.upstream.primary().map(|primary| primary.address.clone()));
        self.placement.moves_to = match redirect {
            Redirect::Moved { slot, to } => {
                let to = to.address(asked.as_ref());
                // A script can forge this line, so it sends no other client's commands elsewhere.
                let forged = self.is_front_forgeable();
                if let Some(shard) = to.as_ref().filter(|_| !forged).and_then(|to| shards.at(to)) {
                    shards.moved(slot, &shard);
                }
                if let Some(to) = to {
                    session.ctx.upstream.hint(Hint::Moved { slot, to });
                }
                Some(LeaseTarget::Slot(slot))
            }
            Redirect::Ask { slot, to } => {
                shards.meet_moving(slot);
                let shard = to.address(asked.as_ref()).and_then(|to| shards.at(&to));
                Some(shard.map_or(LeaseTarget::Slot(slot), LeaseTarget::Importing))
            }
            Redirect::ClusterDown => {
                session.ctx.upstream.hint(Hint::ClusterDown(generation));
                None
            }
            Redirect::TryAgain => None,
        };
        true
    }

    /// Returns the error line for a request that nodes have redirected too often, given the last redirect.
    pub(super) fn redirected_too_often(&self, session: &Session, frame: &[u8]) -> Option<Vec<u8>> {
        (self.placement.redirects > MAX_REDIRECTS && Redirect::of(frame).is_some()).then(|| {
            let name = &session.ctx.upstream_config.name;
            let mut line = format!(
                "-ERR respgate: the nodes of the cluster redirected this command too often (upstream '{name}'); the last one said: "
            )
            .into_bytes();
            line.extend(frame.iter().skip(1).filter(|byte| !byte.is_ascii_control()));
            line.extend_from_slice(b"\r\n");
            line
        })
    }

    /// Returns where the session goes on after its connection is lost: `requests` are sent again there.
    pub(super) fn next_target<'a>(
        &mut self,
        session: &Session,
        requests: impl Iterator<Item = Request<'a>>,
    ) -> LeaseTarget {
        if let Some(target) = self.placement.moves_to.take() {
            return target;
        }
        if let Some(slot) = self.placement.slot {
            return LeaseTarget::Slot(slot);
        }
        let mut places = requests.map(|request| session.place_of(&request));
        let slot = places.find_map(|place| match place {
            Place::Slot(slot) => Some(slot),
            Place::Home | Place::Several => None,
        });
        slot.map_or(LeaseTarget::Home, LeaseTarget::Slot)
    }

    /// Sends ASKING before a request, if the slot of its keys is being moved to this node. Within a transaction the node still knows it.
    pub(super) fn ask_first(&mut self, begins: bool) {
        if self.placement.asks && (begins || self.pins.transaction.is_none()) {
            self.send_restoring(1, &asking());
        }
    }
}

fn asking() -> Vec<u8> {
    let mut frame = Vec::new();
    request::encode(&[b"ASKING"], &mut frame);
    frame
}

fn changes_subscriptions(request: &Request<'_>) -> bool {
    matches!(command::find(request), Some(Found::Spec(spec)) if subscription_change(spec.verb).is_some())
}

fn counts_subscribers(request: &Request<'_>) -> bool {
    matches!(command::find(request), Some(Found::Spec(spec)) if spec.name == "PUBSUB|SHARDNUMSUB")
}

/// Returns true if a request begins or ends shard channels.
pub(super) fn changes_shard_channels(request: &Request<'_>) -> bool {
    matches!(
        command::find(request),
        Some(Found::Spec(spec)) if matches!(subscription_change(spec.verb), Some((Kind::Shard, _)))
    )
}

fn begins_tracking(request: &Request<'_>) -> bool {
    matches!(command::find(request), Some(Found::Spec(spec)) if spec.verb == Verb::ClientTracking && Tracking::of(request).on)
}

fn is_watch(request: &Request<'_>) -> bool {
    matches!(command::find(request), Some(Found::Spec(spec)) if spec.verb == Verb::Watch)
}
