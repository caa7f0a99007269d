//! Attackers: threads that perform what their kind writes, at a bounded pace.

pub mod action;
pub mod kind;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use action::{Action, Performer};
use kind::{Kind, Writer};

use crate::arena::Doors;
use crate::grammar::Grammar;
use crate::round::Round;

/// Actions of one attacker in a second.
const ACTIONS_PER_SECOND: u32 = 400;

/// What one attacker did, and when.
pub type Deeds = (String, Vec<(Duration, Action)>);

/// Running attackers.
pub struct Attackers {
    threads: Vec<JoinHandle<Deeds>>,
}

impl Attackers {
    /// Starts all attackers of these kinds.
    pub fn start(
        kinds: &[Kind],
        seed: u64,
        doors: &Doors,
        grammar: &Arc<Grammar>,
        round: &Arc<Round>,
    ) -> Self {
        let all = kinds.iter().flat_map(|kind| (0..kind.count()).map(move |number| (*kind, number)));
        let threads = all.enumerate().map(|(index, (kind, number))| {
            let seed = seed.wrapping_mul(1_000_003).wrapping_add((kind as u64) << 8 | number as u64);
            let writer = Writer::new(kind, seed, doors.clone(), Arc::clone(grammar));
            let performer = performer(format!("{kind:?} {number}"), index, doors, round);
            let round = Arc::clone(round);
            thread::spawn(move || attack(writer, performer, kind, &round))
        });
        Self { threads: threads.collect() }
    }

    /// Waits until they have noticed the end of the round, and says what they did.
    pub fn end(self) -> Vec<Deeds> {
        self.threads.into_iter().map(|thread| thread.join().expect("an attacker")).collect()
    }
}

/// Somebody with an address of its own.
pub fn performer(name: String, index: usize, doors: &Doors, round: &Arc<Round>) -> Performer {
    let source = Ipv4Addr::new(127, 0, 1, 1 + index as u8);
    Performer::new(name, source, doors.clone(), Arc::clone(round))
}

fn attack(mut writer: Writer, mut performer: Performer, kind: Kind, round: &Round) -> Deeds {
    // Ahead of its allowance by what it has done.
    let mut allowed = Instant::now();
    while !round.is_dismissed() {
        let action = writer.next();
        let bytes = if let Action::Send { bytes, .. } = &action { bytes.len() } else { 0 };
        performer.perform(action);
        let cost = Duration::from_secs(1) / ACTIONS_PER_SECOND
            + Duration::from_secs_f64(bytes as f64 / kind.bytes_per_second() as f64);
        allowed = allowed.max(Instant::now() - Duration::from_millis(50)) + cost;
        thread::sleep(allowed.saturating_duration_since(Instant::now()).min(Duration::from_millis(500)));
    }
    performer.done()
}
