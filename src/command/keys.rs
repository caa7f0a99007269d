//! Locates the keys and channels of a command among its arguments, as the server's key
//! specifications say (`COMMAND INFO`). Where those are incomplete (SORT, MIGRATE), it reads the
//! command as the server's parser does.

use super::option_word::{holds_nul, is, is_whole};
use super::options::{RADIUS, read_option};
use super::spec::Spec;
use crate::resp::request::Request;

/// Where the keys of a command are. Indexes count the command's name as 0. A negative index counts
/// from the end; -1 is the last argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// The command has no keys.
    None,
    /// Every `step`th argument from `first` to `last`, both included, is a key.
    Range {
        /// Index of the first key.
        first: u8,
        /// The last index that can hold a key.
        last: i8,
        /// Distance between keys: 2 if a value follows each key.
        step: u8,
    },
    /// The argument at `count` holds the number of keys that follow it. `target` is a further key.
    Counted {
        /// Index of the number of keys.
        count: u8,
        /// Distance between keys: 2 if a value follows each key.
        step: u8,
        /// Index of the key that the result is stored in.
        target: Option<u8>,
    },
    /// XREAD, XREADGROUP: the first half of the arguments after STREAMS.
    Streams,
    /// GEORADIUS, GEORADIUSBYMEMBER: the first argument, and the argument after STORE or STOREDIST
    /// among the options from this index on.
    Radius(u8),
    /// SORT, SORT_RO: the first argument and the argument after STORE. BY and GET patterns lead to
    /// other keys.
    Sort,
    /// MIGRATE: one key, or the arguments after KEYS.
    Migrate,
}

/// Where the pub/sub channels of a command are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// The command names no channel, or only unsubscribes.
    None,
    /// The argument at this index is the only channel.
    One(u8),
    /// All arguments from this index on are channels.
    From(u8),
    /// All arguments from this index on are patterns.
    Patterns(u8),
}

/// The keys cannot be located: an option is unknown or holds a NUL, or a key count is not a number.
/// Either the server refuses such a request too, or it reads the request in its own way, or it is
/// newer than this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unclear;

const fn one(index: u8) -> Keys {
    Keys::Range { first: index, last: index as i8, step: 1 }
}

const fn from(first: u8) -> Keys {
    Keys::Range { first, last: -1, step: 1 }
}

const fn counted(count: u8) -> Keys {
    Keys::Counted { count, step: 1, target: None }
}

#[rustfmt::skip]
pub(super) const KEYS: [(Keys, &str); 16] = [
    (one(1), "\
        APPEND ARCOUNT ARDEL ARDELRANGE ARGET ARGETRANGE ARGREP ARINFO ARINSERT ARLASTITEMS ARLEN ARMGET \
        ARMSET ARNEXT AROP ARRING ARSCAN ARSEEK ARSET BITCOUNT BITFIELD BITFIELD_RO BITPOS DECR DECRBY \
        DELEX DELIFEQ DIGEST DUMP EXPIRE EXPIREAT EXPIRETIME GEOADD GEODIST GEOHASH GEOPOS \
        GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GET GETBIT GETDEL GETEX GETRANGE GETSET HDEL HEXISTS \
        HEXPIRE HEXPIREAT HEXPIRETIME HGET HGETALL HGETDEL HGETEX HINCRBY HINCRBYFLOAT HKEYS HLEN HMGET \
        HMSET HOTKEYS|GET HOTKEYS|RESET HOTKEYS|START HOTKEYS|STOP HPERSIST HPEXPIRE HPEXPIREAT \
        HPEXPIRETIME HPTTL HRANDFIELD HSCAN HSET HSETEX HSETNX HSTRLEN HTTL HVALS INCR INCRBY INCRBYFLOAT \
        INCREX LINDEX LINSERT LLEN LPOP LPOS LPUSH LPUSHX LRANGE LREM LSET LTRIM MOVE PERSIST PEXPIRE \
        PEXPIREAT PEXPIRETIME PFADD PSETEX PTTL RESTORE RESTORE-ASKING RPOP RPUSH RPUSHX SADD SCARD SET \
        SETBIT SETEX SETNX SETRANGE SISMEMBER SMEMBERS SMISMEMBER SPOP SRANDMEMBER SREM SSCAN STRLEN \
        SUBSTR TTL TYPE VADD VCARD VDIM VEMB VGETATTR VINFO VISMEMBER VLINKS VRANDMEMBER VRANGE VREM \
        VSETATTR VSIM XACK XACKDEL XADD XAUTOCLAIM XCFGSET XCLAIM XDEL XDELEX XIDMPRECORD XLEN XNACK \
        XPENDING XRANGE XREVRANGE XSETID XTRIM ZADD ZCARD ZCOUNT ZINCRBY ZLEXCOUNT ZMSCORE ZPOPMAX ZPOPMIN \
        ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK \
        ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE"),
    (from(2), "BITOP"),
    (Keys::Range { first: 1, last: 2, step: 1 }, "\
        BLMOVE BLMOVEM BRPOPLPUSH COPY GEOSEARCHSTORE LCS LMOVE LMOVEM RENAME RENAMENX RPOPLPUSH SMOVE \
        ZRANGESTORE"),
    (counted(2), "\
        BLMPOP BZMPOP EVAL EVALSHA EVALSHA_RO EVAL_RO FCALL FCALL_RO"),
    (Keys::Range { first: 1, last: -2, step: 1 }, "BLPOP BRPOP BZPOPMAX BZPOPMIN"),
    (from(1), "\
        DEL EXISTS MGET PFCOUNT PFMERGE SDIFF SDIFFSTORE SINTER SINTERSTORE SUNION SUNIONSTORE TOUCH UNLINK \
        WATCH"),
    (Keys::Radius(6), "GEORADIUS"),
    (Keys::Radius(5), "GEORADIUSBYMEMBER"),
    (counted(1), "\
        LMPOP SDIFFCARD SINTERCARD SUNIONCARD ZDIFF ZINTER ZINTERCARD ZMPOP ZUNION"),
    (one(2), "\
        HIMPORT|SET MEMORY|USAGE OBJECT|ENCODING OBJECT|FREQ OBJECT|IDLETIME OBJECT|REFCOUNT PFDEBUG \
        XGROUP|CREATE XGROUP|CREATECONSUMER XGROUP|DELCONSUMER XGROUP|DESTROY XGROUP|SETID XINFO|CONSUMERS \
        XINFO|GROUPS XINFO|STREAM"),
    (Keys::Migrate, "MIGRATE"),
    (Keys::Counted { count: 1, step: 2, target: None }, "MSETEX"),
    (Keys::Range { first: 1, last: -1, step: 2 }, "MSET MSETNX"),
    (Keys::Sort, "SORT SORT_RO"),
    (Keys::Streams, "XREAD XREADGROUP"),
    (Keys::Counted { count: 2, step: 1, target: Some(1) }, "ZDIFFSTORE ZINTERSTORE ZUNIONSTORE"),
];

const CHANNELS: [(Channels, &str); 5] = [
    (Channels::One(1), "PUBLISH SPUBLISH"),
    (Channels::From(1), "SUBSCRIBE SSUBSCRIBE"),
    (Channels::From(2), "PUBSUB|NUMSUB PUBSUB|SHARDNUMSUB"),
    (Channels::Patterns(1), "PSUBSCRIBE"),
    (Channels::Patterns(2), "PUBSUB|CHANNELS PUBSUB|SHARDCHANNELS"),
];

fn listed<T: Copy>(table: &[(T, &str)], spec: &Spec) -> Option<T> {
    let row = table.iter().find(|(_, names)| names.split_ascii_whitespace().any(|name| name == spec.name));
    row.map(|(value, _)| *value)
}

impl Keys {
    /// Returns where the keys of a command are. It is slow: use it for configuration, not on the
    /// data path.
    pub fn of(spec: &Spec) -> Self {
        listed(&KEYS, spec).unwrap_or(Self::None)
    }

    /// Returns true if `is` is true for every key of the request.
    ///
    /// # Errors
    /// Returns [`Unclear`] if the keys cannot be located.
    pub fn all(self, request: &Request<'_>, is: impl FnMut(&[u8]) -> bool) -> Result<bool, Unclear> {
        match self {
            Self::None => Ok(true),
            Self::Range { first, last, step } => range(request, first.into(), last.into(), step.into(), is),
            Self::Counted { count, step, target } => {
                counted_keys(request, count.into(), step.into(), target.map(usize::from), is)
            }
            Self::Streams => streams(request, is),
            Self::Radius(options) => stored(request, options.into(), &RADIUS, &["STORE", "STOREDIST"], is),
            Self::Sort => stored(request, 2, &SORT, &["STORE"], is),
            Self::Migrate => migrated(request, is),
        }
    }
}

impl Channels {
    /// Returns where the channels of a command are. It is slow: use it for configuration, not on
    /// the data path.
    pub fn of(spec: &Spec) -> Self {
        listed(&CHANNELS, spec).unwrap_or(Self::None)
    }
}

fn range(
    request: &Request<'_>,
    first: usize,
    last: isize,
    step: usize,
    mut is: impl FnMut(&[u8]) -> bool,
) -> Result<bool, Unclear> {
    let argc = request.argc() as usize;
    let last = if last < 0 { argc.checked_add_signed(last) } else { usize::try_from(last).ok() };
    let last = last.filter(|last| (first..argc).contains(last)).ok_or(Unclear)?;
    // Most commands have one key, and it is usually the first argument.
    if last == first {
        return request.arg(first).map(is).ok_or(Unclear);
    }
    Ok(request.args().take(last + 1).skip(first).step_by(step).all(&mut is))
}

fn counted_keys(
    request: &Request<'_>,
    count: usize,
    step: usize,
    target: Option<usize>,
    mut is: impl FnMut(&[u8]) -> bool,
) -> Result<bool, Unclear> {
    let mut args = request.args();
    if let Some(target) = target
        && !is(request.arg(target).ok_or(Unclear)?)
    {
        return Ok(false);
    }
    let number = args.nth(count).and_then(whole).ok_or(Unclear)?;
    let words = number.checked_mul(step).ok_or(Unclear)?;
    if words > (request.argc() as usize).saturating_sub(count + 1) {
        return Err(Unclear);
    }
    Ok(args.take(words).step_by(step).all(&mut is))
}

/// Parses a number as the server does: no sign, no leading zero (string2ll).
pub(super) fn whole(arg: &[u8]) -> Option<usize> {
    if (arg.len() > 1 && arg.first() == Some(&b'0')) || !arg.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(arg).ok()?.parse().ok()
}

/// It steps over the options as XREAD itself does, because a group may be called STREAMS.
fn streams(request: &Request<'_>, mut is_key: impl FnMut(&[u8]) -> bool) -> Result<bool, Unclear> {
    let mut args = request.args().skip(1);
    let mut left = request.argc() as usize - 1;
    while let Some(arg) = args.next() {
        let values = match () {
            () if holds_nul(arg) => return Err(Unclear),
            () if is(arg, "STREAMS") => {
                left -= 1;
                return match left {
                    0 => Err(Unclear),
                    left if left % 2 == 1 => Err(Unclear),
                    left => Ok(args.take(left / 2).all(&mut is_key)),
                };
            }
            () if is(arg, "BLOCK") => 1,
            () => read_option(arg).ok_or(Unclear)?,
        };
        left = left.checked_sub(1 + values).ok_or(Unclear)?;
        args.by_ref().take(values).for_each(drop);
    }
    Err(Unclear)
}

const SORT: [(&str, usize); 7] =
    [("ASC", 0), ("DESC", 0), ("ALPHA", 0), ("LIMIT", 2), ("BY", 1), ("GET", 1), ("STORE", 1)];

/// Checks the first argument and the values of the options `stores`. `known` says how many values
/// follow each option.
fn stored(
    request: &Request<'_>,
    options: usize,
    known: &[(&str, usize)],
    stores: &[&str],
    mut is_key: impl FnMut(&[u8]) -> bool,
) -> Result<bool, Unclear> {
    if !is_key(request.arg(1).ok_or(Unclear)?) {
        return Ok(false);
    }
    let mut args = request.args().skip(options);
    while let Some(arg) = args.next() {
        let (option, values) = *known.iter().find(|(option, _)| is_whole(arg, option)).ok_or(Unclear)?;
        for _ in 0..values {
            let value = args.next().ok_or(Unclear)?;
            if stores.contains(&option) && !is_key(value) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Returns true if SORT or SORT_RO reads keys that only its patterns name. `BY nosort`, which has
/// no `*`, and `GET #` read no such keys.
pub fn follows_patterns(request: &Request<'_>) -> bool {
    let mut args = request.args().skip(2);
    while let Some(arg) = args.next() {
        let follows = match () {
            () if is(arg, "BY") => args.next().is_none_or(|pattern| pattern.contains(&b'*')),
            () if is(arg, "GET") => args.next() != Some(b"#"),
            () if is(arg, "LIMIT") => {
                args.by_ref().take(2).for_each(drop);
                false
            }
            () if is(arg, "STORE") => {
                args.next();
                false
            }
            () => false,
        };
        if follows {
            return true;
        }
    }
    false
}

fn migrated(request: &Request<'_>, mut is_key: impl FnMut(&[u8]) -> bool) -> Result<bool, Unclear> {
    let single = request.arg(3).ok_or(Unclear)?;
    let mut args = request.args().skip(6);
    while let Some(arg) = args.next() {
        let values = match () {
            () if holds_nul(arg) => return Err(Unclear),
            () if is(arg, "COPY") || is(arg, "REPLACE") => 0,
            () if is(arg, "AUTH") => 1,
            () if is(arg, "AUTH2") => 2,
            () if is(arg, "KEYS") && single.is_empty() => return Ok(args.all(is_key)),
            () => return Err(Unclear),
        };
        args.by_ref().take(values).for_each(drop);
    }
    Ok(is_key(single))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Found, find};
    use crate::resp::request::encode;

    fn keys(words: &[&str]) -> Result<Vec<String>, Unclear> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut frame = Vec::new();
        encode(&words, &mut frame);
        let request = Request::parse(&frame).unwrap();
        let Some(Found::Spec(spec)) = find(&request) else { panic!("{words:?}") };
        let mut keys = Vec::new();
        Keys::of(spec)
            .all(&request, |key| {
                keys.push(String::from_utf8_lossy(key).into_owned());
                true
            })
            .map(|_| keys)
    }

    #[test]
    fn values_between_counted_keys_are_none() {
        assert_eq!(keys(&["MSETEX", "2", "a", "1", "b", "2", "EX", "9"]).unwrap(), ["a", "b"]);
        assert_eq!(keys(&["MSETEX", "1", "a", "1"]).unwrap(), ["a"]);
        for unclear in ["2", "x", "-1", "18446744073709551615"] {
            assert_eq!(keys(&["MSETEX", unclear, "a", "1", "b"]), Err(Unclear));
        }
        assert_eq!(keys(&["SUNIONCARD", "2", "a", "b", "LIMIT", "1"]).unwrap(), ["a", "b"]);
    }

    #[test]
    fn keys_stand_behind_all_options_of_a_read() {
        let read = ["XREADGROUP", "GROUP", "g", "c", "CLAIM", "STREAMS", "MAXCOUNT", "1", "MAXSIZE", "1"];
        assert_eq!(keys(&[&read[..], &["STREAMS", "s", "t", ">", ">"]].concat()).unwrap(), ["s", "t"]);
        assert_eq!(keys(&["XREAD", "NEWER", "1", "STREAMS", "s", "0"]), Err(Unclear));
    }

    #[test]
    fn keys_of_newer_commands_are_found() {
        assert_eq!(
            keys(&["BLMOVEM", "a", "b", "LEFT", "LEFT", "0", "COUNT", "2", "OBO"]).unwrap(),
            ["a", "b"]
        );
        assert_eq!(keys(&["HIMPORT", "SET", "h", "fields", "v"]).unwrap(), ["h"]);
        assert_eq!(keys(&["BITOP", "DIFF1", "a", "b", "c"]).unwrap(), ["a", "b", "c"]);
    }
}
