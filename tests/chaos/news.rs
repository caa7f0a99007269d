//! Publish and subscribe: numbers are published in rising order, and each subscriber must hear them so, none twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clients::Common;
use crate::support::wait;
use crate::writers::{Outcome, outcome};

/// Between two messages.
const PACE: Duration = Duration::from_millis(20);

/// What each subscriber says.
const SUBSCRIPTIONS: [[&str; 2]; 3] = [["SUBSCRIBE", "news"], ["PSUBSCRIBE", "ne*"], ["SSUBSCRIBE", "news"]];

/// How long subscribers may take to hear of what is published once all is well.
const HEARD: Duration = Duration::from_secs(5);

/// The running clients.
pub struct News {
    /// The last number that the server took.
    published: Arc<AtomicI64>,
    /// The last number that each subscriber heard.
    heard: Vec<Arc<AtomicI64>>,
    threads: Vec<JoinHandle<()>>,
}

impl News {
    pub fn start(common: &Common) -> Self {
        let (published, mut heard) = (Arc::<AtomicI64>::default(), Vec::new());
        let mut threads = Vec::new();
        for (number, subscription) in SUBSCRIPTIONS.into_iter().enumerate() {
            let last = Arc::<AtomicI64>::default();
            heard.push(Arc::clone(&last));
            let common = common.clone();
            threads.push(thread::spawn(move || listen(number, subscription, &last, &common)));
        }
        let (common, last) = (common.clone(), Arc::clone(&published));
        threads.push(thread::spawn(move || publish(&last, &common)));
        Self { published, heard, threads }
    }

    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Every subscriber hears what is published from now on.
    pub fn check(&self, common: &Common) {
        let now = self.published.load(Ordering::Relaxed);
        for (last, subscription) in self.heard.iter().zip(SUBSCRIPTIONS) {
            let until = common.timeline.now() + HEARD;
            while last.load(Ordering::Relaxed) <= now {
                if common.timeline.now() > until {
                    return common.complain(format!("{subscription:?} hears nothing any more"));
                }
                thread::sleep(PACE);
            }
        }
    }

    /// Waits for the end of all, who have been told to stop.
    pub fn end(self) {
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client of the news"));
    }
}

fn publish(published: &AtomicI64, common: &Common) {
    let mut client = common.connect(0);
    for number in 1.. {
        if common.stopped() {
            return;
        }
        let text = number.to_string();
        for command in ["PUBLISH", "SPUBLISH"] {
            client.send_command(&[command, "news", &text]);
            match client.try_reply().map(|reply| outcome(&reply)) {
                Ok(Outcome::Acknowledged(_) | Outcome::Unknown) => {}
                Ok(other) => common.timeline.note(format!("{command}: {other:?}")),
                Err(error) => {
                    common.complain(format!("the publisher was disconnected: {error}"));
                    client = common.connect(0);
                }
            }
        }
        published.store(number, Ordering::Relaxed);
        thread::sleep(PACE);
    }
}

fn listen(number: usize, subscription: [&str; 2], last: &AtomicI64, common: &Common) {
    let mut client = common.connect(number);
    client.send_command(&subscription);
    // Short, so that the end of the run is noticed.
    client.deadline(wait::PATIENCE / 40);
    let mut confirmed = false;
    while !common.stopped() {
        let frame = match client.try_reply() {
            Ok(frame) => String::from_utf8_lossy(&frame).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => continue,
            Err(error) => return common.complain(format!("{subscription:?} was disconnected: {error}")),
        };
        if frame.contains("subscribe\r\n") {
            if std::mem::replace(&mut confirmed, true) {
                common.complain(format!("{subscription:?} was confirmed again: {frame:?}"));
            }
            continue;
        }
        let Some(heard) = frame.lines().last().and_then(|line| line.parse().ok()) else {
            common.complain(format!("{subscription:?} was handed {frame:?}"));
            continue;
        };
        let before = last.swap(heard, Ordering::Relaxed);
        if heard <= before {
            common.complain(format!("{subscription:?} heard {heard} after {before}"));
        }
    }
}
