//! Checks the prefixes of names, and of everything that a pattern can match.

use crate::command::keys::Channels;
use crate::command::option_is as is;
use crate::resp::request::Request;

/// Holds the allowed prefixes of names: each name must begin with one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prefixes(pub(super) Box<[Box<[u8]>]>);

impl Prefixes {
    /// Returns true if there are no prefixes, so that any name is allowed.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if a name begins with one of the prefixes.
    pub(super) fn admit(&self, name: &[u8]) -> bool {
        self.0.iter().any(|prefix| name.starts_with(prefix))
    }

    /// Returns true if every name that a glob pattern can match begins with one of the prefixes: the pattern's
    /// literal start must have the prefix. A prefix that contains a special character itself admits no pattern.
    fn admit_pattern(&self, pattern: &[u8]) -> bool {
        let special = pattern.iter().position(|byte| b"*?[\\".contains(byte));
        self.admit(pattern.get(..special.unwrap_or(pattern.len())).unwrap_or_default())
    }

    /// Returns true if all channels of a request are admitted.
    pub(super) fn admit_channels(&self, channels: Channels, request: &Request<'_>) -> bool {
        match channels {
            Channels::None => true,
            Channels::One(place) => request.arg(place.into()).is_some_and(|channel| self.admit(channel)),
            Channels::From(first) => request.args().skip(first.into()).all(|channel| self.admit(channel)),
            Channels::Patterns(first) => {
                // PUBSUB CHANNELS without a pattern lists all channels.
                request.argc() > first.into()
                    && request.args().skip(first.into()).all(|pattern| self.admit_pattern(pattern))
            }
        }
    }

    /// Returns true if KEYS can only list admitted keys.
    pub(super) fn admit_keys(&self, request: &Request<'_>) -> bool {
        request.arg(1).is_some_and(|pattern| self.admit_pattern(pattern))
    }

    /// Returns true if SCAN can only list admitted keys: it has a MATCH, and each MATCH is admitted.
    pub(super) fn admit_scan(&self, request: &Request<'_>) -> bool {
        let mut args = request.args().skip(2);
        let mut matched = false;
        while let Some(option) = args.next() {
            let value = args.next();
            match value {
                Some(pattern) if is(option, "MATCH") && self.admit_pattern(pattern) => matched = true,
                Some(_) if is(option, "COUNT") || is(option, "TYPE") => {}
                _ => return false,
            }
        }
        matched
    }

    /// Returns true if CLIENT TRACKING can only name admitted keys: those that the client reads or, with BCAST,
    /// those of its PREFIX options.
    pub(super) fn admit_tracking(&self, request: &Request<'_>) -> bool {
        let mut args = request.args().skip(3);
        let (mut broadcast, mut prefixed) = (false, false);
        while let Some(option) = args.next() {
            match () {
                () if is(option, "BCAST") => broadcast = true,
                () if is(option, "PREFIX") => match args.next() {
                    Some(prefix) if self.admit(prefix) => prefixed = true,
                    _ => return false,
                },
                () if is(option, "REDIRECT") => {
                    args.next();
                }
                () => {}
            }
        }
        !broadcast || prefixed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::request::encode;

    fn with(words: &[&str], ask: impl Fn(&Prefixes, &Request<'_>) -> bool) -> bool {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut frame = Vec::new();
        encode(&words, &mut frame);
        ask(&app(), &Request::parse(&frame).unwrap())
    }

    fn app() -> Prefixes {
        Prefixes([&b"app1:"[..], b"app2:"].map(Box::from).into())
    }

    #[test]
    fn a_pattern_must_begin_as_names_must() {
        for pattern in ["app1:*", "app2:x?[a]", "app1:", "app1:\\*"] {
            assert!(app().admit_pattern(pattern.as_bytes()), "{pattern}");
        }
        for pattern in ["*", "app*", "app1", "app1[:]*", "app1\\:*", "app3:*", "?pp1:*", ""] {
            assert!(!app().admit_pattern(pattern.as_bytes()), "{pattern}");
        }
        assert!(!Prefixes([Box::from(&b"a*b:"[..])].into()).admit_pattern(b"a*b:c"));
    }

    #[test]
    fn scan_needs_a_match_and_no_other() {
        let scan = |words: &[&str]| with(words, Prefixes::admit_scan);
        assert!(scan(&["SCAN", "0", "match", "app1:*", "COUNT", "10", "TYPE", "string"]));
        assert!(scan(&["SCAN", "0", "MATCH\0x", "app1:*"]));
        assert!(!scan(&["SCAN", "0"]));
        assert!(!scan(&["SCAN", "0", "MATCH", "*"]));
        assert!(!scan(&["SCAN", "0", "MATCH", "app1:*", "MATCH", "*"]));
        assert!(!scan(&["SCAN", "0", "MATCH", "app1:*", "MATCH\0", "*"]));
        assert!(!scan(&["SCAN", "0", "COUNT", "MATCH", "app1:*"]));
        assert!(!scan(&["SCAN", "0", "MATCH", "app1:*", "NEWER", "x"]));
    }

    #[test]
    fn tracking_broadcasts_only_under_a_prefix() {
        let tracking = |words: &[&str]| with(words, Prefixes::admit_tracking);
        assert!(tracking(&["CLIENT", "TRACKING", "ON"]));
        assert!(tracking(&["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "app1:x"]));
        assert!(!tracking(&["CLIENT", "TRACKING", "ON", "BCAST"]));
        assert!(!tracking(&["CLIENT", "TRACKING", "ON", "bcast\0x"]));
        assert!(!tracking(&["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "app1:", "PREFIX", ""]));
    }

    #[test]
    fn every_channel_counts() {
        let admitted = |channels, words: &[&str]| with(words, |app, r| app.admit_channels(channels, r));
        assert!(admitted(Channels::One(1), &["PUBLISH", "app1:x", "other"]));
        assert!(!admitted(Channels::One(1), &["PUBLISH", "other", "app1:x"]));
        assert!(admitted(Channels::From(1), &["SUBSCRIBE", "app1:x", "app2:x"]));
        assert!(!admitted(Channels::From(1), &["SUBSCRIBE", "app1:x", "x"]));
        assert!(!admitted(Channels::Patterns(1), &["PSUBSCRIBE", "app1:*", "*"]));
        assert!(!admitted(Channels::Patterns(2), &["PUBSUB", "CHANNELS"]));
        assert!(admitted(Channels::Patterns(2), &["PUBSUB", "CHANNELS", "app1:*"]));
    }
}
