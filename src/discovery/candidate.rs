//! Decides when to ask the replica that a leading Sentinel has chosen for its role, before the majority names it. Pure.
//! Discovery uses it only with [`SwitchRule::Leader`](crate::discovery::config::SwitchRule::Leader).

use std::time::Duration;

use tokio::time::Instant;

use crate::topology::Address;

/// The time between two queries to a chosen replica.
const PACE: Duration = Duration::from_millis(50);

/// Holds the replica that a leading Sentinel chose last, and when to ask it for its role.
#[derive(Debug, Default)]
pub(super) struct CandidateProbe {
    chosen: Option<Chosen>,
    ticket: u64,
}

#[derive(Debug)]
struct Chosen {
    /// The Sentinel that chose the replica.
    leader: Address,
    replica: Address,
    due: Instant,
    in_flight: bool,
}

impl CandidateProbe {
    /// Notes that `leader`, which leads a failover, has chosen `replica`. The first query is due at once.
    pub(super) fn choose(&mut self, leader: &Address, replica: Address, now: Instant) {
        let known =
            self.chosen.as_ref().is_some_and(|chosen| chosen.leader == *leader && chosen.replica == replica);
        // `+selected-slave` and `+promoted-slave` name the same replica: the second event must not restart the queries.
        if !known {
            self.chosen = Some(Chosen { leader: leader.clone(), replica, due: now, in_flight: false });
        }
    }

    /// Drops the chosen replica unless `leads` returns true for the Sentinel that chose it.
    pub(super) fn retain(&mut self, leads: impl FnOnce(&Address) -> bool) {
        self.chosen = self.chosen.take().filter(|chosen| leads(&chosen.leader));
    }

    /// Starts the query that is due now, if any, and returns its ticket and the replica's address.
    pub(super) fn start(&mut self, now: Instant) -> Option<(u64, Address)> {
        let chosen = self.chosen.as_mut().filter(|chosen| !chosen.in_flight && chosen.due <= now)?;
        (chosen.in_flight, chosen.due) = (true, now + PACE);
        self.ticket += 1;
        Some((self.ticket, chosen.replica.clone()))
    }

    /// Handles the answer of the query `ticket`. Returns the replica's address if the replica says that it is the
    /// primary.
    pub(super) fn answered(&mut self, ticket: u64, primary: bool) -> Option<Address> {
        let chosen = self.chosen.as_mut().filter(|chosen| chosen.in_flight && ticket == self.ticket)?;
        chosen.in_flight = false;
        primary.then(|| chosen.replica.clone())
    }

    /// Returns when [`CandidateProbe::start`] has a query to start.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.chosen.as_ref().filter(|chosen| !chosen.in_flight).map(|chosen| chosen.due)
    }
}
