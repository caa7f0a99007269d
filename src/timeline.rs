//! Records the steps of each failover and their times. The workers write; the log and the admin
//! listener read.

mod entry;

pub use entry::Timeline;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::cluster::ShardNumber;
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
/// failover. A handle reports about one primary: the upstream's, or that of one shard of a cluster.
#[derive(Clone, Default)]
pub struct Timelines {
    log: Arc<Mutex<TimelineLog>>,
    /// The shard of a cluster about whose primary this handle reports.
    shard: Option<ShardNumber>,
}

#[derive(Default)]
struct TimelineLog {
    /// The primaries that are followed, by their shard. `None` stands for the upstream's primary,
    /// which in a cluster is that of one of the shards.
    followed: BTreeMap<Option<ShardNumber>, Followed>,
    past: VecDeque<Timeline>,
    /// Those timelines of `past` that are not logged yet.
    unlogged: VecDeque<Timeline>,
    totals: Totals,
}

/// A primary, and the failover away from it.
#[derive(Default)]
struct Followed {
    current: Option<Arc<Primary>>,
    open: Option<Open>,
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
    /// Returns the handle that reports about the primary of one shard.
    pub fn of_shard(&self, shard: ShardNumber) -> Self {
        Self { log: self.log.clone(), shard: Some(shard) }
    }

    /// Records that the shard of this handle is followed no more.
    pub fn forget_shard(&self) {
        let mut log = self.lock();
        if self.shard.is_some() {
            log.close(self.shard);
            log.followed.remove(&self.shard);
        }
    }

    /// Records that the upstream is no cluster any more. The failover of its home shard, if one is under way, is the upstream's from now
    /// on.
    pub fn leave_cluster(&self) {
        let mut log = self.lock();
        let Some(home) = log.current(None) else { return };
        let shards = std::mem::take(&mut log.followed);
        let mut own = Followed { current: Some(home.clone()), open: None };
        for (shard, followed) in shards {
            let open = followed.open.filter(|open| shard.is_none() || open.left == home.generation);
            own.open = own.open.or(open);
        }
        if let Some(open) = &mut own.open {
            open.line.shard = None;
        }
        log.followed.insert(None, own);
    }

    /// Records a sign that the primary of the generation `of` fails. The first sign opens a
    /// timeline. Commands wait from the first sign on. If `announced` is false, the sign is only a
    /// lost connection, which may mean nothing.
    pub fn sign(&self, of: Generation, sign: &str, announced: bool) {
        let mut log = self.lock();
        let Some(current) = log.current(self.shard).filter(|current| current.generation == of) else {
            return;
        };
        let Some(open) = log.open_for(self.shard, sign, &current) else { return };
        open.announced |= announced;
        open.line.held.get_or_insert_with(|| open.since.elapsed());
    }

    /// Records that commands are sent again. Drops the open timeline if they go to the same primary
    /// as before.
    pub fn dismissed_unless_switched(&self, generation: Option<Generation>) {
        let mut log = self.lock();
        let Some(Followed { current, open }) = log.followed.get_mut(&self.shard) else { return };
        let same = open.as_ref().is_some_and(|open| open.line.named.is_none());
        if same && current.as_ref().map(|current| current.generation) == generation {
            *open = None;
        }
    }

    /// Records a successful connection to the primary of this generation. A lost connection was
    /// then no sign of a failover.
    pub fn reached(&self, generation: Generation) {
        let mut log = self.lock();
        let Some(Followed { current, open }) = log.followed.get_mut(&self.shard) else { return };
        let unannounced = open.as_ref().is_some_and(|open| !open.announced && open.line.named.is_none());
        if unannounced && current.as_ref().is_some_and(|current| current.generation == generation) {
            *open = None;
        }
    }

    /// Records that respgate no longer follows the primary of the generation `left`. `drained` is
    /// true if this worker had no unanswered request there.
    pub fn named(&self, left: Generation, drained: bool) {
        let mut log = self.lock();
        let Some(current) = log.current(self.shard) else { return };
        if current.generation == left {
            log.open_for(self.shard, ANOTHER, &current);
        }
        // The first worker opened the timeline; later workers add to it.
        let Some(open) = log.open(self.shard).filter(|open| open.left == left) else { return };
        // All workers must have been drained. The first worker (`named` is still `None`) sets the
        // value, and later ones can only clear it.
        open.line.drained = drained && (open.line.drained || open.line.named.is_none());
        open.line.named.get_or_insert_with(|| open.since.elapsed());
    }

    /// Records a verified primary. If it is newer than the current one, this is a failover, even if
    /// no worker saw a sign.
    pub fn verified(&self, primary: &Arc<Primary>) {
        let mut log = self.lock();
        let Some(current) = log.current(self.shard) else {
            log.followed.entry(self.shard).or_default().current = Some(primary.clone());
            return;
        };
        // A late report about a former primary changes nothing.
        if current.generation > primary.generation {
            return;
        }
        if current.generation == primary.generation {
            // The same node is back: that was an outage, not a failover.
            log.drop_open_if(self.shard, |line| line.verified.is_none() && line.named.is_some());
            return;
        }
        if let Some(open) = log.open_for(self.shard, ANOTHER, &current) {
            open.line.named.get_or_insert_with(|| open.since.elapsed());
            open.line.to = primary.address.to_string();
            open.line.generation = primary.generation;
            open.line.verified = Some(open.since.elapsed());
        }
        log.followed.entry(self.shard).or_default().current = Some(primary.clone());
    }

    /// Records a reply from the primary of this generation.
    pub fn succeeded(&self, generation: Generation) {
        if let Some(open) = self.lock().open(self.shard)
            && open.line.generation == generation
            && open.line.verified.is_some()
        {
            open.line.first_success.get_or_insert_with(|| open.since.elapsed());
        }
    }

    /// Adds the numbers of resent commands, unknown outcomes and moved sessions.
    pub fn settled(&self, resent: u64, unknown: u64, migrated: u64) {
        if let Some(open) = self.lock().open(self.shard) {
            open.line.resent += resent;
            open.line.unknown += unknown;
            open.line.migrated += migrated;
        }
    }

    /// Counts one more client whose commands wait.
    pub fn client_held(&self) {
        if let Some(open) = self.lock().open(self.shard) {
            open.line.clients_held += 1;
        }
    }

    /// Closes the open timelines whose failovers are over. Returns every closed timeline once, the
    /// oldest first.
    pub fn finished(&self) -> Vec<Timeline> {
        let mut log = self.lock();
        let shards: Vec<_> = log.followed.keys().copied().collect();
        for shard in shards {
            let Some(open) = log.open(shard) else { continue };
            let age = open.since.elapsed();
            let (success, verified) = (open.line.first_success, open.line.verified);
            if success.is_some_and(|at| age >= at + SETTLING) || verified.is_some_and(|at| age >= at + UNUSED)
            {
                log.close(shard);
            } else if !open.announced && open.line.named.is_none() && age >= STALE {
                log.drop_open_if(shard, |_| true);
            }
        }
        std::mem::take(&mut log.unlogged).into()
    }

    /// Returns the past failovers, the newest last.
    pub fn past(&self) -> Vec<Timeline> {
        self.lock().past.iter().cloned().collect()
    }

    /// Returns the timeline of the oldest failover under way and the time since its first sign, if there is one.
    pub fn under_way(&self) -> Option<(Timeline, Duration)> {
        let log = self.lock();
        let open = log.followed.values().filter_map(|followed| followed.open.as_ref());
        open.min_by_key(|open| open.since).map(|open| (open.line.clone(), open.since.elapsed()))
    }

    /// Returns the numbers of failovers since the start.
    pub fn totals(&self) -> Totals {
        self.lock().totals
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, TimelineLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TimelineLog {
    fn current(&self, shard: Option<ShardNumber>) -> Option<Arc<Primary>> {
        self.followed.get(&shard)?.current.clone()
    }

    fn open(&mut self, shard: Option<ShardNumber>) -> Option<&mut Open> {
        self.followed.get_mut(&shard)?.open.as_mut()
    }

    /// Returns the timeline of the failover away from `current`. Closes an open timeline of an
    /// earlier failover. Returns `None` for the upstream's primary if the shards are followed: one
    /// of them reports the same failover.
    fn open_for(&mut self, shard: Option<ShardNumber>, sign: &str, current: &Primary) -> Option<&mut Open> {
        if self.open(shard).is_some_and(|open| open.left != current.generation) {
            self.close(shard);
        }
        let reported = shard.is_none() && self.followed.keys().any(Option::is_some);
        let open = &mut self.followed.get_mut(&shard)?.open;
        if reported {
            open.as_mut()
        } else {
            Some(open.get_or_insert_with(|| Open::new(shard, sign, current)))
        }
    }

    fn drop_open_if(&mut self, shard: Option<ShardNumber>, is: impl FnOnce(&Timeline) -> bool) {
        if self.open(shard).is_some_and(|open| is(&open.line))
            && let Some(followed) = self.followed.get_mut(&shard)
        {
            followed.open = None;
        }
    }

    /// Closes the open timeline. Keeps it only if its failover reached a newer primary.
    fn close(&mut self, shard: Option<ShardNumber>) {
        let open = self.followed.get_mut(&shard).and_then(|followed| followed.open.take());
        let Some(Open { line, .. }) = open.filter(|open| open.line.verified.is_some()) else { return };
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
    fn new(shard: Option<ShardNumber>, sign: &str, current: &Primary) -> Self {
        let line = Timeline {
            shard,
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
