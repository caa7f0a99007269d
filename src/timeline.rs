//! Records the steps of each failover and their times. The workers write; the log and the admin
//! listener read.

mod entry;

pub use entry::Timeline;

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
    pub fn settled(&self, resent: u64, unknown: u64, migrated: u64) {
        if let Some(open) = &mut self.lock().open {
            open.line.resent += resent;
            open.line.unknown += unknown;
            open.line.migrated += migrated;
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

    /// Returns the timeline of the failover under way and the time since its first sign, if there is one.
    pub fn under_way(&self) -> Option<(Timeline, Duration)> {
        self.lock().open.as_ref().map(|open| (open.line.clone(), open.since.elapsed()))
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
            migrated: 0,
        };
        Self { since: Instant::now(), left: current.generation, announced: false, line }
    }
}

#[cfg(test)]
mod tests;
