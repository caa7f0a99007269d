//! What all threads of a round share: when it ends, what went wrong, and how long anybody waited.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What went wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Who saw it.
    pub who: String,
    pub what: String,
    /// Since the round began.
    pub at: Duration,
}

/// One wait for replies.
#[derive(Clone, Debug)]
pub struct Wait {
    pub who: String,
    pub what: String,
    pub begun: Duration,
    pub took: Duration,
}

/// The state of a round.
pub struct Round {
    begun: Instant,
    /// In what victims keep, and what no confined attacker may read.
    pub secret: String,
    /// Attackers must leave.
    dismissed: AtomicBool,
    over: AtomicBool,
    faults: Mutex<Vec<Fault>>,
    /// Waits longer than [`Round::NOTED`], of victims.
    waits: Mutex<Vec<Wait>>,
    /// The same of a client that is connected to the server itself.
    direct: Mutex<Vec<Wait>>,
    /// All waits of that client: their number, and their sum in microseconds.
    directly: (AtomicU64, AtomicU64),
    /// When respgate was ready to run, and other processes had the processors.
    preempted: Mutex<Vec<Wait>>,
    /// How many threads of the machine were ready to run, as often as somebody looked: the number of looks, and the sum.
    runnable: (AtomicU64, AtomicU64),
    /// Steps that victims have finished.
    pub steps: AtomicU64,
    /// Actions that attackers have performed, and bytes that they have sent.
    pub actions: AtomicU64,
    pub bytes: AtomicU64,
}

impl Round {
    /// Shorter waits are not kept.
    const NOTED: Duration = Duration::from_millis(50);

    /// Shorter waits of a direct client are not kept: on a busy machine, many of these make up a long one.
    const NOTED_DIRECTLY: Duration = Duration::from_millis(5);

    /// See [`Self::contention`].
    const USUALLY_RUNNABLE: usize = 3;

    /// Shorter waits for a processor are not kept.
    const PREEMPTED: Duration = Duration::from_millis(5);

    pub fn new(secret: String) -> Self {
        Self {
            begun: Instant::now(),
            secret,
            dismissed: AtomicBool::new(false),
            over: AtomicBool::new(false),
            faults: Mutex::default(),
            waits: Mutex::default(),
            direct: Mutex::default(),
            directly: Default::default(),
            preempted: Mutex::default(),
            runnable: Default::default(),
            steps: AtomicU64::new(0),
            actions: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Sends the attackers away.
    pub fn dismiss(&self) {
        self.dismissed.store(true, Ordering::Relaxed);
    }

    pub fn is_dismissed(&self) -> bool {
        self.dismissed.load(Ordering::Relaxed) || self.is_over()
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn fault(&self, who: &str, what: String) {
        let fault = Fault { who: who.to_owned(), what, at: self.now() };
        self.faults.lock().expect("the faults").push(fault);
    }

    pub fn has_faults(&self) -> bool {
        !self.faults.lock().expect("the faults").is_empty()
    }

    pub fn faults(&self) -> Vec<Fault> {
        self.faults.lock().expect("the faults").clone()
    }

    /// A victim has waited since `begun`.
    pub fn waited(&self, who: &str, what: &str, begun: Instant) {
        note(&self.waits, self.wait(who, what, begun), Self::NOTED);
    }

    /// A direct client has waited since `begun`.
    pub fn waited_directly(&self, begun: Instant) {
        let wait = self.wait("direct", "", begun);
        self.directly.0.fetch_add(1, Ordering::Relaxed);
        self.directly.1.fetch_add(wait.took.as_micros() as u64, Ordering::Relaxed);
        note(&self.direct, wait, Self::NOTED_DIRECTLY);
    }

    /// Looks how many threads of the machine are ready to run.
    pub fn look_at_machine(&self) {
        let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let threads = text.split(' ').nth(3).and_then(|field| field.split('/').next()?.parse().ok());
        self.runnable.0.fetch_add(1, Ordering::Relaxed);
        self.runnable.1.fetch_add(threads.unwrap_or(1), Ordering::Relaxed);
    }

    /// Returns how many times longer everything takes because other processes want the processors too: 1 if the round has the machine for
    /// itself, when [`Self::USUALLY_RUNNABLE`] threads are ready to run for each processor.
    pub fn contention(&self) -> f64 {
        let (looks, sum) = (self.runnable.0.load(Ordering::Relaxed), self.runnable.1.load(Ordering::Relaxed));
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        (sum as f64 / looks.max(1) as f64 / (Self::USUALLY_RUNNABLE * processors) as f64).max(1.0)
    }

    /// respgate waited `took` for a processor, since `begun`.
    pub fn preempted(&self, begun: Instant, took: Duration) {
        let wait = Wait { took, ..self.wait("respgate", "a processor", begun) };
        if took > Self::PREEMPTED {
            self.preempted.lock().expect("the waits").push(wait);
        }
    }

    fn wait(&self, who: &str, what: &str, begun: Instant) -> Wait {
        Wait {
            who: who.to_owned(),
            what: what.to_owned(),
            begun: begun.duration_since(self.begun),
            took: begun.elapsed(),
        }
    }

    /// The usual wait of a client that is connected to the server itself.
    pub fn usual_direct_wait(&self) -> Duration {
        let (count, sum) = (self.directly.0.load(Ordering::Relaxed), self.directly.1.load(Ordering::Relaxed));
        Duration::from_micros(sum / count.max(1))
    }

    /// The longest wait of a client that is connected to the server itself.
    pub fn longest_direct_wait(&self) -> Duration {
        let direct = self.direct.lock().expect("the waits");
        direct.iter().map(|wait| wait.took).max().unwrap_or_default()
    }

    /// The longest wait of a victim, and how much of it is neither what a direct client waited meanwhile nor what
    /// respgate waited for a processor.
    pub fn longest_wait(&self) -> Option<(Wait, Duration)> {
        let excuses = [&self.direct, &self.preempted].map(|waits| waits.lock().expect("the waits").clone());
        let waits = self.waits.lock().expect("the waits");
        let excess = |wait: &Wait| {
            let end = wait.begun + wait.took;
            let meanwhile = excuses
                .iter()
                .flatten()
                .filter(|other| other.begun < end && other.begun + other.took > wait.begun);
            wait.took.saturating_sub(meanwhile.map(|other| other.took).sum())
        };
        waits.iter().map(|wait| (wait.clone(), excess(wait))).max_by_key(|(_, excess)| *excess)
    }
}

fn note(waits: &Mutex<Vec<Wait>>, wait: Wait, from: Duration) {
    if wait.took > from {
        waits.lock().expect("the waits").push(wait);
    }
}
