//! Says which slot a command belongs to. No I/O.

use std::rc::Rc;

use crate::cluster::slot::Slot;
use crate::command::key_index::keys_of;
use crate::command::keys::Unclear;
use crate::command::learned::LearnedCommand;
use crate::command::{self, Found, Spec, Verb};
use crate::resp::request::Request;

/// The place of a command in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Place {
    /// The command has no keys, or keys that cannot be located: the server refuses such a request. It goes to the home shard.
    Home,
    /// All keys of the command belong to this slot.
    Slot(Slot),
    /// The keys belong to several slots.
    Several,
}

impl Place {
    /// Returns the place of a request. `learned` looks up what the server has said of a command that the table lacks.
    pub(in crate::session) fn of(
        request: &Request<'_>,
        learned: impl FnOnce(Option<Found>) -> Option<Rc<LearnedCommand>>,
    ) -> Self {
        let mut slots = Slots::default();
        match command::find(request) {
            Some(Found::Spec(spec)) => return Self::of_listed(spec, request),
            found => {
                if let Some(command) = learned(found)
                    && let Some(keys) = &command.keys
                {
                    let located = keys.all(request, |key| slots.add(key));
                    return slots.place(located);
                }
            }
        }
        Self::Home
    }

    /// Returns the place of a command of the table.
    #[inline]
    pub(in crate::session) fn of_listed(spec: &Spec, request: &Request<'_>) -> Self {
        // The server checks the number of arguments before it looks at the keys.
        if !command::arity_ok(spec, request.argc()) {
            return Self::Home;
        }
        let mut slots = Slots::default();
        let located = match spec.verb {
            Verb::Ssubscribe => Ok(request.args().skip(1).all(|channel| slots.add(channel))),
            _ if spec.name == "PUBSUB|SHARDNUMSUB" => {
                Ok(request.args().skip(2).all(|channel| slots.add(channel)))
            }
            _ if spec.name == "SPUBLISH" => Ok(request.arg(1).is_some_and(|channel| slots.add(channel))),
            _ => keys_of(spec).all(request, |key| slots.add(key)),
        };
        slots.place(located)
    }
}

/// The slots of a request's keys, as far as they were read.
#[derive(Default)]
struct Slots {
    first: Option<Slot>,
    several: bool,
}

impl Slots {
    /// Adds a key. Returns false if further keys make no difference.
    fn add(&mut self, key: &[u8]) -> bool {
        let slot = Slot::of(key);
        self.several = *self.first.get_or_insert(slot) != slot;
        !self.several
    }

    /// Returns the place, given whether all keys could be located.
    fn place(&self, located: Result<bool, Unclear>) -> Place {
        match (self.first, located) {
            (_, Ok(_)) if self.several => Place::Several,
            (Some(slot), Ok(_)) => Place::Slot(slot),
            // The server reads the first keys as respgate does, and refuses the rest.
            (Some(slot), Err(Unclear)) => Place::Slot(slot),
            (None, _) => Place::Home,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::request::encode;

    fn place(words: &[&str]) -> Place {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut frame = Vec::new();
        encode(&words, &mut frame);
        Place::of(&Request::parse(&frame).unwrap(), |_| None)
    }

    fn slot(key: &str) -> Place {
        Place::Slot(Slot::of(key.as_bytes()))
    }

    #[test]
    fn the_keys_decide() {
        assert_eq!(place(&["GET", "a"]), slot("a"));
        assert_eq!(place(&["get", "{a}b"]), slot("a"));
        assert_eq!(place(&["MGET", "{a}1", "{a}2", "a"]), slot("a"));
        assert_eq!(place(&["MSET", "{a}1", "b", "{a}2", "c"]), slot("a"));
        assert_eq!(place(&["MGET", "a", "b"]), Place::Several);
        assert_eq!(place(&["EVAL", "return 1", "1", "a"]), slot("a"));
        assert_eq!(place(&["EVAL", "return 1", "2", "a", "b"]), Place::Several);
        assert_eq!(place(&["EVAL", "return 1", "0", "a"]), Place::Home);
        assert_eq!(place(&["XREAD", "BLOCK", "0", "STREAMS", "s", "$"]), slot("s"));
        assert_eq!(place(&["BLPOP", "q", "1"]), slot("q"));
        assert_eq!(place(&["SSUBSCRIBE", "{c}1", "{c}2"]), slot("c"));
        assert_eq!(place(&["SSUBSCRIBE", "c", "d"]), Place::Several);
        assert_eq!(place(&["SPUBLISH", "c", "d"]), slot("c"));
        assert_eq!(place(&["PUBSUB", "SHARDNUMSUB", "c"]), slot("c"));
        assert_eq!(place(&["PUBSUB", "shardnumsub", "c", "d"]), Place::Several);
        assert_eq!(place(&["PUBSUB", "SHARDNUMSUB"]), Place::Home);
    }

    #[test]
    fn what_has_no_keys_belongs_to_the_home_shard() {
        for words in
            [&["PING"][..], &["SUBSCRIBE", "c"], &["PUBLISH", "c", "m"], &["DBSIZE"], &["GET"], &["EXEC"]]
        {
            assert_eq!(place(words), Place::Home, "{words:?}");
        }
    }
}
