//! Chooses the node at which a session leases a connection.

use std::rc::Rc;

use super::place::Place;
use crate::cluster::slot::Slot;
use crate::command::{self, Found, Tracking, Verb};
use crate::resp::error_line::ErrorLine;
use crate::resp::request::Request;
use crate::resp::write;
use crate::session::step::{AsyncOp, Pause, Step};
use crate::session::{Session, refusal};
use crate::tenant::limits::refusal::Limit;
use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::leased::lease::Lease;
use crate::upstream::shards::Shard;

/// The error for CLIENT TRACKING, whose connection sees the keys of one node only.
pub(in crate::session) const NO_TRACKING: &[u8] =
    b"-ERR respgate: CLIENT TRACKING is not possible in a cluster";

/// A transaction whose MULTI was answered and not sent, because no command has said yet at which node it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::session) struct UnplacedTransaction {
    /// True if a command in it was refused, so that EXEC must not run it.
    pub(in crate::session) poisoned: bool,
}

/// Where a session leases a connection.
#[derive(Clone)]
pub(in crate::session) enum LeaseTarget {
    /// At the home shard, by the connections for commands without keys.
    Home,
    /// At the shard that serves this slot.
    Slot(Slot),
    /// At this shard, to which the slot is being moved: every command must follow an ASKING.
    Importing(Rc<Shard>),
}

impl Session {
    /// Returns true if MULTI was answered and not sent yet.
    pub(in crate::session) fn has_unplaced_transaction(&self) -> bool {
        self.lanes.cluster.as_ref().is_some_and(|lanes| lanes.transaction.is_some())
    }

    /// Returns the step of the first command behind a MULTI that was not sent: it leases a connection at its node. `None` if there is no
    /// such MULTI.
    #[cold]
    pub(in crate::session) fn place_transaction(&self) -> Option<Step> {
        self.has_unplaced_transaction().then(|| match self.output.awaited() {
            0 => Step::Stay(Pause::AsyncOp(AsyncOp::Lease)),
            _ => Step::Stay(Pause::Replies),
        })
    }

    /// Returns the step of a command that would need a lease, if it gets none in a cluster. No reply is due.
    #[cold]
    pub(in crate::session) fn instead_of_lease(&mut self, request: &Request<'_>) -> Option<Step> {
        let refused = match command::find(request) {
            Some(Found::Spec(spec)) => match spec.verb {
                Verb::Multi if command::arity_ok(spec, request.argc()) => {
                    if let Err(line) = self.tenancy.acquire(Limit::Transactions) {
                        self.refuse_for_limit(&line);
                        return Some(Step::Done);
                    }
                    self.answer(write::ok);
                    self.lanes.cluster.get_or_insert_default().transaction =
                        Some(UnplacedTransaction::default());
                    return Some(Step::Done);
                }
                Verb::ClientTracking => Tracking::of(request).on.then_some(NO_TRACKING),
                _ => (self.place_of(request) == Place::Several).then_some(refusal::CROSS_SLOT),
            },
            _ => (self.place_of(request) == Place::Several).then_some(refusal::CROSS_SLOT),
        }?;
        self.refuse(refused);
        Some(Step::Done)
    }

    /// Returns where the request at the front of the input needs a lease.
    pub(in crate::session) fn lease_target(&mut self) -> LeaseTarget {
        if !self.ctx.upstream.is_cluster() {
            return LeaseTarget::Home;
        }
        let mut target = LeaseTarget::Home;
        let input = self.input.lend();
        self.handle_with(input.front(), |session, found| {
            if let Ok(request) = found
                && let Place::Slot(slot) = session.place_of(request)
            {
                target = LeaseTarget::Slot(slot);
            }
            Step::Stay(Pause::Replies)
        });
        self.input.put_back(input, 0);
        target
    }

    /// Leases a connection. The future returns it with the shard at which it is; `None` stands for the connections of commands without
    /// keys. Its error is the error line for the client.
    pub(in crate::session) fn leasing(
        &self,
        target: &LeaseTarget,
        key: &ConnectionKey,
    ) -> impl Future<Output = Result<(Lease, Option<Rc<Shard>>), ErrorLine>> + use<> {
        let (replies, share) = (self.output.replies.clone(), self.tenancy.share());
        let (upstream, target, key) = (self.ctx.upstream.clone(), target.clone(), key.clone());
        async move {
            match (target, upstream.present_or_former_shards()) {
                (LeaseTarget::Slot(slot), Some(shards)) => {
                    let (lease, shard) = shards.lease(slot, &key, &replies, share).await?;
                    // A switch may have replaced the cluster by one primary, which has no shards.
                    Ok((lease, Some(shard).filter(|_| upstream.is_cluster())))
                }
                (LeaseTarget::Importing(shard), Some(_)) => {
                    Ok((shard.lease(&key, &replies, share).await?, Some(shard)))
                }
                _ => Ok((upstream.lease(&key, &replies, share).await?, None)),
            }
        }
    }

    /// Returns the shard of a target now; `None` for the home shard.
    pub(in crate::session) fn shard_of(&self, target: &LeaseTarget) -> Option<Rc<Shard>> {
        match target {
            LeaseTarget::Home => None,
            LeaseTarget::Slot(slot) => self.ctx.upstream.shards().map(|shards| shards.of(*slot)),
            LeaseTarget::Importing(shard) => Some(shard.clone()),
        }
    }

    /// Handles the refusal of a lease for the request at the front of the input, if a transaction begins with it: answers EXEC and
    /// DISCARD as those of a transaction that was discarded, and makes EXEC fail otherwise. Returns the error line for the client.
    pub(in crate::session) fn fail_unplaced_transaction(&mut self, line: ErrorLine) -> ErrorLine {
        if !self.has_unplaced_transaction() {
            return line;
        }
        let mut ends = false;
        let input = self.input.lend();
        self.handle_with(input.front(), |_, found| {
            ends = matches!(
                found.ok().and_then(command::find),
                Some(Found::Spec(spec)) if matches!(spec.verb, Verb::Exec | Verb::Discard)
            );
            Step::Stay(Pause::Replies)
        });
        self.input.put_back(input, 0);
        if let Some(lanes) = &mut self.lanes.cluster {
            lanes.transaction = (!ends).then_some(UnplacedTransaction { poisoned: true });
        }
        if ends { refusal::exec_aborted_because(&line) } else { line }
    }
}
