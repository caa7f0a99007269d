//! What the user sees: lines that stay, and below them one live line on a terminal, or one line a second otherwise.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::verdict::Verdict;
use crate::workload::Books;

/// No success for so long is worth saying.
const PAUSED: Duration = Duration::from_millis(250);

#[derive(Clone, Copy)]
pub struct Screen {
    terminal: bool,
}

impl Screen {
    pub fn new() -> Self {
        Self { terminal: io::stdout().is_terminal() }
    }

    /// Prints text that stays.
    pub fn say(&self, text: &str) {
        // Over the live line, whose rest is erased.
        let start = if self.terminal { "\r\x1b[K" } else { "" };
        // Nobody reads any more: the work still has to be ended in order.
        let _ = writeln!(io::stdout(), "{start}{text}");
    }

    /// A headline, which stands out where it can.
    pub fn title(&self, text: &str) {
        if self.terminal {
            self.say(&format!("\n\x1b[1m{text}\x1b[0m"));
        } else {
            self.say(&format!("\n{text}"));
        }
    }

    /// Says the verdict, and gives whether it is as promised.
    pub fn judge(&self, verdict: &Verdict, passed: bool, promise: &str) -> bool {
        self.say(&format!("\n  Verdict: {verdict}"));
        let mark = if passed { "kept" } else { "BROKEN" };
        self.say(&format!("  Promise {mark}: {promise}"));
        if let Some(error) = &verdict.last_error {
            self.say(&format!("  The last other error: {error}"));
        }
        passed
    }

    /// Prints how the clients fare, without end.
    pub async fn follow(self, books: Arc<Mutex<Books>>) {
        let step = if self.terminal { Duration::from_millis(250) } else { Duration::from_secs(1) };
        let started = Instant::now();
        let (mut before, mut from) = (0, started);
        loop {
            tokio::time::sleep(step).await;
            let line = {
                let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
                let rate = (books.operations - before) as f64 / from.elapsed().as_secs_f64();
                (before, from) = (books.operations, Instant::now());
                let slowest = std::mem::take(&mut books.slowest).as_secs_f64() * 1000.0;
                let paused = books.last_success.elapsed();
                let mut line = format!("{:6.1} s  {rate:5.0} commands/s", started.elapsed().as_secs_f64());
                if paused > PAUSED {
                    line.push_str(&format!("  no write answered for {:.1} s", paused.as_secs_f64()));
                } else {
                    line.push_str(&format!("  slowest {slowest:7.2} ms"));
                }
                line
            };
            if self.terminal {
                let _ = write!(io::stdout(), "\r{line}\x1b[K");
                let _ = io::stdout().flush();
            } else {
                self.say(&line);
            }
        }
    }
}
