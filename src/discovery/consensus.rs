//! Decides which node the Sentinels name as primary together. Pure: takes answers, returns a verdict.
//!
//! # The rule
//!
//! - A *voter* is a Sentinel whose newest query succeeded, even if it answered that it does not know the name. A
//!   Sentinel that cannot be reached has no vote. A Sentinel that is known under two addresses has one vote: `SENTINEL
//!   MYID` identifies it.
//! - The *candidate* is the node that more than half of the voters name. Its epoch is the highest config-epoch that any
//!   of these voters gives it. Without a candidate the verdict is `Undecided`.
//! - The rule accepts the candidate at once if more than half of all Sentinels name it. All Sentinels include those
//!   that do not answer: their number is the larger of the number of configured Sentinels and the highest number that
//!   any voter counts.
//! - With fewer votes the rule accepts the candidate after `MINORITY_DELAY` (2 s). One Sentinel of two, or two of five,
//!   can thus start respgate when the others are dead, but one Sentinel that merely answered first does not decide.
//! - A candidate is *stale* if its epoch is not above the accepted epoch (or, for the accepted node itself, is below
//!   it), or is below the epoch that another voter gives another node: its voters may have missed a failover. The rule
//!   accepts a stale candidate only if more than half of all Sentinels name it throughout `STALE_EPOCH_DELAY` (5 s). It
//!   cannot reject such a candidate for ever, because operators do restart epochs (`SENTINEL REMOVE`, then `MONITOR`);
//!   5 s are enough, because a partition does not last in the majority. With that majority the rule needs no delay if
//!   the accepted node itself says that it is a replica of the candidate, and no third node has a higher epoch.

use std::fmt::Write;
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::config::SentinelConfig;
use crate::discovery::event::{Claim, View};
use crate::discovery::sentinel_table::SentinelTable;
use crate::topology::{Address, Outage};

/// How long the rule waits for the silent majority before a minority of Sentinels decides.
pub(super) const MINORITY_DELAY: Duration = Duration::from_secs(2);

/// How long a majority must name a candidate whose epoch does not rise before the rule accepts it.
pub(super) const STALE_EPOCH_DELAY: Duration = Duration::from_secs(5);

/// The result of one application of the rule.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ConsensusVerdict {
    /// Follow this node. It may be the node that was accepted before.
    Named(Claim),
    /// The Sentinels name no primary; the outage says why.
    Undecided(Outage),
}

/// Applies the rule and keeps the state that it needs between two rounds of answers.
#[derive(Debug)]
pub(super) struct Consensus {
    name: String,
    waiting: Option<Waiting>,
    /// The highest epoch of another node that a majority has overruled by waiting `STALE_EPOCH_DELAY`. A Sentinel that
    /// still reports an epoch up to this one delays no later decision.
    overruled: Option<u64>,
}

/// A candidate that the rule has not accepted yet because a delay runs.
#[derive(Debug)]
struct Waiting {
    candidate: Claim,
    /// True if the candidate is stale (see the rule).
    stale: bool,
    /// Since when the answers have named this candidate for the same reason.
    since: Instant,
    /// When the delay ends, so that the same answers give another verdict. `None`: only other answers can change it.
    decide_at: Option<Instant>,
}

impl Consensus {
    pub(super) fn new(config: &SentinelConfig) -> Self {
        Self { name: config.primary_name.clone(), waiting: None, overruled: None }
    }

    /// Applies the rule above to the newest answers. `accepted` is the claim that discovery followed last. `successor`
    /// is the node that the accepted node names as its own primary, if it says that it is a replica.
    pub(super) fn verdict(
        &mut self,
        table: &SentinelTable,
        accepted: Option<&Claim>,
        successor: Option<&Address>,
        now: Instant,
    ) -> ConsensusVerdict {
        let views = table.views();
        let claims: Vec<&Claim> = views.iter().filter_map(|(_, view)| view.claim.as_ref()).collect();
        let Some((mut candidate, votes)) = candidate(&claims, accepted) else {
            self.waiting = None;
            return ConsensusVerdict::Undecided(self.without_candidate(table, &views));
        };
        if votes * 2 <= views.len() {
            self.waiting = None;
            return ConsensusVerdict::Undecided(Outage::NoMajority(self.disagreement_text(&views)));
        }
        let total = total(table, &views);
        let majority = votes * 2 > total;
        // The accepted node says that it is a replica of the candidate, and no third node has a higher epoch.
        let accepted_yields = successor == Some(&candidate.address)
            && !claims.iter().any(|other| {
                let third = !same_node(other, &candidate) && !accepted.is_some_and(|it| same_node(other, it));
                third && other.epoch > candidate.epoch
            });
        // The highest epoch that a voter gives another node. It makes the candidate stale, unless a majority has
        // overruled an epoch that high before.
        let rivals = claims.iter().filter(|other| !same_node(other, &candidate));
        let rival = rivals.map(|other| other.epoch).filter(|epoch| *epoch > candidate.epoch).max();
        let outranked = rival.is_some() && rival > self.overruled;
        let current = accepted.filter(|accepted| same_node(accepted, &candidate));
        let stale = match (accepted, current) {
            (_, Some(accepted)) => candidate.epoch < accepted.epoch,
            (Some(accepted), None) => candidate.epoch <= accepted.epoch || outranked,
            (None, None) => outranked,
        };
        // How long these answers must last: (stale, majority of all Sentinels).
        let delay = match (stale, majority) {
            (false, _) if current.is_some() => Some(Duration::ZERO),
            (false, true) => Some(Duration::ZERO),
            (false, false) => Some(MINORITY_DELAY),
            (true, true) if accepted_yields => Some(Duration::ZERO),
            (true, true) => Some(STALE_EPOCH_DELAY),
            (true, false) => None,
        };
        // The delay goes on if the previous answers named the same candidate for the same reason; otherwise it starts
        // now.
        let since = match &self.waiting {
            Some(before) if same_node(&before.candidate, &candidate) && before.stale == stale => before.since,
            _ => now,
        };
        let decide_at = delay.map(|delay| since + delay);
        if decide_at.is_some_and(|at| at <= now) {
            self.waiting = None;
            if stale {
                self.overruled = rival;
            }
            return ConsensusVerdict::Named(candidate);
        }
        let text = self.waiting_text(&views, &candidate, votes, total, stale);
        let outage = if stale { Outage::NoMajority(text) } else { Outage::Asking(text) };
        self.waiting = Some(Waiting { candidate: candidate.clone(), stale, since, decide_at });
        match current {
            // The voters agree on the accepted node and only its epoch is uncertain: keep the node under the accepted
            // epoch.
            Some(accepted) => {
                candidate.epoch = accepted.epoch;
                ConsensusVerdict::Named(candidate)
            }
            None => ConsensusVerdict::Undecided(outage),
        }
    }

    /// Returns when the verdict changes without a new answer: the end of the running delay.
    pub(super) fn decide_at(&self) -> Option<Instant> {
        self.waiting.as_ref().and_then(|waiting| waiting.decide_at)
    }

    /// Returns the outage for the case that no voter names a node.
    fn without_candidate(&self, table: &SentinelTable, views: &[(Address, View)]) -> Outage {
        if !views.is_empty() {
            let who = list(views.iter().map(|(address, _)| address.to_string()));
            return Outage::UnknownName(format!(
                "no Sentinel knows a primary named {:?} (asked: {who}); check the name against `sentinel monitor` \
                 in their configuration, or SENTINEL MASTERS",
                self.name
            ));
        }
        let (pending, seeds) = (table.unheard_seeds(), table.seeds());
        // Report failures only when every seed has answered or failed: otherwise the log would have a line for each
        // that fails.
        if pending > 0 && pending < seeds {
            return Outage::Asking(format!("{pending} of {seeds} Sentinels have not answered yet"));
        }
        match (table.errors(true), table.errors(false)) {
            (refused, _) if !refused.is_empty() => Outage::Refused(refused),
            (_, unreachable) if !unreachable.is_empty() => {
                Outage::SentinelsUnreachable(format!("no Sentinel answers: {unreachable}"))
            }
            _ => Outage::Starting,
        }
    }

    fn disagreement_text(&self, views: &[(Address, View)]) -> String {
        format!(
            "Sentinels disagree on the primary {:?}: {}; this passes when a failover ends; if it lasts, point them all \
             at one primary (SENTINEL REMOVE and MONITOR on those that are wrong)",
            self.name,
            statements(views)
        )
    }

    fn waiting_text(
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
                 insist for {STALE_EPOCH_DELAY:?}",
                candidate.epoch
            )
        } else {
            format!("; the others have {MINORITY_DELAY:?} to answer")
        };
        let _ = write!(text, "{why} ({})", statements(views));
        text
    }
}

/// Returns the number of all Sentinels, including those that do not answer.
fn total(table: &SentinelTable, views: &[(Address, View)]) -> usize {
    let counted = views.iter().map(|(_, view)| view.total).max().unwrap_or(0);
    table.seeds().max(counted).max(views.len())
}

/// Returns the node with the most votes and the number of its votes. If its voters name it by several addresses, the
/// accepted address stays, so that Sentinels that mix names and IP addresses cause no switch; without an accepted
/// address the function takes the address that most voters use.
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

/// Returns true if both claims name one node: they have the same address, or the same run id where Sentinels mix names
/// and IP addresses.
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
