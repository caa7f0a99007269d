//! The kinds of subscription in the protocol, and the parser of frames with messages and confirmations.

/// The number of names to which one session may be subscribed. respgate refuses more, which bounds a session's memory.
pub const MAX_SUBSCRIPTIONS: usize = 64 * 1024;

/// The total length of those names, in bytes.
pub const MAX_NAME_BYTES: usize = 16 * 1024 * 1024;

/// The three kinds of subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// SUBSCRIBE.
    Channel,
    /// PSUBSCRIBE.
    Pattern,
    /// SSUBSCRIBE.
    Shard,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    /// Returns the command that begins a subscription of this kind.
    pub fn begin(self) -> &'static [u8] {
        match self {
            Self::Channel => b"SUBSCRIBE",
            Self::Pattern => b"PSUBSCRIBE",
            Self::Shard => b"SSUBSCRIBE",
        }
    }

    /// Returns the command that ends a subscription of this kind.
    pub fn end(self) -> &'static [u8] {
        match self {
            Self::Channel => b"UNSUBSCRIBE",
            Self::Pattern => b"PUNSUBSCRIBE",
            Self::Shard => b"SUNSUBSCRIBE",
        }
    }
}

/// The kind of a frame on a connection with subscriptions.
#[derive(Debug, PartialEq, Eq)]
pub enum Published<'a> {
    /// The frame confirms a (P|S)(UN)SUBSCRIBE; the server sends one for each name.
    Confirmation(Confirmation<'a>),
    /// The frame is a message published to this name. The name is `None` if the given bytes end before it does.
    Message(Kind, Option<&'a [u8]>),
    /// The frame is something else: a reply or an invalidation.
    Other,
}

/// The content of a [`Published::Confirmation`].
#[derive(Debug, PartialEq, Eq)]
pub struct Confirmation<'a> {
    /// The kind of the subscription.
    pub kind: Kind,
    /// True if a subscription began; false if it ended.
    pub begins: bool,
    /// The name of the subscription; `None` if there was none to end.
    pub name: Option<&'a [u8]>,
}

/// Classifies a frame by its start. Confirmations and messages are arrays in RESP2 and pushes in RESP3, with the same
/// elements: they differ in the first byte only (observed on valkey 8.0 and redis 7.0).
pub fn published(frame: &[u8]) -> Published<'_> {
    let Some(rest) = frame
        .strip_prefix(b"*3\r\n")
        .or_else(|| frame.strip_prefix(b">3\r\n"))
        .or_else(|| frame.strip_prefix(b"*4\r\n"))
        .or_else(|| frame.strip_prefix(b">4\r\n"))
    else {
        return Published::Other;
    };
    let Some((word, rest)) = bulk(rest) else { return Published::Other };
    let name = || bulk(rest).map(|(name, _)| name);
    let (kind, begins) = match word {
        b"message" => return Published::Message(Kind::Channel, name()),
        b"pmessage" => return Published::Message(Kind::Pattern, name()),
        b"smessage" => return Published::Message(Kind::Shard, name()),
        b"subscribe" => (Kind::Channel, true),
        b"unsubscribe" => (Kind::Channel, false),
        b"psubscribe" => (Kind::Pattern, true),
        b"punsubscribe" => (Kind::Pattern, false),
        b"ssubscribe" => (Kind::Shard, true),
        b"sunsubscribe" => (Kind::Shard, false),
        _ => return Published::Other,
    };
    Published::Confirmation(Confirmation { kind, begins, name: name() })
}

/// Splits a bulk string off `bytes`: returns the string and the bytes after it.
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
    fn confirmations_differ_from_messages_in_both_versions() {
        for start in ["*", ">"] {
            let frame = format!("{start}3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
            assert_eq!(
                published(frame.as_bytes()),
                Published::Confirmation(Confirmation { kind: Kind::Channel, begins: true, name: Some(b"a") })
            );
            let frame = format!("{start}3\r\n$7\r\nmessage\r\n$1\r\na\r\n$9\r\nsubscribe\r\n");
            assert_eq!(published(frame.as_bytes()), Published::Message(Kind::Channel, Some(b"a")));
            let frame = format!("{start}4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$1\r\na\r\n$1\r\nx\r\n");
            assert_eq!(published(frame.as_bytes()), Published::Message(Kind::Pattern, Some(b"a*")));
        }
        assert_eq!(published(b">3\r\n$8\r\nsmessage\r\n$1\r"), Published::Message(Kind::Shard, None));
        assert_eq!(
            published(b"*3\r\n$12\r\npunsubscribe\r\n$-1\r\n:0\r\n"),
            Published::Confirmation(Confirmation { kind: Kind::Pattern, begins: false, name: None })
        );
        assert_eq!(published(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"), Published::Other);
        assert_eq!(published(b"*3\r\n$9999999999999999999999\r\n"), Published::Other);
    }
}
