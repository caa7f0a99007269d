//! Decides whether a request may be sent again, from its command and its options.

use super::option_word::is;
use super::options::RADIUS;
use super::spec::{Retry, Spec};
use crate::resp::request::Request;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Found, find};
    use crate::resp::request::encode;

    fn retry(words: &[&str]) -> Retry {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut frame = Vec::new();
        encode(&words, &mut frame);
        let request = Request::parse(&frame).unwrap();
        let Some(Found::Spec(spec)) = find(&request) else { panic!("{words:?}") };
        retry_of(spec, &request)
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
}
