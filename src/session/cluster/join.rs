//! Makes one reply of the replies to the parts of a command. No I/O. What servers send is hostile: a reply of another form than its
//! command has makes the whole an error.

use super::cursor::{self, Mark};
use super::spread::Joint;
use crate::cluster::slot::Slot;
use crate::resp::Resp;
use crate::resp::reply::{ReplyKind, ReplyScanner, ScannedReply};
use crate::resp::write;

/// The error line for a reply that has not the form of its command's replies.
pub(super) const OTHER_FORM: &[u8] =
    b"-ERR respgate: a server's reply to a part of this command has an unexpected form\r\n";

/// The error line for a server's cursor that does not fit into a client's.
const CURSOR_TOO_LARGE: &[u8] =
    b"-ERR respgate: the server's SCAN cursor is too large to be passed on for a cluster\r\n";

/// The reply to one part.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartReply<'a> {
    /// The whole reply.
    pub(super) bytes: &'a [u8],
    /// The number of keys of the part.
    pub(super) keys: usize,
    /// The place of the part's first key among all keys.
    pub(super) first: usize,
}

/// Takes one whole reply from the front of `bytes`.
pub(super) fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    match ReplyScanner::default().scan(bytes) {
        ScannedReply::Complete { len, .. } => {
            let (reply, rest) = bytes.split_at_checked(len)?;
            *bytes = rest;
            Some(reply)
        }
        ScannedReply::Incomplete | ScannedReply::Malformed(_) => None,
    }
}

/// Takes `count` whole replies from the front of `bytes`.
fn take_some<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let all = *bytes;
    for _ in 0..count {
        take(bytes)?;
    }
    all.get(..all.len() - bytes.len())
}

fn is_error(reply: &[u8]) -> bool {
    matches!(reply.first(), Some(b'-' | b'!'))
        || reply.first() == Some(&b'|')
            && matches!(
                ReplyScanner::default().scan(reply),
                ScannedReply::Complete { kind: ReplyKind::Error, .. }
            )
}

/// Returns the reply to the whole command. `places`: for each key of the whole, its place among those of the parts, taken in order. An
/// error of a part is the whole's reply, the one of the first key if there are several.
pub(super) fn join(joint: Joint, parts: &[PartReply<'_>], places: &[u32], resp: Resp) -> Vec<u8> {
    let errors = parts.iter().filter(|part| is_error(part.bytes));
    if let Some(error) = errors.min_by_key(|part| part.first) {
        return error.bytes.to_vec();
    }
    let joined = match joint {
        Joint::Elements { each } => elements(parts, places, each),
        Joint::Sum => sum(parts),
        Joint::Same => parts.first().map(|part| part.bytes.to_vec()),
        Joint::Concatenation => concatenation(parts),
        Joint::Everywhere => everywhere(parts),
        Joint::Any { from } => any(parts, from, resp),
    };
    joined.unwrap_or_else(|| OTHER_FORM.to_vec())
}

/// Reads a line that begins with `kind` and a number. Returns the number and what follows the line.
fn number(bytes: &[u8], kind: u8) -> Option<(i64, &[u8])> {
    let rest = bytes.strip_prefix(&[kind])?;
    let end = memchr::memchr(b'\r', rest)?;
    let (digits, rest) = rest.split_at_checked(end)?;
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, rest.strip_prefix(b"\r\n")?))
}

/// Returns the number of elements of an array, and their bytes.
fn array(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (count, rest) = number(bytes, b'*')?;
    Some((usize::try_from(count).ok()?, rest))
}

fn elements(parts: &[PartReply<'_>], places: &[u32], each: usize) -> Option<Vec<u8>> {
    // The elements of each key.
    let mut all: Vec<&[u8]> = Vec::with_capacity(places.len());
    let mut len = 0;
    for part in parts {
        let (count, mut rest) = array(part.bytes)?;
        if count != part.keys * each {
            return None;
        }
        for _ in 0..part.keys {
            all.push(take_some(&mut rest, each)?);
        }
        len += part.bytes.len();
    }
    if all.len() != places.len() {
        return None;
    }
    let mut out = Vec::with_capacity(len + 16);
    write::array(&mut out, places.len() * each);
    for place in places {
        out.extend_from_slice(all.get(*place as usize)?);
    }
    Some(out)
}

fn sum(parts: &[PartReply<'_>]) -> Option<Vec<u8>> {
    let mut sum = 0_i64;
    for part in parts {
        sum = sum.checked_add(number(part.bytes, b':')?.0)?;
    }
    let mut out = Vec::new();
    write::integer(&mut out, sum);
    Some(out)
}

fn concatenation(parts: &[PartReply<'_>]) -> Option<Vec<u8>> {
    let arrays: Vec<(usize, &[u8])> = parts.iter().map(|part| array(part.bytes)).collect::<Option<_>>()?;
    let mut out = Vec::with_capacity(parts.iter().map(|part| part.bytes.len()).sum::<usize>() + 16);
    write::array(&mut out, arrays.iter().map(|(count, _)| count).sum());
    arrays.iter().for_each(|(_, rest)| out.extend_from_slice(rest));
    Some(out)
}

fn everywhere(parts: &[PartReply<'_>]) -> Option<Vec<u8>> {
    let mut least: Option<Vec<i64>> = None;
    for part in parts {
        let (count, mut rest) = array(part.bytes)?;
        let mut numbers = Vec::new();
        for _ in 0..count {
            let (one, after) = number(rest, b':')?;
            numbers.push(one);
            rest = after;
        }
        least = Some(match least {
            None => numbers,
            Some(least) if least.len() == numbers.len() => {
                least.iter().zip(&numbers).map(|(a, b)| *a.min(b)).collect()
            }
            Some(_) => return None,
        });
    }
    let least = least?;
    let mut out = Vec::new();
    write::array(&mut out, least.len());
    least.iter().for_each(|one| write::integer(&mut out, *one));
    Some(out)
}

fn any(parts: &[PartReply<'_>], from: usize, resp: Resp) -> Option<Vec<u8>> {
    let from = from.checked_rem(parts.len())?;
    let (before, after) = parts.split_at_checked(from)?;
    let mut null = Vec::new();
    write::null(&mut null, resp);
    let found = after.iter().chain(before).find(|part| part.bytes != null);
    Some(found.map_or(null, |part| part.bytes.to_vec()))
}

/// Returns the reply to a SCAN, with the cursor for the client. `slot` is the first slot of the shard that answered, and `starts` are the
/// first slots of all shards. `asked` is the process that the cursor was meant for, and `now` the one that scans the slot now. If they
/// differ, nobody knows who has answered: the client gets no keys, and a cursor that begins the shard anew.
pub(super) fn scan(reply: &[u8], slot: Slot, (asked, now): (Mark, Mark), starts: &[Slot]) -> Vec<u8> {
    if is_error(reply) {
        return reply.to_vec();
    }
    if !asked.may_be(now) {
        let mut out = Vec::new();
        write::array(&mut out, 2);
        write::bulk(&mut out, itoa::Buffer::new().format(cursor::anew(slot)).as_bytes());
        write::array(&mut out, 0);
        return out;
    }
    let Some((cursor, keys)) = scanned(reply) else { return OTHER_FORM.to_vec() };
    let Ok(next) = cursor::next(cursor, slot, now, starts) else { return CURSOR_TOO_LARGE.to_vec() };
    let mut out = Vec::with_capacity(reply.len() + 24);
    write::array(&mut out, 2);
    write::bulk(&mut out, itoa::Buffer::new().format(next).as_bytes());
    out.extend_from_slice(keys);
    out
}

/// Returns the cursor of a reply to SCAN, and the bytes of its keys.
fn scanned(reply: &[u8]) -> Option<(u64, &[u8])> {
    let (2, rest) = array(reply)? else { return None };
    let (len, rest) = number(rest, b'$')?;
    let (text, keys) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    Some((cursor::parse(text)?, keys.strip_prefix(b"\r\n")?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::split::by_slot;
    use super::*;
    use crate::resp::request::{self, Request};
    use crate::topology::NodeId;

    fn part(bytes: &'static [u8], first: usize) -> PartReply<'static> {
        PartReply { bytes, keys: 0, first }
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    proptest! {
        /// A command with any keys, answered in parts, is what one server would have answered.
        #[test]
        fn elements_come_in_the_order_of_the_keys(
            keys in prop::collection::vec("[a-d]{0,2}", 1..30),
            resp in prop::sample::select(vec![Resp::V2, Resp::V3]),
            each in 1..3_usize,
        ) {
            // MGET, or PUBSUB SHARDNUMSUB.
            let head = [&b"PUBSUB"[..], &b"SHARDNUMSUB"[..]];
            let words: Vec<&[u8]> =
                head[..each].iter().copied().chain(keys.iter().map(String::as_bytes)).collect();
            let mut frame = Vec::new();
            request::encode(&words, &mut frame);
            let answer = |request: &Request<'_>| {
                let mut out = Vec::new();
                write::array(&mut out, (request.argc() as usize - each) * each);
                for key in request.args().skip(each) {
                    if each == 2 {
                        write::bulk(&mut out, key);
                    }
                    match key.first() {
                        Some(b'a') => write::null(&mut out, resp),
                        _ => write::bulk(&mut out, &[b"value of ", key].concat()),
                    }
                }
                out
            };
            let whole = Request::parse(&frame).unwrap();
            let parts = by_slot(&whole, each, 1);
            let replies: Vec<Vec<u8>> =
                parts.parts.iter().map(|part| answer(&Request::parse(parts.frame(part)).unwrap())).collect();
            let replies: Vec<PartReply<'_>> = parts
                .parts
                .iter()
                .zip(&replies)
                .map(|(part, bytes)| PartReply { bytes, keys: part.keys, first: part.first })
                .collect();
            prop_assert_eq!(text(&join(Joint::Elements { each }, &replies, &parts.places, resp)), text(&answer(&whole)));
        }

        /// Whatever servers send, the whole is one reply.
        #[test]
        fn any_bytes_become_one_reply(
            bytes in prop::collection::vec(prop_oneof![
                prop::collection::vec(prop::sample::select(b"*:$-!|%0129\r\nab_".to_vec()), 0..24),
                prop::sample::select(vec![b"*1\r\n$1\r\na\r\n".to_vec(), b":3\r\n".to_vec(), b"*-1\r\n".to_vec(), b"$-1\r\n".to_vec()]),
            ], 1..4),
            joint in prop::sample::select(vec![
                Joint::Elements { each: 1 }, Joint::Elements { each: 2 }, Joint::Sum, Joint::Same, Joint::Concatenation, Joint::Everywhere, Joint::Any { from: 1 },
            ]),
        ) {
            let whole: Vec<Vec<u8>> = bytes.into_iter().filter(|bytes| {
                let mut rest = &bytes[..];
                take(&mut rest).is_some() && rest.is_empty()
            }).collect();
            let replies: Vec<PartReply<'_>> =
                whole.iter().enumerate().map(|(first, bytes)| PartReply { bytes, keys: 1, first }).collect();
            let places: Vec<u32> = (0..replies.len() as u32).collect();
            let joined = join(joint, &replies, &places, Resp::V2);
            let mut rest = &joined[..];
            prop_assert!(take(&mut rest).is_some(), "{}", text(&joined));
            prop_assert!(rest.is_empty(), "{}", text(&joined));
            if let Some(first) = whole.first() {
                let scanned = scan(first, Slot::of(b"k"), (Mark::UNKNOWN, Mark::UNKNOWN), &[]);
                let mut rest = &scanned[..];
                prop_assert!(take(&mut rest).is_some() && rest.is_empty(), "{}", text(&scanned));
            }
        }
    }

    #[test]
    fn replies_are_joined_by_their_kind() {
        let joined = |joint, parts: &[PartReply<'_>]| text(&join(joint, parts, &[], Resp::V3));
        assert_eq!(joined(Joint::Sum, &[part(b":2\r\n", 0), part(b":40\r\n", 1)]), ":42\r\n");
        assert_eq!(joined(Joint::Same, &[part(b"+OK\r\n", 0), part(b"+OK\r\n", 1)]), "+OK\r\n");
        let lists = [part(b"*1\r\n$1\r\na\r\n", 0), part(b"*0\r\n", 1), part(b"*1\r\n$1\r\nb\r\n", 2)];
        assert_eq!(joined(Joint::Concatenation, &lists), "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
        let exist = [part(b"*2\r\n:1\r\n:1\r\n", 0), part(b"*2\r\n:1\r\n:0\r\n", 1)];
        assert_eq!(joined(Joint::Everywhere, &exist), "*2\r\n:1\r\n:0\r\n");
        let keys = [part(b"$1\r\na\r\n", 0), part(b"_\r\n", 1), part(b"_\r\n", 2)];
        assert_eq!(joined(Joint::Any { from: 1 }, &keys), "$1\r\na\r\n");
        assert_eq!(joined(Joint::Any { from: 5 }, &keys[1..]), "_\r\n");
    }

    #[test]
    fn the_error_of_the_first_key_is_the_reply() {
        let parts = [part(b":2\r\n", 0), part(b"-LATER x\r\n", 5), part(b"-EARLIER x\r\n", 3)];
        assert_eq!(text(&join(Joint::Sum, &parts, &[], Resp::V2)), "-EARLIER x\r\n");
        let odd = [part(b"+OK\r\n", 0)];
        assert!(text(&join(Joint::Sum, &odd, &[], Resp::V2)).starts_with("-ERR respgate: "));
    }

    #[test]
    fn a_scan_goes_on_with_the_next_shard() {
        let slot = |number| Slot::new(number).unwrap();
        let starts = [slot(0), slot(5461)];
        let marks = (Mark::UNKNOWN, Mark::UNKNOWN);
        let ended = scan(b"*2\r\n$1\r\n0\r\n*0\r\n", slot(0), marks, &starts);
        assert_eq!(text(&ended), "*2\r\n$4\r\n5461\r\n*0\r\n");
        let last = scan(b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n", slot(5461), marks, &starts);
        assert_eq!(text(&last), "*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n");
        let process = |id: &str| Mark::of(Some(&NodeId(id.into())));
        let anew = scan(b"*2\r\n$1\r\n0\r\n*0\r\n", slot(0), (process("1"), process("2")), &starts);
        assert_ne!(text(&anew), text(b"*2\r\n$1\r\n0\r\n*0\r\n"), "0 would end the scan");
        let error = b"-ERR syntax error\r\n";
        assert_eq!(scan(error, slot(0), marks, &starts), error);
    }
}
