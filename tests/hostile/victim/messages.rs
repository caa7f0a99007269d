//! Victims that are sent what they did not ask for at that moment: messages and invalidations.

use fastrand::Rng;

use super::wire::{Resp, Seen, Wire};
use super::{Persona, Victim};
use crate::support::client::encode;
use crate::words::KNOWN_CHANNEL;

/// The first byte of a message, and of a confirmation.
fn push(resp: Resp) -> &'static str {
    if resp == Resp::Three { ">" } else { "*" }
}

fn confirmation(resp: Resp, kind: &str, name: &str, count: usize) -> Vec<u8> {
    let head = format!("{}3\r\n", push(resp));
    [
        head.as_bytes(),
        &Wire::bulk(kind.as_bytes()),
        &Wire::bulk(name.as_bytes()),
        format!(":{count}\r\n").as_bytes(),
    ]
    .concat()
}

fn message(resp: Resp, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("{}{}\r\n", push(resp), parts.len()).into_bytes();
    parts.iter().for_each(|part| bytes.extend(Wire::bulk(part)));
    bytes
}

/// Hears what another connection of it publishes, in order.
pub struct Messages {
    me: Persona,
    subscriber: Wire,
    publisher: Wire,
    published: u64,
}

impl Messages {
    pub fn begin(me: Persona) -> Seen<Box<dyn Victim>> {
        let (mut subscriber, publisher) = (me.open()?, me.open()?);
        let (channel, pattern) = (me.name("channel"), me.name("pattern.*"));
        subscriber.ask(&["SUBSCRIBE", &channel], &confirmation(me.resp, "subscribe", &channel, 1))?;
        subscriber.ask(&["PSUBSCRIBE", &pattern], &confirmation(me.resp, "psubscribe", &pattern, 2))?;
        Ok(Box::new(Self { me, subscriber, publisher, published: 0 }))
    }

    fn publish(&mut self, channel: &str, text: &[u8]) -> Seen<()> {
        self.publisher.send(encode(&[b"PUBLISH", channel.as_bytes(), text]))?;
        let receivers = self.publisher.frame("PUBLISH")?;
        // Attackers without a tenant may hear everything.
        let count = receivers.strip_prefix(b":").and_then(|rest| rest.strip_suffix(b"\r\n"));
        let count = count.and_then(|count| str::from_utf8(count).ok()?.parse::<u64>().ok());
        match count {
            Some(1..) => Ok(()),
            _ => Err(format!("PUBLISH was answered with {}", receivers.escape_ascii())),
        }
    }
}

impl Victim for Messages {
    fn step(&mut self, rng: &mut Rng) -> Seen<()> {
        let (resp, channel) = (self.me.resp, self.me.name("channel"));
        if rng.u8(..6) == 0 {
            let other = self.me.name("other");
            self.subscriber.ask(&["SUBSCRIBE", &other], &confirmation(resp, "subscribe", &other, 3))?;
            self.subscriber.ask(&["UNSUBSCRIBE", &other], &confirmation(resp, "unsubscribe", &other, 2))?;
        }
        let mut owed = Vec::new();
        for _ in 0..rng.usize(1..4) {
            self.published += 1;
            let text = self.me.value(self.published);
            if rng.bool() {
                self.publish(&channel, &text)?;
                owed.extend(message(resp, &[b"message", channel.as_bytes(), &text]));
            } else {
                let (pattern, matched) = (self.me.name("pattern.*"), self.me.name("pattern.x"));
                self.publish(&matched, &text)?;
                owed.extend(message(resp, &[b"pmessage", pattern.as_bytes(), matched.as_bytes(), &text]));
            }
        }
        self.subscriber.owes("messages", &owed)?;
        self.publisher.quiet()?;
        self.subscriber.quiet()
    }
}

/// Hears a channel that attackers know and may neither hear nor use.
pub struct Known {
    me: Persona,
    subscriber: Wire,
    publisher: Wire,
    published: u64,
}

impl Known {
    pub fn begin(me: Persona) -> Seen<Box<dyn Victim>> {
        let (mut subscriber, publisher) = (me.open()?, me.open()?);
        // Both victims of this kind hear each other, so each has a channel, and the names differ at the end.
        let channel = Self::channel(&me);
        subscriber.ask(&["SUBSCRIBE", &channel], &confirmation(me.resp, "subscribe", &channel, 1))?;
        Ok(Box::new(Self { me, subscriber, publisher, published: 0 }))
    }

    fn channel(me: &Persona) -> String {
        match me.resp {
            Resp::Two => KNOWN_CHANNEL.to_owned(),
            Resp::Three => format!("{KNOWN_CHANNEL}:3"),
        }
    }
}

impl Victim for Known {
    fn step(&mut self, rng: &mut Rng) -> Seen<()> {
        let channel = Self::channel(&self.me);
        self.subscriber.quiet()?;
        if rng.u8(..4) == 0 {
            self.published += 1;
            let text = self.me.value(self.published);
            self.publisher.send(encode(&[b"PUBLISH", channel.as_bytes(), &text]))?;
            self.publisher.frame("PUBLISH")?;
            self.subscriber
                .owes("a message", &message(self.me.resp, &[b"message", channel.as_bytes(), &text]))?;
        }
        self.subscriber.quiet()
    }
}

/// Caches a key, and is told when it changes. (With RESP2 and in a cluster, it only watches that nothing is sent.)
pub struct Tracking {
    me: Persona,
    cache: Wire,
    writer: Wire,
    written: u64,
}

impl Tracking {
    pub fn begin(me: Persona) -> Seen<Box<dyn Victim>> {
        let (mut cache, writer) = (me.open()?, me.open()?);
        if tracks(&me) {
            cache.ask(&["CLIENT", "TRACKING", "ON"], b"+OK\r\n")?;
        }
        Ok(Box::new(Self { me, cache, writer, written: 0 }))
    }
}

impl Victim for Tracking {
    fn step(&mut self, _: &mut Rng) -> Seen<()> {
        let key = self.me.name("cached");
        self.written += 1;
        let value = self.me.value(self.written);
        self.writer.ask(&[b"SET", key.as_bytes(), &value], b"+OK\r\n")?;
        self.cache.ask(&["GET", &key], &Wire::bulk(&value))?;
        self.writer.ask(&[b"SET", key.as_bytes(), b"other"], b"+OK\r\n")?;
        if tracks(&self.me) {
            self.cache.owes("an invalidation", &invalidation(&key))?;
        }
        self.writer.quiet()?;
        self.cache.quiet()
    }
}

/// Is told of every change below a prefix.
pub struct Broadcast {
    me: Persona,
    cache: Wire,
    writer: Wire,
}

impl Broadcast {
    pub fn begin(me: Persona) -> Seen<Box<dyn Victim>> {
        let (mut cache, writer) = (me.open()?, me.open()?);
        if tracks(&me) {
            let prefix = me.name("broadcast");
            cache.ask(&["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", &prefix], b"+OK\r\n")?;
        }
        Ok(Box::new(Self { me, cache, writer }))
    }
}

impl Victim for Broadcast {
    fn step(&mut self, rng: &mut Rng) -> Seen<()> {
        let key = self.me.name(&format!("broadcast:{}", rng.u8(..)));
        self.writer.ask(&[b"SET", key.as_bytes(), &self.me.value("x")], b"+OK\r\n")?;
        self.writer.ask(&["SET", &self.me.name("elsewhere"), "x"], b"+OK\r\n")?;
        if tracks(&self.me) {
            self.cache.owes("an invalidation", &invalidation(&key))?;
        }
        self.writer.quiet()?;
        self.cache.quiet()
    }
}

/// Returns true if this victim can have its keys tracked: not with RESP2, and not in a cluster.
fn tracks(me: &Persona) -> bool {
    me.resp == Resp::Three && !me.is_in_cluster()
}

fn invalidation(key: &str) -> Vec<u8> {
    let key = Wire::bulk(key.as_bytes());
    [b">2\r\n$10\r\ninvalidate\r\n*1\r\n", &key[..]].concat()
}
