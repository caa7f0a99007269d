//! Clients that come and go, politely or not: in the middle of a request, of a reply, of a transaction. Nobody may
//! notice them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::clients::Common;
use crate::support::client::Client;

/// How many there are at once.
const CLIENTS: usize = 4;

/// Between the visits of one, mostly and in a burst.
const CALM: Duration = Duration::from_millis(60);
const BURST: Duration = Duration::from_millis(1);

/// A value that takes many reads; a slow reader asks for it this often.
const BIG: usize = 256 * 1024;
const BIG_TIMES: usize = 6;

/// What a slow reader takes at a time, how often, and for how long it then looks away.
const SIPS: usize = 40;
const SIP: Duration = Duration::from_millis(10);

/// The running clients.
pub struct Churn {
    common: Common,
    /// Milliseconds between visits.
    pace: Arc<AtomicU64>,
    visits: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Churn {
    /// Of these visits the seed fixes the kinds, not the times.
    pub fn start(common: &Common, seed: u64) -> Self {
        // Not the run's own: they are ended earlier.
        let common = Common { stop: Arc::default(), ..common.clone() };
        let pace = Arc::new(AtomicU64::new(CALM.as_millis() as u64));
        let visits = Arc::<AtomicUsize>::default();
        common.connect(0).call(&["SET", "churn:big", &"x".repeat(BIG)]);
        let threads = (0..CLIENTS)
            .map(|number| {
                let (common, pace, visits) = (common.clone(), Arc::clone(&pace), Arc::clone(&visits));
                let mut random = Rng::with_seed(seed.wrapping_add(number as u64));
                thread::spawn(move || {
                    while !common.stopped() {
                        visit(&mut random, &common);
                        visits.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(pace.load(Ordering::Relaxed)));
                    }
                })
            })
            .collect();
        Self { common, pace, visits, threads }
    }

    /// As fast as they can, for this long. How many came and went.
    pub fn burst(&self, time: Duration) -> usize {
        let before = self.visits.load(Ordering::Relaxed);
        self.pace.store(BURST.as_millis() as u64, Ordering::Relaxed);
        thread::sleep(time);
        self.pace.store(CALM.as_millis() as u64, Ordering::Relaxed);
        self.visits.load(Ordering::Relaxed) - before
    }

    /// Ends them; how many came in all.
    pub fn end(self) -> usize {
        self.common.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client"));
        self.visits.load(Ordering::Relaxed)
    }
}

/// One client, from its connection to its end.
fn visit(random: &mut Rng, common: &Common) {
    let mut client = match Client::try_connect(common.address) {
        Ok(client) => client,
        Err(error) => return common.complain(format!("a new client cannot connect: {error}")),
    };
    let key = format!("churn:{}", random.u32(..16));
    match random.u32(..10) {
        // At once.
        0 => {}
        1 => {
            let request = "*3\r\n$3\r\nSET\r\n$9\r\nchurn:cut\r\n$5\r\nvalue\r\n";
            client.send(&request[..random.usize(1..request.len())]);
        }
        2 => (0..random.usize(1..50)).for_each(|_| client.send_command(&["INCR", &key])),
        3 => {
            for command in [&["MULTI"][..], &["SET", &key, "0"], &["EXEC"]].iter().take(random.usize(1..4)) {
                client.send_command(command);
            }
        }
        4 => {
            client.send_command(&["SUBSCRIBE", "churn"]);
            look(&mut client, random);
        }
        5 => {
            client.send_command(&["BLPOP", "churn:nothing", "0"]);
            look(&mut client, random);
        }
        6 => {
            client.send_command(&["EVAL", "return redis.call('INCR', KEYS[1])", "1", &key]);
            look(&mut client, random);
        }
        7 => read_slowly(&mut client, random),
        8 => {
            client.send_command(&["HELLO", "3"]);
            client.send_command(&["CLIENT", "TRACKING", "ON"]);
            client.send_command(&["GET", &key]);
            look(&mut client, random);
        }
        _ => ask_politely(&mut client, random, common),
    }
}

/// Waits a little for a reply, and does not care.
fn look(client: &mut Client, random: &mut Rng) {
    client.deadline(Duration::from_millis(random.u64(1..30)));
    let _ = client.try_reply();
}

fn read_slowly(client: &mut Client, random: &mut Rng) {
    (0..BIG_TIMES).for_each(|_| client.send_command(&["GET", "churn:big"]));
    let until = Instant::now() + SIP * SIPS as u32;
    while Instant::now() < until {
        client.deadline(Duration::from_millis(1));
        if client.try_reply().is_ok() && random.u32(..BIG_TIMES as u32) == 0 {
            return;
        }
        thread::sleep(SIP);
    }
}

/// Reads all that was asked for; each answer must be the one to its own question.
fn ask_politely(client: &mut Client, random: &mut Rng, common: &Common) {
    client.deadline(crate::clients::PATIENCE);
    let tags: Vec<String> = (0..random.usize(1..20)).map(|_| random.u64(..).to_string()).collect();
    for tag in &tags {
        client.send_command(&["ECHO", tag]);
        client.send_command(&["GETRANGE", "churn:big", "0", &(tag.len() % 7).to_string()]);
    }
    for tag in &tags {
        for expected in [tag.clone(), "x".repeat(tag.len() % 7 + 1)] {
            match client.try_reply().map(|reply| String::from_utf8_lossy(&reply).into_owned()) {
                Ok(reply) if reply.lines().nth(1) == Some(&expected) => {}
                // A hold that ran out is told to everybody; the clients that stay are asked about those.
                Ok(reply) if reply.starts_with("-ERR respgate: no primary to send to") => {}
                other => return common.complain(format!("instead of {expected}, a client got {other:?}")),
            }
        }
    }
}
