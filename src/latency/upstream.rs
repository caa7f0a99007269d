//! What one worker measures for one upstream.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use super::class_histograms::{ClassHistograms, ClassSnapshot};
use super::config::ShownArguments;
use super::described::Known;
use super::entry::{ClientLabel, Entry};
use super::histogram::{Distribution, Histogram, LONGEST};
use super::pending::{Observed, PendingTimes};
use super::times::{Class, CommandTimes};
use super::worker::WorkerLatency;
use crate::metrics::Counters;

/// The name under which commands are counted that the command table lacks.
const OTHER: &str = "other";

/// What one worker measures for one upstream.
pub struct UpstreamLatency {
    /// What the worker measures for all upstreams.
    pub worker: Rc<WorkerLatency>,
    name: Arc<str>,
    counters: Rc<Counters>,
    classes: [OnceCell<Box<ClassHistograms>>; Class::ALL.len()],
    /// The times of single commands, up to their replies.
    commands: RefCell<BTreeMap<&'static str, Box<Histogram>>>,
}

/// The counts of one upstream at one moment.
#[derive(Clone, Debug, Default)]
pub struct LatencySnapshot {
    /// True if histograms are kept.
    pub measured: bool,
    /// The times by class, in the order of [`Class::ALL`].
    pub classes: [ClassSnapshot; Class::ALL.len()],
    /// The times of single commands, up to their replies.
    pub commands: BTreeMap<&'static str, Distribution>,
}

impl LatencySnapshot {
    /// Returns the times of the commands that went to the server and do not wait there for other clients.
    pub fn at_the_server(&self) -> Distribution {
        let mut sum = Distribution::default();
        for (class, times) in Class::ALL.iter().zip(&self.classes) {
            if matches!(class, Class::Shared | Class::Leased) {
                sum.add(&times.total);
            }
        }
        sum
    }

    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Self) {
        self.measured |= other.measured;
        self.classes.iter_mut().zip(&other.classes).for_each(|(sum, class)| sum.add(class));
        for (name, distribution) in &other.commands {
            self.commands.entry(name).or_default().add(distribution);
        }
    }
}

impl UpstreamLatency {
    /// Creates the measurements for the upstream of this name. `counters` count its slow commands.
    pub fn new(worker: Rc<WorkerLatency>, name: &str, counters: Rc<Counters>) -> Rc<Self> {
        let (classes, commands) = (Default::default(), RefCell::default());
        Rc::new(Self { worker, name: name.into(), counters, classes, commands })
    }

    /// Adds `count` commands with these times, whose replies wait to be written to the client.
    #[inline]
    pub fn replied(&self, pending: &PendingTimes, times: CommandTimes, count: u32) {
        if let Some(earlier) = pending.add(times, count) {
            self.record(&earlier.times, times.replied, earlier.count);
        }
        if pending.left().is_some() {
            self.written(pending, || times.replied);
        }
    }

    /// Looks at a command that [`WorkerLatency::looks_at`] chose, before its reply is written.
    #[cold]
    pub fn look_at(&self, pending: &PendingTimes, request: &[u8], times: CommandTimes) {
        let Some(known) = Known::find(request) else { return };
        let worker = &self.worker;
        if worker.counts_by_command() {
            let name = known.spec().map_or(OTHER, |spec| spec.name);
            self.commands.borrow_mut().entry(name).or_default().record(times.so_far().min(LONGEST), 1);
        }
        let slow = worker.is_slow(&times);
        let taps = match pending.tapped() {
            0 => 0,
            among => worker.taps.of_request(among, &known, &worker.describer),
        };
        if !slow && taps == 0 {
            return;
        }
        if pending.is_full() {
            worker.taps.note_dropped(taps);
            return self.counters.slow_commands.add(slow.into());
        }
        let describe = |arguments| worker.describer.describe(&known, arguments);
        let shows = slow && worker.arguments() == ShownArguments::Show || worker.taps.show_arguments(taps);
        let observed = Observed {
            times,
            redacted: describe(ShownArguments::Redact),
            shown: shows.then(|| describe(ShownArguments::Show)),
            slow,
            taps: (taps, worker.taps_version()),
        };
        match pending.left() {
            Some(client) => self.show(observed, client, times.replied),
            None => pending.observe(observed),
        }
    }

    /// Counts the commands whose replies were written just now: `now` returns the time. Returns true if [`Self::show_observed`] has
    /// commands to show.
    #[inline]
    pub fn written(&self, pending: &PendingTimes, now: impl FnOnce() -> u32) -> bool {
        if let Some(run) = pending.take_run() {
            self.record(&run.times, now(), run.count);
        }
        pending.has_observed()
    }

    /// Gives the commands whose replies were written at `now` to the slow log and to the taps.
    pub fn show_observed(&self, pending: &PendingTimes, client: &ClientLabel, now: u32) {
        for observed in pending.take_observed() {
            self.show(observed, client, now);
        }
    }

    fn show(&self, observed: Observed, client: &ClientLabel, now: u32) {
        let Observed { times, redacted, shown, slow, taps } = observed;
        let entry = |described, arguments| Entry {
            at: SystemTime::now(),
            upstream: self.name.clone(),
            client: client.clone(),
            class: times.class,
            described,
            arguments,
            parts: times.parts(now),
        };
        let redacted = entry(redacted, ShownArguments::Redact);
        let shown = shown.map(|described| entry(described, ShownArguments::Show));
        let worker = &self.worker;
        if taps.1 == worker.taps_version() {
            worker.taps.give(taps.0, &redacted, shown.as_ref());
        }
        if slow {
            self.counters.slow_commands.inc();
            let shows = worker.arguments() == ShownArguments::Show;
            worker.slow_log.push(shown.filter(|_| shows).unwrap_or(redacted));
        }
    }

    #[inline]
    fn record(&self, times: &CommandTimes, written: u32, count: u32) {
        if !self.worker.keeps_histograms() {
            return;
        }
        let Some(class) = self.classes.get(times.class as usize) else { return };
        let (class, parts) = (class.get_or_init(Box::default), times.parts(written));
        match times.class {
            Class::Local => class.record_total(parts.total, count),
            _ => class.record(&parts, count),
        }
    }

    /// Returns the present counts.
    pub fn snapshot(&self) -> LatencySnapshot {
        let classes = std::array::from_fn(|at| {
            let class = self.classes.get(at).and_then(OnceCell::get);
            class.map(|class| class.snapshot()).unwrap_or_default()
        });
        let commands = self.commands.borrow().iter().map(|(name, times)| (*name, times.snapshot())).collect();
        LatencySnapshot { measured: self.worker.keeps_histograms(), classes, commands }
    }
}
