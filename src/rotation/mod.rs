//! Follows what may change while respgate runs, without a restart: sets of files, each read as a whole, and
//! credentials.
//!
//! A [`Source`] names the files of a set and how to load it. [`follow`] reads the content of the files once per
//! interval, so it does not matter how they are replaced: Kubernetes swaps a symbolic link, a tool renames a new file
//! over the old one, an editor writes in place. A set that loads replaces the old one. A set that does not load is
//! reported once, and the old one stays in use. A set counts as bad only if its content has not changed for one
//! interval, because a writer may have written half of it.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use respgate::rotation::{self, Source, Tally};
//! # async fn example(key: std::path::PathBuf) {
//! let source = Source::new(vec![key.clone()], move || std::fs::read(&key).map_err(|error| error.to_string()));
//! let tally = Tally::new("certificates", "listeners.app");
//! let (sender, _newest) = tokio::sync::watch::channel(Vec::new());
//! let adopt = move |set| { sender.send_replace(set); };
//! tokio::spawn(rotation::follow(source, Duration::from_secs(1), tally, adopt));
//! # }
//! ```

mod changes;
mod command;
pub mod credentials;
pub mod denials;
mod digest;
pub mod login;
mod prompt;
pub mod source;
mod tally;

pub use prompt::{Prompter, Prompts, ReadOutcome, prompts};
pub use tally::{Tallies, Tally};

use std::future::ready;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::changes::Changes;
use self::digest::Digester;
use crate::files::{self, Failed, Loader};

/// The pause after the first read that gets stuck; each further stuck read makes the pause [`RETRY_FACTOR`] times as
/// long.
const RETRY: Duration = Duration::from_secs(30);
const RETRY_FACTOR: u32 = 4;

/// A set of files that is read and checked as a whole.
pub struct Source<T> {
    paths: Vec<PathBuf>,
    load: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    /// The time limit of one file operation.
    limit: Duration,
}

impl<T> Source<T> {
    /// Creates a source. `paths` are the files of the set; a folder stands for the files in it. `load` reads and checks
    /// the set, or returns the reason why it cannot be used. `load` may block; its text must contain no secret.
    pub fn new(paths: Vec<PathBuf>, load: impl Fn() -> Result<T, String> + Send + Sync + 'static) -> Self {
        Self { paths, load: Box::new(load), limit: files::LIMIT }
    }
}

/// Loads the set, loads it again whenever the content of its files changes, and passes each set that loads to `adopt`.
/// Never returns.
///
/// The tally does not count the first load: the caller has just read the files itself, and only a later change makes a
/// difference. A separate thread reads the files. If a read gets stuck, `follow` reports it and tries again on another
/// thread, a bounded number of times while the first reads are stuck. `follow` does not read a set again if a part of
/// it came through a pipe.
pub async fn follow<T: Send + 'static>(
    source: Source<T>,
    interval: Duration,
    tally: Tally,
    mut adopt: impl FnMut(T),
) {
    follow_promptly(source, interval, tally, Prompts::none(), move |set, replaces| {
        adopt(set);
        ready(Ok(replaces))
    })
    .await;
}

/// Like [`follow`], but also reads the files at once for each of the `prompts`. The set is complete then, so a set that
/// does not load counts as bad at once. `adopt` receives the set and whether another set was in use before; it returns
/// true if the set differs from that one, and the tally counts only such sets. If it returns an error, the set counts as
/// one that does not load.
pub async fn follow_promptly<T: Send + 'static, F: Future<Output = Result<bool, NotAdopted>>>(
    source: Source<T>,
    interval: Duration,
    tally: Tally,
    mut prompts: Prompts,
    mut adopt: impl FnMut(T, bool) -> F,
) {
    let piped = source.paths.iter().any(|path| files::is_pipe(path));
    let mut reader = Reader::new(source, tally.clone());
    let mut changes = Changes::default();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let prompt = tokio::select! {
            _ = ticks.tick() => None,
            prompt = prompts.next() => Some(prompt),
        };
        let outcome = match piped {
            true => ReadOutcome::Piped,
            false => read(&mut reader, &mut changes, &tally, prompt.is_some(), &mut adopt).await,
        };
        if let Some(prompt) = prompt {
            match &outcome {
                ReadOutcome::Piped => {
                    tracing::info!(kind = tally.kind, name = %tally.name, "respgate cannot read this again: it came through a pipe");
                }
                ReadOutcome::Unchanged => {
                    tracing::info!(kind = tally.kind, name = %tally.name, "nothing has changed");
                }
                // The tally logs these.
                ReadOutcome::Replaced | ReadOutcome::Refused(_) | ReadOutcome::Stuck => {}
            }
            prompt.answer(outcome);
        }
    }
}

/// Why a set that loaded is not in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAdopted {
    /// The same set may be usable later, so it is tried again at each interval.
    ForNow(String),
    /// The set is tried again only if its content changes, or when prompted.
    ForGood(String),
}

/// Reads the files once, and passes a new set to `adopt`.
async fn read<T: Send + 'static, F: Future<Output = Result<bool, NotAdopted>>>(
    reader: &mut Reader<T>,
    changes: &mut Changes,
    tally: &Tally,
    prompted: bool,
    adopt: &mut impl FnMut(T, bool) -> F,
) -> ReadOutcome {
    let Some(digest) = reader.digest(prompted).await else { return ReadOutcome::Stuck };
    if !changes.worth_loading(digest, prompted) {
        // A set that was refused before, and has not changed, is still the newest one.
        return tally.outcomes().error.map_or(ReadOutcome::Unchanged, ReadOutcome::Refused);
    }
    let Some(loaded) = reader.load(prompted).await else { return ReadOutcome::Stuck };
    let adopted = match loaded {
        Ok(set) => adopt(set, changes.has_begun()).await,
        Err(why) => Err(NotAdopted::ForNow(why)),
    };
    match adopted {
        Ok(differs) => {
            changes.adopted(digest);
            if differs {
                tally.replaced();
                ReadOutcome::Replaced
            } else {
                tally.cleared();
                ReadOutcome::Unchanged
            }
        }
        Err(NotAdopted::ForGood(why)) => {
            changes.refused(digest);
            tally.refused(&why);
            ReadOutcome::Refused(why.into())
        }
        Err(NotAdopted::ForNow(why)) => {
            // A prompt says that the set is complete: the second `failed` counts it as seen twice, so that it is
            // reported at once.
            if changes.failed(digest) || (prompted && changes.failed(digest)) {
                tally.refused(&why);
            }
            ReadOutcome::Refused(why.into())
        }
    }
}

/// Reads one set of files and reports reads that get stuck.
struct Reader<T> {
    source: Arc<Source<T>>,
    digester: Arc<Digester>,
    loader: Loader,
    tally: Tally,
    /// After a stuck read, the time before which only a prompt causes another read.
    retry: Option<Instant>,
    pause: Duration,
}

impl<T: Send + 'static> Reader<T> {
    fn new(source: Source<T>, tally: Tally) -> Self {
        let loader = Loader::new(source.limit);
        Self { source: Arc::new(source), digester: Arc::default(), loader, tally, retry: None, pause: RETRY }
    }

    /// Returns the digest of the files' content now. `None`: the read is stuck, or a stuck read is not tried again yet.
    async fn digest(&mut self, prompted: bool) -> Option<digest::Digest> {
        let (source, digester) = (self.source.clone(), self.digester.clone());
        self.run(prompted, move || digester.digest(&source.paths)).await
    }

    /// Loads the set, or returns the reason why it cannot be used. The outer `None` is as in [`Reader::digest`].
    async fn load(&mut self, prompted: bool) -> Option<Result<T, String>> {
        let source = self.source.clone();
        self.run(prompted, move || (source.load)()).await
    }

    async fn run<R: Send + 'static>(
        &mut self,
        prompted: bool,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Option<R> {
        let waits = self.retry.is_some_and(|at| Instant::now() < at);
        if waits && !prompted && self.loader.stuck() > 0 {
            return None;
        }
        match self.loader.run(job).await {
            Ok(result) => {
                (self.retry, self.pause) = (None, RETRY);
                self.tally.unstuck();
                Some(result)
            }
            Err(Failed::Stuck(stuck)) => {
                self.tally.stuck(&stuck);
                self.retry = Some(Instant::now() + self.pause);
                self.pause = self.pause.saturating_mul(RETRY_FACTOR);
                None
            }
            // The tally has reported an exhausted loader already, and a missing thread is temporary.
            Err(Failed::Exhausted | Failed::NoThread) => None,
        }
    }
}

#[cfg(test)]
mod tests;
