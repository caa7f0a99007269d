//! Clients that stay connected for the whole run and write all the time, under new keys in every step.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::client::{Client, encode};
use crate::support::wait;
use crate::timeline::Timeline;
use crate::writers::{Outcome, Record, Write, outcome};

/// Between two writes of one client.
const PACE: Duration = Duration::from_millis(5);

/// No reply may take longer, the hold included.
pub const PATIENCE: Duration = Duration::from_secs(50);

/// One transaction of so many watches its key; one of so many is sent in one piece.
const WATCHED: usize = 5;
const PIPELINED: usize = 3;

/// Writes that are under way at once, and how long the next ones wait: there are always some whose replies can be lost.
const DEPTH: usize = 16;
const BREATH: Duration = Duration::from_millis(4);

/// What a client writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// INCR of a counter of its own.
    Counter,
    /// INCR of a counter of its own, many at once.
    Pipeline,
    /// RPUSH of the write's number to a list of its own.
    List,
    /// Both, in one MULTI.
    Transaction,
}

/// The clients, and how many of each kind.
const KINDS: [(Kind, usize); 4] =
    [(Kind::Counter, 4), (Kind::Pipeline, 2), (Kind::List, 4), (Kind::Transaction, 2)];

/// What one client did in one step. Its key, or the stem of its two keys, is in the record.
pub struct Work {
    pub kind: Kind,
    pub record: Record,
}

impl Work {
    /// The counter's key.
    pub fn counter(&self) -> Option<String> {
        (self.kind != Kind::List).then(|| format!("{}:count", self.record.key))
    }

    /// How many of its writes are under way at once.
    pub fn depth(&self) -> usize {
        if self.kind == Kind::Pipeline { DEPTH } else { 1 }
    }

    /// The list's key; its elements are numbers of writes.
    pub fn list(&self) -> Option<String> {
        matches!(self.kind, Kind::List | Kind::Transaction).then(|| format!("{}:list", self.record.key))
    }
}

/// Whom all clients have in common.
#[derive(Clone)]
pub struct Common {
    pub address: SocketAddr,
    pub timeline: Timeline,
    /// The number of the step that is under way.
    pub step: Arc<AtomicUsize>,
    pub stop: Arc<AtomicBool>,
    /// What must never be seen, whatever the step.
    pub complaints: Arc<Mutex<Vec<String>>>,
}

impl Common {
    pub fn new(address: SocketAddr, timeline: &Timeline) -> Self {
        Self {
            address,
            timeline: timeline.clone(),
            step: Arc::default(),
            stop: Arc::default(),
            complaints: Arc::default(),
        }
    }

    pub fn now(&self) -> usize {
        self.step.load(Ordering::Relaxed)
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn complain(&self, what: String) {
        self.timeline.note(format!("complaint: {what}"));
        self.complaints.lock().expect("the complaints").push(what);
    }

    /// A client of respgate; every other one speaks RESP3.
    pub fn connect(&self, number: usize) -> Client {
        let mut client = Client::connect_to(self.address);
        client.deadline(PATIENCE);
        if number % 2 == 1 {
            let greeting = client.call(&["HELLO", "3"]);
            assert!(greeting.starts_with(b"%"), "{}", greeting.escape_ascii());
        }
        client
    }
}

/// The running clients.
pub struct Clients {
    common: Common,
    /// Of finished steps, with their numbers.
    done: Arc<Mutex<Vec<(usize, Work)>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    pub fn start(common: &Common) -> Self {
        let done = Arc::<Mutex<Vec<_>>>::default();
        let kinds = KINDS.iter().flat_map(|(kind, count)| std::iter::repeat_n(*kind, *count));
        let threads = kinds
            .enumerate()
            .map(|(number, kind)| {
                let (common, done) = (common.clone(), Arc::clone(&done));
                thread::spawn(move || write(kind, number, &common, &done))
            })
            .collect();
        Self { common: common.clone(), done, threads }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// What they did in a step that is over, once each has finished its write.
    pub fn finished(&self, step: usize) -> Vec<Work> {
        let here = |done: &[(usize, Work)]| done.iter().filter(|(number, _)| *number == step).count();
        wait::until_some("every client to finish its write", PATIENCE, || {
            (here(&self.done.lock().expect("the work")) == self.count()).then_some(())
        });
        let mut done = self.done.lock().expect("the work");
        let (of_step, rest) = done.drain(..).partition(|(number, _)| *number == step);
        *done = rest;
        let of_step: Vec<(usize, Work)> = of_step;
        of_step.into_iter().map(|(_, work)| work).collect()
    }

    /// Ends them; they disconnect.
    pub fn end(self) {
        self.common.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client"));
    }
}

fn write(kind: Kind, number: usize, common: &Common, done: &Mutex<Vec<(usize, Work)>>) {
    let mut client = common.connect(number);
    let mut step = common.now();
    while !common.stopped() {
        let key = format!("step{step}:client{number}");
        let mut work = Work { kind, record: Record { key, writes: Vec::new() } };
        while common.now() == step && !common.stopped() {
            let dropped = write_once(&mut client, &mut work, common);
            if dropped {
                client = common.connect(number);
            }
            thread::sleep(if kind == Kind::Pipeline { BREATH } else { PACE });
        }
        done.lock().expect("the work").push((step, work));
        step += 1;
    }
}

/// One write, or as many as are under way at once. True if the connection is lost.
fn write_once(client: &mut Client, work: &mut Work, common: &Common) -> bool {
    let sent = common.timeline.now();
    let counter = work.counter().unwrap_or_default();
    if work.kind == Kind::Pipeline {
        client.send(encode(&["INCR", &counter]).repeat(DEPTH));
    }
    for _ in 0..work.depth() {
        let serial = work.record.writes.len();
        let outcome = match work.kind {
            Kind::Pipeline => reply(client),
            Kind::Counter => ask(client, &["INCR", &counter]),
            Kind::List => ask(client, &["RPUSH", &work.list().expect("its key"), &serial.to_string()]),
            Kind::Transaction => transact(client, work, serial),
        };
        let outcome = outcome.unwrap_or_else(Outcome::Dropped);
        let ended = common.timeline.now();
        let slow = ended - sent > Duration::from_millis(200) && work.kind != Kind::Pipeline;
        if slow || !matches!(outcome, Outcome::Acknowledged(_)) {
            let (key, took) = (&work.record.key, ended - sent);
            common.timeline.note_at(ended, format!("{key}, write {serial}: {outcome:?} after {took:?}"));
        }
        let dropped = matches!(outcome, Outcome::Dropped(_));
        work.record.writes.push(Write { sent, ended, outcome });
        if dropped {
            return true;
        }
    }
    false
}

fn ask(client: &mut Client, arguments: &[&str]) -> Result<Outcome, String> {
    client.send_command(arguments);
    reply(client)
}

fn reply(client: &mut Client) -> Result<Outcome, String> {
    client.try_reply().map(|reply| outcome(&reply)).map_err(|error| error.to_string())
}

/// One MULTI. The error is the connection's.
fn transact(client: &mut Client, work: &Work, serial: usize) -> Result<Outcome, String> {
    let (counter, list) = (work.counter().expect("its key"), work.list().expect("its key"));
    let serial_text = serial.to_string();
    let mut commands: Vec<Vec<&str>> = Vec::new();
    if serial.is_multiple_of(WATCHED) {
        commands.push(vec!["WATCH", &counter]);
    }
    commands.extend([
        vec!["MULTI"],
        vec!["INCR", &counter],
        vec!["RPUSH", &list, &serial_text],
        vec!["EXEC"],
    ]);
    let mut replies = Vec::new();
    if serial.is_multiple_of(PIPELINED) {
        commands.iter().for_each(|command| client.send_command(command));
        for _ in &commands {
            replies.push(client.try_reply().map_err(|error| error.to_string())?);
        }
    } else {
        for command in &commands {
            client.send_command(command);
            replies.push(client.try_reply().map_err(|error| error.to_string())?);
        }
    }
    let exec = replies.pop().expect("the reply to EXEC");
    if exec == b"*-1\r\n" || exec == b"_\r\n" {
        return Ok(Outcome::Refused(DISCARDED.into()));
    }
    let before = replies.iter().find(|reply| !matches!(&reply[..], b"+OK\r\n" | b"+QUEUED\r\n"));
    let before = before.map(|reply| String::from_utf8_lossy(reply).trim_end().to_owned());
    Ok(match exec.strip_prefix(b"*2\r\n") {
        Some(results) if before.is_none() => {
            outcome(results.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default())
        }
        _ => match (outcome(&exec), before) {
            (Outcome::Refused(line), Some(before)) => Outcome::Refused(format!("{before}, and then {line}")),
            (outcome, _) => outcome,
        },
    })
}

/// What a watched transaction says that was not run; it may, whenever the watch could not be kept.
pub const DISCARDED: &str = "(nil)";
