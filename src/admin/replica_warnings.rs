//! Finds what an operator should know of the replicas that may serve reads.

use tokio::time::Instant;

use super::sources::{ReadReplicasView, View};
use super::warning::{Severity, Warning};
use crate::discovery::read_replicas::health::{Obstacle, ReadTerms, ReplicaHealth};

/// Returns the warnings about replicas that serve no reads although clients read from replicas.
pub(super) fn of_view(view: &View) -> Vec<Warning> {
    // Where there is no primary, the warning about that says what matters.
    let served = view.read_replicas().into_iter().filter(|replicas| replicas.has_primary);
    let warnings = served.flat_map(|ReadReplicasView { shard, health, terms, .. }| {
        let subject = match shard {
            Some(shard) => format!("upstream {}, shard {}", view.name, shard.0),
            None => format!("upstream {}", view.name),
        };
        of_health(&subject, &health, terms, Instant::now())
    });
    warnings.collect()
}

fn of_health(subject: &str, health: &ReplicaHealth, terms: ReadTerms, now: Instant) -> Vec<Warning> {
    let warning = |text: String, remedy: &str| Warning::new(Severity::Warning, subject, text, remedy);
    if !health.asked {
        return Vec::new();
    }
    if health.replicas.is_empty() {
        return vec![warning(
            "clients read from replicas, and respgate knows none: their reads go to the primary, or wait"
                .into(),
            "start a replica that the Sentinels, or the nodes of the cluster, know, and allow respgate's Sentinel user SENTINEL \
             REPLICAS; for a fixed upstream, name the replicas in replicas = [...]",
        )];
    }
    let judged = health.replicas.iter().map(|report| (report, report.obstacle(terms, now)));
    let unfit: Vec<_> = judged.filter_map(|(report, obstacle)| Some((report, obstacle?))).collect();
    // A replica that is asked for the first time answers within a moment.
    let lasting = unfit.iter().filter(|(_, obstacle)| *obstacle != Obstacle::Pending);
    let mut warnings: Vec<_> = lasting
        .map(|(report, obstacle)| {
            warning(format!("replica {} serves no reads: {obstacle}", report.address), remedy(obstacle))
        })
        .collect();
    if unfit.len() == health.replicas.len() && !warnings.is_empty() {
        warnings.insert(
            0,
            warning(
                "clients read from replicas, and no replica serves: their reads go to the primary, or wait"
                    .into(),
                "see the reason of each replica",
            ),
        );
    }
    warnings
}

/// Returns what to do about an obstacle.
fn remedy(obstacle: &Obstacle) -> &'static str {
    match obstacle {
        Obstacle::Pending | Obstacle::PrimarySilent => {
            "wait; if it lasts, allow respgate's user +info on the primary, and look at its load"
        }
        Obstacle::Unreachable(_) => {
            "look whether it runs, and at the way to it; respgate doctor tests each step"
        }
        Obstacle::Refused(_) => {
            "servers do not replicate users: create the user there with the same password and permissions (ACL SETUSER), \
             with +info and +role"
        }
        Obstacle::LinkDown => "look at its log, and whether it reaches the primary with the right masterauth",
        Obstacle::Syncing => "wait: it serves once it has the primary's data",
        Obstacle::NotReplica => "make it a replica of the primary (REPLICAOF), or remove it from replicas",
        Obstacle::OtherHistory => "look which node it replicates (INFO replication, master_host)",
        Obstacle::Silent(_) => "look at its load and at the network between respgate and it",
        Obstacle::LagSeconds(_) | Obstacle::LagBytes(_) => {
            "look for a slow disk, a busy processor or a slow network; if its lag is normal, raise max-lag or max-lag-bytes"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::discovery::read_replicas::health::{ReplicaReport, ReplicaSample};
    use crate::replica::{Applied, LagBound};
    use crate::topology::Address;

    fn texts(asked: bool, answers: &[Result<(), Obstacle>]) -> Vec<String> {
        let now = Instant::now();
        let sample =
            ReplicaSample { asked: now, linked: true, applied: Applied { until: now, lag_bytes: 0 } };
        let replicas = answers.iter().zip(1..).map(|(answer, port)| ReplicaReport {
            address: Address::tcp("10.0.0.6", port),
            peer: None,
            answer: answer.clone().map(|()| sample),
        });
        let health = ReplicaHealth { asked, replicas: replicas.collect(), ..ReplicaHealth::default() };
        let bound = LagBound { time: Duration::from_secs(1), bytes: 0 };
        let terms = ReadTerms { bound, serves_alone: false, held_since: None };
        of_health("upstream main", &health, terms, now).into_iter().map(|warning| warning.text).collect()
    }

    #[test]
    fn replicas_that_serve_no_reads() {
        assert!(texts(false, &[Err(Obstacle::LinkDown)]).is_empty(), "nobody reads from replicas");
        assert!(texts(true, &[Ok(()), Ok(())]).is_empty());
        assert!(texts(true, &[Err(Obstacle::Pending)]).is_empty(), "a moment after the start");
        let one = texts(true, &[Ok(()), Err(Obstacle::LinkDown)]);
        assert_eq!(one, ["replica 10.0.0.6:2 serves no reads: its link to the primary is down"]);
        let all = texts(true, &[Err(Obstacle::Syncing), Err(Obstacle::LinkDown)]);
        assert!(all.len() == 3 && all[0].contains("no replica serves"), "{all:?}");
        let none = texts(true, &[]);
        assert!(none.len() == 1 && none[0].contains("respgate knows none"), "{none:?}");
    }
}
