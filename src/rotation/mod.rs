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
use tokio::task::spawn_blocking;

use self::changes::Changes;
use self::digest::Digester;

/// A set of files that is read and checked whole.
pub struct Source<T> {
    paths: Vec<PathBuf>,
    load: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
}

impl<T> Source<T> {
    /// `paths`: the files that the set consists of; of a folder, the files in it count. `load` reads and checks the
    /// set, or says why it cannot be used; it may block, and its text must hold no secret.
    pub fn new(paths: Vec<PathBuf>, load: impl Fn() -> Result<T, String> + Send + Sync + 'static) -> Self {
        Self { paths, load: Box::new(load) }
    }
}

/// Loads the set, and again whenever the content of its files has changed; gives every one that loads to `adopt`.
/// Never ends. The first load is not counted: whoever starts this has read the files a moment before, and only a
/// change since then would make a difference. Files are read on threads of their own.
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
    let source = Arc::new(source);
    let digester = Arc::new(Digester::default());
    let mut changes = Changes::default();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let prompted = tokio::select! {
            _ = ticks.tick() => false,
            () = prompt.notified() => true,
        };
        let (reads, reader) = (source.clone(), digester.clone());
        let Ok(digest) = spawn_blocking(move || reader.digest(&reads.paths)).await else { continue };
        if !changes.worth_loading(digest) {
            if prompted {
                tracing::info!(what = tally.what, of = %tally.of, "nothing has changed");
            }
            continue;
        }
        let loads = source.clone();
        let Ok(loaded) = spawn_blocking(move || (loads.load)()).await else { continue };
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

#[cfg(test)]
mod tests;
