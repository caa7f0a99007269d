//! Samples the workers' counts once a second: for rates, and for the history of the last minutes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::latency::RecentLatency;
use crate::admin::sources::{View, Views};
use crate::admin::worker_sums::WorkerSums;
use crate::metrics::counters::{FIGURES, sum};
use crate::metrics::declared::{self, About};
use crate::topology::Address;
use crate::worker::Worker;

/// The time between two samples.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// The number of samples that are kept: five minutes.
const KEPT: usize = 300;

/// The newest counts, and how fast they rise.
#[derive(Default)]
pub(super) struct Sample {
    pub(super) sums: WorkerSums,
    /// By the number of the upstream, the rise of each figure per second, in the order of [`FIGURES`]. Of no use for gauges.
    pub(super) rates: BTreeMap<usize, [f64; FIGURES.len()]>,
    /// Commands per second, by the number of the tenant.
    pub(super) tenant_rates: HashMap<usize, f64>,
    /// Reads per second by replica: the number of the upstream, and the replica's address.
    pub(super) replica_rates: HashMap<(usize, Address), f64>,
    /// How long commands took, by the number of the upstream.
    pub(super) latency: BTreeMap<usize, RecentLatency>,
}

/// A running sampler. Dropping it ends its task.
pub(super) struct Sampler {
    /// The newest sample; `None` before the first one.
    pub(super) newest: watch::Receiver<Option<Arc<Sample>>>,
    history: Arc<Mutex<History>>,
    _task: JoinSet<()>,
}

/// The points of each upstream, by its number.
type History = BTreeMap<usize, VecDeque<Point>>;

/// One upstream's figures in the history.
#[derive(Clone, Copy)]
struct Point {
    unix_ms: u64,
    values: [f64; SERIES.len()],
    latency: RecentLatency,
}

/// One series of the history.
struct Series {
    name: &'static str,
    metric: &'static About,
    /// True if the series holds rates per second; false if it holds the gauge itself.
    rate: bool,
}

const fn rate(name: &'static str, metric: &'static About) -> Series {
    Series { name, metric, rate: true }
}

const fn gauge(name: &'static str, metric: &'static About) -> Series {
    Series { name, metric, rate: false }
}

/// The series of the history.
static SERIES: [Series; 7] = [
    rate("commands", &declared::COMMANDS.about),
    rate("errors", &declared::UPSTREAM_ERROR_REPLIES.about),
    rate("refused", &declared::COMMANDS_REFUSED.about),
    rate("unknown", &declared::OUTCOME_UNKNOWN.about),
    gauge("clients", &declared::CLIENTS.about),
    gauge("pinned", &declared::CLIENTS_PINNED.about),
    gauge("held", &declared::CLIENTS_HELD.about),
];

impl Sampler {
    /// Starts to sample.
    pub(super) fn spawn(workers: Vec<Worker>, upstreams: Views) -> Self {
        let (newest, seen) = watch::channel(None);
        let history = Arc::default();
        let mut task = JoinSet::new();
        task.spawn(run(workers, upstreams, newest, Arc::clone(&history)));
        Self { newest: seen, history, _task: task }
    }

    /// Returns the history as JSON: for each upstream, an array for each series.
    pub(super) fn history(&self, views: &[View]) -> Value {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let none = VecDeque::new();
        let upstreams: Map<String, Value> = views
            .iter()
            .map(|view| {
                let points = history.get(&view.number).unwrap_or(&none);
                let series = SERIES.iter().enumerate().map(|(at, series)| {
                    let values = points.iter().filter_map(|point| point.values.get(at));
                    (series.name.to_owned(), values.copied().map(rounded).collect())
                });
                let each = |value: fn(&Point) -> Value| points.iter().map(value).collect::<Value>();
                let others = [
                    ("unix_ms", each(|point| point.unix_ms.into())),
                    ("p50_ms", each(|point| point.latency.p50_ms.into())),
                    ("p99_ms", each(|point| point.latency.p99_ms.into())),
                ];
                let others = others.map(|(key, values)| (key.to_owned(), values));
                (view.name.clone(), Value::Object(others.into_iter().chain(series).collect()))
            })
            .collect();
        json!({ "interval_seconds": INTERVAL.as_secs(), "upstreams": upstreams })
    }
}

/// Returns a time in whole milliseconds.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Rounds to a tenth, which keeps documents short.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

async fn run(
    workers: Vec<Worker>,
    upstreams: Views,
    newest: watch::Sender<Option<Arc<Sample>>>,
    history: Arc<Mutex<History>>,
) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Option<(Instant, Arc<Sample>)> = None;
    loop {
        ticks.tick().await;
        let sums = WorkerSums::collect(&workers).await;
        // Without one worker's counts, every rate would be wrong.
        if !sums.complete {
            continue;
        }
        let now = Instant::now();
        let seconds = before.as_ref().map_or(1.0, |(at, _)| (now - *at).as_secs_f64().max(0.001));
        let sample = Arc::new(sample(sums, before.as_ref().map(|(_, sample)| &sample.sums), seconds));
        let numbers: Vec<usize> = upstreams.borrow().iter().map(|view| view.number).collect();
        remember(&history, &numbers, &sample);
        newest.send_replace(Some(sample.clone()));
        before = Some((now, sample));
    }
}

/// Compares the sums with those of `seconds` before.
fn sample(sums: WorkerSums, before: Option<&WorkerSums>, seconds: f64) -> Sample {
    let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    let upstreams = sums.upstreams.iter().map(|(number, now)| {
        let before = before.and_then(|before| before.upstreams.get(number)).unwrap_or(now);
        let mut rates = [0.0; FIGURES.len()];
        rates
            .iter_mut()
            .zip(now.iter().zip(before))
            .for_each(|(rate, (now, before))| *rate = per_second(*now, *before));
        (*number, rates)
    });
    let rates = upstreams.collect();
    let tenants = sums.tenants.iter().map(|(number, now)| {
        let before = before.and_then(|before| before.tenants.get(number)).unwrap_or(now);
        (*number, per_second(now.commands, before.commands))
    });
    let tenant_rates = tenants.collect();
    let replicas = sums.replicas.iter().map(|(replica, now)| {
        let before = before.and_then(|before| before.replicas.get(replica)).unwrap_or(now);
        (replica.clone(), per_second(now.reads, before.reads))
    });
    let replica_rates = replicas.collect();
    let latency = sums.latency.iter().map(|(number, now)| {
        let before = before.and_then(|before| before.latency.get(number));
        (*number, RecentLatency::between(before, now))
    });
    let latency = latency.collect();
    Sample { sums, rates, tenant_rates, replica_rates, latency }
}

/// Adds a point for each of the `upstreams` in force. Forgets the others.
fn remember(history: &Mutex<History>, upstreams: &[usize], sample: &Sample) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_ms = millis(now);
    let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
    history.retain(|number, _| upstreams.contains(number));
    for number in upstreams {
        let points = history.entry(*number).or_insert_with(|| VecDeque::with_capacity(KEPT));
        let (counts, rates) = (sample.sums.upstream(*number), sample.rates.get(number));
        let latency = sample.latency.get(number).copied().unwrap_or_default();
        let values = std::array::from_fn(|at| match SERIES.get(at) {
            Some(Series { metric, rate: true, .. }) => rates.map_or(0.0, |rates| rate_of(rates, metric)),
            Some(Series { metric, .. }) => sum(&counts, metric) as f64,
            None => 0.0,
        });
        if points.len() == KEPT {
            points.pop_front();
        }
        points.push_back(Point { unix_ms, values, latency });
    }
}

/// Returns how fast a metric rises, all its labels together.
fn rate_of(rates: &[f64; FIGURES.len()], metric: &About) -> f64 {
    let fits = FIGURES.iter().zip(rates).filter(|(figure, _)| figure.about().name == metric.name);
    fits.map(|(_, rate)| rate).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(commands: u64) -> WorkerSums {
        let at =
            FIGURES.iter().position(|figure| figure.about().name == declared::COMMANDS.about.name).unwrap();
        let mut snapshot = [0; FIGURES.len()];
        snapshot[at] = commands;
        WorkerSums { upstreams: [(3, snapshot)].into(), complete: true, ..WorkerSums::default() }
    }

    #[test]
    fn rates_count_from_the_sample_before() {
        let first = sample(sums(1000), None, 1.0);
        assert_eq!(rate_of(&first.rates[&3], &declared::COMMANDS.about), 0.0, "nothing to compare with");
        let second = sample(sums(1500), Some(&first.sums), 2.0);
        assert_eq!(rate_of(&second.rates[&3], &declared::COMMANDS.about), 250.0);
    }

    #[test]
    fn the_history_is_bounded() {
        let history = Mutex::default();
        let sample = sample(sums(1), None, 1.0);
        (0..KEPT + 5).for_each(|_| remember(&history, &[3, 4], &sample));
        assert_eq!(history.lock().unwrap()[&3].len(), KEPT);
        remember(&history, &[4], &sample);
        assert_eq!(history.lock().unwrap().keys().collect::<Vec<_>>(), [&4], "the other upstream is gone");
    }
}
