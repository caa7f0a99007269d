//! Parses what a server reports about itself: the replies to HELLO, ROLE and INFO.

use std::time::Duration;

use crate::resp::value::Value;
use crate::topology::{Address, ModuleInfo, Node, NodeId, ServerInfo};

/// A node's role in replication, as the node itself reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The node accepts writes.
    Primary {
        /// The replication offset in bytes; `None` if the user may run only INFO and it has no offset.
        offset: Option<u64>,
    },
    /// The node follows another node.
    Replica {
        /// The address of the node that it follows.
        of: Address,
        /// True if the link to that node is up.
        connected: bool,
    },
    /// The node is a Sentinel, not a data server.
    Sentinel,
}

/// Parses the reply to HELLO, as documented for the command.
pub fn server_info(hello: &Value) -> ServerInfo {
    let text = |value: &Value, key: &str| value.field(key).and_then(Value::text).map(str::to_owned);
    let unknown = ServerInfo::default();
    let modules = hello.field("modules").and_then(Value::elements).unwrap_or_default();
    ServerInfo {
        server: text(hello, "server").unwrap_or(unknown.server),
        version: text(hello, "version").unwrap_or(unknown.version),
        modules: modules.iter().filter_map(module_info).collect(),
        availability_zone: text(hello, "availability_zone"),
    }
}

fn module_info(module: &Value) -> Option<ModuleInfo> {
    let text = |key: &str| module.field(key).and_then(Value::text).map(str::to_owned);
    let arguments = |value: &Value| {
        Some(value.elements()?.iter().filter_map(Value::text).map(str::to_owned).collect::<Vec<_>>())
    };
    Some(ModuleInfo {
        name: text("name")?,
        version: module.field("ver")?.integer()?,
        origin: text("path").zip(module.field("args").and_then(arguments)),
    })
}

/// Parses the reply to ROLE, as documented for the command.
pub fn role_from_reply(reply: &Value) -> Option<Role> {
    let (role, rest) = reply.elements()?.split_first()?;
    match (role.bytes()?, rest) {
        (b"master", [offset, ..]) => {
            Some(Role::Primary { offset: offset.integer().and_then(|offset| offset.try_into().ok()) })
        }
        (b"slave", [host, port, link, ..]) => Some(Role::Replica {
            of: Address::tcp(host.text()?, port.integer()?.try_into().ok()?),
            connected: link.bytes()? == b"connected",
        }),
        (b"sentinel", _) => Some(Role::Sentinel),
        _ => None,
    }
}

/// Returns the value of the line `key:value` of INFO.
fn info_field<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::trim_end))
}

/// Parses the server section of INFO. Returns `None` without a run id of 40 hexadecimal digits.
pub fn node_from_info(info: &str) -> Option<Node> {
    let id = info_field(info, "run_id")
        .filter(|id| id.len() == 40 && id.bytes().all(|c| c.is_ascii_hexdigit()))?;
    let uptime = info_field(info, "uptime_in_seconds").and_then(|text| text.parse().ok());
    // Without an uptime the node counts as an old one, which has not just started.
    Some(Node { id: NodeId(id.into()), uptime: uptime.map_or(Duration::MAX, Duration::from_secs) })
}

/// Returns the availability zone in the server section of INFO (Valkey 8.0 and later).
pub fn zone_from_info(info: &str) -> Option<&str> {
    info_field(info, "availability_zone").filter(|zone| !zone.is_empty())
}

/// Parses the replication section of INFO, whose lines are `key:value`.
pub fn role_from_info(info: &str) -> Option<Role> {
    let field = |key: &str| info_field(info, key);
    match field("role")? {
        "master" => {
            Some(Role::Primary { offset: field("master_repl_offset").and_then(|text| text.parse().ok()) })
        }
        "slave" => Some(Role::Replica {
            of: Address::tcp(field("master_host")?, field("master_port")?.parse().ok()?),
            connected: field("master_link_status") == Some("up"),
        }),
        _ => None,
    }
}
