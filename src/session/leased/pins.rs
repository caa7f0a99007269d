//! Why a session keeps its lease: the connection state that its commands have made. No I/O.

use std::collections::HashSet;

use super::selects::Selects;
use crate::resp::pubsub::{Confirmation, Kind, MAX_NAME_BYTES, MAX_SUBSCRIPTIONS};
use crate::session::refusal::Kept;

/// What a transaction may hold so that it can be sent again to another primary, in bytes.
const REPLAYABLE: usize = 1024 * 1024;

/// What the allocator adds to one small allocation, about, in bytes.
const ALLOCATION: usize = 16;

/// A transaction between MULTI and EXEC, as far as it has been sent.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// MULTI and what follows it, for a new connection; too much of it is not kept.
    body: Vec<Box<[u8]>>,
    size: usize,
    /// Commands queued so far.
    pub(super) queued: usize,
    /// Something in it was refused by respgate: EXEC must not run it.
    pub(super) poisoned: bool,
    /// SELECTs in it.
    pub(super) selects: Selects,
    /// It contains a SELECT.
    pub(super) selecting: bool,
    /// Keys were watched when it was sent.
    pub(super) watched: bool,
    /// It contains a script, whose replies can be forged.
    pub(super) scripted: bool,
}

impl Transaction {
    /// One more request of it.
    pub(super) fn keep(&mut self, request: &[u8]) {
        self.size += request.len();
        if self.size <= REPLAYABLE {
            self.body.push(request.into());
        } else {
            self.body = Vec::new();
        }
    }

    /// Returns the number of bytes allocated.
    pub(super) fn capacity(&self) -> usize {
        self.size.min(REPLAYABLE)
            + self.body.capacity() * (size_of::<Box<[u8]>>() + ALLOCATION)
            + self.selects.capacity()
    }

    /// Returns true if a script can forge the results that tell which database it selects.
    pub(super) fn hides_database(&self) -> bool {
        self.scripted && self.selecting
    }

    /// Its requests, MULTI first; `None` if they were too large to keep.
    pub(super) fn body(&self) -> Option<&[Box<[u8]>]> {
        (self.size <= REPLAYABLE).then_some(&self.body)
    }
}

/// The connection state of one lease.
#[derive(Debug, Default)]
pub(super) struct Pins {
    pub(super) transaction: Option<Transaction>,
    pub(super) watching: bool,
    /// What was watched was on a connection that is lost: EXEC must find it changed.
    pub(super) watch_broken: bool,
    channels: HashSet<Box<[u8]>>,
    patterns: HashSet<Box<[u8]>>,
    shards: HashSet<Box<[u8]>>,
    /// Bytes of all names.
    name_bytes: usize,
    pub(super) monitoring: bool,
    /// The CLIENT TRACKING request that is in force.
    pub(super) tracking: Option<Box<[u8]>>,
    /// CLIENT CACHING was sent, and no command that it speaks of.
    pub(super) caching: bool,
    pub(super) no_touch: bool,
    pub(super) import_source: bool,
    /// HIMPORT PREPARE left field names on the connection.
    pub(super) fieldsets: bool,
    /// The first command that was sent whose effect on the connection is not known.
    kept: Option<Box<str>>,
}

impl Pins {
    /// Whether the connection has state that the session still needs.
    pub(super) fn any(&self) -> bool {
        self.transaction.is_some()
            || self.watching
            || self.watch_broken
            || self.subscribed()
            || self.monitoring
            || self.tracking.is_some()
            || self.no_touch
            || self.import_source
            || self.fieldsets
            || self.kept.is_some()
    }

    /// What is kept.
    pub(super) fn reasons(&self) -> Vec<Kept> {
        let mut reasons: Vec<Kept> = [
            (Kept::Transaction, self.transaction.is_some()),
            (Kept::Watch, self.watching || self.watch_broken),
            (Kept::Subscription, self.subscribed()),
            (Kept::Monitor, self.monitoring),
            (Kept::Tracking, self.tracking.is_some()),
            (Kept::NoTouch, self.no_touch),
            (Kept::ImportSource, self.import_source),
            (Kept::Fieldsets, self.fieldsets),
        ]
        .into_iter()
        .filter_map(|(kept, held)| held.then_some(kept))
        .collect();
        reasons.extend(self.kept.clone().map(Kept::UnknownCommand));
        reasons
    }

    /// A command is sent whose effect on the connection is not known.
    pub(super) fn keep_for(&mut self, name: &[u8]) {
        // Names of commands have 64 printable bytes at most.
        self.kept.get_or_insert_with(|| String::from_utf8_lossy(name).to_ascii_uppercase().into());
    }

    /// Returns true if a command was sent whose effect on the connection is not known.
    pub(super) fn is_kept_for_unknown(&self) -> bool {
        self.kept.is_some()
    }

    /// Returns true if NO-TOUCH is all that is kept.
    pub(super) fn only_no_touch(&self) -> bool {
        self.reasons() == [Kept::NoTouch]
    }

    /// Whether there is any subscription.
    pub(super) fn subscribed(&self) -> bool {
        self.subscriptions() > 0
    }

    /// Names subscribed to, of all kinds.
    pub(super) fn subscriptions(&self) -> usize {
        self.channels.len() + self.patterns.len() + self.shards.len()
    }

    /// Names of one kind.
    pub(super) fn names(&mut self, kind: Kind) -> &mut HashSet<Box<[u8]>> {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
            Kind::Shard => &mut self.shards,
        }
    }

    /// WATCH has come to its end, one way or another.
    pub(super) fn unwatch(&mut self) {
        self.watching = false;
        self.watch_broken = false;
    }

    /// Takes a confirmation from the server.
    pub(super) fn confirm(&mut self, confirmation: &Confirmation<'_>) {
        let Some(name) = confirmation.name else { return };
        let names = self.names(confirmation.kind);
        if confirmation.begins {
            if names.insert(name.into()) {
                self.name_bytes += name.len();
            }
        } else if names.remove(name) {
            self.name_bytes -= name.len();
        }
    }

    /// Returns the number of bytes allocated.
    pub(super) fn capacity(&self) -> usize {
        let places = self.channels.capacity() + self.patterns.capacity() + self.shards.capacity();
        let names =
            places * (size_of::<Box<[u8]>>() + 1) + self.subscriptions() * ALLOCATION + self.name_bytes;
        let tracking = self.tracking.as_ref().map_or(0, |request| request.len());
        names + tracking + self.transaction.as_ref().map_or(0, Transaction::capacity)
    }

    /// Whether so many more names, of so many bytes together, would be too much for one session.
    pub(super) fn would_exceed(&self, names: usize, bytes: usize) -> bool {
        self.subscriptions() + names > MAX_SUBSCRIPTIONS || self.name_bytes + bytes > MAX_NAME_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_in_number_and_in_bytes() {
        let mut pins = Pins::default();
        assert!(!pins.would_exceed(MAX_SUBSCRIPTIONS, MAX_NAME_BYTES));
        for begins in [true, true, false] {
            let confirmation = Confirmation { kind: Kind::Channel, begins, name: Some(b"abc") };
            pins.confirm(&confirmation);
            assert_eq!(pins.would_exceed(1, MAX_NAME_BYTES - 2), begins);
            assert_eq!(pins.would_exceed(MAX_SUBSCRIPTIONS, 0), begins);
        }
    }

    #[test]
    fn pins_end_with_the_last_subscription() {
        let mut pins = Pins::default();
        for (begins, held) in [(true, true), (false, false)] {
            pins.confirm(&Confirmation { kind: Kind::Shard, begins, name: Some(b"s") });
            assert_eq!(pins.any(), held);
        }
    }
}
