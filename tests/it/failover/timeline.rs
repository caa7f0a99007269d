//! What happened when, for whoever has to find out why a drill failed.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Shared by all threads of a drill; printed if the test fails.
#[derive(Clone)]
pub struct Timeline {
    start: Instant,
    entries: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Timeline {
    pub fn start() -> Self {
        Self { start: Instant::now(), entries: Arc::default() }
    }

    /// Time since the drill began.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Writes down that something happened now.
    pub fn note(&self, what: impl Into<String>) {
        self.note_at(self.now(), what);
    }

    /// Writes down that something happened then.
    pub fn note_at(&self, at: Duration, what: impl Into<String>) {
        self.entries.lock().expect("the timeline").push((at, what.into()));
    }

    /// All of it, in order, one line for each.
    pub fn text(&self) -> String {
        self.text_since(Duration::ZERO)
    }

    /// What happened from then on.
    pub fn text_since(&self, start: Duration) -> String {
        let mut entries = self.entries.lock().expect("the timeline").clone();
        entries.retain(|(at, _)| *at >= start);
        entries.sort_by_key(|(at, _)| *at);
        let line = |(at, what): &(Duration, String)| format!("{:9.3} s  {what}", at.as_secs_f64());
        entries.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
