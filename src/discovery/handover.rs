//! Decides when discovery follows a coordinated failover (`SENTINEL FAILOVER name COORDINATED`, Valkey 9). Pure.
//!
//! # The rule
//!
//! - In a coordinated failover the primary itself hands over (`FAILOVER TO`): it pauses writes, waits until the chosen
//!   replica, its *successor*, has everything, and becomes the successor's replica. Both nodes are better witnesses of
//!   that than the Sentinels, which notice it up to 1 s later. [`has_handed_over`] states what they must say.
//! - The primary waits until the successor acknowledges everything, which a replica does once a second. The watch asks the
//!   successor to acknowledge at once (`REPLCONF GETACK`), which shortens the pause by up to 1 s.
//! - When the leading Sentinel notices the hand-over, it closes every connection to both nodes (`CLIENT KILL TYPE normal`
//!   and `pubsub`). A write under way on the successor at that moment would have an unknown outcome. The moment is
//!   predictable: the Sentinel notices the hand-over in a reply to INFO, asks the successor for INFO 1 s after the last
//!   such reply ([`INFO_PERIOD`]), and tells the age of that reply (`info-refresh`).
//! - So discovery follows the successor at once, and holds commands again from [`DRAIN`] before the earliest moment until
//!   the connections have been closed, for [`CLOSING_LIMIT`] after the earliest moment at most. If less than [`OPEN_MIN`]
//!   would remain until then, it goes on holding them.
//! - Without a prediction, or if a node or the Sentinel does not answer, the majority of the Sentinels decides, as in
//!   every other failover.

use std::time::Duration;

use tokio::time::Instant;

use crate::resp::greeting::{Role, role_from_info};
use crate::topology::Address;

/// The flag by which a Sentinel shows that the failover that it leads is a coordinated one.
pub(super) const COORDINATED: &str = "coordinated_failover";

/// The time from a replica's reply to INFO to the next INFO, for the Sentinel that leads a failover.
pub(super) const INFO_PERIOD: Duration = Duration::from_secs(1);

/// The time before the connections are closed in which commands under way get their replies.
pub(super) const DRAIN: Duration = Duration::from_millis(60);

/// The shortest time for which commands go to the successor before they must wait for the closing of its connections.
const OPEN_MIN: Duration = Duration::from_millis(50);

/// How long commands wait for the connections to be closed, from the earliest moment on. Sentinel's timer runs every
/// 100 ms at least.
pub(super) const CLOSING_LIMIT: Duration = Duration::from_millis(500);

/// The nodes of a coordinated failover and the Sentinel that leads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parties {
    /// The Sentinel that leads the failover.
    pub(super) leader: Address,
    /// The primary that hands over.
    pub(super) former: Address,
    /// The replica that becomes the primary.
    pub(super) successor: Address,
}

/// The state of the hand-over.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    /// The leader has chosen the successor. Nobody is asked yet, because the failover may not be a coordinated one.
    Chosen(Parties),
    /// Both nodes are being asked.
    Awaited(Parties),
    /// Discovery follows the successor, whose connections are closed at `closing` at the earliest. `holds` is true while
    /// commands must wait for that.
    Followed { parties: Parties, closing: Instant, holds: bool },
}

/// Holds the state of the coordinated failover that is under way.
#[derive(Debug, Default)]
pub(super) struct Handover {
    stage: Stage,
    ticket: u64,
}

impl Handover {
    /// Notes that the leader of a failover has chosen the successor.
    pub(super) fn choose(&mut self, parties: Parties) {
        if self.parties() != Some(&parties) {
            self.stage = Stage::Chosen(parties);
        }
    }

    /// Starts to ask the nodes if the leader shows that its failover is a coordinated one. Returns the ticket of the
    /// watch and whom it concerns.
    pub(super) fn start(&mut self, coordinated: impl FnOnce(&Address) -> bool) -> Option<(u64, Parties)> {
        let Stage::Chosen(parties) = &self.stage else { return None };
        if !coordinated(&parties.leader) {
            return None;
        }
        let parties = parties.clone();
        self.stage = Stage::Awaited(parties.clone());
        self.ticket += 1;
        Some((self.ticket, parties))
    }

    /// Handles the finding of the watch `ticket` that the primary has handed over, and that the connections to its
    /// successor are closed at `closing` at the earliest. A later finding may correct `closing`. Returns the successor if
    /// discovery must follow it from now on.
    pub(super) fn handed_over(&mut self, ticket: u64, closing: Instant, now: Instant) -> Option<Address> {
        let (Stage::Awaited(parties) | Stage::Followed { parties, .. }) = &self.stage else { return None };
        if ticket != self.ticket {
            return None;
        }
        let news = matches!(self.stage, Stage::Awaited(_)).then(|| parties.successor.clone());
        self.stage = Stage::Followed { parties: parties.clone(), closing, holds: is_soon(closing, now) };
        news
    }

    /// Handles the end of the watch `ticket`: the connections to the successor have been closed, or a node or the Sentinel
    /// did not answer.
    pub(super) fn ended(&mut self, ticket: u64) {
        // Nobody has been asked about a choice that is newer than the watch.
        if ticket == self.ticket && !matches!(self.stage, Stage::Chosen(_)) {
            self.stage = Stage::Idle;
        }
    }

    /// Ends the hand-over unless it still concerns `accepted`, the node that discovery follows, and the leader leads the
    /// failover (`leads`). Then updates the hold. Returns true if the watch must be stopped.
    pub(super) fn review(
        &mut self,
        accepted: Option<&Address>,
        leads: impl FnOnce(&Address) -> bool,
        now: Instant,
    ) -> bool {
        let (ends, watched) = match &mut self.stage {
            Stage::Idle => (false, false),
            Stage::Chosen(parties) => (accepted != Some(&parties.former) || !leads(&parties.leader), false),
            Stage::Awaited(parties) => (accepted != Some(&parties.former) || !leads(&parties.leader), true),
            Stage::Followed { parties, closing, holds } => {
                *holds |= *closing <= now + DRAIN;
                (accepted != Some(&parties.successor) || *closing + CLOSING_LIMIT <= now, true)
            }
        };
        if ends {
            self.stage = Stage::Idle;
        }
        ends && watched
    }

    /// Returns true if commands must wait because the connections to the followed successor are about to be closed.
    pub(super) fn holds(&self) -> bool {
        matches!(self.stage, Stage::Followed { holds: true, .. })
    }

    /// Returns when [`Handover::review`] has something to do.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match self.stage {
            Stage::Followed { closing, holds: false, .. } => Some(closing - DRAIN),
            Stage::Followed { closing, holds: true, .. } => Some(closing + CLOSING_LIMIT),
            _ => None,
        }
    }

    fn parties(&self) -> Option<&Parties> {
        match &self.stage {
            Stage::Idle => None,
            Stage::Chosen(parties) | Stage::Awaited(parties) | Stage::Followed { parties, .. } => {
                Some(parties)
            }
        }
    }
}

/// Returns true if the connections are closed too soon to use them before.
pub(super) fn is_soon(closing: Instant, now: Instant) -> bool {
    closing < now + DRAIN + OPEN_MIN
}

/// A node's role and replication history, as its `INFO replication` tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReplicationState {
    role: Role,
    /// `master_replid`: the same on a primary and on each replica that follows it.
    history: String,
    /// `master_replid2`: the history that this one continues; zeros if there is none.
    continues: String,
}

impl ReplicationState {
    /// Parses the replication section of INFO.
    pub(super) fn from_info(info: &str) -> Option<Self> {
        let field = |key: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            Some(value.trim_end().to_owned())
        };
        Some(Self {
            role: role_from_info(info)?,
            history: field("master_replid")?,
            continues: field("master_replid2")?,
        })
    }

    /// Returns the id of the node's history if the node says that it is the primary.
    pub(super) fn primary_history(&self) -> Option<&str> {
        matches!(self.role, Role::Primary { .. }).then_some(&self.history)
    }
}

/// Returns true if the primary has handed over. `history` is the id of its history while it was the primary; `former` and
/// `successor` are what both nodes say now. The former primary must say that it is a connected replica, the successor that it
/// is a primary. Both must be in one history, which continues `history`: then the successor holds every write that
/// the former primary acknowledged, and the former primary follows the successor and no other node.
pub(super) fn has_handed_over(
    history: &str,
    former: &ReplicationState,
    successor: &ReplicationState,
) -> bool {
    matches!(former.role, Role::Replica { connected: true, .. })
        && matches!(successor.role, Role::Primary { .. })
        && former.history == successor.history
        && successor.continues == history
        && successor.history != history
}

#[cfg(test)]
mod tests;
