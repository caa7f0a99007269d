//! Proves from the clients' records and the surviving primary's own data what was lost and what ran twice.
//!
//! A counter belongs to one client, which sends one INCR at a time. So the value that it is told is the last one plus
//! one, plus at most one for each write in between whose outcome is unknown. A lower value: acknowledged writes are
//! gone. A higher one: something ran twice.

use std::fmt;
use std::time::Duration;

use super::writers::{Outcome, Record};
use crate::support::servers::Server;

/// What came of a drill.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub acknowledged: u64,
    pub unknown: u64,
    /// Error replies other than OUTCOMEUNKNOWN.
    pub refused: Vec<String>,
    /// Connections that ended.
    pub dropped: u64,
    /// Acknowledged writes that are gone.
    pub lost: i64,
    /// Writes that ran twice.
    pub doubled: i64,
    /// The longest time that any client went without a success.
    pub longest_pause: Duration,
}

impl Verdict {
    /// Reads the counters on `survivor` and compares.
    pub fn of(records: &[Record], survivor: &Server) -> Self {
        let mut verdict = Self::default();
        for record in records {
            let reply = survivor.run_text(&["GET", &record.key]);
            let value = reply.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or(0);
            verdict.add(record, value);
        }
        verdict
    }

    /// Adds a client whose counter the survivor holds at this value.
    pub fn add(&mut self, record: &Record, surviving: i64) {
        let mut counter = Counter::default();
        let mut success = None;
        for write in &record.writes {
            match &write.outcome {
                Outcome::Acknowledged(value) => {
                    self.acknowledged += 1;
                    counter.reads(*value);
                    counter.value = *value;
                    let pause = write.ended - success.unwrap_or(write.sent);
                    self.longest_pause = self.longest_pause.max(pause);
                    success = Some(write.ended);
                }
                Outcome::Unknown => {
                    self.unknown += 1;
                    counter.unknown += 1;
                }
                Outcome::Refused(line) => self.refused.push(line.clone()),
                Outcome::Dropped(_) => {
                    self.dropped += 1;
                    counter.unknown += 1;
                }
            }
        }
        counter.reads_finally(surviving);
        self.lost += counter.lost;
        self.doubled += counter.doubled;
    }
}

/// What one client may expect of its counter.
#[derive(Default)]
struct Counter {
    value: i64,
    /// Writes since then whose outcome is unknown.
    unknown: i64,
    lost: i64,
    doubled: i64,
}

impl Counter {
    /// A write was answered with this value.
    fn reads(&mut self, value: i64) {
        self.lost += (self.value + 1 - value).max(0);
        self.doubled += (value - (self.value + 1 + self.unknown)).max(0);
        self.unknown = 0;
    }

    /// The surviving primary holds this value.
    fn reads_finally(&mut self, value: i64) {
        self.lost += (self.value - value).max(0);
        self.doubled += (value - (self.value + self.unknown)).max(0);
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged, {} lost, {} doubled, {} unknown, {} refused, {} dropped, longest pause {:.3} s",
            self.acknowledged,
            self.lost,
            self.doubled,
            self.unknown,
            self.refused.len(),
            self.dropped,
            self.longest_pause.as_secs_f64()
        )
    }
}

#[test]
fn what_is_lost_and_what_is_doubled() {
    use super::writers::Write;
    let verdict = |outcomes: &[Outcome], surviving| {
        let at = Duration::ZERO;
        let write = |outcome: &Outcome| Write { sent: at, ended: at, outcome: outcome.clone() };
        let record = Record { key: "k".into(), writes: outcomes.iter().map(write).collect() };
        let mut verdict = Verdict::default();
        verdict.add(&record, surviving);
        (verdict.lost, verdict.doubled)
    };
    let (ack, unknown) = (Outcome::Acknowledged, Outcome::Unknown);
    assert_eq!(verdict(&[ack(1), ack(2)], 2), (0, 0));
    assert_eq!(verdict(&[ack(1), ack(2)], 1), (1, 0));
    assert_eq!(verdict(&[ack(1), ack(2)], 3), (0, 1));
    assert_eq!(verdict(&[ack(1), unknown.clone()], 1), (0, 0));
    assert_eq!(verdict(&[ack(1), unknown.clone()], 2), (0, 0));
    assert_eq!(verdict(&[ack(1), unknown.clone(), ack(3)], 3), (0, 0));
    assert_eq!(verdict(&[ack(1), unknown, ack(4)], 4), (0, 1));
    assert_eq!(verdict(&[ack(1), ack(2), ack(1)], 1), (2, 0));
    assert_eq!(verdict(&[ack(1), ack(3)], 3), (0, 1));
    assert_eq!(verdict(&[Outcome::Refused("-ERR".into()), ack(1)], 1), (0, 0));
}
