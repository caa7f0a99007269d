//! One round: victims at work, attackers among them, and a verdict.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::arena::{Arena, Setting};
use crate::attacker::action::Action;
use crate::attacker::kind::Kind;
use crate::attacker::{Attackers, Deeds, performer};
use crate::grammar::Grammar;
use crate::round::{Fault, Round};
use crate::support::client::Client;
use crate::victim::Victims;
use crate::watch::{self, Gauges};

/// A victim may wait so long for its replies, beyond what a direct client waits at that time, on a machine with nothing else to do where
/// respgate needs [`USUAL_STEP`].
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// The processor time that respgate takes for one step of a victim while there are no attackers. On a slower machine, and beside others that
/// take its caches, it takes more, and attackers cost more by as much.
const USUAL_STEP: Duration = Duration::from_millis(2);

/// A victim's request takes as many times at most what a direct client usually waits: respgate may have to open a connection, and others are
/// before it. That counts on a machine where many processes want the processors, whose single waits are too short to be excused.
const ROUND_TRIPS: u32 = 40;

/// How long victims go on when the attackers have left.
const AFTERMATH: Duration = Duration::from_millis(500);

/// How long respgate may take to forget those who left.
const FORGETTING: Duration = Duration::from_secs(10);

/// Lines of respgate's log that are kept for a report.
const LOG_LINES: usize = 20;

/// Who attacks.
pub enum Attack {
    /// All attackers of these kinds, for a time.
    Random { kinds: Vec<Kind>, seed: u64, time: Duration },
    /// One attacker that does these things once.
    Replay(Vec<Action>),
}

/// What came of a round.
pub struct Outcome {
    pub faults: Vec<Fault>,
    pub deeds: Vec<Deeds>,
    /// The server died: nothing can be said of respgate.
    pub is_void: bool,
    pub summary: String,
    /// The last lines of respgate's log.
    pub log: Vec<String>,
}

/// Runs one round.
pub fn run(setting: Setting, secret: &str, attack: Attack) -> Outcome {
    let arena = Arena::start(setting, secret);
    let grammar = Arc::new(Grammar::read(&arena.command_docs()));
    let round = Arc::new(Round::new(secret.to_owned()));
    let gauges = Gauges::default();
    let patience = if matches!(attack, Attack::Random { .. }) { FORGETTING } else { FORGETTING / 3 };
    let mut step = Duration::ZERO;
    let deeds = thread::scope(|scope| {
        scope.spawn(|| watch::watch(&arena, &round, &gauges));
        scope.spawn(|| watch::probe(&arena, &round));
        for server in &arena.doors.direct {
            scope.spawn(|| watch::measure(&arena, &round, *server));
        }
        let began = arena.proxy.processor_time();
        let victims = Victims::start(&arena.doors, &round);
        let count = victims.count() as u64;
        wait(&round, Duration::from_secs(20), || round.steps.load(Ordering::Relaxed) >= 2 * count);
        let steps = u32::try_from(round.steps.load(Ordering::Relaxed)).unwrap_or(u32::MAX).max(1);
        step = arena.proxy.processor_time().saturating_sub(began) / steps;
        let deeds = match attack {
            Attack::Random { kinds, seed, time } => {
                let attackers = Attackers::start(&kinds, seed, &arena.doors, &grammar, &round);
                wait(&round, time, || false);
                round.dismiss();
                attackers.end()
            }
            Attack::Replay(actions) => {
                let mut performer = performer("the replay".to_owned(), 0, &arena.doors, &round);
                actions
                    .into_iter()
                    .take_while(|_| !round.has_faults())
                    .for_each(|action| performer.perform(action));
                vec![performer.done()]
            }
        };
        wait(&round, AFTERMATH, || false);
        round.end();
        victims.end();
        deeds
    });
    let slowness = (step.as_secs_f64() / USUAL_STEP.as_secs_f64()).max(1.0);
    let longest_wait =
        LONGEST_WAIT.mul_f64(slowness * round.contention()) + round.usual_direct_wait() * ROUND_TRIPS;
    judge(arena, &round, &gauges, deeds, patience, longest_wait)
}

/// Until there is a fault, or time is up, or enough.
fn wait(round: &Round, time: Duration, enough: impl Fn() -> bool) {
    let begun = Instant::now();
    while begun.elapsed() < time && !round.has_faults() && !enough() {
        thread::sleep(Duration::from_millis(10));
    }
}

/// What respgate has not forgotten in time.
fn forgotten(arena: &Arena, patience: Duration) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let mut remains = arena.remains();
        if remains.is_empty() {
            // A connection is looked at, and closed, a little later than its client.
            thread::sleep(Duration::from_millis(100));
            return remains;
        }
        if begun.elapsed() > patience {
            remains
                .push(format!("its connections to the server: {}", arena.connections_at_work().join("; ")));
            return remains;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn judge(
    arena: Arena,
    round: &Round,
    gauges: &Gauges,
    deeds: Vec<Deeds>,
    patience: Duration,
    longest_wait: Duration,
) -> Outcome {
    let is_void = arena.doors.direct.iter().any(|server| {
        let ping = Client::try_connect(*server).and_then(|mut client| {
            client.deadline(Duration::from_secs(10));
            client.send(&arena.doors.direct_login);
            client.try_reply()
        });
        ping.is_err()
    });
    if !is_void {
        let mut found = Vec::new();
        // Once there is a fault, victims have left in the middle of something.
        if !round.has_faults() {
            found = forgotten(&arena, patience);
        }
        found.extend([arena.dirt(), arena.damage(), watch::log(&arena, round)].concat());
        found.into_iter().for_each(|what| round.fault("the round", what));
    }
    let mut longest = "none of 50 ms".to_owned();
    if let Some((wait, excess)) = round.longest_wait() {
        longest = format!("{:.0} ms of {} for {}", excess.as_secs_f64() * 1000.0, wait.who, wait.what);
        if excess > longest_wait {
            let (what, took) = (&wait.what, wait.took);
            let text = format!(
                "waited {took:?} for {what} from {:?} on, {excess:?} more than a direct client; {longest_wait:?} are allowed",
                wait.begun
            );
            round.fault(&wait.who, text);
        }
    }
    let summary = format!(
        "{} steps of victims; {} actions, {} MiB of attackers; longest wait {longest} of {:.1} s ({:.0} ms \
         directly), {} MiB resident",
        round.steps.load(Ordering::Relaxed),
        round.actions.load(Ordering::Relaxed),
        round.bytes.load(Ordering::Relaxed) >> 20,
        longest_wait.as_secs_f64(),
        round.longest_direct_wait().as_secs_f64() * 1000.0,
        gauges.resident.load(Ordering::Relaxed) >> 20,
    );
    let log = arena.proxy.log();
    let lines: Vec<_> = log.lines().map(str::to_owned).collect();
    let log = lines[lines.len().saturating_sub(LOG_LINES)..].to_vec();
    if let Err(what) = arena.end()
        && !is_void
    {
        round.fault("the end", what);
    }
    Outcome { faults: round.faults(), deeds, is_void, summary, log }
}
