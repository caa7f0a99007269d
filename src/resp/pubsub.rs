//! Subscriptions as the protocol has them: their kinds, and the frames of messages and confirmations.

/// Names that one session may be subscribed to. More are refused, so that a session's memory is bounded.
pub const MAX_SUBSCRIPTIONS: usize = 64 * 1024;

/// Bytes of those names together.
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
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    /// The command that begins one.
    pub fn begin(self) -> &'static [u8] {
        match self {
            Self::Channel => b"SUBSCRIBE",
            Self::Pattern => b"PSUBSCRIBE",
            Self::Shard => b"SSUBSCRIBE",
        }
    }

    /// The command that ends one.
    pub fn end(self) -> &'static [u8] {
        match self {
            Self::Channel => b"UNSUBSCRIBE",
            Self::Pattern => b"PUNSUBSCRIBE",
            Self::Shard => b"SUNSUBSCRIBE",
        }
    }
}

/// What a frame from a connection with subscriptions is.
#[derive(Debug, PartialEq, Eq)]
pub enum Published<'a> {
    /// The reply to a (P|S)(UN)SUBSCRIBE, one for each name.
    Confirmation(Confirmation<'a>),
    /// A published message, for who is subscribed to this name; `None` while that is cut off.
    Message(Kind, Option<&'a [u8]>),
    /// Something else: a reply, or an invalidation.
    Other,
}

/// See [`Published::Confirmation`].
#[derive(Debug, PartialEq, Eq)]
pub struct Confirmation<'a> {
    /// Of what.
    pub kind: Kind,
    /// Whether a subscription began; else it ended.
    pub begins: bool,
    /// Its name; `None` where there was nothing to end.
    pub name: Option<&'a [u8]>,
}

/// Looks at the start of a frame. In RESP2 confirmations and messages are arrays, in RESP3 pushes, of the same
/// elements: they differ in their first byte only (observed on valkey 8.0 and redis 7.0).
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
