//! The Sentinels that are followed, and the newest word of each. Pure.

use std::collections::HashSet;

use crate::discovery::config::SentinelConfig;
use crate::discovery::event::{Claim, Notice, View};
use crate::topology::Address;

/// More Sentinels than this are not followed.
pub(super) const MAX_SENTINELS: usize = 32;

/// Why a Sentinel gives no answer. The text names it, the cause and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SentinelError {
    /// It cannot be reached, hangs, or is not a Sentinel.
    Unreachable(String),
    /// It refuses the credentials, or their user may not ask.
    Refused(String),
}

impl SentinelError {
    /// The text alone.
    pub fn text(&self) -> &str {
        match self {
            Self::Unreachable(text) | Self::Refused(text) => text,
        }
    }
}

/// What is known of one Sentinel.
#[derive(Clone, Debug)]
pub struct SentinelStatus {
    /// Where it is dialled.
    pub address: Address,
    /// Configured, not learnt from another.
    pub seed: bool,
    /// Its own id.
    pub id: Option<String>,
    /// Whether its events are received; if not, only polling tells of a failover.
    pub subscribed: bool,
    /// Its newest word.
    pub standing: SentinelState,
    /// The newest event about our primary.
    pub last_notice: Option<Notice>,
}

/// A Sentinel's newest word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SentinelState {
    /// Not heard yet.
    Pending,
    /// It answers.
    Answered(View),
    /// It does not.
    Failed(SentinelError),
}

/// Which Sentinels to connect to, or no longer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Track(Address),
    Forget(Address),
}

/// The Sentinels of one primary: those configured, for ever, and those learnt from others.
#[derive(Debug)]
pub(super) struct SentinelTable {
    sentinels: Vec<SentinelStatus>,
}

impl SentinelTable {
    pub(super) fn new(config: &SentinelConfig) -> Self {
        let mut roster = Self { sentinels: Vec::new() };
        for seed in &config.seeds {
            if roster.find(seed).is_none() && roster.sentinels.len() < MAX_SENTINELS {
                roster.add(seed.clone(), true);
            }
        }
        roster
    }

    pub(super) fn sentinels(&self) -> &[SentinelStatus] {
        &self.sentinels
    }

    /// A Sentinel is connected, and maybe subscribed.
    pub(super) fn connected(&mut self, address: &Address, id: Option<String>, subscribed: bool) {
        if let Some(sentinel) = self.find(address) {
            sentinel.id = id;
            sentinel.subscribed = subscribed;
        }
    }

    /// True beside the changes if it had failed before.
    pub(super) fn answered(&mut self, address: &Address, view: View) -> (Vec<Change>, bool) {
        let mut recovered = false;
        if let Some(sentinel) = self.find(address) {
            recovered = matches!(sentinel.standing, SentinelState::Failed(_));
            sentinel.standing = SentinelState::Answered(view);
        }
        (self.merge(), recovered)
    }

    /// The fault's text beside the changes, if it is news.
    pub(super) fn failed(
        &mut self,
        address: &Address,
        fault: SentinelError,
    ) -> (Vec<Change>, Option<String>) {
        let mut news = None;
        if let Some(sentinel) = self.find(address) {
            sentinel.subscribed = false;
            let standing = SentinelState::Failed(fault.clone());
            if sentinel.standing != standing {
                sentinel.standing = standing;
                news = Some(fault.text().to_owned());
            }
        }
        (self.merge(), news)
    }

    pub(super) fn noticed(&mut self, address: &Address, notice: Notice) {
        if let Some(sentinel) = self.find(address) {
            sentinel.last_notice = Some(notice);
        }
    }

    /// The answers, one for each Sentinel however many addresses it has.
    pub(super) fn views(&self) -> Vec<(Address, View)> {
        let mut ids = HashSet::new();
        self.sentinels
            .iter()
            .filter_map(|sentinel| match &sentinel.standing {
                SentinelState::Answered(view) => Some((sentinel, view)),
                _ => None,
            })
            .filter(|(sentinel, _)| sentinel.id.as_ref().is_none_or(|id| ids.insert(id)))
            .map(|(sentinel, view)| (sentinel.address.clone(), view.clone()))
            .collect()
    }

    /// Whom this Sentinel names, by its newest answer.
    pub(super) fn claim(&self, address: &Address) -> Option<&Claim> {
        let sentinel = self.sentinels.iter().find(|sentinel| sentinel.address == *address)?;
        match &sentinel.standing {
            SentinelState::Answered(view) => view.claim.as_ref(),
            _ => None,
        }
    }

    /// How many are configured.
    pub(super) fn seeds(&self) -> usize {
        self.sentinels.iter().filter(|sentinel| sentinel.seed).count()
    }

    /// How many of those have neither answered nor failed yet.
    pub(super) fn unheard_seeds(&self) -> usize {
        self.sentinels
            .iter()
            .filter(|sentinel| sentinel.seed && sentinel.standing == SentinelState::Pending)
            .count()
    }

    /// The faults of those that refuse us, or of those that cannot be reached, in a stable order.
    pub(super) fn faults(&self, refused: bool) -> String {
        let mut texts: Vec<&str> = self
            .sentinels
            .iter()
            .filter_map(|sentinel| match &sentinel.standing {
                SentinelState::Failed(fault) if matches!(fault, SentinelError::Refused(_)) == refused => {
                    Some(fault.text())
                }
                _ => None,
            })
            .collect();
        texts.sort_unstable();
        texts.join("; ")
    }

    /// Takes up Sentinels that others name, and drops learnt ones that are dead and no longer named.
    fn merge(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let answering = |sentinel: &SentinelStatus| matches!(sentinel.standing, SentinelState::Answered(_));
        // A seed under a name may be the same Sentinel as one learnt under its IP address: ids tell once all
        // seeds have been heard.
        let seeds_heard = !self
            .sentinels
            .iter()
            .any(|sentinel| sentinel.seed && sentinel.standing == SentinelState::Pending);
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
            let twin = sentinel.id.is_some()
                && (earlier.clone().any(|(id, _, answers)| *id == sentinel.id && *answers)
                    || ids.iter().any(|(id, seed, answers)| *id == sentinel.id && *seed && *answers));
            let gone = matches!(sentinel.standing, SentinelState::Failed(_))
                && anyone_answers
                && !named.iter().any(|peer| peer.address == sentinel.address);
            let keep = sentinel.seed || !(twin || gone);
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
            standing: SentinelState::Pending,
            last_notice: None,
        });
    }

    fn find(&mut self, address: &Address) -> Option<&mut SentinelStatus> {
        self.sentinels.iter_mut().find(|sentinel| sentinel.address == *address)
    }
}

#[cfg(test)]
mod tests;
