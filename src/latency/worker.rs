//! What one worker measures, for all its upstreams.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::config::{LatencyConfig, Measure, ShownArguments};
use super::described::Describer;
use super::entry::{ClientLabel, Entry};
use super::pending::PendingTimes;
use super::slow_log::SlowLog;
use super::tap::{TapBatch, TapFilter, Taps};
use super::times::{Class, CommandTimes};
use crate::poll_meter::PollClock;

/// What one worker measures, for all its upstreams: its clock, its slow log and its taps.
pub struct WorkerLatency {
    clock: PollClock,
    /// When the present poll began; see [`PollClock::poll_began`].
    now: Cell<u32>,
    /// True if times are noted at all: for histograms, the slow log or a tap.
    active: Cell<bool>,
    /// True if histograms are kept.
    pub(super) histograms: bool,
    /// True if histograms of single commands are kept.
    pub(super) by_command: bool,
    /// True if each command must be looked at, not only slow ones.
    looks_at_all: Cell<bool>,
    /// A command that takes at least this many microseconds is slow.
    slow_threshold: u32,
    pub(super) arguments: ShownArguments,
    pub(super) describer: Describer,
    pub(super) slow_log: SlowLog,
    pub(super) taps: Taps,
}

impl WorkerLatency {
    /// Creates the measurements of a worker whose polls `clock` measures.
    pub fn new(config: &LatencyConfig, clock: PollClock) -> Rc<Self> {
        let measures = config.measure != Measure::Off;
        let by_command = config.measure == Measure::Commands;
        let micros = u32::try_from(config.slow_threshold.as_micros()).unwrap_or(u32::MAX);
        Rc::new(Self {
            clock,
            now: Cell::new(0),
            active: Cell::new(measures),
            histograms: measures,
            by_command,
            looks_at_all: Cell::new(by_command),
            slow_threshold: if measures && config.slow_length > 0 { micros } else { u32::MAX },
            arguments: config.arguments,
            describer: Describer::new(config.hash_secret),
            slow_log: SlowLog::new(config.slow_length),
            taps: Taps::default(),
        })
    }

    /// Returns true if times are noted at all.
    #[inline]
    pub fn is_active(&self) -> bool {
        self.active.get()
    }

    /// Returns when the present poll began, and makes it the present time for [`Self::now`]. Each poll calls this first.
    #[inline]
    pub fn begin_poll(&self) -> u32 {
        let now = self.clock.poll_began();
        self.now.set(now);
        now
    }

    /// Returns the time that the last [`Self::begin_poll`] returned.
    #[inline]
    pub fn now(&self) -> u32 {
        self.now.get()
    }

    /// Returns true if a command with these times must be looked at: it is slow, or histograms of commands ask for it, or the
    /// taps `tapped` admit its client.
    #[inline]
    pub fn looks_at(&self, times: &CommandTimes, tapped: u8) -> bool {
        self.is_slow(times) || self.looks_at_all.get() && (self.by_command || tapped != 0)
    }

    /// Returns true if the slow log shows a command with these times. A command that may wait for other clients is slow only if
    /// it waited before it was sent.
    #[inline]
    pub(super) fn is_slow(&self, times: &CommandTimes) -> bool {
        let time = if times.class == Class::Blocking { times.before_sent() } else { times.so_far() };
        time >= self.slow_threshold
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
        self.apply_taps();
        self.taps.pass_on(number, batches).await;
        self.taps.remove(number);
        self.apply_taps();
    }

    fn apply_taps(&self) {
        let tapped = self.taps.any();
        self.looks_at_all.set(tapped || self.by_command);
        self.active.set(tapped || self.histograms);
    }
}
