//! Clients that each count up a key of their own and write down all that they see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::timeline::Timeline;
use crate::support::client::Client;
use crate::support::tls::Target;

/// Between two writes of one client: enough to have writes in flight at any moment, and to spare a small machine.
const PACE: Duration = Duration::from_millis(2);

/// No reply may take longer, the hold included.
const PATIENCE: Duration = Duration::from_secs(50);

/// How one write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The counter's new value.
    Acknowledged(i64),
    /// `-OUTCOMEUNKNOWN`: it may have run.
    Unknown,
    /// Another error: it has not run.
    Refused(String),
    /// The connection was lost: it may have run.
    Dropped(String),
}

/// One write.
#[derive(Clone, Debug)]
pub struct Write {
    pub sent: Duration,
    pub ended: Duration,
    pub outcome: Outcome,
}

/// All writes of one client, in order.
pub struct Record {
    /// The key that it alone counts up.
    pub key: String,
    pub writes: Vec<Write>,
}

/// The running clients.
pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Record>>,
}

impl Writers {
    /// Starts `count` clients, every other one with RESP3.
    pub fn start(count: usize, target: &Target, timeline: &Timeline) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|number| {
                let (stop, target, timeline) = (Arc::clone(&stop), target.clone(), timeline.clone());
                thread::spawn(move || write(number, &target, &stop, &timeline))
            })
            .collect();
        Self { stop, threads }
    }

    /// Tells them to stop, without waiting.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Lets each finish its write, and gives what they wrote down.
    pub fn finish(self) -> Vec<Record> {
        self.stop();
        self.threads.into_iter().map(|thread| thread.join().expect("a writer")).collect()
    }
}

fn write(number: usize, target: &Target, stop: &AtomicBool, timeline: &Timeline) -> Record {
    let key = format!("drill:{number}");
    let mut client = connect(number, target);
    let mut writes: Vec<Write> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let sent = timeline.now();
        client.send_command(&["INCR", &key]);
        let outcome = match client.try_reply() {
            Ok(reply) => outcome(&reply),
            Err(error) => Outcome::Dropped(error.to_string()),
        };
        let ended = timeline.now();
        let slow = ended - sent > Duration::from_millis(200);
        if slow || !matches!(outcome, Outcome::Acknowledged(_)) {
            timeline.note_at(ended, format!("{key}: {outcome:?} after {:?}", ended - sent));
        }
        let dropped = matches!(outcome, Outcome::Dropped(_));
        writes.push(Write { sent, ended, outcome });
        if dropped {
            client = connect(number, target);
        }
        thread::sleep(PACE);
    }
    Record { key, writes }
}

fn connect(number: usize, target: &Target) -> Client {
    let mut client = target.client();
    client.deadline(PATIENCE);
    if number % 2 == 1 {
        client.send_command(&["HELLO", "3"]);
        let greeting = client.reply();
        assert!(greeting.starts_with(b"%"), "{}", greeting.escape_ascii());
    }
    client
}

/// What a reply to an INCR, or another command that counts, says.
pub fn outcome(reply: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(reply).trim_end().to_owned();
    match text.strip_prefix(':').and_then(|number| number.parse().ok()) {
        Some(value) => Outcome::Acknowledged(value),
        None if text.starts_with("-OUTCOMEUNKNOWN ") => Outcome::Unknown,
        None => Outcome::Refused(text),
    }
}
