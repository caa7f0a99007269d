//! Counts and logs the changes of one set: files that belong together, or credentials.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::files::Stuck;

/// Counts and logs the changes of one set. Clones share one state.
#[derive(Clone, Debug)]
pub struct Tally {
    /// The kind of the set: `password`, `certificates`.
    pub kind: &'static str,
    /// What the set belongs to, as the configuration names it: `upstreams.main`.
    pub name: Arc<str>,
    outcomes: watch::Sender<Outcomes>,
}

/// Lists all sets that respgate follows now. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Tallies(Arc<Mutex<Vec<Tally>>>);

impl Tallies {
    /// Adds a set.
    pub fn add(&self, tally: Tally) {
        self.lock().push(tally);
    }

    /// Removes a set that respgate no longer follows.
    pub fn remove(&self, tally: &Tally) {
        self.lock().retain(|known| !known.outcomes.same_channel(&tally.outcomes));
    }

    /// Returns all sets.
    pub fn all(&self) -> Vec<Tally> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Tally>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The results of all changes so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// The number of sets that replaced the one before.
    pub replaced: u64,
    /// The number of sets that could not be used.
    pub refused: u64,
    /// Why the newest set cannot be used; `None` if it is in use.
    pub error: Option<Arc<str>>,
    /// The parts of the newest set that have no effect before a restart.
    pub restart: Arc<[String]>,
    /// The read that is stuck now, if any; respgate sees no changes meanwhile.
    pub stuck: Option<Arc<str>>,
}

impl Tally {
    /// Creates a tally without changes.
    pub fn new(kind: &'static str, name: impl Into<Arc<str>>) -> Self {
        Self { kind, name: name.into(), outcomes: watch::channel(Outcomes::default()).0 }
    }

    /// Returns the results of all changes so far.
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes.borrow().clone()
    }

    /// Notes that a new set is in use.
    pub fn replaced(&self) {
        tracing::info!(kind = self.kind, name = %self.name, "respgate uses the new version from now on");
        self.outcomes.send_modify(|outcomes| {
            outcomes.replaced += 1;
            outcomes.error = None;
        });
    }

    /// Notes that a new set cannot be used. `why` contains no secret. A reason that equals the last one is counted but
    /// not logged again.
    pub fn refused(&self, why: &str) {
        let mut logged = false;
        self.outcomes.send_modify(|outcomes| {
            outcomes.refused += 1;
            logged = outcomes.error.as_deref() == Some(why);
            outcomes.error = Some(why.into());
        });
        if !logged {
            tracing::error!(kind = self.kind, name = %self.name, why, "respgate cannot use the new version and keeps the former one");
        }
    }

    /// Sets the parts of the newest set that have no effect before a restart.
    pub fn postponed(&self, parts: &[String]) {
        self.outcomes.send_modify(|outcomes| outcomes.restart = parts.into());
    }

    /// Notes that a read is stuck. Logs it if none was stuck before.
    pub(super) fn stuck(&self, stuck: &Stuck) {
        let mut changed = false;
        self.outcomes.send_modify(|outcomes| {
            changed = outcomes.stuck.replace(stuck.to_string().into()).is_none();
        });
        if changed {
            tracing::error!(kind = self.kind, name = %self.name, %stuck, "respgate cannot read a file and keeps the former version");
        }
    }

    /// Notes that no read is stuck any longer.
    pub(super) fn unstuck(&self) {
        if self.outcomes.send_if_modified(|outcomes| outcomes.stuck.take().is_some()) {
            tracing::info!(kind = self.kind, name = %self.name, "respgate can read the file again");
        }
    }

    /// Notes that the set in use is good again although no new one replaced it.
    pub(super) fn cleared(&self) {
        self.outcomes.send_if_modified(|outcomes| outcomes.error.take().is_some());
    }
}
