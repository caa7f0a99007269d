//! Decodes replies of the control plane into values. It finds a whole reply, decodes it with the redis-protocol crate,
//! and converts it to one shape for both protocol versions.

use bytes::{Bytes, BytesMut};
use redis_protocol::error::RedisProtocolError;
use redis_protocol::{resp2, resp3};

use crate::resp::Resp;
use crate::resp::reply::{ReplyError, ReplyScanner, ScannedReply};

/// The greatest nesting of aggregates in a reply. COMMAND's reply, the deepest that is known, has 8 levels.
const MAX_DEPTH: usize = 32;

/// A reply in the shapes of RESP2, whichever version the connection speaks. A map becomes an array in which keys and
/// values alternate, a set an array, a boolean 0 or 1, a double or big number its text. Only pushes have a shape of
/// their own.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// A simple, bulk or verbatim string.
    Text(Bytes),
    /// An error line without the leading `-`. It contains neither CR nor LF.
    Error(Bytes),
    /// An integer.
    Integer(i64),
    /// An array, a set, or a flattened map, whose pairs have no particular order.
    Array(Vec<Value>),
    /// RESP3 out-of-band data.
    Push(Vec<Value>),
}

impl Value {
    /// Returns the bytes of a string, or `None` for any other value.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Text(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Returns the text of a string that is UTF-8.
    pub fn text(&self) -> Option<&str> {
        self.bytes().and_then(|bytes| str::from_utf8(bytes).ok())
    }

    /// Returns an integer, even if it was sent as a string.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            other => other.text().and_then(|text| text.parse().ok()),
        }
    }

    /// Returns the elements of an array or a push.
    pub fn elements(&self) -> Option<&[Value]> {
        match self {
            Self::Array(elements) | Self::Push(elements) => Some(elements),
            _ => None,
        }
    }

    /// Returns the line of an error.
    pub fn error(&self) -> Option<&Bytes> {
        match self {
            Self::Error(line) => Some(line),
            _ => None,
        }
    }

    /// Returns the value of a key in a flattened map; the first value if the key occurs several times.
    pub fn field(&self, key: &str) -> Option<&Value> {
        let (pairs, _) = self.elements()?.as_chunks::<2>();
        pairs.iter().find(|[name, _]| name.bytes() == Some(key.as_bytes())).map(|[_, value]| value)
    }
}

/// Finds the end of the first reply in a growing buffer. It also bounds the nesting, because the decoder that follows
/// is recursive.
#[derive(Debug, Default)]
pub(super) struct Extent {
    scanner: ReplyScanner,
    /// The number of missing values at each open level.
    open: Vec<u64>,
}

impl Extent {
    /// Returns the length of the reply at the front of `buf`, or `None` while it is incomplete. Until it returns a
    /// length, the caller must pass the same buffer, with bytes appended only.
    pub(super) fn find(&mut self, buf: &[u8]) -> Result<Option<usize>, String> {
        let open = &mut self.open;
        match self.scanner.scan_seen(buf, |children| nest(open, children)) {
            ScannedReply::Incomplete => Ok(None),
            ScannedReply::Complete { len, .. } => Ok(Some(len)),
            ScannedReply::Malformed(error) => Err(format!("a reply is malformed: {error}")),
        }
    }
}

/// Opens a level for an aggregate. A value without children instead completes one element of the innermost level, and
/// of every outer level whose last element this ends.
fn nest(open: &mut Vec<u64>, children: u64) -> Result<(), ReplyError> {
    if children > 0 {
        if open.len() == MAX_DEPTH {
            return Err(ReplyError::Depth);
        }
        open.push(children);
        return Ok(());
    }
    while let Some(missing) = open.last_mut() {
        *missing -= 1;
        if *missing > 0 {
            break;
        }
        open.pop();
    }
    Ok(())
}

/// Decodes exactly one reply, whose end `Extent` has found.
pub(super) fn decode(reply: BytesMut, resp: Resp) -> Result<Value, String> {
    let reply = reply.freeze();
    if reply.first() == Some(&b'-') {
        return error_line(&reply);
    }
    let malformed = |error: RedisProtocolError| format!("a reply is malformed: {}", error.details());
    let (value, used) = match resp {
        Resp::V2 => resp2::decode::decode_bytes(&reply)
            .map_err(malformed)?
            .map(|(frame, used)| (from_resp2(frame), used)),
        Resp::V3 => resp3::decode::complete::decode_bytes(&reply)
            .map_err(malformed)?
            .map(|(frame, used)| (from_resp3(frame), used)),
    }
    .ok_or("a reply ends early")?;
    if used != reply.len() {
        return Err("a reply's parts do not add up to its length".into());
    }
    Ok(value)
}

/// Takes an error reply as bytes, without the decoder: the error may quote a command whose bytes are not UTF-8.
fn error_line(reply: &Bytes) -> Result<Value, String> {
    let line = reply.slice(1..reply.len().saturating_sub(2).max(1));
    if memchr::memchr2(b'\r', b'\n', &line).is_some() {
        return Err("an error reply contains a lone CR or LF".into());
    }
    Ok(Value::Error(line))
}

fn from_resp2(frame: resp2::types::BytesFrame) -> Value {
    use resp2::types::BytesFrame as Frame;
    match frame {
        Frame::SimpleString(data) | Frame::BulkString(data) => Value::Text(data),
        Frame::Error(line) => Value::Error(line.into_inner()),
        Frame::Integer(number) => Value::Integer(number),
        Frame::Array(elements) => Value::Array(elements.into_iter().map(from_resp2).collect()),
        Frame::Null => Value::Null,
    }
}

fn from_resp3(frame: resp3::types::BytesFrame) -> Value {
    use resp3::types::BytesFrame as Frame;
    match frame {
        Frame::BlobString { data, .. }
        | Frame::SimpleString { data, .. }
        | Frame::VerbatimString { data, .. }
        | Frame::BigNumber { data, .. } => Value::Text(data),
        Frame::SimpleError { data, .. } => Value::Error(data.into_inner()),
        Frame::BlobError { data, .. } => Value::Error(data),
        Frame::Boolean { data, .. } => Value::Integer(data.into()),
        Frame::Number { data, .. } => Value::Integer(data),
        Frame::Double { data, .. } => Value::Text(data.to_string().into()),
        Frame::Array { data, .. } => Value::Array(data.into_iter().map(from_resp3).collect()),
        Frame::Set { data, .. } => Value::Array(data.into_iter().map(from_resp3).collect()),
        Frame::Map { data, .. } => Value::Array(
            data.into_iter().flat_map(|(key, value)| [from_resp3(key), from_resp3(value)]).collect(),
        ),
        Frame::Push { data, .. } => Value::Push(data.into_iter().map(from_resp3).collect()),
        // The scanner refuses all streamed kinds.
        Frame::Null | Frame::Hello { .. } | Frame::ChunkedString(_) => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the reply byte by byte, then decodes it.
    fn read(reply: &[u8], resp: Resp) -> Result<Value, String> {
        let mut extent = Extent::default();
        for end in 0..reply.len() {
            assert_eq!(extent.find(&reply[..end])?, None, "complete after {end} of {} bytes", reply.len());
        }
        assert_eq!(extent.find(reply)?, Some(reply.len()));
        decode(BytesMut::from(reply), resp)
    }

    fn text(text: &'static str) -> Value {
        Value::Text(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn both_versions_give_the_same_values() {
        let expected = Value::Array(vec![text("proto"), Value::Integer(3)]);
        assert_eq!(read(b"*2\r\n$5\r\nproto\r\n:3\r\n", Resp::V2).unwrap(), expected);
        assert_eq!(read(b"%1\r\n$5\r\nproto\r\n:3\r\n", Resp::V3).unwrap(), expected);
        assert_eq!(
            read(b"%1\r\n$5\r\nproto\r\n:3\r\n", Resp::V3).unwrap().field("proto").unwrap().integer(),
            Some(3)
        );
        for (null, resp) in [("$-1\r\n", Resp::V2), ("*-1\r\n", Resp::V2), ("_\r\n", Resp::V3)] {
            assert_eq!(read(null.as_bytes(), resp).unwrap(), Value::Null);
        }
        assert_eq!(read(b"=6\r\ntxt:hi\r\n", Resp::V3).unwrap(), text("hi"));
        assert_eq!(read(b"#t\r\n", Resp::V3).unwrap(), Value::Integer(1));
        assert_eq!(read(b",1.5\r\n", Resp::V3).unwrap(), text("1.5"));
        assert_eq!(read(b"~1\r\n(12\r\n", Resp::V3).unwrap(), Value::Array(vec![text("12")]));
        assert_eq!(
            read(b">2\r\n+a\r\n*0\r\n", Resp::V3).unwrap(),
            Value::Push(vec![text("a"), Value::Array(vec![])])
        );
        assert_eq!(read(b"|1\r\n+ttl\r\n:9\r\n+x\r\n", Resp::V3).unwrap(), text("x"));
        assert_eq!(read(b"!3\r\nbad\r\n", Resp::V3).unwrap(), Value::Error(Bytes::from_static(b"bad")));
    }

    #[test]
    fn error_lines_keep_their_bytes() {
        assert_eq!(read(b"-ERR \xff\xfe\r\n", Resp::V2).unwrap().error().unwrap().as_ref(), b"ERR \xff\xfe");
        assert_eq!(read(b"-\r\n", Resp::V2).unwrap(), Value::Error(Bytes::new()));
    }

    #[test]
    fn hostile_replies_are_refused() {
        let deep = b"*1\r\n".repeat(MAX_DEPTH + 1);
        for reply in [
            &deep[..],
            b"\r\n",
            b"+a\rb",
            b"H 2\r\n",
            b"$?\r\n",
            b"*+1\r\n",
            b"$-2\r\n",
            b"$\r\n",
            b"$99999999999999999999\r\n",
            b"$18446744073709551615\r\n",
            b".\r\n",
            b"\0\r\n",
            b"*1\r\n>0\r\n",
            b"$1\r\nab\r\n",
        ] {
            assert!(Extent::default().find(reply).is_err(), "{:?}", String::from_utf8_lossy(reply));
        }
        for (reply, resp) in [(&b"*1\r\n%0\r\n"[..], Resp::V2), (b"#x\r\n", Resp::V3), (b":1x\r\n", Resp::V2)]
        {
            let mut extent = Extent::default();
            assert_eq!(extent.find(reply).unwrap(), Some(reply.len()));
            assert!(decode(BytesMut::from(reply), resp).is_err(), "{:?}", String::from_utf8_lossy(reply));
        }
        for line in [&b"-a\rb\r\n"[..], b"-a\nb\r\n"] {
            assert!(decode(BytesMut::from(line), Resp::V2).is_err());
        }
        let deep = [&b"*1\r\n".repeat(MAX_DEPTH)[..], b"|0\r\n+a\r\n"].concat();
        assert!(Extent::default().find(&deep).is_err(), "an attribute is a level too");
        let wide = [&b"*99\r\n"[..], &b"*1\r\n*0\r\n".repeat(99)].concat();
        assert_eq!(Extent::default().find(&wide).unwrap(), Some(wide.len()));
    }

    #[test]
    fn an_extent_serves_one_reply_after_another() {
        let mut extent = Extent::default();
        let mut buf = BytesMut::from(&b"*2\r\n*1\r\n:1\r\n$2\r\nab\r\n+OK\r\n"[..]);
        let first = extent.find(&buf).unwrap().unwrap();
        assert_eq!(first, 20);
        let _ = buf.split_to(first);
        assert_eq!(extent.find(&buf).unwrap(), Some(5));
    }

    proptest::proptest! {
        #[test]
        fn no_input_panics_or_overruns(reply in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for resp in [Resp::V2, Resp::V3] {
                if let Ok(Some(end)) = Extent::default().find(&reply) {
                    proptest::prop_assert!(end <= reply.len());
                    let _ = decode(BytesMut::from(&reply[..end]), resp);
                }
            }
        }

        #[test]
        fn no_reply_like_input_panics(reply in "([*%~>|$!=+:,#_(-][0-9]{0,2}\r\n(ab\r\n)?){0,12}") {
            for resp in [Resp::V2, Resp::V3] {
                if let Ok(Some(end)) = Extent::default().find(reply.as_bytes()) {
                    let _ = decode(BytesMut::from(&reply.as_bytes()[..end]), resp);
                }
            }
        }
    }
}
