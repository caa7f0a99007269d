//! A queue: one client pushes numbers, others wait for them in BLPOP. What is pushed must be popped, and once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clients::{Common, PATIENCE};
use crate::support::client::Client;
use crate::support::wait;
use crate::writers::{Outcome, outcome};

/// Between two pushes: long enough for the poppers to block again.
const PACE: Duration = Duration::from_millis(25);

/// What each popper waits for at most, as BLPOP says it; `0` is for ever.
const TIMEOUTS: [&str; 2] = ["2", "0"];

/// Ends a popper's step.
const END: &str = "end";

/// One push, or one pop, of a number.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub number: usize,
    pub at: Duration,
}

/// What came of one step's queue.
#[derive(Default)]
pub struct Traffic {
    /// Acknowledged.
    pub pushed: Vec<Entry>,
    pub popped: Vec<Entry>,
    /// Numbers of pushes whose outcome is unknown.
    pub maybe: Vec<usize>,
    /// Pops whose outcome is unknown.
    pub unknown_pops: usize,
    /// Error replies.
    pub refused: Vec<String>,
}

impl Traffic {
    /// Pushes that nobody popped.
    pub fn missing(&self) -> Vec<Entry> {
        let popped: HashMap<usize, ()> = self.popped.iter().map(|entry| (entry.number, ())).collect();
        self.pushed.iter().filter(|entry| !popped.contains_key(&entry.number)).copied().collect()
    }

    /// Pops of what is popped again later.
    pub fn popped_again(&self) -> Vec<Entry> {
        let mut by_time = self.popped.clone();
        by_time.sort_by_key(|entry| entry.at);
        let last: HashMap<usize, Duration> = by_time.iter().map(|entry| (entry.number, entry.at)).collect();
        by_time.into_iter().filter(|entry| last[&entry.number] != entry.at).collect()
    }
}

/// The running clients.
pub struct Queue {
    common: Common,
    /// Of each step: its number, and what one client did.
    done: Arc<Mutex<Vec<(usize, Traffic)>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Queue {
    pub fn start(common: &Common) -> Self {
        let done = Arc::<Mutex<Vec<_>>>::default();
        let pusher = {
            let (common, done) = (common.clone(), Arc::clone(&done));
            thread::spawn(move || push(&common, &done))
        };
        let poppers = TIMEOUTS.into_iter().enumerate().map(|(number, timeout)| {
            let (common, done) = (common.clone(), Arc::clone(&done));
            thread::spawn(move || pop(number, timeout, &common, &done))
        });
        let threads = std::iter::once(pusher).chain(poppers).collect();
        Self { common: common.clone(), done, threads }
    }

    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Poppers: each loses at most one pop when its connection breaks.
    pub fn poppers(&self) -> usize {
        TIMEOUTS.len()
    }

    /// What was done in a step that is over, once everything is popped.
    pub fn finished(&self, step: usize) -> Traffic {
        // The pusher first, so that nothing follows the poppers' end.
        self.wait_for(step, 1);
        let mut client = self.common.connect(0);
        for _ in TIMEOUTS {
            let reply = client.call(&["RPUSH", &key(step), END]);
            assert!(reply.starts_with(b":"), "{}", reply.escape_ascii());
        }
        self.wait_for(step, self.count());
        let mut all = Traffic::default();
        self.done.lock().expect("the traffic").retain_mut(|(number, traffic)| {
            if *number != step {
                return true;
            }
            all.pushed.append(&mut traffic.pushed);
            all.popped.append(&mut traffic.popped);
            all.maybe.append(&mut traffic.maybe);
            all.refused.append(&mut traffic.refused);
            all.unknown_pops += traffic.unknown_pops;
            false
        });
        all
    }

    fn wait_for(&self, step: usize, count: usize) {
        wait::until_some("the queue's clients to finish", PATIENCE, || {
            let done = self.done.lock().expect("the traffic");
            (done.iter().filter(|(number, _)| *number == step).count() >= count).then_some(())
        });
    }

    /// Ends them, after their last step was finished; a popper is blocked, perhaps for ever.
    pub fn end(self) {
        let mut client = self.common.connect(0);
        let step = self.common.now();
        for _ in TIMEOUTS {
            client.call(&["RPUSH", &key(step), END]);
        }
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client of the queue"));
    }
}

fn key(step: usize) -> String {
    format!("step{step}:queue")
}

fn push(common: &Common, done: &Mutex<Vec<(usize, Traffic)>>) {
    let mut client = common.connect(1);
    let mut step = common.now();
    while !common.stopped() {
        let mut traffic = Traffic::default();
        let mut number = 0;
        while common.now() == step && !common.stopped() {
            client.send_command(&["RPUSH", &key(step), &number.to_string()]);
            match client.try_reply().map(|reply| outcome(&reply)) {
                Ok(Outcome::Acknowledged(_)) => {
                    traffic.pushed.push(Entry { number, at: common.timeline.now() });
                }
                Ok(Outcome::Refused(line)) => traffic.refused.push(line),
                Ok(_) => traffic.maybe.push(number),
                Err(error) => {
                    common.complain(format!("the pusher was disconnected: {error}"));
                    traffic.maybe.push(number);
                    client = common.connect(1);
                }
            }
            number += 1;
            thread::sleep(PACE);
        }
        done.lock().expect("the traffic").push((step, traffic));
        step += 1;
    }
}

fn pop(popper: usize, timeout: &str, common: &Common, done: &Mutex<Vec<(usize, Traffic)>>) {
    let mut client = common.connect(popper);
    let mut step = common.now();
    while !common.stopped() {
        let mut traffic = Traffic::default();
        while step_goes_on(popper, timeout, &key(step), &mut client, &mut traffic, common) {}
        done.lock().expect("the traffic").push((step, traffic));
        step += 1;
    }
}

/// One BLPOP; false after the step's end.
fn step_goes_on(
    popper: usize,
    timeout: &str,
    key: &str,
    client: &mut Client,
    traffic: &mut Traffic,
    common: &Common,
) -> bool {
    client.send_command(&["BLPOP", key, timeout]);
    let reply = match client.try_reply() {
        Ok(reply) => String::from_utf8_lossy(&reply).into_owned(),
        Err(error) => {
            common.complain(format!("popper {popper} was disconnected: {error}"));
            *client = common.connect(popper);
            return true;
        }
    };
    if reply == "*-1\r\n" || reply == "_\r\n" {
        return true;
    }
    if reply.starts_with("-OUTCOMEUNKNOWN ") {
        common.timeline.note(format!("popper {popper}: {}", reply.trim_end()));
        traffic.unknown_pops += 1;
        return true;
    }
    match reply.lines().nth(4) {
        Some(END) => return false,
        Some(number) => match number.parse() {
            Ok(number) => traffic.popped.push(Entry { number, at: common.timeline.now() }),
            Err(_) => common.complain(format!("popper {popper} was handed {reply:?}")),
        },
        None => traffic.refused.push(reply.trim_end().to_owned()),
    }
    true
}
