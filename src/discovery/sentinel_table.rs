//! Holds the Sentinels that discovery follows, and the newest answer of each. Pure.

use std::collections::HashSet;

use crate::discovery::config::SentinelConfig;
use crate::discovery::event::{Claim, Notice, View};
use crate::topology::Address;

/// The greatest number of Sentinels that discovery follows.
pub(super) const MAX_SENTINELS: usize = 32;

/// Why a Sentinel gives no usable answer. The text names the Sentinel, the cause and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SentinelError {
    /// The Sentinel cannot be reached, does not answer in time, or is not a Sentinel.
    Unreachable(String),
    /// The Sentinel refuses the credentials, or its ACL forbids the queries.
    Refused(String),
}

impl SentinelError {
    /// Returns the text without the kind.
    pub fn text(&self) -> &str {
        match self {
            Self::Unreachable(text) | Self::Refused(text) => text,
        }
    }
}

/// The status of one Sentinel.
#[derive(Clone, Debug)]
pub struct SentinelStatus {
    /// The address that discovery dials.
    pub address: Address,
    /// True if the configuration names the Sentinel; false if another Sentinel named it.
    pub seed: bool,
    /// The Sentinel's own id (`SENTINEL MYID`).
    pub id: Option<String>,
    /// True if respgate receives the Sentinel's events; if not, only polling shows a failover.
    pub subscribed: bool,
    /// The result of the newest query.
    pub state: SentinelState,
    /// The newest event about this upstream's primary.
    pub last_notice: Option<Notice>,
}

/// The result of the newest query to a Sentinel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SentinelState {
    /// The Sentinel has neither answered nor failed yet.
    Pending,
    /// The Sentinel answered.
    Answered(View),
    /// The query failed.
    Failed(SentinelError),
}

/// A change to the set of Sentinels that discovery connects to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Track(Address),
    Forget(Address),
}

/// Holds the Sentinels of one primary. Configured Sentinels stay for ever; learnt ones can be dropped.
#[derive(Debug)]
pub(super) struct SentinelTable {
    sentinels: Vec<SentinelStatus>,
}

impl SentinelTable {
    pub(super) fn new(config: &SentinelConfig) -> Self {
        let mut table = Self { sentinels: Vec::new() };
        for seed in &config.seeds {
            if table.find(seed).is_none() && table.sentinels.len() < MAX_SENTINELS {
                table.add(seed.clone(), true);
            }
        }
        table
    }

    pub(super) fn sentinels(&self) -> &[SentinelStatus] {
        &self.sentinels
    }

    /// Notes that a connection to a Sentinel is open, and whether it is subscribed to events.
    pub(super) fn connected(&mut self, address: &Address, id: Option<String>, subscribed: bool) {
        if let Some(sentinel) = self.find(address) {
            sentinel.id = id;
            sentinel.subscribed = subscribed;
        }
    }

    /// Stores an answer. Returns the changes to the set of Sentinels, and true if the Sentinel had failed before.
    pub(super) fn answered(&mut self, address: &Address, view: View) -> (Vec<Change>, bool) {
        let mut recovered = false;
        if let Some(sentinel) = self.find(address) {
            recovered = matches!(sentinel.state, SentinelState::Failed(_));
            sentinel.state = SentinelState::Answered(view);
        }
        (self.merge(), recovered)
    }

    /// Stores a failure. Returns the changes to the set of Sentinels, and the failure's text if it differs from the
    /// last one.
    pub(super) fn failed(
        &mut self,
        address: &Address,
        error: SentinelError,
    ) -> (Vec<Change>, Option<String>) {
        let mut new_error = None;
        if let Some(sentinel) = self.find(address) {
            sentinel.subscribed = false;
            let state = SentinelState::Failed(error.clone());
            if sentinel.state != state {
                sentinel.state = state;
                new_error = Some(error.text().to_owned());
            }
        }
        (self.merge(), new_error)
    }

    pub(super) fn noticed(&mut self, address: &Address, notice: Notice) {
        if let Some(sentinel) = self.find(address) {
            sentinel.last_notice = Some(notice);
        }
    }

    /// Returns the newest answers, one for each Sentinel: of a Sentinel under several addresses only the first counts.
    pub(super) fn views(&self) -> Vec<(Address, View)> {
        let mut ids = HashSet::new();
        self.sentinels
            .iter()
            .filter_map(|sentinel| match &sentinel.state {
                SentinelState::Answered(view) => Some((sentinel, view)),
                _ => None,
            })
            .filter(|(sentinel, _)| sentinel.id.as_ref().is_none_or(|id| ids.insert(id)))
            .map(|(sentinel, view)| (sentinel.address.clone(), view.clone()))
            .collect()
    }

    /// Returns the primary that this Sentinel named in its newest answer.
    pub(super) fn claim(&self, address: &Address) -> Option<&Claim> {
        let sentinel = self.sentinels.iter().find(|sentinel| sentinel.address == *address)?;
        match &sentinel.state {
            SentinelState::Answered(view) => view.claim.as_ref(),
            _ => None,
        }
    }

    /// Returns the number of configured Sentinels.
    pub(super) fn seeds(&self) -> usize {
        self.sentinels.iter().filter(|sentinel| sentinel.seed).count()
    }

    /// Returns the number of configured Sentinels that have neither answered nor failed yet.
    pub(super) fn unheard_seeds(&self) -> usize {
        self.sentinels
            .iter()
            .filter(|sentinel| sentinel.seed && sentinel.state == SentinelState::Pending)
            .count()
    }

    /// Returns the sorted error texts of the Sentinels that refuse respgate (`refused` is true) or that cannot be
    /// reached (`refused` is false).
    pub(super) fn errors(&self, refused: bool) -> String {
        let mut texts: Vec<&str> = self
            .sentinels
            .iter()
            .filter_map(|sentinel| match &sentinel.state {
                SentinelState::Failed(error) if matches!(error, SentinelError::Refused(_)) == refused => {
                    Some(error.text())
                }
                _ => None,
            })
            .collect();
        texts.sort_unstable();
        texts.join("; ")
    }

    /// Adds Sentinels that others name, and drops learnt Sentinels that are dead and that no other names any more.
    fn merge(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let answering = |sentinel: &SentinelStatus| matches!(sentinel.state, SentinelState::Answered(_));
        // A seed that is configured by name may be the same Sentinel as one learnt by IP address. Only ids show that,
        // so add learnt Sentinels only when every seed has answered or failed.
        let seeds_heard =
            !self.sentinels.iter().any(|sentinel| sentinel.seed && sentinel.state == SentinelState::Pending);
        let named: Vec<_> = self.views().into_iter().flat_map(|(_, view)| view.others).collect();
        for peer in named.iter().filter(|_| seeds_heard) {
            let known = self.sentinels.iter().any(|sentinel| {
                sentinel.address == peer.address
                    || (peer.id.is_some() && sentinel.id == peer.id && answering(sentinel))
            });
            if !known && self.sentinels.len() < MAX_SENTINELS {
                self.add(peer.address.clone(), false);
                changes.push(Change::Track(peer.address.clone()));
            }
        }
        let anyone_answers = self.sentinels.iter().any(answering);
        let ids: Vec<_> = self
            .sentinels
            .iter()
            .map(|sentinel| (sentinel.id.clone(), sentinel.seed, answering(sentinel)))
            .collect();
        let mut index = 0;
        self.sentinels.retain(|sentinel| {
            let earlier = ids.iter().take(index);
            index += 1;
            // An earlier entry, or a seed, answers with the same id: this entry is the same Sentinel under another
            // address.
            let duplicate = sentinel.id.is_some()
                && (earlier.clone().any(|(id, _, answers)| *id == sentinel.id && *answers)
                    || ids.iter().any(|(id, seed, answers)| *id == sentinel.id && *seed && *answers));
            // A Sentinel is forgotten only on the word of another that answers: if all fail, respgate has lost its
            // network.
            let gone = matches!(sentinel.state, SentinelState::Failed(_))
                && anyone_answers
                && !named.iter().any(|peer| peer.address == sentinel.address);
            let keep = sentinel.seed || !(duplicate || gone);
            if !keep {
                changes.push(Change::Forget(sentinel.address.clone()));
            }
            keep
        });
        changes
    }

    fn add(&mut self, address: Address, seed: bool) {
        self.sentinels.push(SentinelStatus {
            address,
            seed,
            id: None,
            subscribed: false,
            state: SentinelState::Pending,
            last_notice: None,
        });
    }

    fn find(&mut self, address: &Address) -> Option<&mut SentinelStatus> {
        self.sentinels.iter_mut().find(|sentinel| sentinel.address == *address)
    }
}

#[cfg(test)]
mod tests;
