//! RESP values of both versions, as a client reads them.

use std::fmt;

/// One value; equal values were equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// A line, with its type byte: `+OK`, `-ERR …`, `:1`, `_`, `#t`, `,1.5`, `(123`.
    Line(u8, Vec<u8>),
    /// A bulk, with its type byte `$`, `!` or `=`; `None` is `$-1`.
    Bulk(u8, Option<Vec<u8>>),
    /// An aggregate, with its type byte `*`, `~`, `>`, `%` or `|`; `None` is `*-1`. A map is its keys and values in turn.
    Many(u8, Option<Vec<Value>>),
}

/// What a connection gave: a value, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// One frame.
    Frame(Value),
    /// The peer closed the connection.
    Closed,
}

impl Value {
    /// The first value in `bytes` and its length; `None` if more bytes are needed. Any byte that begins no RESP type begins a
    /// line, so that what does not belong there is seen.
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let kind = *bytes.first()?;
        let end = memchr::memmem::find(bytes, b"\r\n")?;
        let line = &bytes[1..end];
        let mut at = end + 2;
        let number = || std::str::from_utf8(line).ok()?.parse::<i64>().ok();
        match kind {
            b'$' | b'!' | b'=' => match number() {
                Some(length) if length >= 0 => {
                    let body = bytes.get(at..at + length as usize)?.to_vec();
                    bytes.get(at + body.len()..at + body.len() + 2)?;
                    at += body.len() + 2;
                    Some((Self::Bulk(kind, Some(body)), at))
                }
                _ => Some((Self::Bulk(kind, None), at)),
            },
            b'*' | b'~' | b'>' | b'%' | b'|' => match number() {
                Some(count) if count >= 0 => {
                    let count = if matches!(kind, b'%' | b'|') { 2 * count } else { count };
                    let mut values = Vec::new();
                    for _ in 0..count {
                        let (value, length) = Self::parse(&bytes[at..])?;
                        values.push(value);
                        at += length;
                    }
                    Some((Self::Many(kind, Some(values)), at))
                }
                _ => Some((Self::Many(kind, None), at)),
            },
            _ => Some((Self::Line(kind, line.to_vec()), at)),
        }
    }

    /// Whether this is an error, and its text.
    pub fn error(&self) -> Option<&[u8]> {
        match self {
            Self::Line(b'-', text) | Self::Bulk(b'!', Some(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether this is an error that begins so.
    pub fn fails_with(&self, start: &str) -> bool {
        self.error().is_some_and(|text| text.starts_with(start.as_bytes()))
    }

    /// Whether this is the simple string `text`.
    pub fn is_simple(&self, text: &str) -> bool {
        matches!(self, Self::Line(b'+', line) if line == text.as_bytes())
    }

    /// Whether this is out-of-band data of RESP3.
    pub fn is_push(&self) -> bool {
        matches!(self, Self::Many(b'>', _))
    }

    /// The text of a line or bulk.
    pub fn text(&self) -> Option<&[u8]> {
        match self {
            Self::Line(_, text) => Some(text),
            Self::Bulk(_, text) => text.as_deref(),
            Self::Many(..) => None,
        }
    }

    /// The members of an aggregate.
    pub fn members(&self) -> Option<&[Value]> {
        if let Self::Many(_, members) = self { members.as_deref() } else { None }
    }
}

/// As a reader writes it down; long texts are cut.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &[u8]| {
            let cut = &text[..text.len().min(300)];
            let rest =
                if cut.len() < text.len() { format!("… ({} bytes)", text.len()) } else { String::new() };
            format!("{}{rest}", cut.escape_ascii())
        };
        match self {
            Self::Line(kind, line) => write!(f, "{}{}", kind.escape_ascii(), text(line)),
            Self::Bulk(kind, None) => write!(f, "{}-1", *kind as char),
            Self::Bulk(kind, Some(bulk)) => write!(f, "{}\"{}\"", *kind as char, text(bulk)),
            Self::Many(kind, None) => write!(f, "{}-1", *kind as char),
            Self::Many(kind, Some(members)) => {
                write!(f, "{}[", *kind as char)?;
                for (index, member) in members.iter().enumerate() {
                    match index {
                        0 => write!(f, "{member}")?,
                        1..40 => write!(f, ", {member}")?,
                        40 => write!(f, ", … {} members", members.len())?,
                        _ => break,
                    }
                }
                write!(f, "]")
            }
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(value) => write!(f, "{value}"),
            Self::Closed => write!(f, "(connection closed)"),
        }
    }
}
