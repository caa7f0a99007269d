//! The part of the machine's state that only discovery by Sentinels has: their answers, and what follows from them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::candidate::CandidateProbe;
use crate::discovery::config::{SentinelConfig, SwitchRule};
use crate::discovery::consensus::{Consensus, ConsensusVerdict, same_node};
use crate::discovery::event::{Claim, FailoverStep, Notice, SentinelEvent, View};
use crate::discovery::handover::{COORDINATED, Handover, Parties};
use crate::discovery::sentinel_table::SentinelTable;
use crate::discovery::sign::Signs;
use crate::discovery::verify::Verifier;
use crate::topology::{Address, Outage, Sign};

/// The least time between two rounds of queries to the Sentinels, however many events and hints arrive.
pub(super) const ASK_MIN: Duration = Duration::from_millis(25);

/// The time between two rounds of queries while a sign of a failover is active. Events alone are not enough: an ACL may
/// forbid respgate to subscribe to them, and they may be lost.
const ASK_IN_FAILOVER: Duration = Duration::from_millis(100);

/// The state that only discovery by Sentinels has. It is absent with a fixed address.
#[derive(Debug)]
pub(super) struct Sentinels {
    pub(super) table: SentinelTable,
    pub(super) consensus: Consensus,
    pub(super) signs: Signs,
    switch: SwitchRule,
    pub(super) candidate: CandidateProbe,
    pub(super) handover: Handover,
    /// True if discovery follows `accepted` before the majority names it.
    ahead_of_majority: bool,
    /// Maps an announced address to the address to dial.
    nat: HashMap<Address, Address>,
    /// The time between two rounds of queries while no event arrives.
    poll_interval: Duration,
    /// The claim that discovery follows, even while its node is not verified.
    pub(super) accepted: Option<Claim>,
    /// Why the Sentinels name no primary at present; `None` while they name `accepted`.
    pub(super) uncertainty: Option<Outage>,
    /// When the last round of queries started.
    last_ask: Option<Instant>,
    /// When the next round of queries is due.
    pub(super) ask_at: Instant,
}

impl Sentinels {
    pub(super) fn new(config: &SentinelConfig, now: Instant) -> Self {
        Self {
            table: SentinelTable::new(config),
            consensus: Consensus::new(config),
            signs: Signs::default(),
            switch: config.switch,
            candidate: CandidateProbe::default(),
            handover: Handover::default(),
            ahead_of_majority: false,
            nat: config.nat.clone(),
            poll_interval: config.poll_interval,
            accepted: None,
            uncertainty: Some(Outage::Starting),
            last_ask: None,
            ask_at: now + config.poll_interval,
        }
    }

    /// Handles an event of a Sentinel. An event counts as a sign only if it is about the followed primary: after a
    /// switch the leader goes on publishing events about the former primary for some time.
    pub(super) fn noticed(&mut self, sentinel: &Address, event: SentinelEvent, now: Instant) {
        let SentinelEvent { notice, primary, replica } = event;
        if primary.is_some_and(|primary| self.follows(sentinel, &primary))
            && self.signs.noticed(sentinel, &notice, now)
            && matches!(notice, Notice::Failover(FailoverStep::Selecting | FailoverStep::Promoted))
            && let Some(replica) = replica
        {
            self.chosen(sentinel, &replica);
            if self.switch == SwitchRule::Leader {
                self.candidate.choose(sentinel, replica, now);
            }
        }
        self.table.noticed(sentinel, notice);
        self.ask_at = now;
    }

    /// Notes that `leader` has chosen `replica` to replace the followed primary.
    fn chosen(&mut self, leader: &Address, replica: &Address) {
        if let Some(accepted) = &self.accepted {
            self.handover.choose(Parties {
                leader: leader.clone(),
                former: accepted.address.clone(),
                successor: replica.clone(),
            });
        }
    }

    /// Returns the Sentinels that lead a failover and show that it is a coordinated one.
    pub(super) fn coordinated_leaders(&self) -> HashSet<Address> {
        if self.signs.newest().is_none() {
            return HashSet::new();
        }
        let shows = |view: &View| {
            let flags = view.claim.as_ref().map_or("", |claim| &claim.flags);
            flags.split(',').any(|flag| flag == COORDINATED)
        };
        let views = self.table.views().into_iter();
        views
            .filter(|(sentinel, view)| shows(view) && self.signs.leads(sentinel))
            .map(|(leader, _)| leader)
            .collect()
    }

    /// Returns the sign for which commands must wait. In a coordinated failover they need not wait until the leader chooses
    /// a replica: the hand-over begins two turns of its timer later, which are 100 ms at least.
    pub(super) fn sign(&self) -> Option<Sign> {
        if self.handover.holds() {
            return Some(Sign::Closing);
        }
        let sign = self.signs.newest()?;
        let coordinated = self.coordinated_leaders();
        let early = sign == Sign::Election && self.signs.leaders().all(|leader| coordinated.contains(leader));
        (!early).then_some(sign)
    }

    /// Follows a node that has taken over from the followed primary, before the majority names it. Returns a text for the
    /// operator, which ends with `why`.
    ///
    /// The node's epoch is not known yet, so the claim takes the former primary's. If the majority goes on naming the former
    /// primary, the consensus treats that as an epoch that does not rise, and switches back after `STALE_EPOCH_DELAY`.
    pub(super) fn follow_ahead(
        &mut self,
        replica: Address,
        why: &str,
        verifier: &mut Verifier,
        now: Instant,
    ) -> Option<String> {
        let former = self.accepted.as_ref()?;
        let text =
            format!("following {replica} in place of {}, ahead of the majority: {why}", former.address);
        let claim = Claim {
            address: replica.clone(),
            epoch: former.epoch,
            run_id: None,
            flags: String::new(),
            failover_state: None,
        };
        verifier.aim(replica, Some(claim.epoch), now);
        self.accepted = Some(claim);
        self.signs.clear();
        self.ahead_of_majority = true;
        Some(text)
    }

    /// Returns true if `sentinel` means the followed primary by the address `primary`. Sentinels may know one node by
    /// different addresses.
    fn follows(&self, sentinel: &Address, primary: &Address) -> bool {
        let Some(accepted) = &self.accepted else { return false };
        let claim = self.table.claim(sentinel).filter(|claim| claim.address == *primary);
        accepted.address == *primary || claim.is_some_and(|claim| same_node(claim, accepted))
    }

    /// Returns true if more than half of the Sentinels that answer report the primary as `o_down`, a failover in
    /// progress, or a higher epoch.
    pub(super) fn majority_reports_failover(&self) -> bool {
        let Some(accepted) = &self.accepted else { return false };
        let views = self.table.views();
        let shown = views.iter().filter_map(|(_, view)| view.claim.as_ref()).filter(|claim| {
            let flagged =
                claim.flags.split(',').any(|flag| flag == "o_down" || flag == "failover_in_progress");
            flagged || claim.epoch > accepted.epoch
        });
        shown.count() * 2 > views.len()
    }

    /// Points the verifier at the node that the Sentinels name together. If they name no node any more, discovery keeps
    /// the node that they named last and returns a warning with the reason.
    pub(super) fn apply_consensus(&mut self, verifier: &mut Verifier, now: Instant) -> Option<String> {
        let successor = verifier.successor().map(|announced| self.nat.get(announced).unwrap_or(announced));
        match self.consensus.verdict(&self.table, self.accepted.as_ref(), successor, now) {
            ConsensusVerdict::Named(claim) => {
                self.uncertainty = None;
                self.ahead_of_majority = false;
                let stays = self
                    .accepted
                    .as_ref()
                    .is_some_and(|accepted| same_node(accepted, &claim) && accepted.address == claim.address);
                if stays {
                    if self.accepted.as_ref().is_some_and(|accepted| accepted.epoch != claim.epoch) {
                        self.signs.clear();
                    }
                    verifier.set_epoch(claim.epoch);
                } else {
                    self.signs.clear();
                    verifier.aim(claim.address.clone(), Some(claim.epoch), now);
                }
                self.accepted = Some(claim);
                None
            }
            ConsensusVerdict::Undecided(outage) => {
                let news = self.uncertainty.as_ref() != Some(&outage);
                let kept = self.accepted.as_ref().filter(|_| news && !self.ahead_of_majority);
                let warning = kept.map(|kept| format!("keeping {}: {outage}", kept.address));
                self.uncertainty = Some(outage);
                warning
            }
        }
    }

    /// Returns true if a round of queries must start now, and schedules the next one.
    pub(super) fn ask_is_due(&mut self, now: Instant) -> bool {
        if self.ask_at > now {
            return false;
        }
        // Many events may request a round at once: postpone it to keep `ASK_MIN` between two rounds.
        let earliest = self.last_ask.map_or(now, |last| last + ASK_MIN);
        if earliest > now {
            self.ask_at = earliest;
            return false;
        }
        self.last_ask = Some(now);
        let signs = self.signs.newest().is_some();
        self.ask_at = now + if signs { self.poll_interval.min(ASK_IN_FAILOVER) } else { self.poll_interval };
        true
    }
}
