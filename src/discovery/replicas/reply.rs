//! Parses what nodes say of their replication: the replies to ROLE, and to INFO where the user may not run ROLE. Pure.

use crate::resp::value::Value;
use crate::topology::Address;

/// The length of the longest link state that is shown.
const LONGEST_LINK: usize = 32;

/// What a node says of its own replication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The node is a primary.
    Primary { offset: Option<u64>, replicas: Vec<ListedReplica> },
    /// The node is a replica.
    Replica { link: String, offset: Option<u64> },
}

/// A replica as its primary lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedReplica {
    pub(super) address: Address,
    pub(super) link: String,
    pub(super) offset: Option<u64>,
}

/// Parses the reply to ROLE.
pub(super) fn from_role(reply: &Value) -> Option<Report> {
    let (role, rest) = reply.elements()?.split_first()?;
    match (role.bytes()?, rest) {
        (b"master", [offset, replicas, ..]) => Some(Report::Primary {
            offset: number(offset),
            replicas: replicas.elements()?.iter().filter_map(listed).collect(),
        }),
        (b"slave", [_, _, link, offset, ..]) => {
            Some(Report::Replica { link: shortened(link.text()?), offset: number(offset) })
        }
        _ => None,
    }
}

/// Returns a replica that ROLE lists: its address, and the offset that it has acknowledged.
fn listed(entry: &Value) -> Option<ListedReplica> {
    let [host, port, offset] = entry.elements()? else { return None };
    let port = port.text().and_then(|text| text.parse().ok()).or_else(|| port.integer()?.try_into().ok())?;
    Some(ListedReplica {
        address: Address::tcp(host.text()?, port),
        link: "connected".into(),
        offset: number(offset),
    })
}

/// Returns an offset, which is an integer or text. Negative ones mean that the replica has none yet.
fn number(value: &Value) -> Option<u64> {
    value.integer().and_then(|number| number.try_into().ok()).or_else(|| value.text()?.parse().ok())
}

/// Parses the replication section of INFO.
pub(super) fn from_info(info: &str) -> Option<Report> {
    let field = |key: &str| info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let offset = |key: &str| field(key).and_then(|text| text.trim_end().parse().ok());
    match field("role")?.trim_end() {
        "master" => Some(Report::Primary {
            offset: offset("master_repl_offset"),
            replicas: info.lines().filter_map(listed_in_info).collect(),
        }),
        "slave" => {
            let up = field("master_link_status").is_some_and(|status| status.trim_end() == "up");
            let link = if up { "connected" } else { "connect" };
            Some(Report::Replica { link: link.into(), offset: offset("slave_repl_offset") })
        }
        _ => None,
    }
}

/// Parses the line `slave0:ip=10.0.0.6,port=6379,state=online,offset=1234,lag=0`.
fn listed_in_info(line: &str) -> Option<ListedReplica> {
    let (number, fields) = line.strip_prefix("slave")?.split_once(':')?;
    number.parse::<u32>().ok()?;
    let field =
        |key: &str| fields.trim_end().split(',').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
    let link = match field("state")? {
        "online" => "connected",
        other => other,
    };
    Some(ListedReplica {
        address: Address::tcp(field("ip")?, field("port")?.parse().ok()?),
        link: shortened(link),
        offset: field("offset").and_then(|text| text.parse().ok()),
    })
}

fn shortened(link: &str) -> String {
    link.chars().take(LONGEST_LINK).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn text(text: &'static str) -> Value {
        Value::Text(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn role_of_both_sides() {
        let entry = Value::Array(vec![text("10.0.0.6"), text("6379"), text("90")]);
        let primary = Value::Array(vec![text("master"), Value::Integer(100), Value::Array(vec![entry])]);
        let replica = ListedReplica {
            address: Address::tcp("10.0.0.6", 6379),
            link: "connected".into(),
            offset: Some(90),
        };
        assert_eq!(from_role(&primary), Some(Report::Primary { offset: Some(100), replicas: vec![replica] }));
        let replica = |offset| {
            let parts =
                [text("slave"), text("10.0.0.5"), Value::Integer(6379), text("sync"), Value::Integer(offset)];
            from_role(&Value::Array(parts.into()))
        };
        assert_eq!(replica(-1), Some(Report::Replica { link: "sync".into(), offset: None }));
        assert_eq!(replica(7), Some(Report::Replica { link: "sync".into(), offset: Some(7) }));
        assert_eq!(from_role(&Value::Array(vec![text("sentinel"), Value::Array(Vec::new())])), None);
    }

    #[test]
    fn info_of_both_sides() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:1\r\n\
                    slave0:ip=10.0.0.6,port=6379,state=online,offset=90,lag=1\r\nmaster_repl_offset:100\r\n";
        let replica = ListedReplica {
            address: Address::tcp("10.0.0.6", 6379),
            link: "connected".into(),
            offset: Some(90),
        };
        assert_eq!(from_info(info), Some(Report::Primary { offset: Some(100), replicas: vec![replica] }));
        let info = "role:slave\r\nmaster_link_status:down\r\nslave_repl_offset:12\r\n";
        assert_eq!(from_info(info), Some(Report::Replica { link: "connect".into(), offset: Some(12) }));
    }
}
