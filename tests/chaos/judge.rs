//! Compares what clients were told in a step with what the primary holds after it, and with what the step may do.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::checker::Verdict;
use crate::clients::{DISCARDED, Work};
use crate::cluster::Cluster;
use crate::queue::Traffic;
use crate::step::Effect;
use crate::writers::{Outcome, Record};

/// What came of a step.
#[derive(Default)]
pub struct Judgement {
    /// What the drills' checker says.
    pub verdict: Verdict,
    /// Writes acknowledged while they might be lost.
    pub at_risk: u64,
    /// What must not be.
    pub faults: Vec<String>,
}

/// What the surviving primary holds of a step, to be found again at the end of the run.
pub type Holdings = Vec<(String, Vec<String>)>;

/// Judges one step's work; `hold` is how long commands may wait before they fail with an error that says so.
pub fn judge(
    work: &[Work],
    traffic: &Traffic,
    effect: &Effect,
    poppers: usize,
    hold: Duration,
    holdings: &Holdings,
) -> Judgement {
    let held: HashMap<&str, &[String]> =
        holdings.iter().map(|(key, values)| (key.as_str(), values.as_slice())).collect();
    let mut judgement = Judgement::default();
    for work in work {
        judgement.add(work, effect, hold, &held);
    }
    judgement.queue(traffic, effect, poppers);
    judgement.sum_up(effect);
    judgement
}

/// Reads from the primary what the step's clients wrote.
pub fn holdings(work: &[Work], cluster: &Cluster, primary: usize) -> Holdings {
    let keys = work.iter().flat_map(|work| [work.counter(), work.list()]).flatten();
    keys.map(|key| {
        let values = read(cluster, primary, &key);
        (key, values)
    })
    .collect()
}

/// A counter's value, or a list's elements, as the primary holds them now.
pub fn read(cluster: &Cluster, primary: usize, key: &str) -> Vec<String> {
    let question: &[&str] = if key.ends_with(":list") { &["LRANGE", key, "0", "-1"] } else { &["GET", key] };
    let reply = cluster.ask(primary, question).expect("the primary's answer");
    // The values are plain numbers, and every other line is the length of one.
    let values = reply.lines().filter(|line| !line.starts_with(['*', '$']));
    values.map(str::to_owned).collect()
}

impl Judgement {
    fn fault(&mut self, what: impl Into<String>) {
        self.faults.push(what.into());
    }

    fn add(&mut self, work: &Work, effect: &Effect, hold: Duration, held: &HashMap<&str, &[String]>) {
        let record = &work.record;
        let holds = |key: Option<String>| key.map(|key| held[key.as_str()]);
        let (counter, list) = (holds(work.counter()), holds(work.list()));
        let count = counter.map(|values| values.first().map_or(0, |value| value.parse().unwrap_or(0)));
        let length = list.map(|values| values.len() as i64);
        self.verdict.add(record, count.or(length).unwrap_or(0));
        if let (Some(count), Some(length)) = (count, length)
            && count != length
        {
            self.fault(format!("{}: half a transaction: {count} and {length}", record.key));
        }
        let mut lost = match (list, count) {
            (Some(list), _) => self.compare(record, list),
            (None, count) => gone(record, count.unwrap_or(0)),
        };
        lost.retain(|at| !effect.lossy.iter().any(|span| span.contains(at)));
        if let Some(at) = lost.first() {
            let count = lost.len();
            self.fault(format!(
                "{}: {count} lost that were acknowledged while nothing could be lost, the first at {at:?}",
                record.key
            ));
        }
        self.outcomes(work, effect, hold);
    }

    /// Each number once if it was acknowledged, at most once otherwise, not at all if it was refused. When lost ones
    /// were acknowledged.
    fn compare(&mut self, record: &Record, list: &[String]) -> Vec<Duration> {
        let mut times = vec![0; record.writes.len()];
        for element in list {
            match element.parse::<usize>().ok().and_then(|number| times.get_mut(number)) {
                Some(times) => *times += 1,
                None => self.fault(format!("{}: nobody wrote {element:?}", record.key)),
            }
        }
        let mut lost = Vec::new();
        for (number, (write, times)) in record.writes.iter().zip(times).enumerate() {
            match (&write.outcome, times) {
                (Outcome::Acknowledged(_), 0) => lost.push(write.ended),
                (Outcome::Refused(line), 1..) => {
                    self.fault(format!("{}: write {number} ran, though refused: {line}", record.key));
                }
                (_, 2..) => self.fault(format!("{}: write {number} ran {times} times", record.key)),
                _ => {}
            }
        }
        lost
    }

    fn outcomes(&mut self, work: &Work, effect: &Effect, hold: Duration) {
        let record = &work.record;
        let mut unknown = 0;
        for (number, write) in record.writes.iter().enumerate() {
            let waited = write.ended - write.sent;
            match &write.outcome {
                Outcome::Acknowledged(_) => {
                    let at_risk = effect.lossy.iter().any(|span| span.contains(&write.ended));
                    self.at_risk += u64::from(at_risk);
                }
                Outcome::Unknown => unknown += 1,
                Outcome::Refused(line) if line == DISCARDED && effect.moved => {}
                Outcome::Refused(line)
                    if line.starts_with("-ERR respgate: no primary to send to for ")
                        && waited + Duration::from_millis(100) >= hold => {}
                Outcome::Refused(line) => {
                    self.fault(format!("{}: write {number}, after {waited:?}: {line}", record.key));
                }
                Outcome::Dropped(error) => {
                    self.fault(format!("{}: disconnected after {waited:?}: {error}", record.key));
                }
            }
        }
        let may_be = effect.breaks * work.depth() as u64;
        if unknown > may_be {
            self.fault(format!("{}: {unknown} unknown, of which {may_be} may be", record.key));
        }
    }

    /// What is pushed is popped, and once.
    fn queue(&mut self, traffic: &Traffic, effect: &Effect, poppers: usize) {
        let safe = |at: &Duration| !effect.lossy.iter().any(|span| span.contains(at));
        let again = traffic.popped_again().into_iter().filter(|entry| safe(&entry.at)).count();
        if again > 0 {
            self.fault(format!("{again} popped twice from the queue"));
        }
        // A connection that breaks may take a pop's reply with it.
        let missing = traffic.missing().into_iter().filter(|entry| safe(&entry.at)).count();
        let taken = effect.breaks as usize * poppers;
        if missing > taken {
            self.fault(format!("{missing} pushed to the queue and never popped, of which {taken} may be"));
        }
        if traffic.unknown_pops > taken {
            self.fault(format!("{} pops unknown, of which {taken} may be", traffic.unknown_pops));
        }
        if traffic.maybe.len() as u64 > effect.breaks {
            self.fault(format!("{} pushes to the queue unknown", traffic.maybe.len()));
        }
        for line in &traffic.refused {
            self.fault(format!("the queue: {line}"));
        }
    }

    fn sum_up(&mut self, effect: &Effect) {
        let Verdict { doubled, lost, longest_pause, .. } = self.verdict;
        if doubled > 0 {
            self.fault(format!("{doubled} doubled"));
        }
        if lost > self.at_risk as i64 {
            self.fault(format!("{lost} lost, of {} that may be", self.at_risk));
        }
        if longest_pause > effect.pause {
            self.fault(format!("a pause of {longest_pause:?}, which may be {:?}", effect.pause));
        }
    }
}

/// When the increments were acknowledged that a counter's later values, or what it holds now, leave no room for.
fn gone(record: &Record, holds: i64) -> Vec<Duration> {
    let mut lowest = holds + 1;
    let mut lost = Vec::new();
    for write in record.writes.iter().rev() {
        if let Outcome::Acknowledged(value) = write.outcome {
            if value >= lowest {
                lost.push(write.ended);
            }
            lowest = lowest.min(value);
        }
    }
    lost.reverse();
    lost
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { acknowledged, lost, doubled, unknown, longest_pause, .. } = self.verdict;
        let at_risk = if self.at_risk > 0 { format!(" of {}", self.at_risk) } else { String::new() };
        write!(
            f,
            "pause {:6.3} s  {acknowledged:5} acknowledged  lost {lost}{at_risk}  doubled {doubled}  unknown \
             {unknown}  {}",
            longest_pause.as_secs_f64(),
            if self.faults.is_empty() { "ok" } else { "FAULT" }
        )
    }
}
