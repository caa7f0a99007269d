//! Reads the options that say whether a request blocks, tracks keys or hides a NUL.

use super::option_word::{holds_nul, is};
use super::spec::{Flags, Spec, Verb};
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Found, find};
    use crate::resp::request::encode;

    fn with<T>(words: &[&str], ask: impl Fn(&Spec, &Request<'_>) -> T) -> T {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut frame = Vec::new();
        encode(&words, &mut frame);
        let request = Request::parse(&frame).unwrap();
        let Some(Found::Spec(spec)) = find(&request) else { panic!("{words:?}") };
        ask(spec, &request)
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
