//! How long the commands of one upstream took between two samples.

use std::time::Duration;

use serde_json::{Value, json};

use crate::latency::LatencySnapshot;

/// How long the commands of one upstream took between two samples. Commands that respgate answers itself, and those that wait for
/// other clients, do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct RecentLatency {
    /// True if respgate measures the times of commands.
    measured: bool,
    /// The time within which half of the commands were answered, in milliseconds; `None` without commands.
    pub(super) p50_ms: Option<f64>,
    /// The time within which 99 % of the commands were answered, in milliseconds; `None` without commands.
    pub(super) p99_ms: Option<f64>,
}

impl RecentLatency {
    /// Compares the counts of two samples. Without a sample before, nothing is known but whether respgate measures.
    pub(super) fn between(before: Option<&LatencySnapshot>, now: &LatencySnapshot) -> Self {
        let Some(before) = before.filter(|_| now.measured) else {
            return Self { measured: now.measured, ..Self::default() };
        };
        let times = now.at_the_server().since(&before.at_the_server());
        let quantile = |part| times.quantile(part).map(milliseconds);
        Self { measured: true, p50_ms: quantile(0.5), p99_ms: quantile(0.99) }
    }

    /// Returns the part of `/status` about latency.
    pub(super) fn json(&self) -> Value {
        json!({ "measured": self.measured, "p50_ms": self.p50_ms, "p99_ms": self.p99_ms })
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::latency::config::LatencyConfig;
    use crate::latency::{Arrival, Class, CommandTimes, PendingTimes, UpstreamLatency, Wait, WorkerLatency};
    use crate::metrics::Counters;
    use crate::poll_meter::PollClock;

    /// Counts commands of a class that took these times, in microseconds.
    fn count(latency: &UpstreamLatency, class: Class, times: &[u32]) {
        for time in times {
            let (arrival, pending) = (Arrival::new(1, 1, Wait::Nothing), PendingTimes::default());
            let times = CommandTimes { arrival, sent: 1, replied: 1 + time, class };
            latency.replied(&pending, times, 1);
            latency.written(&pending, || 1 + time);
        }
    }

    #[test]
    fn only_commands_since_the_last_sample_count() {
        let worker = WorkerLatency::new(&LatencyConfig::default(), PollClock::start());
        let latency = UpstreamLatency::new(worker, "main", Rc::new(Counters::default()));
        count(&latency, Class::Shared, &[50_000; 10]);
        let before = latency.snapshot();
        let idle = RecentLatency { measured: true, p50_ms: None, p99_ms: None };
        assert_eq!(RecentLatency::between(None, &before), idle, "nothing to compare with");
        assert_eq!(RecentLatency::between(Some(&before), &before), idle, "no command");
        count(&latency, Class::Shared, &[1000; 98]);
        count(&latency, Class::Leased, &[9000; 2]);
        count(&latency, Class::Blocking, &[900_000; 50]);
        count(&latency, Class::Local, &[0; 500]);
        let recent = RecentLatency::between(Some(&before), &latency.snapshot());
        let (p50, p99) = (recent.p50_ms.expect("a median"), recent.p99_ms.expect("a p99"));
        assert!((1.0..1.1).contains(&p50) && (9.0..9.6).contains(&p99), "{recent:?}");
    }

    #[test]
    fn nothing_is_known_while_nothing_is_measured() {
        let off = RecentLatency::between(Some(&LatencySnapshot::default()), &LatencySnapshot::default());
        assert_eq!(off.json(), json!({ "measured": false, "p50_ms": null, "p99_ms": null }));
    }
}
