//! What happened when, in each failover: written by the workers, read by the log and the admin side.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::topology::{Generation, Primary};

/// Failovers that are remembered for one upstream; older ones are forgotten.
const REMEMBERED: usize = 32;
/// How long after the first success a timeline stays open for what other sessions still report.
const SETTLING: Duration = Duration::from_secs(1);

/// A timeline closes this long after the new primary was verified if nobody sends anything.
const UNUSED: Duration = Duration::from_secs(3);
/// After this long without a newer primary, a lost connection was no sign of a failover.
const STALE: Duration = Duration::from_secs(10);
/// The sign when nothing announced the failover.
const ANOTHER: &str = "another primary was named";

/// One failover. Times are since the first sign.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// When the first sign was seen, by the wall clock.
    pub began: SystemTime,
    /// What the first sign was.
    pub sign: String,
    /// The former primary.
    pub from: String,
    /// The new one.
    pub to: String,
    /// The new one's generation.
    pub generation: Generation,
    /// Commands began to wait.
    pub held: Option<Duration>,
    /// A newer primary was named: nothing was written to the old one from here on.
    pub named: Option<Duration>,
    /// It said itself that it is the primary.
    pub verified: Option<Duration>,
    /// The first reply came from it; `None` if nobody sent anything for 3 s.
    pub first_success: Option<Duration>,
    /// The old primary had answered everything when it was left: nothing that it acknowledged was in doubt.
    pub drained: bool,
    /// Clients whose commands waited.
    pub clients_held: u64,
    /// Commands sent again.
    pub resent: u64,
    /// Writes answered with OUTCOMEUNKNOWN.
    pub unknown: u64,
    /// Sessions whose connection state was moved.
    pub transplanted: u64,
}

/// The failovers of one upstream, shared by the workers. It is touched a few times in each failover.
#[derive(Clone, Default)]
pub struct Timelines(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    current: Option<Arc<Primary>>,
    open: Option<Open>,
    past: VecDeque<Timeline>,
    /// Those of `past` that have not been logged.
    unlogged: VecDeque<Timeline>,
    totals: Totals,
}

/// How many failovers there have been.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// See [`Timeline::lossless`].
    pub lossless: u64,
    /// All others.
    pub other: u64,
}

struct Open {
    since: Instant,
    /// The primary that is left.
    left: Generation,
    /// Discovery has announced it.
    announced: bool,
    line: Timeline,
}

impl Timelines {
    /// A sign that the primary of this generation fails; the first one opens a timeline. `held`: commands wait from here
    /// on. `announced`: discovery says so; otherwise a connection was lost, which may mean nothing.
    pub fn sign(&self, of: Generation, sign: &str, announced: bool) {
        let mut book = self.lock();
        let Some(current) = book.current.clone().filter(|current| current.generation == of) else { return };
        let open = book.open_for(sign, &current);
        open.announced |= announced;
        open.line.held.get_or_insert_with(|| open.since.elapsed());
    }

    /// Commands go out again. If they go to the same primary as before, the sign was for nothing.
    pub fn dismissed_unless_switched(&self, generation: Option<Generation>) {
        let mut book = self.lock();
        let same = book.open.as_ref().is_some_and(|open| open.line.named.is_none());
        if same && book.current.as_ref().map(|current| current.generation) == generation {
            book.open = None;
        }
    }

    /// A connection to the primary of this generation could be made: a lost one was no sign of a failover.
    pub fn reached(&self, generation: Generation) {
        let mut book = self.lock();
        let unannounced = book.open.as_ref().is_some_and(|open| !open.announced && open.line.named.is_none());
        if unannounced && book.current.as_ref().is_some_and(|current| current.generation == generation) {
            book.open = None;
        }
    }

    /// The primary of the generation `left` is followed no more. `drained`: this worker had nothing under way at it.
    pub fn named(&self, left: Generation, drained: bool) {
        let mut book = self.lock();
        let Some(current) = book.current.clone() else { return };
        if current.generation == left {
            book.open_for(ANOTHER, &current);
        }
        // A worker that comes late adds to what the first one began.
        let Some(open) = book.open.as_mut().filter(|open| open.left == left) else { return };
        open.line.drained = drained && (open.line.drained || open.line.named.is_none());
        open.line.named.get_or_insert_with(|| open.since.elapsed());
    }

    /// A primary has been verified. If it is a newer one, this is a failover, whether or not anybody noticed.
    pub fn verified(&self, primary: &Arc<Primary>) {
        let mut book = self.lock();
        let Some(current) = book.current.clone() else {
            book.current = Some(primary.clone());
            return;
        };
        if current.generation > primary.generation {
            return;
        }
        if current.generation == primary.generation {
            // The same node is back: that was an outage and no failover.
            if book
                .open
                .as_ref()
                .is_some_and(|open| open.line.verified.is_none() && open.line.named.is_some())
            {
                book.open = None;
            }
            return;
        }
        let open = book.open_for(ANOTHER, &current);
        open.line.named.get_or_insert_with(|| open.since.elapsed());
        open.line.to = primary.address.to_string();
        open.line.generation = primary.generation;
        open.line.verified = Some(open.since.elapsed());
        book.current = Some(primary.clone());
    }

    /// A reply came from the primary of this generation.
    pub fn succeeded(&self, generation: Generation) {
        if let Some(open) = &mut self.lock().open
            && open.line.generation == generation
            && open.line.verified.is_some()
        {
            open.line.first_success.get_or_insert_with(|| open.since.elapsed());
        }
    }

    /// What became of commands and sessions.
    pub fn settled(&self, resent: u64, unknown: u64, transplanted: u64) {
        if let Some(open) = &mut self.lock().open {
            open.line.resent += resent;
            open.line.unknown += unknown;
            open.line.transplanted += transplanted;
        }
    }

    /// One more client's commands wait.
    pub fn client_held(&self) {
        if let Some(open) = &mut self.lock().open {
            open.line.clients_held += 1;
        }
    }

    /// Closes the open timeline if its failover is over, and returns every closed one once, the oldest first.
    pub fn finished(&self) -> Vec<Timeline> {
        let mut book = self.lock();
        if let Some(open) = &book.open {
            let age = open.since.elapsed();
            let (success, verified) = (open.line.first_success, open.line.verified);
            if success.is_some_and(|at| age >= at + SETTLING) || verified.is_some_and(|at| age >= at + UNUSED)
            {
                book.close();
            } else if !open.announced && open.line.named.is_none() && age >= STALE {
                book.open = None;
            }
        }
        std::mem::take(&mut book.unlogged).into()
    }

    /// Past failovers, the newest last.
    pub fn past(&self) -> Vec<Timeline> {
        self.lock().past.iter().cloned().collect()
    }

    /// All failovers since the start.
    pub fn totals(&self) -> Totals {
        self.lock().totals
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// The timeline of the failover away from `current`. An earlier one that is still open is over.
    fn open_for(&mut self, sign: &str, current: &Primary) -> &mut Open {
        if self.open.as_ref().is_some_and(|open| open.left != current.generation) {
            self.close();
        }
        self.open.get_or_insert_with(|| Open::new(sign, current))
    }

    /// Takes the open timeline down if it tells of a failover: one that ended at a newer primary.
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
    /// Whether the old primary had answered everything before a newer one took over, so that nothing acknowledged
    /// can be lost.
    pub fn lossless(&self) -> bool {
        self.drained && self.unknown == 0 && self.held.is_some_and(|held| Some(held) < self.named)
    }

    /// As a JSON object.
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

    /// One line of the log.
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

    /// Whatever the workers report, and in whatever order: an entry is a change of generation.
    #[tokio::test(start_paused = true)]
    async fn a_failover_that_nobody_notices_is_one_entry_whatever_the_number_of_workers() {
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
