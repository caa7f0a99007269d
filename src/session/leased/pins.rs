//! Records why a session keeps its lease: the connection state that its commands have made. No I/O.

use std::collections::HashSet;

use super::selects::Selects;
use crate::resp::pubsub::{Confirmation, Kind, MAX_NAME_BYTES, MAX_SUBSCRIPTIONS};
use crate::session::refusal::PinReason;

/// Limit of the bytes of a transaction that are kept to send it again to another primary.
const REPLAYABLE: usize = 1024 * 1024;

/// Estimated bytes that the allocator adds to one small allocation.
const ALLOCATION: usize = 16;

/// Describes a transaction between MULTI and EXEC, as far as it has been sent.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// MULTI and the requests behind it, to send again on a new connection. Empty if they exceed [`REPLAYABLE`].
    body: Vec<Box<[u8]>>,
    /// Bytes of all requests, kept or not.
    size: usize,
    /// Number of commands queued so far.
    pub(super) queued: usize,
    /// True if respgate or the server refused a request in it: EXEC must not run it.
    pub(super) poisoned: bool,
    /// The SELECTs in it.
    pub(super) selects: Selects,
    /// True if it contains a SELECT.
    pub(super) selecting: bool,
    /// True if keys were watched when EXEC was sent.
    pub(super) watched: bool,
    /// True if it contains a script, whose replies can be forged.
    pub(super) scripted: bool,
}

impl Transaction {
    /// Adds one request.
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

    /// Returns true if a script can forge the results that tell which database the transaction selects.
    pub(super) fn hides_database(&self) -> bool {
        self.scripted && self.selecting
    }

    /// Forgets the requests, as if they were too large to keep: EXEC says that the transaction was discarded.
    pub(super) fn forget_body(&mut self) {
        self.size = self.size.max(REPLAYABLE + 1);
        self.body = Vec::new();
    }

    /// Returns the requests, MULTI first; `None` if they were too large to keep.
    pub(super) fn body(&self) -> Option<&[Box<[u8]>]> {
        (self.size <= REPLAYABLE).then_some(&self.body)
    }
}

/// Records the connection state of one lease.
#[derive(Debug, Default)]
pub(super) struct Pins {
    pub(super) transaction: Option<Transaction>,
    pub(super) watching: bool,
    /// Number of keys that WATCH has named.
    pub(super) watched_keys: usize,
    /// True if keys were watched on a connection that was lost: EXEC must fail as if they had changed.
    pub(super) watch_broken: bool,
    channels: HashSet<Box<[u8]>>,
    patterns: HashSet<Box<[u8]>>,
    shards: HashSet<Box<[u8]>>,
    /// Bytes of all subscribed names.
    name_bytes: usize,
    pub(super) monitoring: bool,
    /// The CLIENT TRACKING request that is in force.
    pub(super) tracking: Option<Box<[u8]>>,
    /// True if CLIENT CACHING was sent, and the command that it applies to was not.
    pub(super) caching: bool,
    pub(super) no_touch: bool,
    pub(super) import_source: bool,
    /// True if HIMPORT PREPARE left field names on the connection.
    pub(super) fieldsets: bool,
    /// The name of the first command that was sent although its effect on the connection is unknown.
    unknown_command: Option<Box<str>>,
    /// The number of these commands that keep the lease.
    unknown_commands: usize,
}

impl Pins {
    /// Returns true if the connection has state that the session still needs.
    pub(super) fn any(&self) -> bool {
        self.transaction.is_some()
            || self.watches()
            || self.subscribed()
            || self.monitoring
            || self.tracking.is_some()
            || self.no_touch
            || self.import_source
            || self.fieldsets
            || self.unknown_command.is_some()
    }

    /// Returns true if keys are watched, or were when their connection was lost.
    pub(super) fn watches(&self) -> bool {
        self.watching || self.watch_broken
    }

    /// Returns the kinds of state that keep the lease.
    pub(super) fn reasons(&self) -> Vec<PinReason> {
        let mut reasons: Vec<PinReason> = [
            (PinReason::Transaction, self.transaction.is_some()),
            (PinReason::Watch, self.watches()),
            (PinReason::Subscription, self.subscribed()),
            (PinReason::Monitor, self.monitoring),
            (PinReason::Tracking, self.tracking.is_some()),
            (PinReason::NoTouch, self.no_touch),
            (PinReason::ImportSource, self.import_source),
            (PinReason::Fieldsets, self.fieldsets),
        ]
        .into_iter()
        .filter_map(|(kept, held)| held.then_some(kept))
        .collect();
        reasons.extend(self.unknown_command.clone().map(PinReason::UnknownCommand));
        reasons
    }

    /// Returns the kinds of state that keep the lease, as bits in the order of [`super::pin_counts::GAUGES`].
    pub(super) fn kinds(&self) -> u16 {
        [
            self.transaction.is_some(),
            self.watches(),
            self.subscribed(),
            self.monitoring,
            self.tracking.is_some(),
            self.no_touch,
            self.import_source,
            self.fieldsets,
            self.unknown_command.is_some(),
        ]
        .into_iter()
        .rev()
        .fold(0, |bits, held| bits << 1 | u16::from(held))
    }

    /// Keeps the lease because of a command whose effect on the connection is unknown.
    pub(super) fn pin_for_unknown(&mut self, name: &[u8]) {
        self.unknown_commands += 1;
        // `name` has 64 printable bytes at most.
        self.unknown_command.get_or_insert_with(|| String::from_utf8_lossy(name).to_ascii_uppercase().into());
    }

    /// Takes note that the server did not run a command for which [`Self::pin_for_unknown`] was called.
    pub(super) fn unpin_for_unknown(&mut self) {
        self.unknown_commands = self.unknown_commands.saturating_sub(1);
        if self.unknown_commands == 0 {
            self.unknown_command = None;
        }
    }

    /// Returns true if a command was sent whose effect on the connection is unknown.
    pub(super) fn is_pinned_for_unknown(&self) -> bool {
        self.unknown_command.is_some()
    }

    /// Returns true if NO-TOUCH is the only state that is kept.
    pub(super) fn only_no_touch(&self) -> bool {
        self.reasons() == [PinReason::NoTouch]
    }

    /// Returns true if settings are the only state that is kept: any connection can have them.
    pub(super) fn only_settings(&self) -> bool {
        let reasons = self.reasons();
        !reasons.is_empty()
            && reasons.iter().all(|kept| matches!(kept, PinReason::NoTouch | PinReason::ImportSource))
    }

    /// Returns true if there is any subscription.
    pub(super) fn subscribed(&self) -> bool {
        self.subscriptions() > 0
    }

    /// Returns the number of subscribed names, of all kinds.
    pub(super) fn subscriptions(&self) -> usize {
        self.channels.len() + self.patterns.len() + self.shards.len()
    }

    /// Returns the numbers of subscribed channels, patterns and shard channels.
    pub(super) fn subscription_counts(&self) -> [usize; 3] {
        [self.channels.len(), self.patterns.len(), self.shards.len()]
    }

    /// Returns the subscribed names of one kind.
    pub(super) fn names(&mut self, kind: Kind) -> &mut HashSet<Box<[u8]>> {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
            Kind::Shard => &mut self.shards,
        }
    }

    /// Takes the shard channels out.
    pub(super) fn take_shard_channels(&mut self) -> HashSet<Box<[u8]>> {
        let names = std::mem::take(&mut self.shards);
        self.name_bytes -= names.iter().map(|name| name.len()).sum::<usize>();
        names
    }

    /// Ends WATCH.
    pub(super) fn unwatch(&mut self) {
        self.watching = false;
        self.watched_keys = 0;
        self.watch_broken = false;
    }

    /// Applies a confirmation from the server.
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
        let slots = self.channels.capacity() + self.patterns.capacity() + self.shards.capacity();
        let names =
            slots * (size_of::<Box<[u8]>>() + 1) + self.subscriptions() * ALLOCATION + self.name_bytes;
        let tracking = self.tracking.as_ref().map_or(0, |request| request.len());
        names + tracking + self.transaction.as_ref().map_or(0, Transaction::capacity)
    }

    /// Returns true if `names` more names, of `bytes` bytes together, would exceed the limits of one session.
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
    fn an_unknown_command_that_did_not_run_pins_no_longer() {
        let mut pins = Pins::default();
        pins.pin_for_unknown(b"one");
        pins.pin_for_unknown(b"two");
        pins.unpin_for_unknown();
        assert_eq!(pins.reasons(), [PinReason::UnknownCommand("ONE".into())]);
        pins.unpin_for_unknown();
        assert!(!pins.any());
    }

    #[test]
    fn only_settings_can_be_had_on_any_connection() {
        let mut pins = Pins::default();
        assert!(!pins.only_settings());
        pins.no_touch = true;
        assert!(pins.only_settings());
        pins.watching = true;
        assert!(!pins.only_settings());
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
