//! Two frames that differ, as the rules look at them.

use respgate::command::Spec;

use crate::session::Request;
use crate::support::servers::Flavor;
use crate::value::{Item, Value};

/// Two frames that differ, and what they answer.
pub struct Seen<'a> {
    pub flavor: Flavor,
    /// Whether administrative commands are allowed.
    pub admin: bool,
    pub spec: Option<&'static Spec>,
    pub request: &'a Request,
    /// Whether the server has queued the command.
    pub queued: bool,
    /// Whether the client has sent a NUL in a command about its connection, in this request or before.
    pub nul: bool,
    /// Whether the client has sent a line break to a script, a function or their commands.
    pub split: bool,
    /// Whether the client has sent a HELLO that the server refused.
    pub failed_hello: bool,
    /// Whether a client of the session has left, or has given up the state of its connection.
    pub ended: bool,
    pub direct: &'a Item,
    pub through: &'a Item,
}

impl Seen<'_> {
    /// Whether the command is one of these.
    pub fn is(&self, names: &[&str]) -> bool {
        self.spec.is_some_and(|spec| names.contains(&spec.name))
    }

    /// Both frames, if neither is the end of a connection.
    pub fn values(&self) -> Option<(&Value, &Value)> {
        match (self.direct, self.through) {
            (Item::Frame(direct), Item::Frame(through)) => Some((direct, through)),
            _ => None,
        }
    }

    /// Whether respgate gave an error that begins so.
    pub fn through_says(&self, start: &str) -> bool {
        matches!(self.through, Item::Frame(value) if value.fails_with(start))
    }

    /// Whether the server gave an error that begins so.
    pub fn direct_says(&self, start: &str) -> bool {
        matches!(self.direct, Item::Frame(value) if value.fails_with(start))
    }

    /// Whether neither is an error, and both are of one type.
    pub fn both_answer(&self) -> bool {
        self.values().is_some_and(|(direct, through)| {
            direct.error().is_none() && through.error().is_none() && kind(direct) == kind(through)
        })
    }

    /// Both, if they are integers.
    pub fn integers(&self) -> Option<(i64, i64)> {
        let (direct, through) = self.values()?;
        Some((integer(direct)?, integer(through)?))
    }
}

fn kind(value: &Value) -> u8 {
    match value {
        Value::Line(kind, _) | Value::Bulk(kind, _) | Value::Many(kind, _) => *kind,
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Line(b':', text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

/// Whether this confirms the end of a subscription when there is none.
pub fn confirms_nothing(item: &Item) -> bool {
    let Item::Frame(Value::Many(_, Some(members))) = item else { return false };
    let [kind, _, count] = &members[..] else { return false };
    kind.text().is_some_and(|kind| kind.ends_with(b"unsubscribe")) && integer(count) == Some(0)
}

/// HELLO's reply without the connection's number.
pub fn without_id(value: &Value) -> Option<Vec<Value>> {
    let members = value.members()?;
    let mut kept = Vec::new();
    let mut id = false;
    for member in members {
        if !std::mem::replace(&mut id, member.text() == Some(b"id")) {
            kept.push(member.clone());
        }
    }
    Some(kept)
}

/// Whether two replies of CLIENT INFO say the same of what is the client's own. Redis 7.0 knows no libraries.
pub fn same_client(direct: &Value, through: &Value) -> bool {
    let facts = |value: &Value| -> Vec<String> {
        let text = String::from_utf8_lossy(value.text().unwrap_or_default()).into_owned();
        text.trim_end().split(' ').map(str::to_owned).collect()
    };
    let (direct, through) = (facts(direct), facts(through));
    ["name=", "db=", "user=", "resp=", "lib-name=", "lib-ver="].iter().all(|name| {
        let find = |facts: &[String]| facts.iter().find(|fact| fact.starts_with(name)).cloned();
        find(&direct).is_none_or(|fact| Some(fact) == find(&through))
    })
}

/// A value with the members of each aggregate sorted.
pub fn in_order(value: &Value) -> Value {
    match value {
        Value::Many(kind, Some(members)) => {
            let mut members: Vec<Value> = members.iter().map(in_order).collect();
            members.sort();
            Value::Many(*kind, Some(members))
        }
        other => other.clone(),
    }
}

/// A value with all integers made equal.
pub fn without_integers(value: &Value) -> Value {
    match value {
        Value::Line(b':', _) => Value::Line(b':', Vec::new()),
        Value::Many(kind, Some(members)) => {
            Value::Many(*kind, Some(members.iter().map(without_integers).collect()))
        }
        other => other.clone(),
    }
}
