//! Parses what nodes say of their replication. Pure.
//!
//! INFO and not ROLE, because only INFO names the history (`master_replid`) that an offset counts. Without it, a replica of a former
//! primary, or of another primary, could look up to date.

use std::sync::Arc;

/// The state of one node in one history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The replication id of the history.
    pub(super) history: Arc<str>,
    /// The bytes of it that the node has applied; those that it has written itself, if it is the primary.
    pub(super) offset: u64,
}

/// What a node says of its replication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The node is a primary.
    Primary(Position),
    /// The node is a replica that has the data up to `position`. `linked` is true if its link to the primary is up.
    Replica { position: Position, linked: bool },
    /// The node is a replica that is being synchronised, or has no data of its primary.
    OutOfSync,
}

/// Parses the replication section of INFO.
pub(super) fn parse(info: &str) -> Option<Report> {
    let field = |key: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        value.map(str::trim_end)
    };
    let position = |offset: &str| {
        let offset = field(offset)?.parse().ok()?;
        Some(Position { history: field("master_replid")?.into(), offset })
    };
    match field("role")? {
        "master" => position("master_repl_offset").map(Report::Primary),
        "slave" => {
            let linked = field("master_link_status") == Some("up");
            let position =
                position("slave_repl_offset").filter(|_| field("master_sync_in_progress") == Some("0"));
            Some(position.map_or(Report::OutOfSync, |position| Report::Replica { position, linked }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLICA: &str = "# Replication\r\nrole:slave\r\nmaster_host:10.0.0.5\r\nmaster_port:6379\r\nmaster_link_status:up\r\n\
        master_last_io_seconds_ago:0\r\nmaster_sync_in_progress:0\r\nslave_read_repl_offset:99\r\nslave_repl_offset:90\r\n\
        connected_slaves:0\r\nmaster_replid:abc\r\nmaster_repl_offset:99\r\n";

    #[test]
    fn both_sides() {
        let position = |offset| Position { history: "abc".into(), offset };
        let replica = Report::Replica { position: position(90), linked: true };
        assert_eq!(parse(REPLICA), Some(replica), "applied, not only received");
        let primary = "# Replication\r\nrole:master\r\nconnected_slaves:1\r\nmaster_replid:abc\r\nmaster_repl_offset:100\r\n";
        assert_eq!(parse(primary), Some(Report::Primary(position(100))));
        assert_eq!(parse("# Replication\r\n"), None);
    }

    #[test]
    fn a_replica_that_has_lost_its_primary_keeps_its_position() {
        let lost = parse(&REPLICA.replace("master_link_status:up", "master_link_status:down"));
        assert!(matches!(lost, Some(Report::Replica { position, linked: false }) if position.offset == 90));
    }

    #[test]
    fn a_replica_without_data_is_out_of_sync() {
        for (from, to) in [
            ("master_sync_in_progress:0", "master_sync_in_progress:1"),
            ("slave_repl_offset:90", "slave_repl_offset:-1"),
        ] {
            assert_eq!(parse(&REPLICA.replace(from, to)), Some(Report::OutOfSync), "{to}");
        }
    }
}
