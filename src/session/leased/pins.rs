//! Why a session keeps its lease: the connection state that its commands have made. No I/O.

use std::collections::HashSet;

/// Names that one session may be subscribed to. More are refused, so that a session's memory is bounded.
pub(super) const MAX_SUBSCRIPTIONS: usize = 64 * 1024;

/// Bytes of those names together.
pub(super) const MAX_NAME_BYTES: usize = 16 * 1024 * 1024;

/// The three kinds of subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Channel,
    Pattern,
    Shard,
}

/// What a transaction may hold so that it can be sent again to another primary, in bytes.
const REPLAYABLE: usize = 1024 * 1024;

/// A transaction between MULTI and EXEC, as far as it has been sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Transaction {
    /// MULTI and what follows it, for a new connection; too much of it is not kept.
    body: Vec<Box<[u8]>>,
    size: usize,
    /// Commands queued so far.
    pub(super) queued: usize,
    /// Something in it was refused by respgate: EXEC must not run it.
    pub(super) poisoned: bool,
    /// SELECTs in it: which element of EXEC's reply tells whether they worked, and their database.
    pub(super) selects: Vec<(usize, u32)>,
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
            self.body.clear();
        }
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
    pub(super) no_touch: bool,
    /// A command whose effect on the connection is not known was sent.
    pub(super) kept: bool,
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
            || self.kept
    }

    /// The names of what is kept, for logs.
    pub(super) fn reasons(&self) -> Vec<&'static str> {
        [
            ("transaction", self.transaction.is_some()),
            ("watch", self.watching || self.watch_broken),
            ("subscription", self.subscribed()),
            ("monitor", self.monitoring),
            ("tracking", self.tracking.is_some()),
            ("no-touch", self.no_touch),
            ("unknown command", self.kept),
        ]
        .into_iter()
        .filter_map(|(name, held)| held.then_some(name))
        .collect()
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

    /// Whether so many more names, of so many bytes together, would be too much for one session.
    pub(super) fn would_exceed(&self, names: usize, bytes: usize) -> bool {
        self.subscriptions() + names > MAX_SUBSCRIPTIONS || self.name_bytes + bytes > MAX_NAME_BYTES
    }
}

/// What a frame from a connection with subscriptions is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Published<'a> {
    /// The reply to a (P|S)(UN)SUBSCRIBE, one for each name.
    Confirmation(Confirmation<'a>),
    /// A published message.
    Message,
    /// Something else: a reply, or an invalidation.
    Other,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Confirmation<'a> {
    pub(super) kind: Kind,
    /// Whether a subscription began; else it ended.
    pub(super) begins: bool,
    /// Its name; `None` where there was nothing to end.
    pub(super) name: Option<&'a [u8]>,
}

/// Looks at the start of a frame. In RESP2 confirmations and messages are arrays, in RESP3 pushes, of the same
/// elements.
pub(super) fn published(frame: &[u8]) -> Published<'_> {
    let Some(rest) = frame
        .strip_prefix(b"*3\r\n")
        .or_else(|| frame.strip_prefix(b">3\r\n"))
        .or_else(|| frame.strip_prefix(b"*4\r\n"))
        .or_else(|| frame.strip_prefix(b">4\r\n"))
    else {
        return Published::Other;
    };
    let Some((word, rest)) = bulk(rest) else { return Published::Other };
    let (kind, begins) = match word {
        b"message" | b"pmessage" | b"smessage" => return Published::Message,
        b"subscribe" => (Kind::Channel, true),
        b"unsubscribe" => (Kind::Channel, false),
        b"psubscribe" => (Kind::Pattern, true),
        b"punsubscribe" => (Kind::Pattern, false),
        b"ssubscribe" => (Kind::Shard, true),
        b"sunsubscribe" => (Kind::Shard, false),
        _ => return Published::Other,
    };
    Published::Confirmation(Confirmation { kind, begins, name: bulk(rest).map(|(name, _)| name) })
}

/// A bulk string at the start of `bytes`, and what follows it.
fn bulk(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(b"$")?;
    let end = memchr::memchr(b'\r', rest)?;
    let len: usize = std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()?;
    let start = end + 2;
    Some((rest.get(start..start.checked_add(len)?)?, rest.get(start + len + 2..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirmations_are_told_from_messages_in_both_versions() {
        for start in ["*", ">"] {
            let frame = format!("{start}3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
            assert_eq!(
                published(frame.as_bytes()),
                Published::Confirmation(Confirmation { kind: Kind::Channel, begins: true, name: Some(b"a") })
            );
            let frame = format!("{start}3\r\n$7\r\nmessage\r\n$1\r\na\r\n$9\r\nsubscribe\r\n");
            assert_eq!(published(frame.as_bytes()), Published::Message);
        }
        assert_eq!(
            published(b"*3\r\n$12\r\npunsubscribe\r\n$-1\r\n:0\r\n"),
            Published::Confirmation(Confirmation { kind: Kind::Pattern, begins: false, name: None })
        );
        assert_eq!(published(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"), Published::Other);
        assert_eq!(published(b"*3\r\n$9999999999999999999999\r\n"), Published::Other);
    }

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
