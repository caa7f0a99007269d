//! How many drills run at once, and whether the machine kept time while one ran.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Drills at once: each runs seven servers and eight busy clients.
const AT_ONCE: usize = 2;
/// A thread that wakes later than this was on a machine that stood still: what its clock says of others means nothing.
const LATE: Duration = Duration::from_millis(50);

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// A drill's turn, while it lives.
pub struct Turn {
    over: Arc<AtomicBool>,
    /// The worst lateness, in microseconds.
    late: Arc<AtomicU64>,
}

impl Turn {
    /// Waits for a turn.
    pub fn wait() -> Self {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= AT_ONCE {
            running = ENDED.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
        let turn = Self { over: Arc::default(), late: Arc::default() };
        let (over, late) = (turn.over.clone(), turn.late.clone());
        thread::spawn(move || {
            const STEP: Duration = Duration::from_millis(2);
            while !over.load(Ordering::Relaxed) {
                let asleep = Instant::now();
                thread::sleep(STEP);
                let lateness = asleep.elapsed().saturating_sub(STEP).as_micros() as u64;
                late.fetch_max(lateness, Ordering::Relaxed);
            }
        });
        turn
    }

    /// Fails if something took longer than it may, unless the machine itself stood still meanwhile.
    #[track_caller]
    pub fn expect_within(&self, limit: Duration, took: Duration, what: &str) {
        let late = Duration::from_micros(self.late.load(Ordering::Relaxed));
        if took > limit && late > LATE {
            eprintln!("not judged, the machine stood still for {late:?}: {what} took {took:?} of {limit:?}");
            return;
        }
        assert!(
            took <= limit,
            "{what} took {took:?}, more than {limit:?} (the machine was late by {late:?} at most)"
        );
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}
