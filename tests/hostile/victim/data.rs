//! Victims on the shared lane, and what respgate answers itself.

use fastrand::Rng;

use super::wire::{Seen, Wire};
use super::{Persona, Victim};
use crate::support::client::encode;

/// Values are this long at most, in bytes.
const LONG: usize = 40_000;

/// Writes, reads and counts in pipelines.
pub struct Data {
    me: Persona,
    wire: Wire,
    written: u64,
}

impl Data {
    pub fn begin(me: Persona) -> Seen<Box<dyn Victim>> {
        let wire = me.open()?;
        Ok(Box::new(Self { me, wire, written: 0 }))
    }
}

impl Victim for Data {
    fn step(&mut self, rng: &mut Rng) -> Seen<()> {
        let (mut questions, mut owed) = (Vec::new(), Vec::new());
        let mut pair = |words: &[&[u8]], reply: &[u8]| {
            questions.extend(encode(words));
            owed.extend_from_slice(reply);
        };
        let (key, count, hash) = (self.me.name("value"), self.me.name("count"), self.me.name("hash"));
        for _ in 0..rng.usize(1..6) {
            self.written += 1;
            let mut value = self.me.value(self.written);
            if rng.u8(..8) == 0 {
                value.resize(rng.usize(value.len()..LONG), b'.');
            }
            pair(&[b"SET", key.as_bytes(), &value], b"+OK\r\n");
            pair(&[b"INCR", count.as_bytes()], format!(":{}\r\n", self.written).as_bytes());
            pair(&[b"GET", key.as_bytes()], &Wire::bulk(&value));
            pair(&[b"GET", self.me.name("absent").as_bytes()], self.wire.nothing(false));
            let field = self.written.to_string();
            pair(&[b"HSET", hash.as_bytes(), field.as_bytes(), &value], b":1\r\n");
            pair(
                &[b"HMGET", hash.as_bytes(), field.as_bytes(), b"absent"],
                &[b"*2\r\n", &*Wire::bulk(&value), self.wire.nothing(false)].concat(),
            );
            pair(&[b"HDEL", hash.as_bytes(), field.as_bytes()], b":1\r\n");
            pair(&[b"PING", self.me.tag.as_bytes()], &Wire::bulk(self.me.tag.as_bytes()));
        }
        self.wire.send(questions)?;
        self.wire.owes("a pipeline", &owed)?;
        self.wire.quiet()
    }
}

/// Comes, looks and leaves.
pub struct Visitor {
    me: Persona,
}

impl Visitor {
    pub fn begin(me: Persona) -> Seen<Box<dyn Victim>> {
        let value = me.value("seen");
        me.open()?.ask(&[b"SET", me.name("value").as_bytes(), &value], b"+OK\r\n")?;
        Ok(Box::new(Self { me }))
    }
}

impl Victim for Visitor {
    fn step(&mut self, rng: &mut Rng) -> Seen<()> {
        let mut wire = self.me.open()?;
        wire.ask(&["GET", &self.me.name("value")], &Wire::bulk(&self.me.value("seen")))?;
        let nothing = wire.nothing(false);
        wire.ask(&["CLIENT", "GETNAME"], nothing)?;
        wire.quiet()?;
        if rng.bool() {
            wire.ask(&["QUIT"], b"+OK\r\n")?;
        }
        std::thread::sleep(std::time::Duration::from_millis(rng.u64(50..150)));
        Ok(())
    }
}

/// Has a name and a database of its own.
pub struct State {
    me: Persona,
    wire: Wire,
    database: u8,
}

impl State {
    pub fn begin(me: Persona) -> Seen<Box<dyn Victim>> {
        let mut wire = me.open()?;
        for database in 0..me.databases() {
            wire.ask(&["SELECT", &database.to_string()], b"+OK\r\n")?;
            wire.ask(&[b"SET", me.name("where").as_bytes(), &me.value(database)], b"+OK\r\n")?;
        }
        let database = me.databases() - 1;
        Ok(Box::new(Self { me, wire, database }))
    }
}

impl Victim for State {
    fn step(&mut self, rng: &mut Rng) -> Seen<()> {
        let key = self.me.name("where");
        self.wire.ask(&["GET", &key], &Wire::bulk(&self.me.value(self.database)))?;
        self.wire.ask(&["CLIENT", "SETNAME", &self.me.tag], b"+OK\r\n")?;
        self.wire.ask(&["CLIENT", "GETNAME"], &Wire::bulk(self.me.tag.as_bytes()))?;
        self.database = rng.u8(..self.me.databases());
        self.wire.ask(&["SELECT", &self.database.to_string()], b"+OK\r\n")?;
        let value = self.me.value(self.database);
        self.wire.ask(&["EVAL", "return redis.call('GET', KEYS[1])", "1", &key], &Wire::bulk(&value))?;
        self.wire.send(encode(&["CLIENT", "NO-TOUCH", "ON"]))?;
        let reply = self.wire.frame("NO-TOUCH")?;
        // Redis 7.0 does not know it.
        if reply != b"+OK\r\n" && !reply.starts_with(b"-ERR unknown subcommand 'NO-TOUCH'") {
            return Err(format!("NO-TOUCH was answered with {}", reply.escape_ascii()));
        }
        self.wire.quiet()
    }
}
