//! How attackers behave: each kind writes the actions of one session at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::action::Action;
use crate::arena::{Door, Doors};
use crate::grammar::Grammar;
use crate::mutate;
use crate::support::client::encode;
use crate::words::Words;

/// The groups of commands that change what a connection is.
const STATE: [&str; 3] = ["connection", "transactions", "pubsub"];

/// The groups of commands whose replies or effects a user's code writes.
const CODE: [&str; 1] = ["scripting"];

/// The most bytes that one session sends when it repeats itself.
const REPEATED: usize = 2 << 20;

/// What a hoarder makes respgate keep at once, in bytes; one request may have 8 MiB.
const MAX_HOARD: usize = 3 << 20;

/// A way to behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Commands of every group.
    Commands,
    /// Commands that leave something on a connection, and leaving.
    State,
    /// Scripts and functions.
    Code,
    /// Damaged bytes, split anywhere.
    Bytes,
    /// Transactions full of junk, broken off anywhere.
    Transactions,
    /// One command very often.
    Repeats,
    /// Large replies that are not read.
    Deaf,
    /// Large names and unfinished requests that are kept for ever.
    Hoards,
    /// Many subscribers that do not read.
    Subscribers,
    /// Connections that come and go.
    Storm,
    /// Wrong logins.
    Logins,
    /// Junk for the HTTP side.
    Http,
}

impl Kind {
    pub const ALL: [Kind; 12] = [
        Kind::Commands,
        Kind::State,
        Kind::Code,
        Kind::Bytes,
        Kind::Transactions,
        Kind::Repeats,
        Kind::Deaf,
        Kind::Hoards,
        Kind::Subscribers,
        Kind::Storm,
        Kind::Logins,
        Kind::Http,
    ];

    /// How many attackers of this kind there are: more where more is to be tried.
    pub fn count(self) -> usize {
        match self {
            Kind::State => 3,
            Kind::Commands | Kind::Bytes => 2,
            _ => 1,
        }
    }

    /// Bytes that one attacker sends in a second: what is tested is cunning, not who has the faster processor.
    pub fn bytes_per_second(self) -> usize {
        if self == Kind::Hoards { 64 << 20 } else { 16 << 20 }
    }

    /// Connections held at once.
    fn slots(self) -> usize {
        match self {
            Kind::Http | Kind::Hoards => 100,
            Kind::Subscribers => 60,
            Kind::Storm => 50,
            Kind::Deaf => 12,
            _ => 4,
        }
    }
}

/// Writes actions. The same seed writes the same ones.
pub struct Writer {
    kind: Kind,
    rng: Rng,
    doors: Doors,
    grammar: Arc<Grammar>,
    written: VecDeque<Action>,
    /// Of the session being written.
    slot: usize,
    words: Words,
}

impl Writer {
    pub fn new(kind: Kind, seed: u64, doors: Doors, grammar: Arc<Grammar>) -> Self {
        let rng = Rng::with_seed(seed);
        Self { kind, rng, doors, grammar, written: VecDeque::new(), slot: 0, words: Words::default() }
    }

    pub fn next(&mut self) -> Action {
        loop {
            if let Some(action) = self.written.pop_front() {
                return action;
            }
            self.session();
        }
    }

    fn session(&mut self) {
        self.slot = (self.slot + 1) % self.kind.slots();
        match self.kind {
            Kind::Commands => self.commands(&[]),
            Kind::State => self.commands(&STATE),
            Kind::Code => self.commands(&CODE),
            Kind::Bytes => self.damaged(),
            Kind::Transactions => self.transaction(),
            Kind::Repeats => self.repeated(),
            Kind::Deaf => self.deaf(),
            Kind::Hoards => self.hoarding(),
            Kind::Subscribers => self.subscriber(),
            Kind::Storm => self.storm(),
            Kind::Logins => self.logins(),
            Kind::Http => self.http(),
        }
    }

    /// Connects at a door, logs in and chooses the protocol.
    fn enter(&mut self) -> Door {
        let door = match self.rng.u8(..8) {
            0 => Door::Admin,
            1 | 2 => Door::Mob,
            3 => Door::FanMob,
            _ => Door::Free,
        };
        self.enter_at(door);
        door
    }

    fn enter_at(&mut self, door: Door) {
        self.words = Words { tries_treasures: door.is_confined() };
        self.written.push_back(Action::Connect { slot: self.slot, door });
        if let Some(login) = self.doors.login(door)
            && self.rng.u8(..16) > 0
        {
            self.send(login);
        }
        if door != Door::Http && self.rng.bool() {
            self.send(encode(&["HELLO", "3"]));
        }
    }

    fn send(&mut self, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        self.written.push_back(Action::Send { slot: self.slot, bytes: bytes.into() });
    }

    fn read(&mut self) {
        self.written.push_back(Action::Read { slot: self.slot, limit: 1 << 20 });
    }

    fn pause(&mut self, most_ms: u64) {
        let time = Duration::from_millis(self.rng.u64(..=most_ms));
        self.written.push_back(Action::Pause(time));
    }

    fn leave(&mut self) {
        match self.rng.u8(..8) {
            // The next session in this slot ends it.
            0 => return,
            1 => self.written.push_back(Action::EndWrites { slot: self.slot }),
            2 => self.send(encode(&["QUIT"])),
            3 => self.send(encode(&["RESET"])),
            _ => {}
        }
        let abruptly = self.rng.bool();
        self.written.push_back(Action::Leave { slot: self.slot, abruptly });
    }

    /// One command, damaged or not.
    fn command(&mut self, groups: &[&str]) -> Vec<u8> {
        let (rng, words) = (&mut self.rng, &self.words);
        let mut command = match groups.is_empty() {
            true => self.grammar.draw(rng, words),
            false => self.grammar.draw_of(groups, rng, words),
        };
        while rng.u8(..5) < 2 {
            mutate::command(&mut command, rng, words);
        }
        // The synchronous debugger stops the whole server, as it is meant to.
        if command.arguments.iter().any(|argument| argument.to_ascii_uppercase().starts_with(b"SYNC"))
            && command.arguments.len() > 1
        {
            return encode(&["PING"]);
        }
        encode(&command.arguments)
    }

    fn commands(&mut self, groups: &[&str]) {
        self.enter();
        let mut together = Vec::new();
        for _ in 0..self.rng.usize(1..16) {
            let groups = if self.rng.u8(..4) == 0 { &[] } else { groups };
            together.extend(self.command(groups));
            if self.rng.bool() {
                self.send(std::mem::take(&mut together));
            }
            if self.rng.u8(..3) == 0 {
                self.read();
            }
        }
        self.send(together);
        if self.rng.u8(..4) > 0 {
            self.read();
        }
        self.pause(5);
        self.leave();
    }

    fn damaged(&mut self) {
        self.enter();
        let mut bytes = Vec::new();
        for _ in 0..self.rng.usize(1..6) {
            bytes.extend(self.command(&[]));
        }
        for _ in 0..self.rng.usize(..4) {
            mutate::bytes(&mut bytes, &mut self.rng);
        }
        let mut rest = &bytes[..];
        for _ in 0..self.rng.usize(..12) {
            let (now, later) = rest.split_at(self.rng.usize(..=rest.len().min(200)));
            self.send(now.to_vec());
            self.pause(2);
            rest = later;
        }
        if self.rng.u8(..4) > 0 {
            self.send(rest.to_vec());
        }
        if self.rng.bool() {
            self.read();
        }
        self.leave();
    }

    fn transaction(&mut self) {
        self.enter();
        let mut bytes = Vec::new();
        if self.rng.bool() {
            let key = self.words.key(&mut self.rng);
            bytes.extend(encode(&[&b"WATCH"[..], &key]));
        }
        bytes.extend(encode(&["MULTI"]));
        for _ in 0..self.rng.usize(1..12) {
            let groups: &[&str] = if self.rng.bool() { &STATE } else { &[] };
            bytes.extend(self.command(groups));
        }
        if self.rng.u8(..3) > 0 {
            bytes.extend(encode(&[["EXEC", "DISCARD", "EXEC", "RESET"][self.rng.usize(..4)]]));
        }
        let cut = if self.rng.u8(..4) == 0 { self.rng.usize(..bytes.len()) } else { bytes.len() };
        bytes.truncate(cut);
        self.send(bytes);
        if self.rng.bool() {
            self.read();
        }
        self.leave();
    }

    fn repeated(&mut self) {
        self.enter();
        let in_transaction = self.rng.bool();
        let groups: &[&str] = if self.rng.bool() { &STATE } else { &[] };
        let mut few = Vec::new();
        for _ in 0..self.rng.usize(1..=4) {
            few.extend(self.command(groups));
        }
        let times = (1_usize << self.rng.u32(..17)).min(REPEATED / few.len()).max(1);
        let mut bytes = few.repeat(times);
        if in_transaction {
            bytes = [encode(&["MULTI"]), bytes, encode(&["EXEC"])].concat();
        }
        self.send(bytes);
        for _ in 0..self.rng.usize(..8) {
            self.read();
        }
        self.pause(50);
        self.leave();
    }

    /// Asks for much more than it takes.
    fn deaf(&mut self) {
        self.enter();
        let times = self.rng.usize(1..16);
        let asks = match self.rng.u8(..4) {
            0 => encode(&["EVAL", "return string.rep('x', 100000)", "0"]),
            1 => encode(&["GETRANGE", "a:k1", "0", "65536"]),
            _ => encode(&["GET", "a:k1"]),
        };
        self.send(asks.repeat(times));
        self.pause(500);
        if self.rng.bool() {
            self.written.push_back(Action::Read { slot: self.slot, limit: 4096 });
        }
        self.leave();
    }

    /// Makes respgate keep something, and stays.
    fn hoarding(&mut self) {
        self.enter();
        let size = self.rng.usize(1 << 12..MAX_HOARD);
        let long = vec![self.rng.alphanumeric() as u8; size];
        let of = |words: &[&[u8]]| encode(words);
        let bytes = match self.rng.u8(..8) {
            0 => of(&[b"CLIENT", b"SETNAME", &long]),
            1 => of(&[b"CLIENT", b"SETINFO", b"LIB-NAME", &long]),
            2 => of(&[b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", &long]),
            3 => of(&[b"SUBSCRIBE", &[b"a:", &long[..]].concat()]),
            4 => of(&[b"PSUBSCRIBE", &[b"a:", &long[..]].concat()]),
            5 => [of(&[b"MULTI"]), of(&[b"SET", b"a:k2", &long])].concat(),
            6 => of(&[b"WATCH", &[b"a:", &long[..]].concat()]),
            _ => {
                let mut unfinished = of(&[b"SET", b"a:k2", &long]);
                unfinished.pop();
                unfinished
            }
        };
        self.send(bytes);
        self.pause(40);
    }

    fn subscriber(&mut self) {
        if self.rng.u8(..4) > 0 {
            self.enter();
            let names = self.rng.usize(1..4);
            let mut words: Vec<Vec<u8>> =
                vec![[&b"SUBSCRIBE"[..], b"PSUBSCRIBE", b"SSUBSCRIBE"][self.rng.usize(..3)].to_vec()];
            for _ in 0..names {
                words.push(self.words.channel(&mut self.rng));
            }
            self.send(encode(&words));
            self.pause(10);
            return;
        }
        self.enter();
        let size = 1 << self.rng.u32(..16);
        let message = "m".repeat(size);
        let channel = format!("a:c{}", self.rng.u8(..6));
        let name = ["PUBLISH", "SPUBLISH"][self.rng.usize(..2)];
        let times = self.rng.usize(1..20);
        self.send(encode(&[name, &channel, &message]).repeat(times));
        self.read();
        self.leave();
    }

    fn storm(&mut self) {
        for slot in 0..self.kind.slots() {
            self.slot = slot;
            let door = [Door::Free, Door::Mob, Door::Admin][self.rng.usize(..3)];
            self.written.push_back(Action::Connect { slot, door });
            if self.rng.u8(..4) == 0 {
                self.send(encode(&["PING"]));
            }
        }
        for slot in 0..self.kind.slots() {
            let abruptly = self.rng.bool();
            self.written.push_back(Action::Leave { slot, abruptly });
        }
        self.pause(400);
    }

    fn logins(&mut self) {
        let door = [Door::Free, Door::Mob, Door::Admin][self.rng.usize(..3)];
        self.words = Words { tries_treasures: false };
        self.written.push_back(Action::Connect { slot: self.slot, door });
        for _ in 0..self.rng.usize(1..8) {
            let (rng, words) = (&mut self.rng, &self.words);
            let (user, password) = (words.user(rng), words.password(rng));
            let bytes = match rng.u8(..4) {
                0 => encode(&[&b"AUTH"[..], &password]),
                1 => encode(&[&b"HELLO"[..], b"3", b"AUTH", &user, &password]),
                2 => encode(&[&b"HELLO"[..], b"2", b"SETNAME", &password, b"AUTH", &user, &password]),
                _ => encode(&[&b"AUTH"[..], &user, &password]),
            };
            self.send(bytes);
            let bytes = self.command(&["connection"]);
            self.send(bytes);
        }
        self.read();
        self.pause(100);
        self.leave();
    }

    fn http(&mut self) {
        self.enter_at(Door::Http);
        let mut bytes = [
            &b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            b"POST /readyz HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc",
            b"GET /failovers HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
            b"GET / HTTP/1.1\r\nX: ",
            b"*1\r\n$4\r\nPING\r\n",
        ][self.rng.usize(..6)]
        .to_vec();
        for _ in 0..self.rng.usize(..3) {
            mutate::bytes(&mut bytes, &mut self.rng);
        }
        let times = self.rng.usize(1..20);
        self.send(bytes.repeat(times));
        self.pause(30);
        if self.rng.u8(..6) == 0 {
            self.read();
            self.leave();
        }
    }
}
