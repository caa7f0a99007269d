//! Replaces `$` in a blocking XREAD that may be sent again. `$` means the newest id at the moment when the server
//! reads it. Another server, after a failover, would read it later and skip the entries in between. So respgate
//! asks the server for the newest id of each such stream just before the XREAD, and keeps the request with these
//! ids in case it must be sent again.

use super::Leased;
use super::expect::Expect;
use crate::command::{ReadOptions, Trace};
use crate::resp::request::{self, Request};
use crate::resp::server_error::ServerError;

/// Limit of streams per request whose newest ids are asked for. In a request with more, `$` stays as it is.
const STREAMS: usize = 64;

impl Leased {
    /// Asks for the newest id of each stream that this XREAD reads from `$`.
    pub(super) fn expect_newest(&mut self, request: &Request<'_>) {
        for (dollar, key) in newest(request) {
            self.post(Expect::Newest(dollar), Trace::Nothing, |out| {
                request::encode(&[b"XINFO", b"STREAM", key], out);
            });
        }
    }

    /// Puts the newest id from the server's reply, which begins with `info`, into the kept request. If the reply
    /// has no id, for example because the user may not run XINFO, `$` stays as it is.
    pub(super) fn keep_newest(&mut self, dollar: usize, info: &[u8]) {
        let Some(id) = newest_id(info) else { return };
        let Some(len) = self.expected.blocked_last() else { return };
        if let Some(len) = self.outbound.amend_last(len, |request| with_id(request, dollar, id)) {
            self.expected.amend_last(len);
        }
    }
}

/// Returns the streams that an XREAD reads from `$`: the index of the `$` argument, and the key.
fn newest<'a>(request: &Request<'a>) -> Vec<(usize, &'a [u8])> {
    let Some(streams) = ReadOptions::of(request).streams else { return Vec::new() };
    let first = streams + 1;
    let named = (request.argc() as usize).saturating_sub(first);
    if named % 2 == 1 {
        return Vec::new();
    }
    let args = request.args().skip(first);
    // A request may name a million streams: do not collect them, and stop at the first one over the limit.
    let ids = args.clone().skip(named / 2);
    let dollars = args.zip(ids).enumerate().filter(|(_, (_, id))| *id == b"$");
    let asked = dollars.map(|(at, (key, _))| (first + named / 2 + at, key));
    let found: Vec<_> = asked.take(STREAMS + 1).collect();
    if found.len() > STREAMS { Vec::new() } else { found }
}

/// Returns the newest id in a reply to XINFO STREAM, in either protocol version. The field stands before any data
/// that users wrote.
fn newest_id(info: &[u8]) -> Option<&[u8]> {
    const FIELD: &[u8] = b"\r\n$17\r\nlast-generated-id\r\n$";
    if info.starts_with(b"-") && ServerError::of(info) == ServerError::NoSuchKey {
        return Some(b"0-0");
    }
    let rest = info.get(memchr::memmem::find(info, FIELD)? + FIELD.len()..)?;
    let id = rest.get(memchr::memchr(b'\n', rest)? + 1..)?;
    let id = id.get(..memchr::memchr(b'\r', id)?)?;
    let sound = !id.is_empty() && id.len() <= 41 && id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'-'));
    sound.then_some(id)
}

/// Returns the request with `id` as the argument at `dollar`.
fn with_id(request: &[u8], dollar: usize, id: &[u8]) -> Option<Vec<u8>> {
    let parsed = Request::parse(request)?;
    let mut args: Vec<&[u8]> = parsed.args().collect();
    *args.get_mut(dollar)? = id;
    let mut out = Vec::with_capacity(request.len() + id.len() + 8);
    request::encode(&args, &mut out);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(args: &[&str]) -> Vec<u8> {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        let mut out = Vec::new();
        request::encode(&args, &mut out);
        out
    }

    fn dollars_of(args: &[&str]) -> Vec<(usize, String)> {
        let bytes = encoded(args);
        let found = newest(&Request::parse(&bytes).unwrap());
        found.into_iter().map(|(at, key)| (at, String::from_utf8_lossy(key).into_owned())).collect()
    }

    #[test]
    fn only_ids_that_are_dollars_are_asked_for() {
        let found = dollars_of(&["XREAD", "COUNT", "1", "BLOCK", "0", "streams", "$", "b", "$", "0-0"]);
        assert_eq!(found, [(8, "$".to_owned())]);
        assert_eq!(dollars_of(&["XREAD", "BLOCK", "0", "STREAMS", "a", "b", "$", "$"]).len(), 2);
        for nothing in [
            &["XREAD", "BLOCK", "0", "STREAMS", "a", "0"][..],
            &["XREAD", "BLOCK", "0", "STREAMS", "a", "$", "$"],
            &["XREAD", "BLOCK", "0", "STREAMS"],
            &["XREAD", "BLOCK"],
        ] {
            assert_eq!(dollars_of(nothing), []);
        }
        let many = ["$"; 2 * STREAMS + 2];
        assert_eq!(dollars_of(&[&["XREAD", "BLOCK", "0", "STREAMS"], &many[..]].concat()), []);
    }

    #[test]
    fn the_newest_id_is_read_from_both_versions_and_nothing_else_is() {
        for start in ["*20", "%10"] {
            let info =
                format!("{start}\r\n$6\r\nlength\r\n:1\r\n$17\r\nlast-generated-id\r\n$3\r\n5-1\r\n$6\r\n");
            assert_eq!(newest_id(info.as_bytes()), Some(&b"5-1"[..]));
            for cut in 0..info.len() {
                assert!(newest_id(&info.as_bytes()[..cut]).is_none_or(|id| id == b"5-1"));
            }
        }
        assert_eq!(newest_id(b"-ERR no such key\r\n"), Some(&b"0-0"[..]));
        assert_eq!(newest_id(b"-NOPERM no\r\n"), None);
        assert_eq!(newest_id(b"*2\r\n$17\r\nlast-generated-id\r\n$3\r\n5 1\r\n"), None);
    }

    #[test]
    fn the_id_takes_the_place_of_its_dollar() {
        let request = encoded(&["XREAD", "BLOCK", "0", "STREAMS", "$", "b", "$", "$"]);
        let kept = with_id(&request, 7, b"5-1").unwrap();
        assert_eq!(kept, encoded(&["XREAD", "BLOCK", "0", "STREAMS", "$", "b", "$", "5-1"]));
        assert_eq!(with_id(&request, 8, b"5-1"), None);
    }
}
