//! Locates the keys of commands that the table lacks, from the key specifications in the server's
//! reply to COMMAND (the ninth element; redis.io, "Command key specifications").

use super::keys::Unclear;
use crate::resp::request::Request;
use crate::resp::value::Value;

/// Number of specifications that are read of one command. The server's own commands have up to 4.
const MAX_SPECS: usize = 16;

/// Locates the keys of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpecs(Box<[KeySpec]>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct KeySpec {
    begin: Begin,
    find: Find,
}

/// Where the arguments that contain the keys begin. Indexes count the command's name as 0.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Begin {
    /// The arguments begin at this index.
    Index(usize),
    /// The arguments begin after this word, in any case. The search starts at index `from`; if
    /// `from` is negative, it starts at that index counted from the end and goes backwards.
    Keyword { word: Box<[u8]>, from: i64 },
}

/// Which of those arguments are keys. Indexes count from where the arguments begin.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Find {
    /// Every `step`th argument up to the index `last` is a key. A negative `last` counts from the
    /// end of all arguments. The keys are in the first of `limit` equal parts.
    Range { last: i64, step: usize, limit: usize },
    /// The argument at `count` holds the number of keys. They start at `first`, and every `step`th
    /// argument is one.
    Count { count: usize, first: usize, step: usize },
}

impl KeySpecs {
    /// Reads the description of one command in the reply to COMMAND. Returns `None` if the server
    /// does not say where all keys are.
    pub fn read(fields: &[Value]) -> Option<Self> {
        match fields.get(8).and_then(Value::elements) {
            Some(specs) if specs.len() > MAX_SPECS => None,
            Some(specs) if !specs.is_empty() => {
                let keys = specs.iter().filter(|spec| !has_flag(spec, "not_key"));
                keys.map(KeySpec::read).collect::<Option<Box<[KeySpec]>>>().map(Self)
            }
            _ => Self::of_range(fields),
        }
    }

    /// Reads the first key, the last key and the step between keys. Servers before 7.0 said no
    /// more, and modules may still say no more.
    fn of_range(fields: &[Value]) -> Option<Self> {
        let number = |index: usize| fields.get(index).and_then(Value::integer);
        let flags = fields.get(2).and_then(Value::elements).unwrap_or_default();
        if flags.iter().any(|flag| flag.bytes() == Some(b"movablekeys")) {
            return None;
        }
        let (first, last, step) = (number(3)?, number(4)?, number(5)?);
        if first == 0 {
            return Some(Self(Box::default()));
        }
        let first = usize::try_from(first).ok()?;
        let last = if last < 0 { last } else { last.checked_sub_unsigned(first as u64)? };
        let find = Find::Range { last, step: positive(step)?, limit: 0 };
        Some(Self([KeySpec { begin: Begin::Index(first), find }].into()))
    }

    /// Returns true if the command names no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if `is` is true for every key of the request.
    ///
    /// # Errors
    /// Returns [`Unclear`] if a key count is not a number, or if a key's index lies beyond the
    /// arguments.
    pub fn all(&self, request: &Request<'_>, mut is: impl FnMut(&[u8]) -> bool) -> Result<bool, Unclear> {
        for spec in &self.0 {
            let Some(first) = spec.begin.locate(request) else { continue };
            if !spec.find.all(request, first, &mut is)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl KeySpec {
    fn read(spec: &Value) -> Option<Self> {
        if has_flag(spec, "incomplete") {
            return None;
        }
        let (kind, fields) = part(spec, "begin_search")?;
        let begin = match kind {
            "index" => Begin::Index(usize::try_from(fields.field("index")?.integer()?).ok()?),
            "keyword" => Begin::Keyword {
                word: fields.field("keyword")?.bytes()?.into(),
                from: fields.field("startfrom")?.integer()?,
            },
            _ => return None,
        };
        let (kind, fields) = part(spec, "find_keys")?;
        let number = |name: &str| fields.field(name).and_then(Value::integer);
        let unsigned = |name: &str| number(name).and_then(|number| usize::try_from(number).ok());
        let step = number("keystep").and_then(positive)?;
        let find = match kind {
            "range" => Find::Range { last: number("lastkey")?, step, limit: unsigned("limit")? },
            "keynum" => Find::Count { count: unsigned("keynumidx")?, first: unsigned("firstkey")?, step },
            _ => return None,
        };
        Some(Self { begin, find })
    }
}

/// Returns one half of a specification: its type, and the numbers and words of that type.
fn part<'a>(spec: &'a Value, name: &str) -> Option<(&'a str, &'a Value)> {
    let part = spec.field(name)?;
    Some((part.field("type")?.text()?, part.field("spec")?))
}

fn has_flag(spec: &Value, flag: &str) -> bool {
    let flags = spec.field("flags").and_then(Value::elements).unwrap_or_default();
    flags.iter().any(|known| known.bytes() == Some(flag.as_bytes()))
}

fn positive(number: i64) -> Option<usize> {
    usize::try_from(number).ok().filter(|number| *number > 0)
}

impl Begin {
    /// Returns the index at which the arguments begin. Returns `None` if the keyword is missing;
    /// the request then has none of its keys.
    fn locate(&self, request: &Request<'_>) -> Option<usize> {
        let argc = request.argc() as usize;
        match self {
            Self::Index(index) => Some(*index),
            Self::Keyword { word, from } => {
                let is = |arg: &[u8]| arg.eq_ignore_ascii_case(word);
                let found = match usize::try_from(*from) {
                    Ok(from) => {
                        let mut args = request.args().enumerate().skip(from.max(1));
                        args.find(|(_, arg)| is(arg)).map(|(index, _)| index)
                    }
                    Err(_) => {
                        let end = argc.checked_add_signed(isize::try_from(*from).ok()?)?;
                        let args = request.args().enumerate().skip(1).take(end);
                        args.filter(|(_, arg)| is(arg)).last().map(|(index, _)| index)
                    }
                };
                found.map(|index| index + 1)
            }
        }
    }
}

impl Find {
    fn all(
        &self,
        request: &Request<'_>,
        begin: usize,
        is: &mut impl FnMut(&[u8]) -> bool,
    ) -> Result<bool, Unclear> {
        let argc = request.argc() as usize;
        let (first, last, step) = match *self {
            Self::Range { last, step, limit } => {
                let end = if last >= 0 {
                    begin.checked_add(usize::try_from(last).map_err(|_| Unclear)?)
                } else {
                    let last = isize::try_from(last).map_err(|_| Unclear)?;
                    let span = argc.checked_sub(begin).ok_or(Unclear)?;
                    // A limit of 0 or 1 means no limit (getKeysUsingKeySpecs in the server's db.c).
                    let end = if limit > 1 { begin + span / limit } else { argc };
                    end.checked_add_signed(last)
                };
                (begin, end.ok_or(Unclear)?, step)
            }
            Self::Count { count, first, step } => {
                let index = begin.checked_add(count).ok_or(Unclear)?;
                let number = request.arg(index).and_then(super::keys::whole).ok_or(Unclear)?;
                // A count of 0 means no keys, so every key satisfies `is`.
                if number == 0 {
                    return Ok(true);
                }
                let first = begin.checked_add(first).ok_or(Unclear)?;
                let last = (number - 1).checked_mul(step).and_then(|span| first.checked_add(span));
                (first, last.ok_or(Unclear)?, step)
            }
        };
        // Index 0 is the name of the command, never a key.
        if first == 0 || last < first || last >= argc {
            return Err(Unclear);
        }
        Ok(request.args().take(last + 1).skip(first).step_by(step).all(is))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::request::encode;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned().into())
    }

    fn map(pairs: &[(&str, Value)]) -> Value {
        Value::Array(pairs.iter().flat_map(|(key, value)| [text(key), value.clone()]).collect())
    }

    fn spec(flags: &[&str], begin: (&str, Value), find: (&str, Value)) -> Value {
        let half = |(kind, spec): (&str, Value)| map(&[("type", text(kind)), ("spec", spec)]);
        let flags = Value::Array(flags.iter().map(|flag| text(flag)).collect());
        map(&[("flags", flags), ("begin_search", half(begin)), ("find_keys", half(find))])
    }

    fn number(number: i64) -> Value {
        Value::Integer(number)
    }

    fn index(index: i64) -> (&'static str, Value) {
        ("index", map(&[("index", number(index))]))
    }

    fn range(last: i64, step: i64, limit: i64) -> (&'static str, Value) {
        ("range", map(&[("lastkey", number(last)), ("keystep", number(step)), ("limit", number(limit))]))
    }

    fn read(specs: Vec<Value>) -> Option<KeySpecs> {
        let nothing = || Value::Array(Vec::new());
        let fields = [
            text("x"),
            number(-1),
            nothing(),
            number(0),
            number(0),
            number(0),
            nothing(),
            nothing(),
            Value::Array(specs),
        ];
        KeySpecs::read(&fields)
    }

    fn keys(specs: &KeySpecs, words: &[&str]) -> Result<Vec<String>, Unclear> {
        let mut frame = Vec::new();
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        encode(&words, &mut frame);
        let request = Request::parse(&frame).unwrap();
        let mut found = Vec::new();
        let all = specs.all(&request, |key| {
            found.push(String::from_utf8_lossy(key).into_owned());
            true
        })?;
        assert!(all);
        Ok(found)
    }

    #[test]
    fn keys_are_found_as_the_server_finds_them() {
        let one = read(vec![spec(&["RW"], index(1), range(0, 1, 0))]).unwrap();
        assert_eq!(keys(&one, &["HSETEX", "k", "EX", "9"]).unwrap(), ["k"]);
        assert!(keys(&one, &["HSETEX"]).is_err());
        let pairs = read(vec![spec(&["OW"], index(1), range(-1, 2, 0))]).unwrap();
        assert_eq!(keys(&pairs, &["MSET", "a", "1", "b", "2"]).unwrap(), ["a", "b"]);
        let counted = map(&[("keynumidx", number(0)), ("firstkey", number(1)), ("keystep", number(2))]);
        let counted = read(vec![spec(&["OW"], index(1), ("keynum", counted))]).unwrap();
        assert_eq!(keys(&counted, &["MSETEX", "2", "a", "1", "b", "2", "EX", "9"]).unwrap(), ["a", "b"]);
        for count in ["9", "-1", "x", "18446744073709551615"] {
            assert!(keys(&counted, &["MSETEX", count, "a", "1"]).is_err(), "{count}");
        }
        let streams = ("keyword", map(&[("keyword", text("STREAMS")), ("startfrom", number(1))]));
        let streams = read(vec![spec(&["RO"], streams, range(-1, 1, 2))]).unwrap();
        assert_eq!(
            keys(&streams, &["XREAD", "COUNT", "1", "streams", "a", "b", "0", "0"]).unwrap(),
            ["a", "b"]
        );
        assert!(keys(&streams, &["XREAD", "a"]).unwrap().is_empty(), "its keyword is missing");
        let last = ("keyword", map(&[("keyword", text("STORE")), ("startfrom", number(-2))]));
        let last = read(vec![spec(&["OW"], last, range(0, 1, 0))]).unwrap();
        assert_eq!(keys(&last, &["X", "STORE", "no", "STORE", "yes"]).unwrap(), ["yes"]);
    }

    #[test]
    fn incomplete_specifications_are_unclear() {
        let unknown = ("unknown", map(&[]));
        assert!(read(vec![spec(&["RO"], index(1), unknown.clone())]).is_none());
        assert!(read(vec![spec(&["RO"], unknown, range(0, 1, 0))]).is_none());
        assert!(read(vec![spec(&["RO", "incomplete"], index(1), range(0, 1, 0))]).is_none());
        assert!(read(vec![spec(&["RO"], index(1), range(0, 0, 0))]).is_none(), "a step of 0 never ends");
        assert!(read(vec![text("odd")]).is_none());
        assert!(read(vec![spec(&["not_key"], index(1), range(0, 1, 0))]).unwrap().is_empty());
        assert!(read(Vec::new()).unwrap().is_empty());
    }

    proptest::proptest! {
        /// No specification and no request makes it panic, or yields an argument that the request
        /// lacks.
        #[test]
        fn any_specification_is_safe(
            begin in 0..6i64, last in -6..6i64, step in 1..4i64, limit in 0..4i64,
            count in 0..4i64, first in 0..4i64, words in proptest::collection::vec("[0-9a-c]{0,3}", 1..8),
        ) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let counted = map(&[("keynumidx", number(count)), ("firstkey", number(first)), ("keystep", number(step))]);
            for find in [range(last, step, limit), ("keynum", counted)] {
                let specs = read(vec![spec(&[], index(begin), find)]).unwrap();
                if let Ok(keys) = keys(&specs, &words) {
                    proptest::prop_assert!(keys.len() < words.len().max(1) || keys.is_empty());
                }
            }
        }
    }
}
