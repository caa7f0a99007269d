//! Threads that read files, and the supervision that abandons a stuck one.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

/// Maximum number of stuck threads of one [`Loader`]. Nothing can end a read that is stuck in the
/// kernel, so a path that hangs costs at most this many threads.
const MAX_STUCK: usize = 4;

/// The path that a thread works on, and when it began; `None` between file operations.
#[derive(Clone, Default)]
struct Progress(Arc<Mutex<Option<(PathBuf, Instant)>>>);

thread_local! {
    /// The progress of this thread while it is supervised.
    static PROGRESS: RefCell<Option<Progress>> = const { RefCell::new(None) };
}

impl Progress {
    fn set(&self, now: Option<(PathBuf, Instant)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Returns how long to go on waiting. Returns the stuck operation if `limit` has passed. Work
    /// between file operations has no limit, because it waits for nothing.
    fn left(&self, limit: Duration) -> Result<Duration, Stuck> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(limit),
            Some((path, since)) => match limit.checked_sub(since.elapsed()) {
                Some(left) if !left.is_zero() => Ok(left),
                _ => Err(Stuck { path: path.clone(), limit }),
            },
        }
    }

    /// Runs `job` on this thread and notes its file operations here.
    fn watched<T>(self, job: impl FnOnce() -> T) -> T {
        PROGRESS.with_borrow_mut(|progress| *progress = Some(self));
        job()
    }
}

/// Clears the noted path when it is dropped.
pub struct Noted(());

/// Notes that this thread works on `path` until the result is dropped. It does nothing on an
/// unsupervised thread.
pub fn note(path: &Path) -> Noted {
    PROGRESS.with_borrow(|progress| {
        if let Some(progress) = progress {
            progress.set(Some((path.to_owned(), Instant::now())));
        }
    });
    Noted(())
}

impl Drop for Noted {
    fn drop(&mut self) {
        PROGRESS.with_borrow(|progress| {
            if let Some(progress) = progress {
                progress.set(None);
            }
        });
    }
}

/// A file operation that has exceeded its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The file or folder.
    pub path: PathBuf,
    /// The time that the operation was allowed.
    pub limit: Duration,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, seconds) = (self.path.display(), self.limit.as_secs());
        write!(
            f,
            "reading {path} has not ended within {seconds} s; check its file system (NFS, FUSE), or the program that \
             writes it if it is a pipe"
        )
    }
}

/// Why nothing was loaded.
#[derive(Debug)]
pub enum Failed {
    /// A file operation is stuck. Its thread is abandoned.
    Stuck(Stuck),
    /// `MAX_STUCK` threads are stuck, so no further thread was started.
    Exhausted,
    /// The system could not start a thread.
    NoThread,
}

/// Runs `job` on a thread of its own and waits for its result while no file operation takes longer
/// than `limit`.
///
/// # Errors
/// Returns the file operation that took longer. The abandoned thread ends with the process.
pub fn supervised<T: Send + 'static>(
    limit: Duration,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failed> {
    let (progress, (answer, answered)) = (Progress::default(), channel());
    spawn(progress.clone(), move || {
        let _ = answer.send(job());
    })?;
    let mut wait = limit;
    loop {
        match answered.recv_timeout(wait) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Disconnected) => return Err(Failed::NoThread),
            Err(RecvTimeoutError::Timeout) => wait = progress.left(limit).map_err(Failed::Stuck)?,
        }
    }
}

/// Loads one set of files repeatedly, each time on a thread of its own.
pub struct Loader {
    limit: Duration,
    /// Number of the loader's threads that run now.
    threads: Arc<AtomicUsize>,
}

/// Counts a thread while it runs.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Loader {
    /// Creates a loader that abandons a thread when one file operation takes longer than `limit`.
    pub fn new(limit: Duration) -> Self {
        Self { limit, threads: Arc::default() }
    }

    /// Returns the number of abandoned threads that still run.
    pub fn stuck(&self) -> usize {
        self.threads.load(Ordering::Relaxed)
    }

    /// Runs `job` on a thread of its own and returns its result. Only one call may run at a time.
    ///
    /// # Errors
    /// Returns why there is no result.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failed> {
        if self.stuck() >= MAX_STUCK {
            return Err(Failed::Exhausted);
        }
        self.threads.fetch_add(1, Ordering::Relaxed);
        let running = Running(self.threads.clone());
        let (progress, (answer, mut answered)) = (Progress::default(), oneshot::channel());
        spawn(progress.clone(), move || {
            let result = job();
            drop(running);
            let _ = answer.send(result);
        })?;
        let mut wait = self.limit;
        loop {
            match timeout(wait, &mut answered).await {
                Ok(Ok(result)) => return Ok(result),
                Ok(Err(_)) => return Err(Failed::NoThread),
                Err(_) => wait = progress.left(self.limit).map_err(Failed::Stuck)?,
            }
        }
    }
}

fn spawn(progress: Progress, job: impl FnOnce() + Send + 'static) -> Result<(), Failed> {
    let thread = thread::Builder::new().name("files".into());
    thread.spawn(move || progress.watched(job)).map(drop).map_err(|_| Failed::NoThread)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    /// Returns a job that reads until its sender is dropped, and that sender.
    fn hanging() -> (Sender<()>, impl FnOnce() + Send + 'static) {
        let (end, ended) = channel::<()>();
        (end, move || {
            let _noted = note(Path::new("/mnt/dead/file"));
            let _ = ended.recv();
        })
    }

    #[test]
    fn a_read_that_hangs_is_named() {
        let (_end, job) = hanging();
        let Err(Failed::Stuck(stuck)) = supervised(SHORT, job) else { panic!("not stuck") };
        assert!(stuck.to_string().contains("/mnt/dead/file"), "{stuck}");
        assert!(matches!(supervised(SHORT, || 7), Ok(7)));
    }

    #[test]
    fn work_that_is_no_read_has_no_limit() {
        let slow = || {
            drop(note(Path::new("/read")));
            thread::sleep(5 * SHORT);
            7
        };
        assert!(matches!(supervised(SHORT, slow), Ok(7)));
    }

    #[tokio::test]
    async fn stuck_threads_are_bounded_and_come_back() {
        let loader = Loader::new(SHORT);
        let mut ends = Vec::new();
        for _ in 0..MAX_STUCK {
            let (end, job) = hanging();
            ends.push(end);
            assert!(matches!(loader.run(job).await, Err(Failed::Stuck(_))));
        }
        assert!(matches!(loader.run(|| 7).await, Err(Failed::Exhausted)));
        assert_eq!(loader.stuck(), MAX_STUCK);
        ends.pop();
        while loader.stuck() == MAX_STUCK {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(matches!(loader.run(|| 7).await, Ok(7)));
    }
}
