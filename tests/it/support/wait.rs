//! Polling with a deadline: no test sleeps and hopes.

use std::thread;
use std::time::{Duration, Instant};

/// Long enough for a busy two-core machine; a healthy run never gets near it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(10);

/// Calls `probe` until it gives a value, for at most `limit`; panics with `what` otherwise.
#[track_caller]
pub fn until_some<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} in vain for {what}");
        thread::sleep(STEP);
    }
}

/// Calls `probe` until it says true, for at most [`PATIENCE`]; panics with `what` otherwise.
#[track_caller]
pub fn until(what: &str, mut probe: impl FnMut() -> bool) {
    until_some(what, PATIENCE, || probe().then_some(()));
}
