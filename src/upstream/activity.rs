//! What one worker does at its upstream at this moment, for an operator's orders.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use super::connection::identity::Identity;
use super::leased::state::Vacate;
use super::parts::Parts;
use super::shared::lane::Order;
use crate::resp::Resp;
use crate::secret::Credentials;
use crate::topology::{Generation, Topology};

/// What one worker does at its upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamActivity {
    /// True if the worker sends no new command, because a failover or an operator holds commands.
    pub holds: bool,
    /// The primary that the worker follows.
    pub generation: Option<Generation>,
    /// The number of requests whose replies are due. Requests that block do not count.
    pub unanswered: usize,
    /// The number of clients whose commands wait.
    pub waiting: u64,
    /// The number of open connections, idle ones included.
    pub connections: u64,
    /// The number of connections that a reconnect has not replaced yet.
    pub former: usize,
}

impl UpstreamActivity {
    /// Returns true if the worker does as `topology` says.
    pub fn follows(&self, topology: &Topology) -> bool {
        match topology {
            Topology::Known(primary) => !self.holds && self.generation == Some(primary.generation),
            Topology::Failing(primary, _) => self.holds && self.generation == Some(primary.generation),
            Topology::Unknown(_) => self.generation.is_none(),
        }
    }
}

/// An identity that sessions use at the upstream.
#[derive(Clone, Debug)]
pub struct IdentityUse {
    /// Its credentials; `None` if connections send no AUTH.
    pub credentials: Option<Arc<Credentials>>,
    /// True for respgate's own identity.
    pub is_own: bool,
    /// The databases in which it has connections.
    pub databases: BTreeSet<u32>,
    /// True if it has connections that speak RESP3.
    pub resp3: bool,
}

impl Parts {
    /// Returns what this worker does at the upstream.
    pub(in crate::upstream) fn activity(&self) -> UpstreamActivity {
        let lanes = self.lanes.every_lane();
        // Requests that wait for a connection are not at the server.
        let open = lanes.iter().filter(|lane| lane.is_connected());
        let shared: usize = open.map(|lane| lane.queue.borrow().waiting()).sum();
        let replacing = lanes.iter().filter(|lane| lane.ordered() == Some(Order::Replace)).count();
        let counters = &self.dialing.reports.counters;
        let connections = counters.shared_open.get() + counters.leased_open.get() + counters.fanin_open.get();
        let (at_replicas, replacing_at_replicas) = self.replicas.connections();
        UpstreamActivity {
            holds: self.dialing.hold.is_failing_over(),
            generation: self.dialing.hold.generation(),
            unanswered: shared + self.pool.unanswered(),
            waiting: counters.clients_held.get(),
            connections: connections + at_replicas + self.pool.idle() as u64,
            former: replacing + replacing_at_replicas + self.pool.vacating(),
        }
    }

    /// Returns the identities that sessions of this worker use.
    pub(in crate::upstream) fn identities_in_use(&self) -> Vec<IdentityUse> {
        let mut uses: Vec<(Rc<Identity>, IdentityUse)> = Vec::new();
        let lanes = self.lanes.every_lane();
        let shared = lanes.iter().map(|lane| {
            let key = lane.key();
            (key.identity.clone(), key.database, key.resp == Resp::V3)
        });
        let leased =
            self.pool.leased_as().into_iter().map(|(identity, database)| (identity, database, false));
        let subscribers = self.fans.identities().into_iter().map(|identity| (identity, 0, true));
        for (identity, database, resp3) in shared.chain(leased).chain(subscribers) {
            let Ok(credentials) = identity.credentials() else { continue };
            let at = uses.iter().position(|(known, _)| known.id() == identity.id());
            let at = at.unwrap_or_else(|| {
                let is_own = identity.id() == self.dialing.identities.own().id();
                let databases = BTreeSet::new();
                uses.push((identity, IdentityUse { credentials, is_own, databases, resp3: false }));
                uses.len() - 1
            });
            if let Some((_, used)) = uses.get_mut(at) {
                used.databases.insert(database);
                used.resp3 |= resp3;
            }
        }
        uses.into_iter().map(|(_, used)| used).collect()
    }

    /// Opens new connections to the same primary, and retires the present ones: shared ones after the next connection is open, leased
    /// ones as soon as their sessions can leave them unnoticed, and those of fan-in and to replicas at once.
    pub(in crate::upstream) fn reconnect(&self) {
        self.pool.outdate(None);
        self.pool.vacate(Vacate::Unnoticed);
        self.fans.cut(None);
        self.lanes.replace_all();
        self.replicas.replace_all();
    }
}
