//! Asks the replica that a leading Sentinel has chosen for its role, before the majority names it. Pure; used only
//! with [`SwitchRule::Leader`](crate::discovery::config::SwitchRule::Leader).

use std::time::Duration;

use tokio::time::Instant;

use crate::topology::Address;

/// A chosen replica is asked this far apart.
const PACE: Duration = Duration::from_millis(50);

/// The replica that was chosen last, and when to ask it.
#[derive(Debug, Default)]
pub(super) struct CandidateProbe {
    chosen: Option<Chosen>,
    ticket: u64,
}

#[derive(Debug)]
struct Chosen {
    /// Who chose it.
    leader: Address,
    replica: Address,
    due: Instant,
    in_flight: bool,
}

impl CandidateProbe {
    /// A Sentinel that leads a failover has chosen this replica.
    pub(super) fn choose(&mut self, leader: &Address, replica: Address, now: Instant) {
        let known = self.chosen.as_ref().is_some_and(|it| it.leader == *leader && it.replica == replica);
        if !known {
            self.chosen = Some(Chosen { leader: leader.clone(), replica, due: now, in_flight: false });
        }
    }

    /// Gives up what `leads` no longer finds true of its leader.
    pub(super) fn retain(&mut self, leads: impl FnOnce(&Address) -> bool) {
        self.chosen = self.chosen.take().filter(|chosen| leads(&chosen.leader));
    }

    /// The question to ask now, if one is due: its ticket and the address.
    pub(super) fn start(&mut self, now: Instant) -> Option<(u64, Address)> {
        let chosen = self.chosen.as_mut().filter(|chosen| !chosen.in_flight && chosen.due <= now)?;
        (chosen.in_flight, chosen.due) = (true, now + PACE);
        self.ticket += 1;
        Some((self.ticket, chosen.replica.clone()))
    }

    /// Takes the answer: the replica's address, if it says that it is the primary.
    pub(super) fn answered(&mut self, ticket: u64, primary: bool) -> Option<Address> {
        let chosen = self.chosen.as_mut().filter(|chosen| chosen.in_flight && ticket == self.ticket)?;
        chosen.in_flight = false;
        primary.then(|| chosen.replica.clone())
    }

    /// When [`CandidateProbe::start`] has something to do.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.chosen.as_ref().filter(|chosen| !chosen.in_flight).map(|chosen| chosen.due)
    }
}
