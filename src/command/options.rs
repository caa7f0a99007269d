//! Reads what the options of a request say about its command.

use super::{Flags, Retry, Spec, Verb};
use crate::resp::request::Request;

/// The indexes of the options of an XREAD or XREADGROUP that respgate acts on. Indexes count the
/// command's name as 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Index of BLOCK's timeout.
    pub timeout: Option<usize>,
    /// Index of STREAMS.
    pub streams: Option<usize>,
    /// True if a word before STREAMS is not a known option.
    unknown: bool,
    /// True if an option word before STREAMS holds a NUL.
    nul: bool,
}

impl ReadOptions {
    /// Steps over the options as the server does (t_stream.c, xreadCommand): a group or a consumer
    /// may be called STREAMS, and a BLOCK after it still blocks (observed on valkey 8.0).
    pub fn of(request: &Request<'_>) -> Self {
        let mut found = Self::default();
        let mut args = request.args().enumerate().skip(1);
        while let Some((index, arg)) = args.next() {
            found.nul |= holds_nul(arg);
            let values = match () {
                () if is(arg, "STREAMS") => {
                    found.streams = Some(index);
                    break;
                }
                () if is(arg, "BLOCK") => {
                    found.timeout = Some(index + 1);
                    1
                }
                () => match read_option(arg) {
                    Some(values) => values,
                    None => {
                        found.unknown = true;
                        break;
                    }
                },
            };
            args.by_ref().take(values).for_each(drop);
        }
        found
    }

    /// Returns true if BLOCK comes before STREAMS. An unknown word counts as blocking.
    pub fn may_block(self) -> bool {
        self.timeout.is_some() || self.unknown
    }

    /// Returns true if an option word before STREAMS holds a NUL.
    pub fn hides_nul(self) -> bool {
        self.nul
    }
}

/// Returns how many values follow an option of XREAD or XREADGROUP that does not decide whether it
/// blocks. Servers that are too old for CLAIM (redis 8.4), MAXCOUNT and MAXSIZE (redis 8.10) refuse
/// them as syntax errors, and so do not block either.
pub(super) fn read_option(arg: &[u8]) -> Option<usize> {
    const KNOWN: [(&str, usize); 6] =
        [("COUNT", 1), ("GROUP", 2), ("NOACK", 0), ("CLAIM", 1), ("MAXCOUNT", 1), ("MAXSIZE", 1)];
    KNOWN.iter().find(|(option, _)| is(arg, option)).map(|(_, values)| *values)
}

/// Returns true if a request has an option that decides about its connection and holds a NUL.
/// Servers compare options as C strings, so `CLIENT TRACKING ON\0x` turns tracking on. respgate
/// refuses such a word, because it cannot know how each server reads it.
pub fn hides_option(spec: &Spec, request: &Request<'_>) -> bool {
    match spec.verb {
        Verb::ClientTracking => Tracking::of(request).nul,
        Verb::ClientNoTouch | Verb::ClientCaching | Verb::ClientImportSource => {
            request.args().skip(2).any(holds_nul)
        }
        _ => false,
    }
}

/// The parts of a CLIENT TRACKING that respgate acts on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracking {
    /// True if the request turns tracking on.
    pub on: bool,
    /// True if the request sends invalidations to another connection.
    pub redirects: bool,
    /// True if an option word holds a NUL.
    nul: bool,
}

impl Tracking {
    /// Steps over the options as the server does (networking.c, clientCommand): a prefix may be
    /// called REDIRECT.
    pub fn of(request: &Request<'_>) -> Self {
        let mut found = Self::default();
        let mut args = request.args().skip(2);
        if let Some(switch) = args.next() {
            found.on = is(switch, "ON");
            found.nul = holds_nul(switch);
        }
        while let Some(arg) = args.next() {
            found.nul |= holds_nul(arg);
            let redirects = is(arg, "REDIRECT");
            found.redirects |= redirects;
            if redirects || is(arg, "PREFIX") {
                args.next();
            }
        }
        found
    }
}

/// Returns true if this request can block its connection.
pub fn may_block(spec: &Spec, request: &Request<'_>) -> bool {
    match spec.verb {
        Verb::Xread | Verb::Xreadgroup => ReadOptions::of(request).may_block(),
        _ => spec.flags.contains(Flags::BLOCKING),
    }
}

/// Returns the retry class of a request, with its options considered. Every option that is not
/// known to be harmless makes it `Never`.
pub fn retry_of(spec: &Spec, request: &Request<'_>) -> Retry {
    match spec.retry {
        Retry::SameReply if reads_its_target(spec, request) => Retry::Never,
        Retry::ByOptions => by_options(spec, request).unwrap_or(Retry::Never),
        fixed => fixed,
    }
}

/// Returns true if a command that stores its result also reads the key that it stores in: sent
/// twice, ZUNIONSTORE a 2 a a doubles the scores twice. PFMERGE may do so, because a union with
/// itself changes nothing. A weight that equals the target's name counts as a source, which is the
/// safe mistake.
fn reads_its_target(spec: &Spec, request: &Request<'_>) -> bool {
    let index = match spec.name {
        "BITOP" => 2,
        name if name.ends_with("STORE") => 1,
        _ => return false,
    };
    let target = request.arg(index);
    request.args().skip(index + 1).any(|arg| Some(arg) == target)
}

fn by_options(spec: &Spec, request: &Request<'_>) -> Option<Retry> {
    match spec.name {
        "SET" => {
            let options = Options::of(request, 3, &[&EXPIRY[..], &COMPARISONS].concat())?;
            // The first run may set the value that the second run compares with.
            let compares = COMPARISONS.iter().any(|(option, _)| options.has(option));
            Some(if compares { Retry::ReplyDiffers } else { Retry::SameReply })
        }
        "MSETEX" => {
            let keys = numbered(request.arg(1)?)?;
            Options::of(request, keys.checked_mul(2)?.checked_add(2)?, &EXPIRY)?;
            Some(Retry::SameReply)
        }
        // FNX and FXX make it `Never`, as NX and XX do elsewhere.
        "HSETEX" => {
            let fields = request.args().skip(2).position(|arg| is(arg, "FIELDS"))? + 2;
            let count = numbered(request.arg(fields + 1)?)?;
            let after = count.checked_mul(2)?.checked_add(fields + 2)?;
            Options::read(&mut request.args().take(fields).skip(2), &EXPIRY)?;
            Options::read(&mut request.args().skip(after), &EXPIRY)?;
            Some(Retry::SameReply)
        }
        "XADD" => is_idempotent(request).then_some(Retry::SameReply),
        // Without options, a score or a longitude follows the key.
        "ZADD" | "GEOADD" => is_number(request.arg(2)?).then_some(Retry::ReplyDiffers),
        "LREM" => (request.arg(2)? == b"0").then_some(Retry::ReplyDiffers),
        "COPY" => {
            let options = Options::of(request, 3, &[("REPLACE", 0), ("DB", 1)])?;
            (options.has("REPLACE") && request.arg(1) != request.arg(2)).then_some(Retry::SameReply)
        }
        "RESTORE" => {
            let known = [("REPLACE", 0), ("ABSTTL", 0), ("IDLETIME", 1), ("FREQ", 1)];
            let options = Options::of(request, 4, &known)?;
            (options.has("REPLACE") && options.has("ABSTTL")).then_some(Retry::SameReply)
        }
        "SORT" => {
            let known =
                [("ASC", 0), ("DESC", 0), ("ALPHA", 0), ("LIMIT", 2), ("BY", 1), ("GET", 1), ("STORE", 1)];
            let options = Options::of(request, 2, &known)?;
            // A pattern may lead to the target, too.
            options.stored(request, &["STORE"], request.args().skip(2).any(|arg| arg.contains(&b'*')))
        }
        "GEORADIUS" => by_radius(request, 6),
        "GEORADIUSBYMEMBER" => by_radius(request, 5),
        _ => None,
    }
}

/// The options of SET and similar commands that say when a key expires, and the number of values of
/// each.
const EXPIRY: [(&str, usize); 5] = [("KEEPTTL", 0), ("EX", 1), ("PX", 1), ("EXAT", 1), ("PXAT", 1)];

/// The options of SET that compare the value, or its digest, with another.
const COMPARISONS: [(&str, usize); 4] = [("IFEQ", 1), ("IFNE", 1), ("IFDEQ", 1), ("IFDNE", 1)];

/// Returns true if an XADD has an idempotence id. The server then adds an entry once, and answers a
/// repetition with the same entry id. The options end at the entry id.
fn is_idempotent(request: &Request<'_>) -> bool {
    let mut args = request.args().skip(2).peekable();
    let mut found = false;
    while let Some(arg) = args.next() {
        let values = match () {
            () if is(arg, "IDMP") => {
                found = true;
                2
            }
            () if is(arg, "IDMPAUTO") => {
                found = true;
                1
            }
            () if is(arg, "MAXLEN") || is(arg, "MINID") => {
                1 + usize::from(args.peek().is_some_and(|arg| matches!(*arg, b"=" | b"~")))
            }
            () if is(arg, "LIMIT") => 1,
            () if ["NOMKSTREAM", "KEEPREF", "DELREF", "ACKED"].iter().any(|option| is(arg, option)) => 0,
            // With an entry id that the client chose, the server accepts none of these options.
            () => return found && arg == b"*",
        };
        args.by_ref().take(values).for_each(drop);
    }
    false
}

/// Reads a number of keys or fields as the server does.
fn numbered(arg: &[u8]) -> Option<usize> {
    std::str::from_utf8(arg).ok()?.parse().ok()
}

/// The options of GEORADIUS and GEORADIUSBYMEMBER, and the number of values of each.
pub(super) const RADIUS: [(&str, usize); 9] = [
    ("WITHDIST", 0),
    ("WITHHASH", 0),
    ("WITHCOORD", 0),
    ("ANY", 0),
    ("ASC", 0),
    ("DESC", 0),
    ("COUNT", 1),
    ("STORE", 1),
    ("STOREDIST", 1),
];

fn by_radius(request: &Request<'_>, first: usize) -> Option<Retry> {
    Options::of(request, first, &RADIUS)?.stored(request, &["STORE", "STOREDIST"], false)
}

/// The options of a request, each with its first value.
struct Options<'a>(Vec<(&'static str, Option<&'a [u8]>)>);

impl<'a> Options<'a> {
    /// Reads the options from argument `first` on. `known` says how many values follow each option.
    /// Returns `None` for any other word and for a missing value.
    fn of(request: &Request<'a>, first: usize, known: &[(&'static str, usize)]) -> Option<Self> {
        Self::read(&mut request.args().skip(first), known)
    }

    /// Reads words that are all options; see [`Self::of`].
    fn read(args: &mut dyn Iterator<Item = &'a [u8]>, known: &[(&'static str, usize)]) -> Option<Self> {
        let mut found = Vec::new();
        while let Some(arg) = args.next() {
            let (option, values) = *known.iter().find(|(option, _)| is(arg, option))?;
            let mut value = None;
            for _ in 0..values {
                let next = args.next()?;
                value = value.or(Some(next));
            }
            found.push((option, value));
        }
        Some(Self(found))
    }

    fn has(&self, option: &str) -> bool {
        self.0.iter().any(|(name, _)| *name == option)
    }

    /// Returns the retry class of a command that only reads, unless it has one of the options
    /// `stores`, which name the key for its result.
    fn stored(&self, request: &Request<'_>, stores: &[&str], entangled: bool) -> Option<Retry> {
        let mut targets = self.0.iter().filter(|(name, _)| stores.contains(name)).peekable();
        if targets.peek().is_none() {
            return Some(Retry::Safe);
        }
        (!entangled && targets.all(|(_, target)| *target != request.arg(1))).then_some(Retry::SameReply)
    }
}

fn is_number(arg: &[u8]) -> bool {
    std::str::from_utf8(arg).is_ok_and(|arg| arg.parse::<f64>().is_ok())
}

/// Compares an option word as the server does: in any case, and as a C string, so that `NX\0zz` is
/// NX (observed on valkey 8.0).
pub fn is(arg: &[u8], option: &str) -> bool {
    let end = memchr::memchr(0, arg).unwrap_or(arg.len());
    arg.get(..end).is_some_and(|arg| arg.eq_ignore_ascii_case(option.as_bytes()))
}

/// Compares a word of a command that respgate itself answers, as [`is`] does. A word with a NUL is
/// not an option here, and respgate refuses it as such.
pub fn is_whole(arg: &[u8], option: &str) -> bool {
    !holds_nul(arg) && is(arg, option)
}

/// Returns true if a word holds a NUL, at which servers stop reading.
pub fn holds_nul(arg: &[u8]) -> bool {
    memchr::memchr(0, arg).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Found, find};
    use crate::resp::request::encode;

    fn retry(words: &[&str]) -> Retry {
        with(words, retry_of)
    }

    fn with<T>(words: &[&str], ask: impl Fn(&Spec, &Request<'_>) -> T) -> T {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut frame = Vec::new();
        encode(&words, &mut frame);
        let request = Request::parse(&frame).unwrap();
        let Some(Found::Spec(spec)) = find(&request) else { panic!("{words:?}") };
        ask(spec, &request)
    }

    #[test]
    fn conditions_make_a_set_unrepeatable_even_behind_a_nul() {
        assert_eq!(retry(&["SET", "k", "v", "EX", "9"]), Retry::SameReply);
        for option in ["NX", "xx", "Get", "IFEQ", "NEWER", "NX\0zz"] {
            assert_eq!(retry(&["SET", "k", "v", option]), Retry::Never);
        }
    }

    #[test]
    fn a_comparison_leaves_the_same_value_and_another_reply() {
        for option in ["IFEQ", "ifne", "IFDEQ", "IFDNE"] {
            assert_eq!(retry(&["SET", "k", "v", option, "w"]), Retry::ReplyDiffers);
            assert_eq!(retry(&["SET", "k", "v", option, "GET", "PX", "9"]), Retry::ReplyDiffers);
            assert_eq!(retry(&["SET", "k", "v", option, "w", "GET"]), Retry::Never);
        }
        assert_eq!(retry(&["DELIFEQ", "k", "v"]), Retry::ReplyDiffers);
        assert_eq!(retry(&["DELEX", "k", "IFNE", "v"]), Retry::ReplyDiffers);
    }

    #[test]
    fn expiry_of_several_keys_or_fields_may_be_set_twice() {
        assert_eq!(retry(&["MSETEX", "2", "a", "NX", "b", "XX", "EX", "9"]), Retry::SameReply);
        assert_eq!(retry(&["MSETEX", "1", "a", "1", "KEEPTTL"]), Retry::SameReply);
        for never in [
            &["MSETEX", "1", "a", "1", "NX"][..],
            &["MSETEX", "x", "a", "1"],
            &["MSETEX", "18446744073709551615", "a", "1"],
        ] {
            assert_eq!(retry(never), Retry::Never);
        }
        assert_eq!(retry(&["HSETEX", "h", "EX", "9", "FIELDS", "1", "FNX", "v"]), Retry::SameReply);
        assert_eq!(retry(&["HSETEX", "FIELDS", "FIELDS", "1", "f", "FXX", "PXAT", "9"]), Retry::SameReply);
        for never in [
            &["HSETEX", "h", "FNX", "FIELDS", "1", "f", "v"][..],
            &["HSETEX", "h", "FIELDS", "1", "f", "v", "FXX"],
            &["HSETEX", "h", "FIELDS", "x", "f", "v"],
            &["HSETEX", "h", "f", "v", "f", "v"],
            &["HGETEX", "h", "FIELDS", "1", "f"],
            &["HGETDEL", "h", "FIELDS", "1", "f"],
        ] {
            assert_eq!(retry(never), Retry::Never, "{never:?}");
        }
        assert_eq!(retry(&["HEXPIRE", "h", "9", "FIELDS", "1", "f"]), Retry::ReplyDiffers);
    }

    #[test]
    fn an_entry_with_an_idempotence_id_may_be_added_twice() {
        assert_eq!(retry(&["XADD", "s", "IDMP", "p", "i", "*", "f", "v"]), Retry::SameReply);
        assert_eq!(
            retry(&[
                "XADD",
                "s",
                "NOMKSTREAM",
                "idmpauto",
                "p",
                "MAXLEN",
                "~",
                "9",
                "LIMIT",
                "5",
                "*",
                "f",
                "v"
            ]),
            Retry::SameReply
        );
        for never in [
            &["XADD", "s", "*", "IDMP", "v"][..],
            &["XADD", "s", "MAXLEN", "IDMP", "*", "f", "v"],
            &["XADD", "s", "IDMP", "p", "i", "1-1", "f", "v"],
            &["XADD", "IDMP", "1-1", "f", "v"],
            &["XADD", "s", "IDMP", "*", "f", "v"],
            &["XADD", "s", "NEWER", "IDMP", "p", "i", "*", "f", "v"],
        ] {
            assert_eq!(retry(never), Retry::Never, "{never:?}");
        }
    }

    #[test]
    fn a_nul_in_an_option_that_decides_about_the_connection_is_seen() {
        for hidden in [
            &["CLIENT", "TRACKING", "ON\0x", "BCAST"][..],
            &["CLIENT", "TRACKING", "ON", "BCAST\0"],
            &["CLIENT", "TRACKING", "ON", "REDIRECT\0", "5"],
            &["CLIENT", "TRACKING", "ON", "PREFIX", "p", "NOLOOP\0x"],
            &["CLIENT", "TRACKING", "OFF\0"],
            &["CLIENT", "NO-TOUCH", "on\0"],
            &["CLIENT", "IMPORT-SOURCE", "on\0"],
            &["CLIENT", "CACHING", "YES\0"],
        ] {
            assert!(with(hidden, hides_option), "{hidden:?}");
        }
        for hidden in [
            &["XREAD", "BLOCK\0zz", "0", "STREAMS", "s", "$"][..],
            &["XREAD", "COUNT", "1", "STREAMS\0", "s", "$"],
            &["XREADGROUP", "GROUP\0", "g", "c", "STREAMS", "s", ">"],
        ] {
            assert!(with(hidden, |_, request| ReadOptions::of(request).hides_nul()), "{hidden:?}");
        }
        for plain in [
            &["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "p\0", "NOLOOP"][..],
            &["SET", "k", "v\0", "NX\0zz"],
        ] {
            assert!(!with(plain, hides_option), "{plain:?}");
        }
        let group = ["XREADGROUP", "GROUP", "g\0", "c\0", "BLOCK", "0", "STREAMS", "s\0", ">"];
        assert!(!with(&group, |_, request| ReadOptions::of(request).hides_nul()));
    }

    #[test]
    fn tracking_is_read_as_the_server_reads_it() {
        let read = |words: &[&str]| {
            let tracking = with(words, |_, request| Tracking::of(request));
            (tracking.on, tracking.redirects)
        };
        assert_eq!(read(&["CLIENT", "TRACKING", "on", "BCAST"]), (true, false));
        assert_eq!(read(&["CLIENT", "TRACKING", "OFF", "redirect", "5"]), (false, true));
        assert_eq!(read(&["CLIENT", "TRACKING", "ON", "PREFIX", "redirect"]), (true, false));
        assert_eq!(read(&["CLIENT", "TRACKING", "ON", "REDIRECT\0x", "5"]), (true, true));
    }

    #[test]
    fn the_timeout_of_a_read_stands_behind_its_own_block() {
        let read = |words: &[&str]| with(words, |_, request| ReadOptions::of(request));
        let group = read(&["XREADGROUP", "GROUP", "BLOCK", "5", "BLOCK", "70", "STREAMS", "s", ">"]);
        assert_eq!((group.timeout, group.streams), (Some(5), Some(6)));
        let unblocked = read(&["XREAD", "STREAMS", "BLOCK", "5"]);
        assert_eq!((unblocked.timeout, unblocked.streams), (None, Some(1)));
    }

    #[test]
    fn other_options_count_too() {
        assert_eq!(retry(&["ZADD", "z", "1", "a"]), Retry::ReplyDiffers);
        assert_eq!(retry(&["ZADD", "z", "INCR", "1", "a"]), Retry::Never);
        assert_eq!(retry(&["LREM", "l", "0", "a"]), Retry::ReplyDiffers);
        assert_eq!(retry(&["LREM", "l", "1", "a"]), Retry::Never);
        assert_eq!(retry(&["RESTORE", "k", "0", "x", "REPLACE"]), Retry::Never);
        assert_eq!(retry(&["SORT", "l"]), Retry::Safe);
        assert_eq!(retry(&["SORT", "l", "STORE", "m"]), Retry::SameReply);
        assert_eq!(retry(&["INCR", "k"]), Retry::Never);
        assert_eq!(retry(&["GET", "k"]), Retry::Safe);
    }

    #[test]
    fn a_key_that_is_spelled_like_an_option_is_none() {
        assert_eq!(retry(&["COPY", "a", "replace"]), Retry::Never);
        assert_eq!(retry(&["COPY", "a", "b", "REPLACE"]), Retry::SameReply);
        assert_eq!(retry(&["RESTORE", "replace", "0", "absttl"]), Retry::Never);
        assert_eq!(retry(&["RESTORE", "k", "0", "x", "ABSTTL", "REPLACE"]), Retry::SameReply);
        assert_eq!(retry(&["SORT", "store"]), Retry::Safe);
    }

    #[test]
    fn a_command_that_reads_its_own_target_is_not_sent_twice() {
        assert_eq!(retry(&["ZUNIONSTORE", "a", "2", "b", "c"]), Retry::SameReply);
        assert_eq!(retry(&["ZUNIONSTORE", "a", "2", "a", "a"]), Retry::Never);
        for operation in ["XOR", "DIFF", "DIFF1", "ANDOR", "ONE"] {
            assert_eq!(retry(&["BITOP", operation, "a", "a", "b"]), Retry::Never);
            assert_eq!(retry(&["BITOP", operation, "a", "b", "c"]), Retry::SameReply);
        }
        assert_eq!(
            retry(&["GEOSEARCHSTORE", "a", "a", "FROMMEMBER", "m", "BYRADIUS", "1", "m"]),
            Retry::Never
        );
        assert_eq!(retry(&["SORT", "a", "STORE", "a"]), Retry::Never);
        assert_eq!(retry(&["SORT", "a", "GET", "w_*", "STORE", "b"]), Retry::Never);
        assert_eq!(retry(&["GEORADIUS", "g", "1", "2", "3", "m", "COUNT", "1"]), Retry::Safe);
        assert_eq!(retry(&["GEORADIUS", "g", "1", "2", "3", "m", "STORE", "g"]), Retry::Never);
        assert_eq!(retry(&["GEORADIUSBYMEMBER", "g", "x", "3", "m", "STOREDIST", "d"]), Retry::SameReply);
    }

    fn blocks(_: &Spec, request: &Request<'_>) -> bool {
        ReadOptions::of(request).may_block()
    }

    #[test]
    fn a_group_called_streams_hides_no_block() {
        assert!(with(&["XREADGROUP", "GROUP", "STREAMS", "c", "BLOCK", "0", "STREAMS", "s", ">"], blocks));
        assert!(with(&["XREADGROUP", "GROUP", "g", "STREAMS", "BLOCK", "0", "STREAMS", "s", ">"], blocks));
        assert!(!with(
            &["XREADGROUP", "GROUP", "g", "BLOCK", "COUNT", "1", "NOACK", "STREAMS", "s", ">"],
            blocks
        ));
        assert!(with(&["XREAD", "NEWER", "1", "STREAMS", "s", "0"], blocks));
        let claim = ["XREADGROUP", "GROUP", "g", "c", "CLAIM", "5", "MAXCOUNT", "BLOCK", "MAXSIZE", "9"];
        assert!(!with(&[&claim[..], &["STREAMS", "s", ">"]].concat(), blocks));
        assert!(with(&[&claim[..], &["BLOCK", "0", "STREAMS", "s", ">"]].concat(), blocks));
        assert!(!with(&["XREAD", "MAXSIZE", "5", "STREAMS", "s", "0"], blocks));
    }

    #[test]
    fn block_counts_only_before_streams() {
        assert!(with(&["XREAD", "BLOCK", "0", "STREAMS", "s", "$"], blocks));
        assert!(with(&["XREAD", "BLOCK\0zz", "0", "STREAMS", "s", "$"], blocks));
        assert!(!with(&["XREAD", "STREAMS", "BLOCK", "0"], blocks));
        assert!(with(&["BLPOP", "l", "0"], may_block));
        assert!(!with(&["GET", "BLOCK"], may_block));
    }
}
