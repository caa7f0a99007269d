//! Writes the histograms of commands' times as Prometheus text.

use std::fmt::Write;
use std::time::Duration;

use crate::latency::{Class, Distribution, LatencySnapshot, PARTS};
use crate::metrics::declared::{self, Metric};

/// The upper bounds of the published buckets, in microseconds: 100 µs to 10 s.
const BOUNDS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Appends the histograms of all upstreams, each with the upstream's name. A class that has carried no command has no sample.
pub(super) fn append(text: &mut String, upstreams: &[(&str, LatencySnapshot)]) {
    let classes = || {
        upstreams.iter().flat_map(|(upstream, latency)| {
            let classes =
                Class::ALL.iter().zip(&latency.classes).filter(|(_, times)| times.total.count() > 0);
            classes.map(move |(class, times)| (*upstream, *class, times))
        })
    };
    let totals = classes().map(|(upstream, class, times)| ([upstream, class.name()], times.total.clone()));
    family(text, &declared::COMMAND_DURATION, totals);
    let with_parts = classes().filter(|(_, class, _)| *class != Class::Local);
    let parts = with_parts.flat_map(|(upstream, class, times)| {
        let count = times.total.count();
        PARTS.iter().zip(&times.parts).map(move |(part, distribution)| {
            let mut distribution = distribution.clone();
            distribution.fill_up_to(count);
            ([upstream, class.name(), *part], distribution)
        })
    });
    family(text, &declared::COMMAND_PART_DURATION, parts);
    let commands = upstreams.iter().flat_map(|(upstream, latency)| {
        latency.commands.iter().map(|(name, times)| ([*upstream, *name], times.clone()))
    });
    family(text, &declared::COMMAND_NAME_DURATION, commands);
}

/// Appends one metric, if it has samples.
fn family<'a, const LABELS: usize>(
    text: &mut String,
    metric: &Metric<LABELS>,
    samples: impl Iterator<Item = ([&'a str; LABELS], Distribution)>,
) {
    let name = metric.about.name;
    let mut samples = samples.peekable();
    if samples.peek().is_some() {
        let _ = write!(text, "# HELP {name} {}\n# TYPE {name} histogram\n", metric.about.help);
    }
    for (values, distribution) in samples {
        let mut labels = String::new();
        for (label, value) in metric.labels.iter().zip(values) {
            let _ = write!(labels, "{label}=\"{}\",", escaped(value));
        }
        for bound in BOUNDS {
            let count = distribution.at_most(Duration::from_micros(bound));
            let _ = writeln!(text, "{name}_bucket{{{labels}le=\"{}\"}} {count}", bound as f64 / 1e6);
        }
        let (count, sum, labels) = (distribution.count(), distribution.sum(), labels.trim_end_matches(','));
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(text, "{name}_sum{{{labels}}} {}", sum.as_secs_f64());
        let _ = writeln!(text, "{name}_count{{{labels}}} {count}");
    }
}

/// Returns the value of a label as Prometheus text spells it.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}
