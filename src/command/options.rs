//! What the options of a request say about its command.

use super::{Flags, Retry, Spec, Verb};
use crate::resp::request::Request;

/// Whether XREAD or XREADGROUP has BLOCK before STREAMS. Options are stepped over as the server does
/// (t_stream.c, xreadCommand): a group or a consumer may be called STREAMS, and a BLOCK behind it still blocks
/// (observed on valkey 8.0). What is not understood is taken to block.
pub fn blocks(spec: &Spec, request: &Request<'_>) -> bool {
    if !matches!(spec.verb, Verb::Xread | Verb::Xreadgroup) {
        return false;
    }
    let mut args = request.args().skip(1);
    while let Some(arg) = args.next() {
        let values = match () {
            () if is(arg, "STREAMS") => return false,
            () if is(arg, "COUNT") => 1,
            () if is(arg, "GROUP") => 2,
            () if is(arg, "NOACK") => 0,
            () => return true,
        };
        args.by_ref().take(values).for_each(drop);
    }
    false
}

/// Whether this request can block its connection.
pub fn may_block(spec: &Spec, request: &Request<'_>) -> bool {
    match spec.verb {
        Verb::Xread | Verb::Xreadgroup => blocks(spec, request),
        _ => spec.flags.contains(Flags::BLOCKING),
    }
}

/// Whether a request may be sent twice, its options considered. Only options known to be harmless are; any
/// other word makes it `Never`.
pub fn retry_of(spec: &Spec, request: &Request<'_>) -> Retry {
    match spec.retry {
        Retry::SameReply if reads_its_target(spec, request) => Retry::Never,
        Retry::ByOptions => by_options(spec, request).unwrap_or(Retry::Never),
        fixed => fixed,
    }
}

/// Whether a command that stores its result also reads from where it stores: sent twice, ZUNIONSTORE a 2 a a
/// doubles the scores twice. PFMERGE may: a union with itself is the same. A weight that is spelled like the
/// target counts as a source, which errs on the safe side.
fn reads_its_target(spec: &Spec, request: &Request<'_>) -> bool {
    let place = match spec.name {
        "BITOP" => 2,
        name if name.ends_with("STORE") => 1,
        _ => return false,
    };
    let target = request.arg(place);
    request.args().skip(place + 1).any(|arg| Some(arg) == target)
}

fn by_options(spec: &Spec, request: &Request<'_>) -> Option<Retry> {
    match spec.name {
        "SET" => {
            Options::of(request, 3, &[("KEEPTTL", 0), ("EX", 1), ("PX", 1), ("EXAT", 1), ("PXAT", 1)])?;
            Some(Retry::SameReply)
        }
        // A score or a longitude stands where an option would.
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

/// The options of GEORADIUS and its twin, and how many values follow each.
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

/// The options of a request and the first value of each.
struct Options<'a>(Vec<(&'static str, Option<&'a [u8]>)>);

impl<'a> Options<'a> {
    /// Reads the options from argument `first` on. `known` says how many values follow each; another word, or a
    /// value that is missing, gives `None`.
    fn of(request: &Request<'a>, first: usize, known: &[(&'static str, usize)]) -> Option<Self> {
        let mut found = Vec::new();
        let mut args = request.args().skip(first);
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

    /// The class of a command that only reads, unless one of `stores` says where its result goes.
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

/// Options are compared as the server does: in any case, and as C strings, so that `NX\0zz` is NX (observed on
/// valkey 8.0).
pub fn is(arg: &[u8], option: &str) -> bool {
    let end = memchr::memchr(0, arg).unwrap_or(arg.len());
    arg.get(..end).is_some_and(|arg| arg.eq_ignore_ascii_case(option.as_bytes()))
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
        for option in ["NX", "xx", "Get", "IFEQ", "IFNE", "NX\0zz"] {
            assert_eq!(retry(&["SET", "k", "v", option]), Retry::Never);
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
    fn what_reads_its_own_target_is_not_sent_twice() {
        assert_eq!(retry(&["ZUNIONSTORE", "a", "2", "b", "c"]), Retry::SameReply);
        assert_eq!(retry(&["ZUNIONSTORE", "a", "2", "a", "a"]), Retry::Never);
        assert_eq!(retry(&["BITOP", "XOR", "a", "a", "b"]), Retry::Never);
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

    #[test]
    fn a_group_called_streams_hides_no_block() {
        assert!(with(&["XREADGROUP", "GROUP", "STREAMS", "c", "BLOCK", "0", "STREAMS", "s", ">"], blocks));
        assert!(with(&["XREADGROUP", "GROUP", "g", "STREAMS", "BLOCK", "0", "STREAMS", "s", ">"], blocks));
        assert!(!with(
            &["XREADGROUP", "GROUP", "g", "BLOCK", "COUNT", "1", "NOACK", "STREAMS", "s", ">"],
            blocks
        ));
        assert!(with(&["XREAD", "NEWER", "1", "STREAMS", "s", "0"], blocks));
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
