//! Checks whether a replica may serve reads: whether respgate's user may ask for the replication, and how long the replica takes to
//! apply what the primary has written.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::finding::{Finding, Step};
use super::peer::{Channel, Peer};
use super::reach::reach;
use super::server::field;
use super::words::{milliseconds, quoted};
use crate::replica::LagBound;
use crate::resp::control::ControlError;

/// The time between two questions to the replica.
const PAUSE: Duration = Duration::from_millis(5);
/// The longest time that the replica has to apply what the primary had written.
const LONGEST: Duration = Duration::from_secs(3);

const INFO: &[&[u8]] = &[b"INFO", b"replication"];

/// The facts against which a replica is checked if clients read from replicas.
#[derive(Clone, Debug)]
pub(super) struct ReadsCheck {
    /// The primary, which is asked for its offset.
    pub(super) primary: Peer,
    /// The greatest lag of a replica that serves reads.
    pub(super) bound: LagBound,
}

/// Asks the primary for its offset, and then the replica until it has applied as much, for [`LONGEST`] at most.
///
/// # Errors
///
/// Returns the error if the replica's connection fails.
pub(super) async fn examine(
    channel: &mut Channel,
    replica: &Peer,
    check: &ReadsCheck,
) -> Result<Finding, ControlError> {
    let target = match target(&check.primary).await {
        Ok(target) => target,
        Err(finding) => return Ok(*finding),
    };
    let asked = Instant::now();
    loop {
        let reply = channel.call(INFO, Instant::now() + replica.answer_timeout()).await?;
        if let Some(line) = reply.error() {
            return Ok(denied("the replica", line, replica));
        }
        let waited = asked.elapsed();
        match judge(&target, reply.text().unwrap_or_default(), waited, check.bound) {
            Some(finding) => return Ok(finding),
            None => sleep(PAUSE).await,
        }
    }
}

/// The primary's history, and how long it was.
struct Target {
    history: String,
    offset: u64,
}

/// Returns what the primary has written.
///
/// # Errors
///
/// Returns the finding if the primary does not tell.
async fn target(primary: &Peer) -> Result<Target, Box<Finding>> {
    // The primary's own section says why.
    let not_tried = || Box::new(Finding::not_tried(Step::Reads, "the primary does not tell its offset"));
    let (_, channel) = reach(primary).await;
    let mut channel = channel.ok_or_else(not_tried)?;
    let reply = channel.call(INFO, Instant::now() + primary.answer_timeout()).await;
    let reply = reply.map_err(|_| not_tried())?;
    if let Some(line) = reply.error() {
        return Err(Box::new(denied("the primary", line, primary)));
    }
    let info = reply.text().unwrap_or_default();
    let offset = field(info, "master_repl_offset").and_then(|offset| offset.parse().ok());
    let history = field(info, "master_replid").map(str::to_owned);
    history.zip(offset).map(|(history, offset)| Target { history, offset }).ok_or_else(not_tried)
}

fn denied(node: &str, line: &[u8], peer: &Peer) -> Finding {
    Finding::warning(
        Step::Reads,
        format!(
            "serves no reads: {node} does not tell its offset ({})",
            quoted(line, peer.credentials.as_ref())
        ),
        "allow respgate's user +info and +role on the primary and on the replicas (ACL SETUSER)",
    )
}

/// Returns the finding about a replica that says `info` at `waited` after the primary was asked; `None` if it has to be asked again.
fn judge(target: &Target, info: &str, waited: Duration, bound: LagBound) -> Option<Finding> {
    let warning = |seen: &str, remedy: &str| {
        Some(Finding::warning(Step::Reads, format!("serves no reads: {seen}"), remedy))
    };
    if field(info, "role") != Some("slave") {
        return warning(
            "it is no replica",
            "make it a replica of the primary (REPLICAOF), or remove it from replicas",
        );
    }
    if field(info, "master_sync_in_progress") == Some("1") {
        return warning("it receives the primary's data", "wait, and run this again");
    }
    if field(info, "master_link_status") != Some("up") {
        return warning(
            "its link to the primary is down",
            "see its log, and whether it reaches the primary with the right `primaryauth`/`masterauth`",
        );
    }
    if field(info, "master_replid") != Some(&*target.history) {
        return warning(
            "it replicates another history than the primary's",
            "look which node it replicates (master_host in INFO replication); in a failover this passes within seconds",
        );
    }
    let applied: u64 = field(info, "slave_repl_offset").and_then(|offset| offset.parse().ok()).unwrap_or(0);
    let lacks = target.offset.saturating_sub(applied);
    let (took, most) = (milliseconds(waited), milliseconds(bound.time));
    let with_facts =
        |finding: Finding| finding.fact("lag_ms", waited.as_millis() as u64).fact("lag_bytes", lacks);
    if lacks > 0 && waited < LONGEST {
        return None;
    }
    Some(with_facts(if lacks > 0 {
        Finding::warning(
            Step::Reads,
            format!(
                "serves no reads: after {took} it still lacks {lacks} bytes of what the primary had written (max-lag {most})"
            ),
            "look for a slow disk, a busy processor or a slow network between the two; if this is normal here, raise max-lag",
        )
    } else if waited >= bound.time {
        Finding::warning(
            Step::Reads,
            format!(
                "serves reads at times only: it took {took} to apply what the primary had written (max-lag {most})"
            ),
            "raise max-lag if clients may read data of that age",
        )
    } else {
        Finding::ok(
            Step::Reads,
            format!(
                "serves reads: it applied all that the primary had written within {took} (max-lag {most})"
            ),
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    const INFO: &str = "# Replication\r\nrole:slave\r\nmaster_link_status:up\r\nmaster_sync_in_progress:0\r\n\
        slave_repl_offset:90\r\nmaster_replid:abc\r\n";

    fn judged(info: &str, offset: u64, waited_ms: u64) -> Option<(Level, String)> {
        let target = Target { history: "abc".into(), offset };
        let bound = LagBound { time: Duration::from_secs(1), bytes: 0 };
        let finding = judge(&target, info, Duration::from_millis(waited_ms), bound)?;
        assert_eq!(finding.level == Level::Ok, finding.remedy.is_none());
        Some((finding.level, finding.seen))
    }

    #[test]
    fn a_replica_that_keeps_up_serves() {
        assert_eq!(judged(INFO, 91, 0), None, "it is asked again");
        let (level, seen) = judged(INFO, 90, 12).unwrap();
        assert!(level == Level::Ok && seen.contains("within 12 ms (max-lag 1000 ms)"), "{seen}");
        let (level, seen) = judged(INFO, 90, 1500).unwrap();
        assert!(level == Level::Warning && seen.contains("at times only"), "{seen}");
        let (level, seen) = judged(INFO, 95, 3000).unwrap();
        assert!(level == Level::Warning && seen.contains("lacks 5 bytes"), "{seen}");
    }

    #[test]
    fn others_do_not_serve() {
        for (from, to, expected) in [
            ("role:slave", "role:master", "no replica"),
            ("link_status:up", "link_status:down", "link to the primary is down"),
            ("in_progress:0", "in_progress:1", "receives the primary's data"),
            ("replid:abc", "replid:def", "another history"),
        ] {
            let (level, seen) = judged(&INFO.replace(from, to), 90, 0).unwrap();
            assert!(level == Level::Warning && seen.contains(expected), "{seen}");
        }
    }
}
