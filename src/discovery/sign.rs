//! Tracks signs that a failover away from the followed primary is under way. Pure.
//!
//! # The rule
//!
//! - One Sentinel's event is enough for a sign. Holding commands for a moment costs a pause; letting them through costs
//!   writes. Because one Sentinel may be wrong, a sign lasts only a short time.
//! - A sign ends with the event that revokes it (`-failover-abort-*`, `-odown`), with another primary or epoch, or at
//!   its limit: [`FAILOVER_LIMIT`] for a failover that does not complete, [`DOWN_LIMIT`] for a primary that is reported
//!   down. If more than half of the Sentinels that answer show the same in their answers, the limit is
//!   [`CONFIRMED_LIMIT`] for both. After the limit the primary's own answer counts again.
//! - The limit covers all signs of one Sentinel together, until the Sentinel has sent no sign for [`REST`]. A Sentinel
//!   that repeats its signs, or revokes them and starts again, therefore cannot hold commands any longer.
//! - A failover that reaches the promotion gets the full limit again, once. A Sentinel that was stalled (its tilt mode
//!   lasts 30 s) continues its failover where it stopped, and writes to the old primary from then on are lost.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::event::{FailoverStep, Notice};
use crate::topology::{Address, Sign};

/// The limit for a failover, from its first sign until the epoch rises. Sentinel gives an election 10 s.
pub(super) const FAILOVER_LIMIT: Duration = Duration::from_secs(10);

/// The limit for a primary that no more than half of the Sentinels show as down.
pub(super) const DOWN_LIMIT: Duration = Duration::from_secs(3);

/// The limit for both signs if more than half of the Sentinels show them.
pub(super) const CONFIRMED_LIMIT: Duration = Duration::from_secs(30);

/// The time without a sign after which a Sentinel's used time is forgotten.
pub(super) const REST: Duration = Duration::from_secs(30);

/// Holds the signs of all Sentinels for the primary that discovery follows now.
#[derive(Debug, Default)]
pub(super) struct Signs {
    records: HashMap<Address, Record>,
    /// True if more than half of the Sentinels that answer show a failover, or show the primary as down.
    confirmed: bool,
}

/// The signs of one Sentinel.
#[derive(Debug)]
struct Record {
    /// The furthest step of the failover that this Sentinel leads; `None` without an active failover.
    failover: Option<Sign>,
    /// True if the Sentinel reports the primary as `o_down`.
    down: bool,
    /// The start of the active sign, whichever of `failover` and `down` it is; `None` without one.
    since: Option<Instant>,
    /// True if this Sentinel's failover has reached the promotion since the last `REST`.
    promoting: bool,
    /// `used` is the total duration of earlier signs since the last `REST`; `ended` is when the newest of them ended.
    used: Duration,
    ended: Instant,
}

impl Signs {
    /// Handles a Sentinel's event about the followed primary. Returns true if the event is a sign that counts.
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
                self.revoke(sentinel, now, |record| record.failover = None);
                return false;
            }
            Notice::ObjectivelyDown(false) => {
                self.revoke(sentinel, now, |record| record.down = false);
                return false;
            }
            Notice::Failover(FailoverStep::Ended)
            | Notice::Switched { .. }
            | Notice::SubjectivelyDown(_)
            | Notice::Other => return false,
        };
        // Forget the used time of Sentinels that have rested, which also bounds the map.
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
        // The first promotion since the rest starts a new limit: its failover may have stalled before (see the rule).
        if failover == Some(Sign::Promotion) && !std::mem::replace(&mut record.promoting, true) {
            (record.since, record.used) = (None, Duration::ZERO);
        }
        record.since = record.since.or(Some(now));
        record.expire(confirmed, now);
        record.since.is_some()
    }

    fn revoke(&mut self, sentinel: &Address, now: Instant, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.records.get_mut(sentinel) {
            change(record);
            if record.failover.is_none() && !record.down {
                record.end(now);
            }
        }
    }

    /// Sets whether more than half of the Sentinels show a failover or the primary as down, and ends the signs that
    /// have reached their limit.
    pub(super) fn review(&mut self, confirmed: bool, now: Instant) {
        self.confirmed = confirmed;
        for record in self.records.values_mut() {
            record.expire(confirmed, now);
        }
    }

    /// Drops all signs. The machine calls this when it follows another primary, or the same one under another epoch.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.confirmed = false;
    }

    /// Returns the sign of the furthest step.
    pub(super) fn newest(&self) -> Option<Sign> {
        self.records.values().filter_map(Record::sign).max()
    }

    /// Returns the Sentinels that have an active sign of a failover.
    pub(super) fn leaders(&self) -> impl Iterator<Item = &Address> {
        self.records.iter().filter(|(_, record)| record.failover.is_some()).map(|(leader, _)| leader)
    }

    /// Returns true if this Sentinel has an active sign of a failover.
    pub(super) fn leads(&self, sentinel: &Address) -> bool {
        self.records.get(sentinel).is_some_and(|record| record.failover.is_some())
    }

    /// Returns when [`Signs::review`] has a sign to end.
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
            _ => FAILOVER_LIMIT,
        };
        // Earlier signs since the last rest count towards the limit.
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
