//! The state of each replica, for operators: whether it may serve reads, and the reason if it may not. Pure.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::replica::{Applied, LagBound};
use crate::topology::Address;

/// The state of the replicas of one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaHealth {
    /// True while the replicas are asked, because clients read from them.
    pub asked: bool,
    /// The replicas, by address.
    pub replicas: Vec<ReplicaReport>,
    /// How often the set of replicas has changed.
    pub version: u64,
    /// When respgate sent the newest question that the primary has answered.
    pub primary_answered: Option<Instant>,
}

/// The terms on which the replicas of an upstream serve reads.
#[derive(Clone, Copy, Debug)]
pub struct ReadTerms {
    /// The greatest lag.
    pub bound: LagBound,
    /// True if `reads-in-hold` lets replicas serve without their primary.
    pub serves_alone: bool,
    /// The moment at which the lag counts while replicas serve without a primary: when respgate sent the newest question that the
    /// primary has answered.
    pub held_since: Option<Instant>,
}

/// The state of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaReport {
    /// The replica's address.
    pub address: Address,
    /// The IP address and the port of the newest connection to it; `None` before the first one.
    pub peer: Option<Arc<str>>,
    /// The newest sample, or why there is none that counts.
    pub answer: Result<ReplicaSample, Obstacle>,
}

/// One answer of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaSample {
    /// When the replica was asked.
    pub asked: Instant,
    /// True if its link to the primary was up.
    pub linked: bool,
    /// The part of the primary's history that it had applied.
    pub applied: Applied,
}

/// Why a replica serves no reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It has not answered yet.
    Pending,
    /// respgate cannot connect to it, or has lost the connection. Holds the reason.
    Unreachable(Arc<str>),
    /// It refuses respgate's user, or denies it a command that respgate needs. Holds the reason.
    Refused(Arc<str>),
    /// Its link to the primary is down.
    LinkDown,
    /// It loads its data, or receives them from the primary.
    Syncing,
    /// It is a primary.
    NotReplica,
    /// It replicates another history than the primary's.
    OtherHistory,
    /// The primary has not told its offset, so nothing can be compared.
    PrimarySilent,
    /// Its newest answer is older than `max-lag`. Holds the age.
    Silent(Duration),
    /// It lacks a write that is older than `max-lag`. Holds the age.
    LagSeconds(Duration),
    /// It lacks more than `max-lag-bytes`. Holds the number of bytes.
    LagBytes(u64),
}

impl Obstacle {
    /// The values of [`Self::label`].
    pub const LABELS: [&str; 11] = [
        "pending",
        "unreachable",
        "refused",
        "link-down",
        "syncing",
        "not-a-replica",
        "other-history",
        "primary-silent",
        "silent",
        "lag-seconds",
        "lag-bytes",
    ];

    /// Returns the kind of the obstacle as one word, for machines.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Unreachable(_) => "unreachable",
            Self::Refused(_) => "refused",
            Self::LinkDown => "link-down",
            Self::Syncing => "syncing",
            Self::NotReplica => "not-a-replica",
            Self::OtherHistory => "other-history",
            Self::PrimarySilent => "primary-silent",
            Self::Silent(_) => "silent",
            Self::LagSeconds(_) => "lag-seconds",
            Self::LagBytes(_) => "lag-bytes",
        }
    }
}

impl fmt::Display for Obstacle {
    /// Writes the reason for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending => f.write_str("it has not answered yet"),
            Self::Unreachable(why) => write!(f, "no connection: {why}"),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::LinkDown => f.write_str("its link to the primary is down"),
            Self::Syncing => f.write_str("it loads its data"),
            Self::NotReplica => f.write_str("it is a primary"),
            Self::OtherHistory => f.write_str("it replicates another history than the primary's"),
            Self::PrimarySilent => f.write_str("the primary does not tell its offset"),
            Self::Silent(age) => write!(f, "no answer for {:.1} s", age.as_secs_f64()),
            Self::LagSeconds(age) => write!(f, "{:.1} s behind", age.as_secs_f64()),
            Self::LagBytes(bytes) => write!(f, "{bytes} bytes behind"),
        }
    }
}

impl ReplicaReport {
    /// Returns why the replica may not serve reads at `now`; `None` if it may.
    pub fn obstacle(&self, terms: ReadTerms, now: Instant) -> Option<Obstacle> {
        let ReadTerms { bound, serves_alone, held_since } = terms;
        let ReplicaSample { asked, linked, applied } = match &self.answer {
            Ok(sample) => sample,
            Err(obstacle) => return Some(obstacle.clone()),
        };
        if !linked && !serves_alone {
            return Some(Obstacle::LinkDown);
        }
        let moment = held_since.unwrap_or(now);
        if applied.is_within(bound, moment) {
            return None;
        }
        let age = |since: Instant| moment.saturating_duration_since(since);
        Some(if age(*asked) >= bound.time {
            Obstacle::Silent(age(*asked))
        } else if age(applied.until) >= bound.time {
            Obstacle::LagSeconds(age(applied.until))
        } else {
            Obstacle::LagBytes(applied.lag_bytes)
        })
    }

    /// Returns true if this is the replica at `address`, which may be the IP address of the replica's name.
    pub fn is_at(&self, address: &Address) -> bool {
        self.address == *address || self.peer.as_deref().is_some_and(|peer| peer == address.to_string())
    }
}

impl ReplicaHealth {
    /// Has a report for each of these replicas, and for no other one. Keeps what is known of them.
    pub(super) fn follow<'a>(&mut self, addresses: impl Iterator<Item = &'a Address>) {
        self.asked = true;
        let mut all: Vec<ReplicaReport> = addresses
            .map(|address| {
                let known = self.replicas.iter().find(|report| report.address == *address);
                known.cloned().unwrap_or_else(|| ReplicaReport {
                    address: address.clone(),
                    peer: None,
                    answer: Err(Obstacle::Pending),
                })
            })
            .collect();
        all.sort_by_key(|report| report.address.to_string());
        let same =
            all.iter().map(|report| &report.address).eq(self.replicas.iter().map(|known| &known.address));
        self.version += u64::from(!same);
        self.replicas = all;
    }

    /// Takes note that the primary has changed: what the replicas said before does not count any more.
    pub(super) fn forget_answers(&mut self) {
        self.primary_answered = None;
        self.replicas.iter_mut().for_each(|report| report.answer = Err(Obstacle::Pending));
    }

    /// Takes note of a replica's newest answer. `peer` is the other end of the connection, if there is one.
    pub(super) fn note(
        &mut self,
        address: &Address,
        peer: Option<Arc<str>>,
        answer: Result<ReplicaSample, Obstacle>,
    ) {
        let Some(report) = self.replicas.iter_mut().find(|report| report.address == *address) else { return };
        report.peer = peer.or_else(|| report.peer.take());
        report.answer = answer;
    }

    /// Takes note that nobody is asked any more.
    pub(super) fn end(&mut self) {
        *self = Self { version: self.version + 1, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: LagBound = LagBound { time: Duration::from_secs(1), bytes: 100 };
    const TERMS: ReadTerms = ReadTerms { bound: BOUND, serves_alone: false, held_since: None };

    fn report(answer: Result<ReplicaSample, Obstacle>) -> ReplicaReport {
        ReplicaReport {
            address: Address::tcp("r1.example", 6379),
            peer: Some("10.0.0.6:6379".into()),
            answer,
        }
    }

    #[test]
    fn each_obstacle_has_a_label_and_a_text() {
        let start = Instant::now();
        let now = start + Duration::from_secs(10);
        let at = |millis| start + Duration::from_millis(millis);
        let judged = |asked, until, lag_bytes| {
            let applied = Applied { until: at(until), lag_bytes };
            report(Ok(ReplicaSample { asked: at(asked), linked: true, applied })).obstacle(TERMS, now)
        };
        assert_eq!(judged(9900, 9900, 0), None);
        assert_eq!(judged(9900, 9900, 101), Some(Obstacle::LagBytes(101)));
        assert_eq!(judged(9900, 8000, 7), Some(Obstacle::LagSeconds(Duration::from_secs(2))));
        assert_eq!(judged(7000, 7000, 0), Some(Obstacle::Silent(Duration::from_secs(3))));
        let applied = Applied { until: at(9900), lag_bytes: 0 };
        let lost = report(Ok(ReplicaSample { asked: at(9900), linked: false, applied }));
        assert_eq!(lost.obstacle(TERMS, now), Some(Obstacle::LinkDown));
        let alone = ReadTerms { serves_alone: true, ..TERMS };
        assert_eq!(lost.obstacle(alone, now), None, "the primary may be lost");
        let later = now + Duration::from_secs(30);
        assert!(lost.obstacle(alone, later).is_some());
        assert_eq!(lost.obstacle(ReadTerms { held_since: Some(now), ..alone }, later), None);
        let all = [
            Obstacle::Pending,
            Obstacle::Unreachable("x".into()),
            Obstacle::Refused("x".into()),
            Obstacle::LinkDown,
            Obstacle::Syncing,
            Obstacle::NotReplica,
            Obstacle::OtherHistory,
            Obstacle::PrimarySilent,
            Obstacle::Silent(BOUND.time),
            Obstacle::LagSeconds(BOUND.time),
            Obstacle::LagBytes(1),
        ];
        assert_eq!(all.each_ref().map(Obstacle::label), Obstacle::LABELS);
        assert!(all.iter().all(|obstacle| report(Err(obstacle.clone())).obstacle(TERMS, now).as_ref() == Some(obstacle)));
    }

    #[test]
    fn reports_follow_the_set_of_replicas() {
        let (one, other) = (Address::tcp("r1.example", 6379), Address::tcp("r2.example", 6379));
        let mut health = ReplicaHealth::default();
        health.follow([&other, &one].into_iter());
        assert_eq!((health.version, health.replicas.len(), &health.replicas[0].address), (1, 2, &one));
        let now = Instant::now();
        let sample =
            ReplicaSample { asked: now, linked: true, applied: Applied { until: now, lag_bytes: 0 } };
        health.note(&one, Some("10.0.0.6:6379".into()), Ok(sample));
        health.note(&Address::tcp("r3.example", 6379), None, Ok(sample));
        health.follow([&one, &other].into_iter());
        assert_eq!((health.version, &health.replicas[0].answer), (1, &Ok(sample)));
        assert!(health.replicas[0].is_at(&Address::tcp("10.0.0.6", 6379)));
        health.note(&one, None, Err(Obstacle::LinkDown));
        assert!(health.replicas[0].peer.is_some(), "the address stays known");
        health.forget_answers();
        assert_eq!(health.replicas[0].answer, Err(Obstacle::Pending));
        health.follow([&one].into_iter());
        assert_eq!((health.version, health.replicas.len()), (2, 1));
        health.end();
        assert_eq!(health, ReplicaHealth { version: 3, ..ReplicaHealth::default() });
    }
}
