//! Two frames that differ, as the rules look at them.

use respgate::command::Spec;

use crate::lane::AdminLevel;
use crate::session::Request;
use crate::support::servers::Flavor;
use crate::value::{Item, Value};

/// Two frames that differ, and what they answer.
pub struct Seen<'a> {
    pub flavor: Flavor,
    /// Whether a cluster stands behind respgate.
    pub cluster: bool,
    /// `admin-commands` of respgate's listeners.
    pub admin: AdminLevel,
    pub spec: Option<&'static Spec>,
    pub request: &'a Request,
    /// Whether the client has an open transaction or watched keys, which bind it to a slot.
    pub bound: bool,
    /// Whether this is a member of EXEC's reply.
    pub executed: bool,
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

    /// Returns respgate's error, without its type byte.
    pub fn through_error(&self) -> Option<&[u8]> {
        if let Item::Frame(value) = self.through { value.error() } else { None }
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

/// Returns true if two replies to FUNCTION DUMP hold the same libraries, in any order. The last 8 bytes are a checksum.
pub fn same_libraries(one: &Value, other: &Value) -> bool {
    let bytes = |value: &Value| match value {
        Value::Bulk(_, Some(dump)) => {
            let mut bytes = dump[..dump.len().saturating_sub(8)].to_vec();
            bytes.sort_unstable();
            Some(bytes)
        }
        _ => None,
    };
    bytes(one).is_some_and(|one| bytes(other) == Some(one))
}

/// Returns the value with the times of consumers and pending entries made equal.
pub fn without_stream_times(value: &Value) -> Value {
    const TIMES: [&[u8]; 4] = [b"idle", b"inactive", b"seen-time", b"active-time"];
    let Value::Many(kind, Some(members)) = value else { return value.clone() };
    let mut kept: Vec<Value> = members.iter().map(without_stream_times).collect();
    for at in 1..kept.len() {
        if kept[at - 1].text().is_some_and(|name| TIMES.contains(&name)) && integer(&kept[at]).is_some() {
            kept[at] = Value::Line(b':', Vec::new());
        }
    }
    // A pending entry: its id, perhaps its consumer, a time, and how often it was delivered.
    let id = kept.first().and_then(Value::text).is_some_and(|id| id.contains(&b'-'));
    if let [.., time, count] = &mut kept[..]
        && id
        && integer(time).is_some()
        && integer(count).is_some()
    {
        *time = Value::Line(b':', Vec::new());
    }
    Value::Many(*kind, Some(kept))
}

/// Returns true if two replies of CONFIG GET differ only in the order and the case of names, and in parameters that respgate
/// may hide.
pub fn same_parameters(direct: &Value, through: &Value) -> bool {
    let pairs = |value: &Value| -> Vec<(Vec<u8>, Vec<u8>)> {
        let text = |value: &Value| value.text().unwrap_or_default().to_vec();
        let members = value.members().unwrap_or_default().chunks_exact(2);
        let mut pairs: Vec<_> =
            members.map(|pair| (text(&pair[0]).to_ascii_lowercase(), text(&pair[1]))).collect();
        pairs.sort();
        pairs
    };
    let (direct, through) = (pairs(direct), pairs(through));
    through.iter().all(|pair| direct.contains(pair))
        && direct.iter().all(|pair| through.contains(pair) || may_hide(&pair.0))
}

/// Returns true if respgate may hide this parameter at `admin-commands = "read-only"`.
fn may_hide(name: &[u8]) -> bool {
    const HIDDEN: [&str; 17] = [
        // Redis 7.0 shows this to patterns, later servers do not.
        "aof-disable-auto-gc",
        "requirepass",
        "masterauth",
        "primaryauth",
        "masteruser",
        "primaryuser",
        "hash-seed",
        "aclfile",
        "tls-cert-file",
        "tls-key-file",
        "tls-key-file-pass",
        "tls-client-cert-file",
        "tls-client-key-file",
        "tls-client-key-file-pass",
        "tls-dh-params-file",
        "tls-ca-cert-file",
        "tls-ca-cert-dir",
    ];
    HIDDEN.iter().any(|hidden| hidden.as_bytes() == name)
}
