//! What may change while respgate runs without a restart: sets of files that are read whole, and credentials.
//!
//! A [`Source`] names the files of a set and how to load it. [`follow`] looks at their content once in an interval, so
//! that it does not matter how they are replaced: Kubernetes swaps a symbolic link, a tool renames over them, an editor
//! writes in place. A set that loads replaces the old one; one that does not is reported once, and the old one stays.
//! A set that is only half written is given one interval to become whole before it counts as bad.
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
pub mod source;
mod tally;

pub use tally::{Tallies, Tally};

use std::future::ready;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use self::changes::Changes;
use self::digest::Digester;
use crate::files::{self, Failed, Loader};

/// The pause after the first read that got stuck; each further one makes it [`RETRY_FACTOR`] times as long.
const RETRY: Duration = Duration::from_secs(30);
const RETRY_FACTOR: u32 = 4;

/// A set of files that is read and checked whole.
pub struct Source<T> {
    paths: Vec<PathBuf>,
    load: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    /// How long one file operation may take.
    limit: Duration,
}

impl<T> Source<T> {
    /// `paths`: the files that the set consists of; of a folder, the files in it count. `load` reads and checks the
    /// set, or says why it cannot be used; it may block, and its text must hold no secret.
    pub fn new(paths: Vec<PathBuf>, load: impl Fn() -> Result<T, String> + Send + Sync + 'static) -> Self {
        Self { paths, load: Box::new(load), limit: files::LIMIT }
    }
}

/// Loads the set, and again whenever the content of its files has changed; gives every one that loads to `adopt`.
/// Never ends. The first load is not counted: whoever starts this has read the files a moment before, and only a
/// change since then would make a difference. Files are read on threads of their own. A read that gets stuck is
/// reported and tried again on another thread, which happens a bounded number of times while the first ones are stuck.
/// A set of which a part came through a pipe is not read again.
pub async fn follow<T: Send + 'static>(
    source: Source<T>,
    interval: Duration,
    tally: Tally,
    mut adopt: impl FnMut(T),
) {
    follow_promptly(source, interval, tally, &Notify::new(), move |set, replaces| {
        adopt(set);
        ready(replaces)
    })
    .await;
}

/// As [`follow`], and looks at once when `prompt` says so: then the set is whole, and counts as bad if it is. A set is
/// counted when `adopt` has taken it, and says that it is another one than before; `adopt` is told whether there was one
/// before.
pub async fn follow_promptly<T: Send + 'static, F: Future<Output = bool>>(
    source: Source<T>,
    interval: Duration,
    tally: Tally,
    prompt: &Notify,
    mut adopt: impl FnMut(T, bool) -> F,
) {
    let piped = source.paths.iter().any(|path| files::is_pipe(path));
    let mut reader = Reader::new(source, tally.clone());
    let mut changes = Changes::default();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let prompted = tokio::select! {
            _ = ticks.tick() => false,
            () = prompt.notified() => true,
        };
        if piped {
            if prompted {
                tracing::info!(what = tally.what, of = %tally.of, "it came through a pipe, which cannot be read again");
            }
            continue;
        }
        let Some(digest) = reader.digest(prompted).await else { continue };
        if !changes.worth_loading(digest) {
            if prompted {
                tracing::info!(what = tally.what, of = %tally.of, "nothing has changed");
            }
            continue;
        }
        let Some(loaded) = reader.load(prompted).await else { continue };
        match loaded {
            Ok(set) => {
                let replaces = changes.adopted(digest);
                match adopt(set, replaces).await {
                    true => tally.replaced(),
                    false => tally.cleared(),
                }
            }
            Err(why) if changes.failed(digest) || (prompted && changes.failed(digest)) => tally.refused(&why),
            Err(_) => {}
        }
    }
}

/// Reads one set, and reports reads that get stuck.
struct Reader<T> {
    source: Arc<Source<T>>,
    digester: Arc<Digester>,
    loader: Loader,
    tally: Tally,
    /// Not before this is a read tried again unless somebody asks, after one got stuck.
    retry: Option<Instant>,
    pause: Duration,
}

impl<T: Send + 'static> Reader<T> {
    fn new(source: Source<T>, tally: Tally) -> Self {
        let loader = Loader::new(source.limit);
        Self { source: Arc::new(source), digester: Arc::default(), loader, tally, retry: None, pause: RETRY }
    }

    /// The content of the files now. `None`: it cannot be told, or a stuck read is not tried again yet.
    async fn digest(&mut self, prompted: bool) -> Option<digest::Digest> {
        let (source, digester) = (self.source.clone(), self.digester.clone());
        self.run(prompted, move || digester.digest(&source.paths)).await
    }

    /// The set, or why it cannot be used.
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
            // Of the former, the tally has been told; the latter passes.
            Err(Failed::Exhausted | Failed::NoThread) => None,
        }
    }
}

#[cfg(test)]
mod tests;
