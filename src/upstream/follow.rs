//! Following discovery: a newer primary, a failover that has begun, no primary at all.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;

use super::Upstream;
use super::shared::lane::Order;
use crate::topology::{Generation, Outage, Primary, ServerInfo, Topology};

impl Upstream {
    pub(super) async fn follow(self: Rc<Self>, mut topology: watch::Receiver<Topology>) {
        loop {
            let newest = topology.borrow_and_update().clone();
            self.adopt(&newest);
            if topology.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes over what discovery says. Every connection to a superseded primary is cut here, before anything
    /// else can be written to it.
    pub(super) fn adopt(&self, topology: &Topology) {
        match topology {
            Topology::Unknown(outage) => {
                *self.fault.borrow_mut() = outage.to_string();
                let refused = matches!(**outage, Outage::Refused(_));
                self.never_authenticated.set(refused && self.identities.own().never_worked());
                if let Some(before) = self.primary.take() {
                    self.timelines.named(before.generation, self.drained());
                    self.cut(None);
                }
                self.begin_hold();
                if self.never_authenticated.get() {
                    self.every_lane().iter().for_each(|lane| lane.look_again());
                }
            }
            Topology::Failing(primary, sign) => {
                self.follow_primary(primary);
                *self.fault.borrow_mut() = sign.to_string();
                self.timelines.sign(primary.generation, &sign.to_string(), true);
                self.hold();
            }
            Topology::Known(primary) => {
                self.follow_primary(primary);
                self.release();
            }
        }
        self.news.notify_waiters();
    }

    pub(super) fn follow_primary(&self, primary: &Arc<Primary>) {
        if let Some(server) = &primary.server {
            *self.server.borrow_mut() = Some(Rc::new(ServerInfo::clone(server)));
        }
        self.never_authenticated.set(false);
        let before = self.primary.replace(Some(primary.clone()));
        match before {
            Some(before) if before.generation == primary.generation => {}
            before => {
                if let Some(before) = before {
                    self.timelines.named(before.generation, self.drained());
                }
                self.timelines.verified(primary);
                // An outage that nobody's command met must not count against the next command.
                self.end_hold();
                self.auth_required.set(false);
                let own = self.identities.own().credentials();
                self.auth_unclear.set(matches!(own, Ok(None)) && primary.server.is_none());
                self.learned.take();
                self.one_user.take();
                self.cut(Some(primary.generation));
            }
        }
    }

    /// Whether every shared connection is open and has answered everything.
    pub(super) fn drained(&self) -> bool {
        self.every_lane().iter().all(|lane| lane.is_drained())
    }

    /// Cuts every connection that is not of the `newest` generation.
    pub(super) fn cut(&self, newest: Option<Generation>) {
        for lane in self.every_lane() {
            lane.order(Order::Cut);
        }
        self.leases.cut(newest);
        self.fans.borrow().values().for_each(|fan| fan.cut(newest));
    }

    /// A reply came from the primary of this generation.
    pub fn succeeded(&self, generation: Generation) {
        if self.proven.replace(Some(generation)) != Some(generation) {
            self.timelines.succeeded(generation);
        }
    }

    /// Counts what became of the requests of a lost connection.
    pub fn note_settled(&self, resent: usize, unknown: usize, migrated: usize) {
        let (resent, unknown, migrated) = (resent as u64, unknown as u64, migrated as u64);
        self.counters.resent.add(resent);
        self.counters.outcome_unknown.add(unknown);
        self.counters.migrated.add(migrated);
        self.timelines.settled(resent, unknown, migrated);
    }
}
