//! What one worker measures, for all its upstreams.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::config::{LatencyConfig, Measure, ShownArguments};
use super::described::Describer;
use super::entry::{ClientLabel, Entry};
use super::pending::PendingTimes;
use super::sampling::Sampling;
use super::slow_log::SlowLog;
use super::tap::{TapBatch, TapFilter, Taps};
use super::times::{Arrival, Class, CommandTimes};
use crate::poll_meter::PollClock;

/// What one worker measures, for all its upstreams: its clock, its slow log and its taps.
pub struct WorkerLatency {
    clock: PollClock,
    /// True if times are noted at all: for histograms, the slow log or a tap.
    active: Cell<bool>,
    /// The measurements that are on.
    measure: Cell<Measure>,
    /// True if each command must be looked at, not only slow ones.
    looks_at_all: Cell<bool>,
    /// A command that takes at least this many microseconds is slow.
    slow_threshold: Cell<u32>,
    sampling: Sampling,
    arguments: Cell<ShownArguments>,
    pub(super) describer: Describer,
    pub(super) slow_log: SlowLog,
    pub(super) taps: Taps,
}

impl WorkerLatency {
    /// Creates the measurements of a worker whose polls `clock` measures.
    pub fn new(config: &LatencyConfig, clock: PollClock) -> Rc<Self> {
        let this = Self {
            clock,
            active: Cell::default(),
            measure: Cell::new(config.measure),
            looks_at_all: Cell::default(),
            slow_threshold: Cell::default(),
            sampling: Sampling::default(),
            arguments: Cell::new(config.arguments),
            describer: Describer::new(config.hash_secret),
            slow_log: SlowLog::new(config.slow_length),
            taps: Taps::default(),
        };
        this.reconfigure(config);
        Rc::new(this)
    }

    /// Follows a reload. What was counted stays; the slow log keeps its newest entries. Keys are hashed as before.
    pub fn reconfigure(&self, config: &LatencyConfig) {
        self.measure.set(config.measure);
        let slow = u32::try_from(config.slow_threshold.as_micros()).unwrap_or(u32::MAX);
        let slow = if self.keeps_histograms() && config.slow_length > 0 { slow } else { u32::MAX };
        self.slow_threshold.set(slow);
        self.arguments.set(config.arguments);
        self.slow_log.set_length(config.slow_length);
        self.apply();
    }

    /// Returns true if times are noted at all.
    #[inline]
    pub fn is_active(&self) -> bool {
        self.active.get()
    }

    /// Returns true if histograms are kept.
    #[inline]
    pub(super) fn keeps_histograms(&self) -> bool {
        self.measure.get() != Measure::Off
    }

    /// Returns true if histograms of single commands are kept.
    #[inline]
    pub(super) fn counts_by_command(&self) -> bool {
        self.measure.get() == Measure::Commands
    }

    /// Returns how the slow log shows keys and arguments.
    pub(super) fn arguments(&self) -> ShownArguments {
        self.arguments.get()
    }

    /// Returns when the present poll began; see [`PollClock::poll_began`].
    #[inline]
    pub fn now(&self) -> u32 {
        self.clock.poll_began()
    }

    /// Returns true if commands that came so and are answered at `now` must be measured, because they are slow or somebody looks at
    /// them.
    #[inline]
    pub fn is_remarkable(&self, arrival: Arrival, now: u32) -> bool {
        self.is_late(arrival, now) || self.looks_at_all.get()
    }

    /// Returns true if commands that came so and are answered at `now` are slow.
    #[inline]
    fn is_late(&self, arrival: Arrival, now: u32) -> bool {
        now.wrapping_sub(arrival.read()) >= self.slow_threshold.get()
    }

    /// Returns true if chance chooses the next series of commands to be counted. [`Self::weight`] must be called then.
    #[inline]
    pub fn chooses_next(&self) -> bool {
        self.sampling.is_next()
    }

    /// Returns the number of times that each command of a series counts, which came so and is answered at `now`. `chosen` is what
    /// [`Self::chooses_next`] has returned for it.
    pub fn weight(&self, arrival: Arrival, now: u32, chosen: bool) -> u32 {
        let weight = if chosen { self.sampling.choose(now) } else { 0 };
        // Slow commands are counted whether chosen or not, so none of them stands for others.
        if self.is_late(arrival, now) { 1 } else { weight }
    }

    /// Returns true if a command with these times must be looked at: it is slow, or histograms of commands ask for it, or the
    /// taps `tapped` admit its client.
    #[inline]
    pub fn looks_at(&self, times: &CommandTimes, tapped: u8) -> bool {
        self.is_slow(times) || self.looks_at_all.get() && (self.counts_by_command() || tapped != 0)
    }

    /// Returns true if the slow log shows a command with these times. A command that may wait for other clients is slow only if
    /// it waited before it was sent.
    #[inline]
    pub(super) fn is_slow(&self, times: &CommandTimes) -> bool {
        let time = if times.class == Class::Blocking { times.before_sent() } else { times.so_far() };
        time >= self.slow_threshold.get()
    }

    /// Returns the entries of the slow log, the oldest first.
    pub fn slow_commands(&self) -> Vec<Entry> {
        self.slow_log.entries()
    }

    /// Returns a number that changes when a tap begins or ends.
    #[inline]
    pub fn taps_version(&self) -> u32 {
        self.taps.version()
    }

    /// Finds the taps whose filters admit a client.
    pub fn find_taps(&self, client: &ClientLabel, pending: &PendingTimes) {
        pending.set_tapped(self.taps.of_client(client));
    }

    /// Runs a tap until its reader leaves. Returns at once if too many taps run.
    pub async fn tap(self: Rc<Self>, filter: Arc<TapFilter>, batches: mpsc::Sender<TapBatch>) {
        let Some(number) = self.taps.add(filter) else { return };
        self.apply();
        self.taps.pass_on(number, batches).await;
        self.taps.remove(number);
        self.apply();
    }

    /// Applies a change of the settings or of the taps.
    fn apply(&self) {
        let tapped = self.taps.any();
        self.looks_at_all.set(tapped || self.counts_by_command());
        self.active.set(tapped || self.keeps_histograms());
    }
}
