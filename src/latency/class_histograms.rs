//! The histograms of one route class.

use super::histogram::{Distribution, Histogram, LONGEST};
use super::times::{PARTS, Parts};

/// The histograms of one route class. Those of the parts leave out commands for which the part took no time.
#[derive(Debug, Default)]
pub(super) struct ClassHistograms {
    total: Histogram,
    server: Histogram,
    respgate: Histogram,
    wait: Histogram,
    hold: Histogram,
    limit: Histogram,
}

/// The counts of one route class at one moment.
#[derive(Clone, Debug, Default)]
pub struct ClassSnapshot {
    /// The whole time of the commands.
    pub total: Distribution,
    /// The parts of it, in the order of [`PARTS`]. Commands for which a part took no time may be left out.
    pub parts: [Distribution; PARTS.len()],
}

impl ClassHistograms {
    /// Counts `count` commands whose time has these parts.
    #[inline]
    pub(super) fn record(&self, parts: &Parts, count: u32) {
        if parts.total > LONGEST {
            return self.record_longest(parts, count);
        }
        self.record_each(parts, count);
    }

    /// Counts a command that took longer than the longest time, as if it had taken that.
    #[cold]
    fn record_longest(&self, parts: &Parts, count: u32) {
        let [limit, hold, wait, server, respgate] = parts.each().map(|part| part.min(LONGEST));
        self.record_each(&Parts { total: LONGEST, limit, hold, wait, server, respgate }, count);
    }

    #[inline]
    fn record_each(&self, parts: &Parts, count: u32) {
        self.total.record(parts.total, count);
        self.server.record(parts.server, count);
        self.respgate.record(parts.respgate, count);
        if parts.wait > 0 {
            self.wait.record(parts.wait, count);
        }
        if (parts.hold | parts.limit) > 0 {
            self.record_rare(parts, count);
        }
    }

    #[cold]
    fn record_rare(&self, parts: &Parts, count: u32) {
        for (histogram, time) in [(&self.hold, parts.hold), (&self.limit, parts.limit)] {
            if time > 0 {
                histogram.record(time, count);
            }
        }
    }

    /// Counts `count` commands that respgate answered itself: their time has no parts.
    pub(super) fn record_total(&self, micros: u32, count: u32) {
        self.total.record(micros.min(LONGEST), count);
    }

    /// Returns the present counts.
    pub(super) fn snapshot(&self) -> ClassSnapshot {
        let total = self.total.snapshot();
        let parts =
            [&self.limit, &self.hold, &self.wait, &self.server, &self.respgate].map(Histogram::snapshot);
        ClassSnapshot { total, parts }
    }
}

impl ClassSnapshot {
    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Self) {
        self.total.add(&other.total);
        self.parts.iter_mut().zip(&other.parts).for_each(|(sum, part)| sum.add(part));
    }
}
