//! Checks whether the node has the expected role.

use tokio::time::Instant;

use super::finding::{Finding, Step};
use super::peer::{Channel, Peer};
use super::words::{count, quoted};
use crate::resp::control::ControlError;
use crate::resp::greeting::{Role, role_from_info, role_from_reply};
use crate::resp::server_error::ServerError;
use crate::resp::value::Value;

/// The role that the node should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// The primary at a fixed address.
    Primary,
    /// The primary that Sentinels name.
    NamedPrimary,
    /// A replica that Sentinels know.
    Replica,
}

/// Runs ROLE, or INFO if the user may not run ROLE.
///
/// # Errors
///
/// Returns the error if the connection fails.
pub(super) async fn examine(
    channel: &mut Channel,
    peer: &Peer,
    expected: Expected,
) -> Result<Finding, ControlError> {
    let deadline = Instant::now() + peer.answer_timeout();
    let reply = channel.call(&[b"ROLE"], deadline).await?;
    let replicas = reply.elements().and_then(|parts| parts.get(2)?.elements()).map(<[Value]>::len);
    let role = match &reply {
        Value::Error(_) => {
            let info = channel.call(&[b"INFO", b"replication"], deadline).await?;
            info.text().and_then(role_from_info)
        }
        reply => role_from_reply(reply),
    };
    Ok(match role {
        Some(role) => judge(&role, expected, replicas),
        None => unknown_role(peer, &reply),
    })
}

fn unknown_role(peer: &Peer, reply: &Value) -> Finding {
    const ALLOW: &str = "allow the user +role (or +info): without it, respgate has to believe whoever names the node, \
                         and notices a demotion only by refused writes";
    match reply.error() {
        Some(line) if ServerError::of(line).denies_command() => {
            Finding::warning(Step::Role, "is unknown: the user may run neither ROLE nor INFO", ALLOW)
        }
        Some(line) => {
            let seen = format!("asked for its role, it answers: {}", quoted(line, peer.credentials.as_ref()));
            Finding::broken(Step::Role, seen, "look at the server's log")
        }
        None => {
            Finding::broken(Step::Role, "its answer to ROLE makes no sense", "check the host and the port")
        }
    }
}

fn judge(role: &Role, expected: Expected, replicas: Option<usize>) -> Finding {
    match (role, expected) {
        (Role::Sentinel, _) => Finding::broken(
            Step::Role,
            "a Sentinel, which holds no data",
            "to find the primary through it, use redis-sentinel://HOST:26379/0#NAME; for a server, check the port",
        ),
        (Role::Primary { .. }, Expected::Replica) => Finding::warning(
            Step::Role,
            "the Sentinels count it as a replica, but it says that it is a primary",
            "in a failover this passes within seconds: run this again. If it lasts, what is written there is lost when \
             the Sentinels demote it",
        ),
        (Role::Primary { .. }, _) => {
            let following =
                replicas.map(|n| format!(", followed by {}", count(n, "replica"))).unwrap_or_default();
            Finding::ok(Step::Role, format!("a primary{following}")).fact("replicas", replicas)
        }
        (Role::Replica { of, connected }, Expected::Replica) => {
            if *connected {
                Finding::ok(Step::Role, format!("a replica of {of}, and connected to it"))
            } else {
                Finding::warning(
                    Step::Role,
                    format!("a replica of {of}, but not connected to it: its data grow old"),
                    "see its log, and whether it reaches that address with the right `primaryauth`/`masterauth`",
                )
            }
        }
        (Role::Replica { of, connected }, Expected::Primary) => {
            let link = if *connected { "" } else { ", and has lost the link to it" };
            Finding::broken(
                Step::Role,
                format!("a replica of {of}{link}: writes would be refused (READONLY)"),
                format!(
                    "point respgate at {of}; better, at the Sentinels (redis-sentinel://…), so that it follows the next \
                     failover by itself; or, if this node is to be the primary, REPLICAOF NO ONE"
                ),
            )
        }
        (Role::Replica { of, .. }, Expected::NamedPrimary) => Finding::broken(
            Step::Role,
            format!("named as primary, but it is a replica of {of}"),
            "in a failover this passes within seconds: run this again. If it lasts, the Sentinels are wrong (SENTINEL \
             REMOVE and MONITOR), or somebody demoted the node by hand (REPLICAOF NO ONE there)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use crate::topology::Address;

    #[test]
    fn the_role_and_the_expected_role() {
        let primary = Role::Primary { offset: None };
        let replica = |connected| Role::Replica { of: Address::tcp("10.0.0.5", 6379), connected };
        let level = |role: &Role, expected| judge(role, expected, Some(1)).level;
        assert_eq!(level(&primary, Expected::Primary), Level::Ok);
        assert_eq!(level(&primary, Expected::NamedPrimary), Level::Ok);
        assert_eq!(level(&primary, Expected::Replica), Level::Warning);
        assert_eq!(level(&replica(true), Expected::Replica), Level::Ok);
        assert_eq!(level(&replica(false), Expected::Replica), Level::Warning);
        assert_eq!(level(&replica(true), Expected::Primary), Level::Broken);
        assert_eq!(level(&replica(true), Expected::NamedPrimary), Level::Broken);
        assert_eq!(level(&Role::Sentinel, Expected::Primary), Level::Broken);
        let finding = judge(&replica(false), Expected::Primary, None);
        assert!(finding.seen.contains("lost the link") && finding.remedy.unwrap().contains("10.0.0.5:6379"));
    }
}
