//! Bounds the log: no callsite in the source logs faster than its `Rate`, whoever causes its
//! lines.
//!
//! [`LogLimit`] is a `tracing` layer in front of the writer, so no call can bypass it. Each
//! callsite of `tracing` has a token bucket that all threads share. respgate counts the suppressed
//! lines, and reports them in one line when their cause stops, or once a minute. Lines that only
//! the operator can cause (start, reload, drain) have no limit.

mod bucket;
mod filter;

pub use filter::{LogFilter, is_filter};

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use self::bucket::{Bucket, Rate};

/// Limit of one callsite at `info` and above.
const USUAL: Rate = Rate { per_second: 10, burst: 20 };
/// Limit of one callsite at `debug` and `trace`, for an operator who has enabled them.
const VERBOSE: Rate = Rate { per_second: 100, burst: 200 };
/// Number of callsites with a bucket of their own; further ones share the last bucket. respgate has
/// about 80 callsites, its libraries at `trace` about 200.
const SLOTS: usize = 512;
/// Time without a suppressed line after which its cause counts as stopped.
const STOPPED: Duration = Duration::from_secs(1);
/// Time between two reports of suppressed lines while their cause goes on.
const REMIND: Duration = Duration::from_secs(60);
/// Number of characters of a suppressed message that the summary shows.
const EXAMPLE: usize = 160;

/// Modules whose lines no client can cause: `main`, the start and the drain, reloads, and the
/// summaries themselves.
const UNLIMITED: [&str; 4] = ["respgate", "app", "reload", "logs"];

/// The layer. Its clones share their buckets.
#[derive(Clone)]
pub struct LogLimit(Arc<Limits>);

struct Limits {
    began: Instant,
    slots: Box<[Slot]>,
}

/// The state of one callsite.
#[derive(Default)]
struct Slot {
    callsite: OnceLock<&'static Metadata<'static>>,
    bucket: Bucket,
    /// Number of lines suppressed since the start.
    suppressed: AtomicU64,
    /// Number of suppressed lines that a summary has reported.
    reported: AtomicU64,
    /// When a line was last suppressed, in ns since `began`.
    last: AtomicU64,
    /// When the last summary was written, or the first line after it was suppressed, in ns since
    /// `began`.
    since: AtomicU64,
    /// The message of the first line that was suppressed after the last summary.
    example: Mutex<String>,
}

/// Reports the suppressed lines of one callsite.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    level: Level,
    module: &'static str,
    suppressed: u64,
    example: String,
}

impl Default for LogLimit {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| Slot::default()).collect();
        Self(Arc::new(Limits { began: Instant::now(), slots }))
    }
}

impl<S: Subscriber> Layer<S> for LogLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.0.admits(event, self.0.now())
    }
}

impl LogLimit {
    /// Returns the numbers of lines suppressed since the start, by module (without `respgate::`)
    /// and level.
    pub fn suppressed(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let mut counts = BTreeMap::new();
        for slot in &self.0.slots {
            let count = slot.suppressed.load(Ordering::Relaxed);
            if let Some(callsite) = slot.callsite.get()
                && count > 0
            {
                *counts.entry((module(callsite), callsite.level().as_str())).or_default() += count;
            }
        }
        counts
    }

    /// Checks once a second which causes have stopped, and logs how many of their lines were
    /// suppressed. Never returns.
    pub async fn report(self) {
        let mut ticks = tokio::time::interval(STOPPED);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for Summary { level, module, suppressed, example } in self.0.summaries(self.0.now()) {
                macro_rules! say {
                    ($level:ident) => {
                        tracing::$level!(
                            module,
                            suppressed,
                            example,
                            "log lines were left out: one cause repeats too often"
                        )
                    };
                }
                match level {
                    Level::ERROR | Level::WARN => say!(warn),
                    Level::INFO => say!(info),
                    _ => say!(debug),
                }
            }
        }
    }
}

impl Limits {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn slot(&self, callsite: &'static Metadata<'static>) -> Option<&Slot> {
        let mut hasher = DefaultHasher::new();
        ptr::from_ref(callsite).hash(&mut hasher);
        let first = usize::try_from(hasher.finish() % SLOTS as u64).unwrap_or_default();
        let (before, after) = self.slots.split_at_checked(first)?;
        // Open addressing: a callsite takes the first free slot from its hash on and keeps it for
        // ever. `get_or_init` makes the claim atomic.
        let is_its = |slot: &&Slot| ptr::eq(*slot.callsite.get_or_init(|| callsite), callsite);
        after.iter().chain(before).find(is_its).or(self.slots.last())
    }

    /// Returns true if the line must be written, `now` ns after the start.
    fn admits(&self, event: &Event<'_>, now: u64) -> bool {
        let callsite = event.metadata();
        if UNLIMITED.contains(&module(callsite)) {
            return true;
        }
        let rate = if *callsite.level() <= Level::INFO { USUAL } else { VERBOSE };
        let Some(slot) = self.slot(callsite) else { return false };
        if slot.bucket.take(rate, now) {
            return true;
        }
        slot.last.store(now, Ordering::Relaxed);
        // Equal counts mean that the last summary has reported every earlier line, so this line is
        // the first of the next summary and becomes its example.
        if slot.suppressed.fetch_add(1, Ordering::Relaxed) == slot.reported.load(Ordering::Relaxed) {
            slot.since.store(now, Ordering::Relaxed);
            let mut example = Example(String::new());
            event.record(&mut example);
            *slot.example.lock().unwrap_or_else(PoisonError::into_inner) = example.0;
        }
        false
    }

    /// Returns the summaries that are due at `now`.
    fn summaries(&self, now: u64) -> Vec<Summary> {
        let age = |at: &AtomicU64| Duration::from_nanos(now.saturating_sub(at.load(Ordering::Relaxed)));
        let due = self.slots.iter().filter_map(|slot| {
            let callsite = slot.callsite.get()?;
            let (all, reported) =
                (slot.suppressed.load(Ordering::Relaxed), slot.reported.load(Ordering::Relaxed));
            if all == reported || (age(&slot.last) < STOPPED && age(&slot.since) < REMIND) {
                return None;
            }
            let example = slot.example.lock().unwrap_or_else(PoisonError::into_inner).clone();
            slot.reported.store(all, Ordering::Relaxed);
            slot.since.store(now, Ordering::Relaxed);
            Some(Summary {
                level: *callsite.level(),
                module: module(callsite),
                suppressed: all - reported,
                example,
            })
        });
        due.collect()
    }
}

fn module(callsite: &Metadata<'static>) -> &'static str {
    let target = callsite.target();
    target.strip_prefix("respgate::").unwrap_or(target)
}

/// The first [`EXAMPLE`] characters of an event's message.
struct Example(String);

impl Visit for Example {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}").chars().take(EXAMPLE).collect();
        }
    }
}

#[cfg(test)]
mod tests;
