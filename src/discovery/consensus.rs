//! Which node the Sentinels name, taken together. Pure: answers in, a verdict out.
//!
//! # The rule
//!
//! - A *voter* is a Sentinel whose newest word is an answer, be it "I do not know that name". Sentinels that cannot
//!   be reached do not vote. One Sentinel under two addresses votes once (`SENTINEL MYID`).
//! - The candidate is the node that more than half of the voters name, under the highest config-epoch that any of
//!   them gives it. Without one there is no verdict.
//! - It is accepted at once if it also has more than half of all Sentinels there are, the silent ones included. That
//!   is the larger of the number of configured Sentinels and the number that any voter counts itself.
//! - With fewer it is accepted after `MINORITY_PATIENCE`: one Sentinel of two, or two of five, are enough to start
//!   with when the others are dead, but one that merely answered first does not win.
//! - An epoch that is not above the accepted one, or is below what another voter gives another node, looks like a
//!   Sentinel that missed a failover. Such a candidate needs more than half of all Sentinels throughout
//!   `EPOCH_PATIENCE`: operators do restart epochs (`SENTINEL REMOVE`, then `MONITOR`), partitions do not last in
//!   the majority. None is needed if the accepted node itself says that it is a replica of the candidate by now.

use std::fmt::Write;
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::config::SentinelConfig;
use crate::discovery::event::{Claim, View};
use crate::discovery::sentinel_table::SentinelTable;
use crate::topology::{Address, Outage};

/// How long most Sentinels must stay silent before the others decide.
pub(super) const MINORITY_PATIENCE: Duration = Duration::from_secs(2);

/// How long a majority must insist on an epoch that does not rise.
pub(super) const EPOCH_PATIENCE: Duration = Duration::from_secs(5);

/// Whom to follow.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ConsensusVerdict {
    /// This node, which may be the one that was accepted before.
    Named(Claim),
    /// Nobody, as things stand.
    Undecided(Outage),
}

/// The rule's memory.
#[derive(Debug)]
pub(super) struct Consensus {
    name: String,
    waiting: Option<Waiting>,
    /// The highest epoch of a rival that a majority has outlasted; such a Sentinel delays nothing a second time.
    overruled: Option<u64>,
}

/// A candidate that needs patience.
#[derive(Debug)]
struct Waiting {
    candidate: Claim,
    stale: bool,
    since: Instant,
    /// When patience ends and the same answers give another verdict; `None`: not on their own.
    decide_at: Option<Instant>,
}

impl Consensus {
    pub(super) fn new(config: &SentinelConfig) -> Self {
        Self { name: config.primary_name.clone(), waiting: None, overruled: None }
    }

    /// Applies the rule above. `accepted` is the claim that was followed last; `successor` is whose replica that
    /// node says it is.
    pub(super) fn verdict(
        &mut self,
        roster: &SentinelTable,
        accepted: Option<&Claim>,
        successor: Option<&Address>,
        now: Instant,
    ) -> ConsensusVerdict {
        let views = roster.views();
        let claims: Vec<&Claim> = views.iter().filter_map(|(_, view)| view.claim.as_ref()).collect();
        let Some((mut candidate, votes)) = candidate(&claims, accepted) else {
            self.waiting = None;
            return ConsensusVerdict::Undecided(self.without_candidate(roster, &views));
        };
        if votes * 2 <= views.len() {
            self.waiting = None;
            return ConsensusVerdict::Undecided(Outage::NoMajority(self.disagreement(&views)));
        }
        let total = total(roster, &views);
        let majority = votes * 2 > total;
        let yields = successor == Some(&candidate.address)
            && !claims.iter().any(|other| {
                let third = !same_node(other, &candidate) && !accepted.is_some_and(|it| same_node(other, it));
                third && other.epoch > candidate.epoch
            });
        let rivals = claims.iter().filter(|other| !same_node(other, &candidate));
        let rival = rivals.map(|other| other.epoch).filter(|epoch| *epoch > candidate.epoch).max();
        let rivalled = rival.is_some() && rival > self.overruled;
        let current = accepted.filter(|accepted| same_node(accepted, &candidate));
        let stale = match (accepted, current) {
            (_, Some(accepted)) => candidate.epoch < accepted.epoch,
            (Some(accepted), None) => candidate.epoch <= accepted.epoch || rivalled,
            (None, None) => rivalled,
        };
        let patience = match (stale, majority) {
            (false, _) if current.is_some() => Some(Duration::ZERO),
            (false, true) => Some(Duration::ZERO),
            (false, false) => Some(MINORITY_PATIENCE),
            (true, true) if yields => Some(Duration::ZERO),
            (true, true) => Some(EPOCH_PATIENCE),
            (true, false) => None,
        };
        let since = match &self.waiting {
            Some(before) if same_node(&before.candidate, &candidate) && before.stale == stale => before.since,
            _ => now,
        };
        let decide_at = patience.map(|patience| since + patience);
        if decide_at.is_some_and(|at| at <= now) {
            self.waiting = None;
            if stale {
                self.overruled = rival;
            }
            return ConsensusVerdict::Named(candidate);
        }
        let text = self.hesitation(&views, &candidate, votes, total, stale);
        let outage = if stale { Outage::NoMajority(text) } else { Outage::Asking(text) };
        self.waiting = Some(Waiting { candidate: candidate.clone(), stale, since, decide_at });
        match current {
            // The node is not in doubt, only its epoch is.
            Some(accepted) => {
                candidate.epoch = accepted.epoch;
                ConsensusVerdict::Named(candidate)
            }
            None => ConsensusVerdict::Undecided(outage),
        }
    }

    /// When a verdict may change although no Sentinel said anything new.
    pub(super) fn decide_at(&self) -> Option<Instant> {
        self.waiting.as_ref().and_then(|waiting| waiting.decide_at)
    }

    /// Nobody names a node.
    fn without_candidate(&self, roster: &SentinelTable, views: &[(Address, View)]) -> Outage {
        if !views.is_empty() {
            let who = list(views.iter().map(|(address, _)| address.to_string()));
            return Outage::UnknownName(format!(
                "no Sentinel knows a primary named {:?} (asked: {who}); check the name against `sentinel monitor` \
                 in their configuration, or SENTINEL MASTERS",
                self.name
            ));
        }
        let (silent, seeds) = (roster.unheard_seeds(), roster.seeds());
        // Said when all have been heard, or given up: not once for each that fails.
        if silent > 0 && silent < seeds {
            return Outage::Asking(format!("{silent} of {seeds} Sentinels have not answered yet"));
        }
        match (roster.faults(true), roster.faults(false)) {
            (refused, _) if !refused.is_empty() => Outage::Refused(refused),
            (_, unreachable) if !unreachable.is_empty() => {
                Outage::SentinelsUnreachable(format!("no Sentinel answers: {unreachable}"))
            }
            _ => Outage::Starting,
        }
    }

    fn disagreement(&self, views: &[(Address, View)]) -> String {
        format!(
            "Sentinels disagree on the primary {:?}: {}; this passes when a failover ends; if it lasts, point them all \
             at one primary (SENTINEL REMOVE and MONITOR on those that are wrong)",
            self.name,
            statements(views)
        )
    }

    fn hesitation(
        &self,
        views: &[(Address, View)],
        candidate: &Claim,
        votes: usize,
        total: usize,
        stale: bool,
    ) -> String {
        let mut text = format!("{votes} of {total} Sentinels name {} as {:?}", candidate.address, self.name);
        let why = if stale {
            format!(
                " under epoch {}, which does not rise as after a failover; that is accepted when most of them \
                 insist for {EPOCH_PATIENCE:?}",
                candidate.epoch
            )
        } else {
            format!("; the others have {MINORITY_PATIENCE:?} to answer")
        };
        let _ = write!(text, "{why} ({})", statements(views));
        text
    }
}

/// How many Sentinels there are, the silent ones included.
fn total(roster: &SentinelTable, views: &[(Address, View)]) -> usize {
    let counted = views.iter().map(|(_, view)| view.total).max().unwrap_or(0);
    roster.seeds().max(counted).max(views.len())
}

/// The node with most votes, and how many. Of its addresses the accepted one stays, so that Sentinels which mix
/// names and IP addresses cause no switch; otherwise the one named most often.
pub fn candidate(claims: &[&Claim], accepted: Option<&Claim>) -> Option<(Claim, usize)> {
    let votes = |claim: &Claim| claims.iter().filter(|other| same_node(other, claim)).count();
    let best = claims.iter().max_by_key(|claim| (votes(claim), claim.epoch))?;
    let group = || claims.iter().filter(|other| same_node(other, best));
    let mut chosen = group()
        .max_by_key(|claim| {
            let stays = accepted.is_some_and(|accepted| accepted.address == claim.address);
            (stays, group().filter(|other| other.address == claim.address).count(), claim.epoch)
        })
        .map(|claim| Claim::clone(claim))?;
    chosen.epoch = group().map(|claim| claim.epoch).max()?;
    Some((chosen, votes(best)))
}

/// Whether two claims mean one node: by address, or by run id where names and IP addresses are mixed.
pub fn same_node(one: &Claim, other: &Claim) -> bool {
    one.address == other.address || (one.run_id.is_some() && one.run_id == other.run_id)
}

fn statements(views: &[(Address, View)]) -> String {
    list(views.iter().map(|(address, view)| match &view.claim {
        Some(claim) => format!("{address} names {} (epoch {})", claim.address, claim.epoch),
        None => format!("{address} does not know the name"),
    }))
}

fn list(items: impl Iterator<Item = String>) -> String {
    let mut items: Vec<_> = items.collect();
    items.sort_unstable();
    items.join(", ")
}

#[cfg(test)]
mod tests;
