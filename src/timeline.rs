//! Records the steps of each failover and their times. The workers write; the log and the admin
//! listener read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::topology::{Generation, Primary};

/// Number of failovers remembered for one upstream. Older ones are dropped.
const REMEMBERED: usize = 32;
/// Time after the first success during which other sessions still report to the timeline.
const SETTLING: Duration = Duration::from_secs(1);

/// Time after the new primary was verified at which a timeline closes if no client sends a command.
const UNUSED: Duration = Duration::from_secs(3);
/// Time without a newer primary after which a lost connection does not count as a sign of a
/// failover.
const STALE: Duration = Duration::from_secs(10);
/// The sign of a failover that nothing announced.
const ANOTHER: &str = "another primary was named";

/// Records one failover. Durations count from the first sign.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Wall-clock time of the first sign.
    pub began: SystemTime,
    /// What the first sign was.
    pub sign: String,
    /// Address of the former primary.
    pub from: String,
    /// Address of the new primary.
    pub to: String,
    /// Generation of the new primary.
    pub generation: Generation,
    /// When commands began to wait.
    pub held: Option<Duration>,
    /// When a newer primary was named. respgate writes nothing to the former primary from then on.
    pub named: Option<Duration>,
    /// When the new primary itself confirmed that it is the primary.
    pub verified: Option<Duration>,
    /// When the first reply of the new primary came; `None` if no client sent a command for 3 s.
    pub first_success: Option<Duration>,
    /// True if the former primary had answered every request when respgate left it, so that no
    /// acknowledged write was in doubt.
    pub drained: bool,
    /// Number of clients whose commands waited.
    pub clients_held: u64,
    /// Number of commands sent again.
    pub resent: u64,
    /// Number of writes answered with OUTCOMEUNKNOWN.
    pub unknown: u64,
    /// Number of sessions whose connection state moved to the new primary.
    pub transplanted: u64,
}

/// Holds the failovers of one upstream. The workers share it and lock it only a few times in each
/// failover.
#[derive(Clone, Default)]
pub struct Timelines(Arc<Mutex<TimelineLog>>);

#[derive(Default)]
struct TimelineLog {
    current: Option<Arc<Primary>>,
    open: Option<Open>,
    past: VecDeque<Timeline>,
    /// Those timelines of `past` that are not logged yet.
    unlogged: VecDeque<Timeline>,
    totals: Totals,
}

/// Counts the failovers since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Failovers for which [`Timeline::lossless`] is true.
    pub lossless: u64,
    /// All other failovers.
    pub other: u64,
}

struct Open {
    since: Instant,
    /// Generation of the primary that the failover leaves.
    left: Generation,
    /// True if discovery has announced the failover.
    announced: bool,
    line: Timeline,
}

impl Timelines {
    /// Records a sign that the primary of the generation `of` fails. The first sign opens a
    /// timeline. Commands wait from the first sign on. If `announced` is false, the sign is only a
    /// lost connection, which may mean nothing.
    pub fn sign(&self, of: Generation, sign: &str, announced: bool) {
        let mut log = self.lock();
        let Some(current) = log.current.clone().filter(|current| current.generation == of) else { return };
        let open = log.open_for(sign, &current);
        open.announced |= announced;
        open.line.held.get_or_insert_with(|| open.since.elapsed());
    }

    /// Records that commands are sent again. Drops the open timeline if they go to the same primary
    /// as before.
    pub fn dismissed_unless_switched(&self, generation: Option<Generation>) {
        let mut log = self.lock();
        let same = log.open.as_ref().is_some_and(|open| open.line.named.is_none());
        if same && log.current.as_ref().map(|current| current.generation) == generation {
            log.open = None;
        }
    }

    /// Records a successful connection to the primary of this generation. A lost connection was
    /// then no sign of a failover.
    pub fn reached(&self, generation: Generation) {
        let mut log = self.lock();
        let unannounced = log.open.as_ref().is_some_and(|open| !open.announced && open.line.named.is_none());
        if unannounced && log.current.as_ref().is_some_and(|current| current.generation == generation) {
            log.open = None;
        }
    }

    /// Records that respgate no longer follows the primary of the generation `left`. `drained` is
    /// true if this worker had no unanswered request there.
    pub fn named(&self, left: Generation, drained: bool) {
        let mut log = self.lock();
        let Some(current) = log.current.clone() else { return };
        if current.generation == left {
            log.open_for(ANOTHER, &current);
        }
        // The first worker opened the timeline; later workers add to it.
        let Some(open) = log.open.as_mut().filter(|open| open.left == left) else { return };
        // All workers must have been drained. The first worker (`named` is still `None`) sets the
        // value, and later ones can only clear it.
        open.line.drained = drained && (open.line.drained || open.line.named.is_none());
        open.line.named.get_or_insert_with(|| open.since.elapsed());
    }

    /// Records a verified primary. If it is newer than the current one, this is a failover, even if
    /// no worker saw a sign.
    pub fn verified(&self, primary: &Arc<Primary>) {
        let mut log = self.lock();
        let Some(current) = log.current.clone() else {
            log.current = Some(primary.clone());
            return;
        };
        // A late report about a former primary changes nothing.
        if current.generation > primary.generation {
            return;
        }
        if current.generation == primary.generation {
            // The same node is back: that was an outage, not a failover.
            if log.open.as_ref().is_some_and(|open| open.line.verified.is_none() && open.line.named.is_some())
            {
                log.open = None;
            }
            return;
        }
        let open = log.open_for(ANOTHER, &current);
        open.line.named.get_or_insert_with(|| open.since.elapsed());
        open.line.to = primary.address.to_string();
        open.line.generation = primary.generation;
        open.line.verified = Some(open.since.elapsed());
        log.current = Some(primary.clone());
    }

    /// Records a reply from the primary of this generation.
    pub fn succeeded(&self, generation: Generation) {
        if let Some(open) = &mut self.lock().open
            && open.line.generation == generation
            && open.line.verified.is_some()
        {
            open.line.first_success.get_or_insert_with(|| open.since.elapsed());
        }
    }

    /// Adds the numbers of resent commands, unknown outcomes and moved sessions.
    pub fn settled(&self, resent: u64, unknown: u64, transplanted: u64) {
        if let Some(open) = &mut self.lock().open {
            open.line.resent += resent;
            open.line.unknown += unknown;
            open.line.transplanted += transplanted;
        }
    }

    /// Counts one more client whose commands wait.
    pub fn client_held(&self) {
        if let Some(open) = &mut self.lock().open {
            open.line.clients_held += 1;
        }
    }

    /// Closes the open timeline if its failover is over. Returns every closed timeline once, the
    /// oldest first.
    pub fn finished(&self) -> Vec<Timeline> {
        let mut log = self.lock();
        if let Some(open) = &log.open {
            let age = open.since.elapsed();
            let (success, verified) = (open.line.first_success, open.line.verified);
            if success.is_some_and(|at| age >= at + SETTLING) || verified.is_some_and(|at| age >= at + UNUSED)
            {
                log.close();
            } else if !open.announced && open.line.named.is_none() && age >= STALE {
                log.open = None;
            }
        }
        std::mem::take(&mut log.unlogged).into()
    }

    /// Returns the past failovers, the newest last.
    pub fn past(&self) -> Vec<Timeline> {
        self.lock().past.iter().cloned().collect()
    }

    /// Returns the numbers of failovers since the start.
    pub fn totals(&self) -> Totals {
        self.lock().totals
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, TimelineLog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TimelineLog {
    /// Returns the timeline of the failover away from `current`. Closes an open timeline of an
    /// earlier failover.
    fn open_for(&mut self, sign: &str, current: &Primary) -> &mut Open {
        if self.open.as_ref().is_some_and(|open| open.left != current.generation) {
            self.close();
        }
        self.open.get_or_insert_with(|| Open::new(sign, current))
    }

    /// Closes the open timeline. Keeps it only if its failover reached a newer primary.
    fn close(&mut self) {
        let Some(Open { line, .. }) = self.open.take().filter(|open| open.line.verified.is_some()) else {
            return;
        };
        if self.past.len() == REMEMBERED {
            self.past.pop_front();
        }
        if self.unlogged.len() == REMEMBERED {
            self.unlogged.pop_front();
        }
        if line.lossless() {
            self.totals.lossless += 1;
        } else {
            self.totals.other += 1;
        }
        self.unlogged.push_back(line.clone());
        self.past.push_back(line);
    }
}

impl Open {
    fn new(sign: &str, current: &Primary) -> Self {
        let line = Timeline {
            began: SystemTime::now(),
            sign: sign.to_owned(),
            from: current.address.to_string(),
            to: String::new(),
            generation: current.generation,
            held: None,
            named: None,
            verified: None,
            first_success: None,
            drained: false,
            clients_held: 0,
            resent: 0,
            unknown: 0,
            transplanted: 0,
        };
        Self { since: Instant::now(), left: current.generation, announced: false, line }
    }
}

impl Timeline {
    /// Returns true if the former primary had answered every request before a newer one took over,
    /// so that no acknowledged write can be lost.
    pub fn lossless(&self) -> bool {
        // Without `held` before `named`, commands went to the former primary until the moment of
        // the switch, and some of their replies may be missing.
        self.drained && self.unknown == 0 && self.held.is_some_and(|held| Some(held) < self.named)
    }

    /// Returns the timeline as a JSON object.
    pub fn json(&self, upstream: &str) -> serde_json::Value {
        let began = self.began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        serde_json::json!({
            "upstream": upstream,
            "began_unix_ms": millis(Some(began)),
            "sign": self.sign,
            "from": self.from,
            "to": self.to,
            "generation": self.generation.0,
            "held_ms": millis(self.held),
            "named_ms": millis(self.named),
            "verified_ms": millis(self.verified),
            "first_success_ms": millis(self.first_success),
            "lossless": self.lossless(),
            "clients_held": self.clients_held,
            "resent": self.resent,
            "unknown": self.unknown,
            "transplanted": self.transplanted,
        })
    }

    /// Writes the timeline as one log line.
    pub fn log(&self, upstream: &str) {
        tracing::info!(
            upstream,
            from = self.from,
            to = self.to,
            sign = self.sign,
            held_ms = millis(self.held),
            named_ms = millis(self.named),
            verified_ms = millis(self.verified),
            first_success_ms = millis(self.first_success),
            lossless = self.lossless(),
            clients_held = self.clients_held,
            resent = self.resent,
            unknown = self.unknown,
            transplanted = self.transplanted,
            "failover complete"
        );
    }
}

fn millis(at: Option<Duration>) -> Option<u64> {
    at.map(|at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Address;

    fn primary(generation: u64) -> Arc<Primary> {
        Arc::new(Primary {
            generation: Generation(generation),
            address: Address::tcp("n", 6379 + generation as u16),
            config_epoch: None,
            server: None,
            node: None,
        })
    }

    async fn after(ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_planned_failover_is_lossless() {
        let timelines = Timelines::default();
        timelines.verified(&primary(1));
        timelines.sign(Generation(1), "a Sentinel has begun a failover", true);
        timelines.client_held();
        after(1000).await;
        timelines.named(Generation(1), true);
        timelines.named(Generation(1), true);
        after(10).await;
        timelines.verified(&primary(2));
        after(5).await;
        timelines.succeeded(Generation(1));
        timelines.succeeded(Generation(2));
        assert!(timelines.finished().is_empty(), "others may still report");
        after(1000).await;
        let line = timelines.finished().pop().unwrap();
        assert!(line.lossless());
        assert_eq!(line.first_success, Some(Duration::from_millis(1015)));
        assert_eq!((line.from.as_str(), line.to.as_str(), line.clients_held), ("n:6380", "n:6381", 1));
        assert!(timelines.finished().is_empty());
        assert_eq!(timelines.past().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_is_not() {
        let timelines = Timelines::default();
        timelines.verified(&primary(1));
        timelines.sign(Generation(1), "a connection was lost", false);
        timelines.settled(3, 1, 0);
        timelines.named(Generation(1), true);
        timelines.named(Generation(1), false);
        timelines.verified(&primary(2));
        timelines.succeeded(Generation(2));
        after(2000).await;
        let line = timelines.finished().pop().unwrap();
        assert!(!line.lossless());
        assert_eq!((line.resent, line.unknown), (3, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_primary_and_a_false_alarm_are_no_failovers() {
        let timelines = Timelines::default();
        timelines.sign(Generation(1), "x", true);
        timelines.verified(&primary(1));
        timelines.succeeded(Generation(1));
        timelines.sign(Generation(1), "x", true);
        timelines.dismissed_unless_switched(Some(Generation(1)));
        after(5000).await;
        assert!(timelines.finished().is_empty());
    }

    /// The workers may report any events in any order. An entry is always a change of generation.
    #[tokio::test(start_paused = true)]
    async fn an_unnoticed_failover_is_one_entry_with_any_number_of_workers() {
        for workers in 1..=3 {
            let timelines = Timelines::default();
            timelines.verified(&primary(1));
            for generation in 2..=3 {
                for _ in 0..workers {
                    timelines.named(Generation(generation - 1), true);
                    timelines.verified(&primary(generation));
                }
                after(1000).await;
            }
            timelines.named(Generation(1), false);
            after(20_000).await;
            timelines.succeeded(Generation(3));
            let lines = timelines.finished();
            let generations: Vec<u64> = lines.iter().map(|line| line.generation.0).collect();
            assert_eq!(generations, [2, 3]);
            assert!(lines.iter().all(|line| line.verified.is_some_and(|at| at < Duration::from_millis(100))));
            let totals = timelines.totals();
            assert_eq!(totals.lossless + totals.other, 2);
            assert!(timelines.finished().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_and_an_outage_are_no_failovers() {
        let timelines = Timelines::default();
        timelines.verified(&primary(1));
        timelines.sign(Generation(1), "a connection was lost", false);
        timelines.reached(Generation(1));
        after(5000).await;
        timelines.sign(Generation(1), "a connection was lost", false);
        timelines.named(Generation(1), true);
        timelines.verified(&primary(1));
        after(5000).await;
        timelines.sign(Generation(1), "a connection was lost", false);
        after(20_000).await;
        assert!(timelines.finished().is_empty());
        timelines.sign(Generation(1), "the Sentinels find the primary down", true);
        timelines.verified(&primary(2));
        after(5000).await;
        let line = timelines.finished().pop().unwrap();
        assert_eq!((line.verified, line.first_success), (Some(Duration::ZERO), None));
        assert_eq!(timelines.totals().other + timelines.totals().lossless, 1);
    }
}
