//! Victims on the leased lane.

use fastrand::Rng;

use super::wire::{Seen, Wire};
use super::{Persona, Victim};
use crate::support::client::encode;

/// Runs scripts, whose replies are its own values, and errors that it caused itself.
pub struct Scripts {
    me: Persona,
    wire: Wire,
    run: u64,
}

impl Scripts {
    pub fn begin(me: Persona) -> Seen<Box<dyn Victim>> {
        let wire = me.open()?;
        Ok(Box::new(Self { me, wire, run: 0 }))
    }
}

impl Victim for Scripts {
    fn step(&mut self, rng: &mut Rng) -> Seen<()> {
        self.run += 1;
        let value = self.me.value(self.run);
        let key = self.me.name("value");
        match rng.u8(..3) {
            0 => {
                let script = &b"redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])"[..];
                self.wire.ask(&[b"EVAL", script, b"1", key.as_bytes(), &value], &Wire::bulk(&value))?;
            }
            1 => {
                let script = &b"return {ARGV[1], KEYS[1], 7}"[..];
                let owed = [b"*3\r\n", &*Wire::bulk(&value), &Wire::bulk(key.as_bytes()), b":7\r\n"].concat();
                self.wire.ask(&[b"EVAL", script, b"1", key.as_bytes(), &value], &owed)?;
            }
            _ => {
                let text = format!("-MINE {}\r\n", self.me.tag);
                let script = format!("return redis.error_reply('MINE {}')", self.me.tag);
                self.wire.ask(&["EVAL", &script, "0"], text.as_bytes())?;
            }
        }
        self.wire.quiet()
    }
}

/// Optimistic transactions on keys that nobody else has.
pub struct Transactions {
    me: Persona,
    wire: Wire,
    done: u64,
}

impl Transactions {
    pub fn begin(me: Persona) -> Seen<Box<dyn Victim>> {
        let wire = me.open()?;
        Ok(Box::new(Self { me, wire, done: 0 }))
    }
}

impl Victim for Transactions {
    fn step(&mut self, rng: &mut Rng) -> Seen<()> {
        let (key, count) = (self.me.name("value"), self.me.name("count"));
        if rng.bool() {
            self.wire.ask(&["WATCH", &key, &count], b"+OK\r\n")?;
            let before = match self.done {
                0 => self.wire.nothing(false).to_vec(),
                done => Wire::bulk(&self.me.value(done)),
            };
            self.wire.ask(&["GET", &key], &before)?;
        }
        if rng.u8(..8) == 0 {
            self.wire.ask(&["MULTI"], b"+OK\r\n")?;
            self.wire.ask(&["SET", &key, "never"], b"+QUEUED\r\n")?;
            self.wire.ask(&["DISCARD"], b"+OK\r\n")?;
            return self.wire.quiet();
        }
        self.done += 1;
        let value = self.me.value(self.done);
        let questions = [
            encode(&["MULTI"]),
            encode(&[b"SET", key.as_bytes(), &value]),
            encode(&["INCR", &count]),
            encode(&["GET", &key]),
            encode(&["EXEC"]),
        ];
        let queued = &b"+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n+OK\r\n"[..];
        let counted = format!(":{}\r\n", self.done);
        let owed = [queued, counted.as_bytes(), &Wire::bulk(&value)].concat();
        self.wire.send(questions.concat())?;
        self.wire.owes("a transaction", &owed)?;
        self.wire.quiet()
    }
}

/// Pops what it has pushed itself, or nothing.
pub struct Pops {
    me: Persona,
    wire: Wire,
    pushed: u64,
}

impl Pops {
    pub fn begin(me: Persona) -> Seen<Box<dyn Victim>> {
        let wire = me.open()?;
        Ok(Box::new(Self { me, wire, pushed: 0 }))
    }
}

impl Victim for Pops {
    fn step(&mut self, rng: &mut Rng) -> Seen<()> {
        let list = self.me.name("list");
        if rng.u8(..3) == 0 {
            self.wire.send(encode(&["BLPOP", &list, "0.01"]))?;
            let nothing = self.wire.nothing(true);
            self.wire.owes("BLPOP", nothing)?;
            return self.wire.quiet();
        }
        self.pushed += 1;
        let value = self.me.value(self.pushed);
        self.wire.ask(&[b"RPUSH", list.as_bytes(), &value], b":1\r\n")?;
        let owed = [b"*2\r\n", &*Wire::bulk(list.as_bytes()), &Wire::bulk(&value)].concat();
        self.wire.ask(&["BLPOP", &list, "5"], &owed)?;
        self.wire.quiet()
    }
}

/// Waits for what another connection of it pushes.
pub struct Queue {
    me: Persona,
    popper: Wire,
    pusher: Wire,
    pushed: u64,
}

impl Queue {
    pub fn begin(me: Persona) -> Seen<Box<dyn Victim>> {
        let (popper, pusher) = (me.open()?, me.open()?);
        Ok(Box::new(Self { me, popper, pusher, pushed: 0 }))
    }
}

impl Victim for Queue {
    fn step(&mut self, rng: &mut Rng) -> Seen<()> {
        let list = self.me.name("queue");
        self.popper.send(encode(&["BLPOP", &list, "0"]))?;
        std::thread::sleep(std::time::Duration::from_millis(rng.u64(..30)));
        self.popper.quiet()?;
        self.pushed += 1;
        let value = self.me.value(self.pushed);
        self.pusher.ask(&[b"RPUSH", list.as_bytes(), &value], b":1\r\n")?;
        let owed = [b"*2\r\n", &*Wire::bulk(list.as_bytes()), &Wire::bulk(&value)].concat();
        self.popper.owes("BLPOP", &owed)?;
        self.pusher.quiet()?;
        self.popper.quiet()
    }
}
