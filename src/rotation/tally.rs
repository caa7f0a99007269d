//! What became of the changes of one set.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::files::Stuck;

/// Counts and tells what became of the changes of one set; all clones count together.
#[derive(Clone, Debug)]
pub struct Tally {
    /// What kind of set it is: `password`, `certificates`.
    pub what: &'static str,
    /// Whose, as the configuration names it: `upstreams.main`.
    pub of: Arc<str>,
    outcomes: watch::Sender<Outcomes>,
}

/// All sets that are followed now; clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Tallies(Arc<Mutex<Vec<Tally>>>);

impl Tallies {
    /// One more.
    pub fn add(&self, tally: Tally) {
        self.lock().push(tally);
    }

    /// A set that is no longer followed.
    pub fn remove(&self, tally: &Tally) {
        self.lock().retain(|known| !known.outcomes.same_channel(&tally.outcomes));
    }

    /// All of them now.
    pub fn all(&self) -> Vec<Tally> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Tally>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of all changes so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Sets that replaced the one before.
    pub replaced: u64,
    /// Sets that could not be used.
    pub refused: u64,
    /// Why the newest cannot be used, while that is so.
    pub fault: Option<Arc<str>>,
    /// What of the newest has no effect before a restart.
    pub restart: Arc<[String]>,
    /// Which read is stuck, while one is: changes are not seen.
    pub stuck: Option<Arc<str>>,
}

impl Tally {
    /// Nothing has changed yet.
    pub fn new(what: &'static str, of: impl Into<Arc<str>>) -> Self {
        Self { what, of: of.into(), outcomes: watch::channel(Outcomes::default()).0 }
    }

    /// What became of all changes so far.
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes.borrow().clone()
    }

    /// A new set is in use.
    pub fn replaced(&self) {
        tracing::info!(what = self.what, of = %self.of, "a new version is used from now on");
        self.outcomes.send_modify(|outcomes| {
            outcomes.replaced += 1;
            outcomes.fault = None;
        });
    }

    /// A new set cannot be used; `why` holds no secret. A fault that has been told is only counted.
    pub fn refused(&self, why: &str) {
        let mut told = false;
        self.outcomes.send_modify(|outcomes| {
            outcomes.refused += 1;
            told = outcomes.fault.as_deref() == Some(why);
            outcomes.fault = Some(why.into());
        });
        if !told {
            tracing::error!(what = self.what, of = %self.of, why, "a new version cannot be used; what was used before stays");
        }
    }

    /// This part of the newest set has no effect before a restart.
    pub fn postponed(&self, parts: &[String]) {
        self.outcomes.send_modify(|outcomes| outcomes.restart = parts.into());
    }

    /// A read is stuck. Logged when it is news.
    pub(super) fn stuck(&self, stuck: &Stuck) {
        let mut news = false;
        self.outcomes.send_modify(|outcomes| {
            news = outcomes.stuck.replace(stuck.to_string().into()).is_none();
        });
        if news {
            tracing::error!(what = self.what, of = %self.of, %stuck, "a file cannot be read; what was used before stays");
        }
    }

    /// No read is stuck any longer.
    pub(super) fn unstuck(&self) {
        if self.outcomes.send_if_modified(|outcomes| outcomes.stuck.take().is_some()) {
            tracing::info!(what = self.what, of = %self.of, "a file that could not be read can be read again");
        }
    }

    /// The fault is over although nothing was replaced.
    pub(super) fn cleared(&self) {
        self.outcomes.send_if_modified(|outcomes| outcomes.fault.take().is_some());
    }
}
