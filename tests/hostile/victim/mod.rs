//! Victims: ordinary clients that know to the byte what they are owed. All that belongs to one of them carries its tag.

mod data;
mod leases;
mod messages;
pub mod wire;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fastrand::Rng;

use crate::arena::{Door, Doors};
use crate::round::Round;
use wire::{Resp, Seen, Wire};

/// Between two steps of a victim.
const PACE: Duration = Duration::from_millis(8);

/// What a victim does again and again.
pub trait Victim {
    /// One step: questions, and all that is owed for them.
    fn step(&mut self, rng: &mut Rng) -> Seen<()>;
}

/// Who a victim is.
#[derive(Clone)]
pub struct Persona {
    pub who: String,
    pub door: Door,
    pub resp: Resp,
    /// In its keys, channels, messages and values, and in nobody else's.
    pub tag: String,
    doors: Doors,
    round: Arc<Round>,
}

impl Persona {
    /// A connection.
    pub fn open(&self) -> Seen<Wire> {
        Wire::open(&self.who, self.door, self.resp, &self.doors, &self.round)
    }

    /// A key or channel that is its own and that its tenant permits. In a cluster, all of them are in one slot.
    pub fn name(&self, what: &str) -> String {
        format!("{}{{{}}}:{what}", self.door.prefix(), self.tag)
    }

    /// Returns true if respgate is in front of a cluster.
    pub fn is_in_cluster(&self) -> bool {
        self.doors.is_cluster()
    }

    /// The number of databases.
    pub fn databases(&self) -> u8 {
        if self.is_in_cluster() { 1 } else { 4 }
    }

    /// A value that is its own.
    pub fn value(&self, what: impl std::fmt::Display) -> Vec<u8> {
        format!("{} {what}", self.tag).into_bytes()
    }
}

type Make = fn(Persona) -> Seen<Box<dyn Victim>>;

/// The kinds of victims, and at which doors there are some.
const KINDS: [(&str, Make, &[Door]); 11] = [
    ("data", data::Data::begin, &[Door::Free, Door::Victims]),
    ("visitor", data::Visitor::begin, &[Door::Free, Door::Victims]),
    ("state", data::State::begin, &[Door::Free]),
    ("scripts", leases::Scripts::begin, &[Door::Free, Door::Victims]),
    ("transactions", leases::Transactions::begin, &[Door::Free, Door::Victims]),
    ("pops", leases::Pops::begin, &[Door::Free, Door::Victims]),
    ("queue", leases::Queue::begin, &[Door::Victims]),
    ("messages", messages::Messages::begin, &[Door::Free, Door::Victims, Door::FanVictims]),
    ("known channel", messages::Known::begin, &[Door::Victims]),
    ("tracking", messages::Tracking::begin, &[Door::Free, Door::Victims]),
    ("broadcast", messages::Broadcast::begin, &[Door::Victims]),
];

/// Running victims.
pub struct Victims {
    threads: Vec<JoinHandle<()>>,
}

impl Victims {
    pub fn start(doors: &Doors, round: &Arc<Round>) -> Self {
        let mut threads = Vec::new();
        for (kind, make, at) in KINDS {
            for (door, resp) in at.iter().flat_map(|door| [(*door, Resp::Two), (*door, Resp::Three)]) {
                let number = threads.len();
                let me = Persona {
                    who: format!("victim {number} ({kind} at {door:?}, {resp:?})"),
                    door,
                    resp,
                    tag: format!("{}-{number}", round.secret),
                    doors: doors.clone(),
                    round: Arc::clone(round),
                };
                threads.push(thread::spawn(move || live(me, make)));
            }
        }
        Self { threads }
    }

    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Waits until they have noticed the end of the round.
    pub fn end(self) {
        self.threads.into_iter().for_each(|thread| thread.join().expect("a victim"));
    }
}

fn live(me: Persona, make: Make) {
    let (who, round) = (me.who.clone(), Arc::clone(&me.round));
    let mut rng = Rng::new();
    let seen = make(me).and_then(|mut victim| {
        while !round.is_over() {
            victim.step(&mut rng)?;
            round.steps.fetch_add(1, Ordering::Relaxed);
            thread::sleep(PACE);
        }
        Ok(())
    });
    if let Err(what) = seen {
        round.fault(&who, what);
    }
}
