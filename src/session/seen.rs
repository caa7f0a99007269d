//! What a session has seen, and up to which moment a replica must have come for the session's next read. Pure.
//!
//! A replica serves a read only if it has applied everything that the primary had answered before the read's floor. The floor is the
//! moment when the last reply of the primary to this session had come. With `read-your-writes = "tenant"`, it is also the moment when
//! the last write of any client of the tenant had been answered: a session announces that moment before its client can see the reply,
//! and takes the newest one after it has read a command. So a read that a client sends after another has seen a reply shows that write.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::order::CommandKind;
use crate::replica::answered_writes::AnsweredWrites;

/// The time for which reads go to the primary before one of them waits for a replica that nearly has what the client has seen. Each read
/// from the primary shows newer data, so a client that reads without a pause would never leave the primary otherwise.
const PATIENCE: Duration = Duration::from_millis(50);
/// The same with `read-your-writes = "tenant"`: each write of any client sends the reads of all to the primary.
const SHARED_PATIENCE: Duration = Duration::from_millis(5);

/// What the session has seen of the primary, and of replicas that it has left.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// True if a write was sent to the primary, after `floor`.
    wrote: bool,
    /// True if anything else was sent to the primary, after `floor`.
    read: bool,
    /// A replica must have applied what was answered before this moment.
    floor: Option<Instant>,
    /// When reads began to go to the primary because no replica had reached the floor.
    away_since: Option<Instant>,
    /// The writes of other clients that reads show, too.
    shared: Option<SharedWrites>,
}

/// The writes of a group of clients.
#[derive(Debug)]
struct SharedWrites {
    answered: Arc<AnsweredWrites>,
    /// True if a write of the session's own may have been answered since it was last announced.
    unannounced: bool,
    /// The newest moment of the group, as it was taken when the session had read and written this number of bytes. It holds for all
    /// commands that were read by then.
    taken: Option<(u64, Option<Instant>)>,
}

impl Seen {
    /// Takes note that a command was sent to the primary.
    pub(super) fn sent(&mut self, kind: CommandKind) {
        match kind {
            CommandKind::Answer => {}
            CommandKind::Read | CommandKind::SlotRead => self.read = true,
            CommandKind::Write | CommandKind::SlotWrite | CommandKind::Exclusive => {
                self.wrote = true;
                self.wrote_elsewhere();
            }
        }
    }

    /// Takes note that a write was sent whose effect other moments than this floor cover. The group must hear of it all the same.
    pub(super) fn wrote_elsewhere(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.unannounced = true;
        }
    }

    /// Takes note that commands ran on a connection of the session's own. [`Self::announce_reply`] announces the writes among them.
    pub(super) fn note_lease(&mut self) {
        self.wrote = true;
    }

    /// Announces the writes of the session whose replies may have come. Call this at the beginning of each poll, before any reply is
    /// written to the client. `came` is true if a reply waits for the client, and `due` if one is due.
    pub(super) fn announce(&mut self, came: bool, due: bool, now: impl FnOnce() -> Instant) {
        let Some(shared) = self.shared.as_mut().filter(|shared| shared.unannounced) else { return };
        if came || !due {
            shared.answered.note(now());
            shared.unannounced = due;
        }
    }

    /// Announces a write whose reply has just come on a connection of the session's own.
    pub(super) fn announce_reply(&self, now: impl FnOnce() -> Instant) {
        if let Some(shared) = &self.shared {
            shared.answered.note(now());
        }
    }

    /// Has reads show the writes of this group; with `None`, those of the session only.
    pub(super) fn share(&mut self, group: Option<&Arc<AnsweredWrites>>, now: Instant) {
        let former = self.shared.take();
        self.shared = match (former, group) {
            (Some(former), Some(group)) if Arc::ptr_eq(&former.answered, group) => Some(former),
            (former, group) => {
                if let Some(former) = former.filter(|former| former.unannounced) {
                    former.answered.note(now);
                }
                group.map(|group| SharedWrites {
                    answered: group.clone(),
                    unannounced: self.wrote,
                    taken: None,
                })
            }
        };
    }

    /// Returns true if the session has sent anything to the primary that the floor does not cover.
    pub(super) fn is_unsettled(&self) -> bool {
        self.wrote || self.read
    }

    /// Moves the floor to `now`, because all that was sent to the primary is answered.
    pub(super) fn settle(&mut self, now: Instant) {
        self.floor = Some(now);
        if self.wrote {
            self.away_since = None;
        }
        self.away_since.get_or_insert(now);
        (self.wrote, self.read) = (false, false);
    }

    /// Forgets what was sent to the primary, because a read need not show it.
    pub(super) fn forget_sent(&mut self) {
        (self.wrote, self.read) = (false, false);
    }

    /// Takes note that the session leaves a node, whose data it has seen until `now`.
    pub(super) fn leave_node(&mut self, now: Instant) {
        self.floor = Some(now);
        self.away_since.get_or_insert(now);
    }

    /// Returns the moment up to which a replica must have come for the next read. `moved` is the number of bytes that the session has
    /// read and written: while it is the same, no other command has been read. `again` is true if the same read has waited already:
    /// writes that are answered meanwhile do not make it wait longer.
    pub(super) fn floor(&mut self, moved: u64, again: bool) -> Option<Instant> {
        let Some(shared) = &mut self.shared else { return self.floor };
        let taken = match shared.taken {
            Some((at, taken)) if again || at == moved => taken,
            _ => {
                let newest = shared.answered.newest();
                shared.taken = Some((moved, newest));
                newest
            }
        };
        self.floor.max(taken)
    }

    /// Takes note that a read goes to the primary because other ones are under way there.
    pub(super) fn stay_away(&mut self, now: Instant) {
        self.away_since.get_or_insert(now);
    }

    /// Takes note that a replica serves the reads again.
    pub(super) fn reached_replica(&mut self) {
        self.away_since = None;
    }

    /// Takes note that a read waited for a replica in vain: the next ones go to the primary at once.
    pub(super) fn waited_in_vain(&mut self, now: Instant) {
        self.away_since = Some(now);
    }

    /// Returns true if reads have gone to the primary for long, so that one of them may wait for a replica.
    pub(super) fn is_long_away(&self, now: Instant) -> bool {
        self.is_away_for(self.patience(), now)
    }

    /// Returns the time after which a session is long away.
    pub(super) fn patience(&self) -> Duration {
        if self.shared.is_some() { SHARED_PATIENCE } else { PATIENCE }
    }

    /// Returns true if reads have gone to the primary for this time.
    pub(super) fn is_away_for(&self, time: Duration, now: Instant) -> bool {
        self.away_since.is_some_and(|since| now.saturating_duration_since(since) >= time)
    }

    /// Returns true if anything was sent to the primary or seen of it.
    pub(super) fn has_seen_any(&self) -> bool {
        self.is_unsettled() || self.floor.is_some()
    }
}

#[cfg(test)]
mod tests;
