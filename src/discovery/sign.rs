//! Signs that a failover away from the followed primary is under way. Pure.
//!
//! # The rule
//!
//! - One Sentinel's word is enough: to hold commands back for a moment costs a pause, to let them through costs
//!   writes. That is why one Sentinel's word is also worth little time.
//! - A sign ends with what takes it back (`-failover-abort-*`, `-odown`), with another primary or epoch, or when it
//!   has lasted too long: [`FAILOVER_LIMIT`] for a failover that leads nowhere, [`DOWN_LIMIT`] for a primary that is
//!   said to be down. If more than half of the Sentinels that answer show the same in their answers, it is
//!   [`CONFIRMED_LIMIT`] for both: past that the primary's own word counts again.
//! - The time that a Sentinel's signs have taken without leading anywhere is counted together until it has given none
//!   for [`REST`]: one that repeats them, or takes them back and starts again, holds nothing any more. Only a failover
//!   that reaches the promotion has its time anew, once: a Sentinel that was stalled (its tilt mode lasts 30 s) goes on
//!   where it stopped, and what is written from then on is lost.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::event::{FailoverStep, Notice};
use crate::topology::{Address, Sign};

/// How long a failover may take from its first sign until the epoch rises. Sentinel gives an election 10 s.
pub(super) const FAILOVER_LIMIT: Duration = Duration::from_secs(10);

/// How long a primary may be said to be down by few.
pub(super) const DOWN_LIMIT: Duration = Duration::from_secs(3);

/// How long both may last when most Sentinels show them.
pub(super) const CONFIRMED_LIMIT: Duration = Duration::from_secs(30);

/// After this long without a sign a Sentinel has its whole time again.
pub(super) const REST: Duration = Duration::from_secs(30);

/// The signs of all Sentinels for the primary that is followed now.
#[derive(Debug, Default)]
pub(super) struct Signs {
    records: HashMap<Address, Record>,
    /// More than half of the Sentinels that answer show a failover, or that the primary is down.
    confirmed: bool,
}

/// One Sentinel's.
#[derive(Debug)]
struct Record {
    failover: Option<Sign>,
    down: bool,
    /// Since when one of both stands.
    since: Option<Instant>,
    /// The promotion has been reached since the last rest.
    promoting: bool,
    /// What earlier signs have taken, and when the last of them ended.
    used: Duration,
    ended: Instant,
}

impl Signs {
    /// Takes in a Sentinel's event about the followed primary. True if it is a sign that counts.
    pub(super) fn noticed(&mut self, sentinel: &Address, notice: &Notice, now: Instant) -> bool {
        let (failover, down) = match notice {
            Notice::Failover(FailoverStep::Started | FailoverStep::Elected) => (Some(Sign::Election), false),
            Notice::Failover(
                FailoverStep::Selecting
                | FailoverStep::Promoting
                | FailoverStep::Promoted
                | FailoverStep::Reconfiguring,
            ) => (Some(Sign::Promotion), false),
            Notice::ObjectivelyDown(true) => (None, true),
            Notice::Failover(FailoverStep::Aborted) => {
                self.take_back(sentinel, now, |record| record.failover = None);
                return false;
            }
            Notice::ObjectivelyDown(false) => {
                self.take_back(sentinel, now, |record| record.down = false);
                return false;
            }
            Notice::Failover(FailoverStep::Ended)
            | Notice::Switched { .. }
            | Notice::SubjectivelyDown(_)
            | Notice::Other => return false,
        };
        self.records.retain(|_, record| record.since.is_some() || now < record.ended + REST);
        let confirmed = self.confirmed;
        let record = self.records.entry(sentinel.clone()).or_insert(Record {
            failover: None,
            down: false,
            since: None,
            promoting: false,
            used: Duration::ZERO,
            ended: now,
        });
        record.failover = failover.max(record.failover);
        record.down |= down;
        if failover == Some(Sign::Promotion) && !std::mem::replace(&mut record.promoting, true) {
            (record.since, record.used) = (None, Duration::ZERO);
        }
        record.since = record.since.or(Some(now));
        record.expire(confirmed, now);
        record.since.is_some()
    }

    fn take_back(&mut self, sentinel: &Address, now: Instant, what: impl FnOnce(&mut Record)) {
        if let Some(record) = self.records.get_mut(sentinel) {
            what(record);
            if record.failover.is_none() && !record.down {
                record.end(now);
            }
        }
    }

    /// Whether most Sentinels show a failover, or that the primary is down; and drops what has lasted too long.
    pub(super) fn review(&mut self, confirmed: bool, now: Instant) {
        self.confirmed = confirmed;
        for record in self.records.values_mut() {
            record.expire(confirmed, now);
        }
    }

    /// Another primary is followed, or the same under another epoch: what was said is done with.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.confirmed = false;
    }

    /// The sign that is furthest on.
    pub(super) fn newest(&self) -> Option<Sign> {
        self.records.values().filter_map(Record::sign).max()
    }

    /// Whether this Sentinel's failover counts at present.
    pub(super) fn leads(&self, sentinel: &Address) -> bool {
        self.records.get(sentinel).is_some_and(|record| record.failover.is_some())
    }

    /// When [`Signs::review`] has something to drop.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.records.values().filter_map(|record| record.expires_at(self.confirmed)).min()
    }
}

impl Record {
    fn sign(&self) -> Option<Sign> {
        self.failover.or(self.down.then_some(Sign::Down))
    }

    fn expires_at(&self, confirmed: bool) -> Option<Instant> {
        let limit = match self.sign()? {
            _ if confirmed => CONFIRMED_LIMIT,
            Sign::Down => DOWN_LIMIT,
            Sign::Election | Sign::Promotion | Sign::Demotion => FAILOVER_LIMIT,
        };
        Some(self.since? + limit.saturating_sub(self.used))
    }

    fn expire(&mut self, confirmed: bool, now: Instant) {
        if self.expires_at(confirmed).is_some_and(|at| at <= now) {
            self.end(now);
        }
    }

    fn end(&mut self, now: Instant) {
        (self.failover, self.down) = (None, false);
        if let Some(since) = self.since.take().filter(|since| *since < now) {
            self.used += now - since;
            self.ended = now;
        }
    }
}

#[cfg(test)]
mod tests;
