//! A command whose parts go to several shards: the parts that are still to be sent, and the replies that have come.

use std::collections::HashMap;
use std::rc::Rc;

use super::cursor::Mark;
use super::join::{self, PartReply};
use super::split::{Part, Parts};
use super::spread::Joint;
use crate::cluster::slot::Slot;
use crate::latency::Arrival;
use crate::net::budget::Charge;
use crate::resp::Resp;
use crate::resp::error_line::{self, ErrorLine};
use crate::upstream::replies::{ClientState, Replies};
use crate::upstream::shards::{Shard, Shards};
use crate::upstream::shared::lane::Lane;
use crate::upstream::shared::queue::IfLost;

/// The bytes that a series allocates besides its list of parts.
const SERIES_OVERHEAD: usize = size_of::<Series>() + size_of::<Replies>() + 64;

/// How the reply to the whole is made.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whole {
    /// Of the replies to several parts.
    Join(Joint),
    /// Of the reply to a SCAN of the process `mark`, the shard of which begins with the slot of the only part.
    Scan {
        /// The process that gave the cursor that was sent.
        mark: Mark,
    },
}

/// What is known of a command when its parts are begun.
pub(super) struct Begun {
    /// The parts.
    pub(super) parts: Parts,
    /// How the reply is made.
    pub(super) whole: Whole,
    /// What to do with a part whose connection is lost.
    pub(super) if_lost: IfLost,
    /// True if the client does not want the reply.
    pub(super) mute: bool,
    /// The client's protocol.
    pub(super) resp: Resp,
    /// When the command came.
    pub(super) arrival: Arrival,
    /// When its parts were begun, in the time of measurements.
    pub(super) sent: u32,
}

/// The parts that go to one shard, in order. Their replies come in the same order.
pub(super) struct Series {
    /// The indexes of the parts.
    parts: Vec<u32>,
    /// How many of them were sent.
    sent: usize,
    /// Their replies.
    pub(super) replies: Rc<Replies>,
    /// The lane that carried the last one, or that the next one waits for. It exists as long as replies are due.
    pub(super) lane: Option<(Rc<Shard>, Rc<Lane>)>,
}

impl Series {
    /// Returns the index of the next part to send.
    pub(super) fn next(&self) -> Option<usize> {
        self.parts.get(self.sent).map(|part| *part as usize)
    }

    /// Returns the number of parts that are still to be sent.
    pub(super) fn left(&self) -> u32 {
        u32::try_from(self.parts.len().saturating_sub(self.sent)).unwrap_or(u32::MAX)
    }

    /// Takes note that the next part was sent.
    pub(super) fn note_sent(&mut self) {
        self.sent += 1;
    }
}

/// One command whose parts go to several shards.
pub(super) struct Gather {
    /// Where the reply to the whole goes: in the order of the session's replies.
    reply: Rc<Replies>,
    pub(super) begun: Begun,
    pub(super) series: Vec<Series>,
    /// The version of the slots under which the parts that are under way were sent.
    pub(super) version: u64,
    /// The error that one of the parts has met before it was sent.
    error: Option<ErrorLine>,
    client: u64,
    charge: Charge,
}

impl Gather {
    /// Begins with a series for each shard. One more reply is due to `reply` from now on.
    pub(super) fn new(begun: Begun, shards: &Shards, reply: &Rc<Replies>, client: u64) -> Self {
        reply.expect();
        let mut gather = Self {
            reply: reply.clone(),
            begun,
            series: Vec::new(),
            version: shards.version(),
            error: None,
            client,
            charge: Charge::new(reply.account()),
        };
        gather.place_parts(shards);
        gather
    }

    /// Makes a series for each shard that gets parts. No part may have been sent.
    pub(super) fn place_parts(&mut self, shards: &Shards) {
        self.leave_lanes();
        let mut series: Vec<Series> = Vec::new();
        let mut places: HashMap<*const Shard, usize> = HashMap::new();
        let parts = &self.begun.parts;
        for (part, number) in parts.parts.iter().zip(0_u32..) {
            let shard = shards.of(part.slot);
            let place = *places.entry(Rc::as_ptr(&shard)).or_insert(series.len());
            if place == series.len() {
                let replies = Replies::collector(&self.reply);
                series.push(Series { parts: Vec::new(), sent: 0, replies, lane: None });
            }
            if let Some(series) = series.get_mut(place) {
                series.parts.push(number);
            }
        }
        let lists = series.iter().map(|series| series.parts.capacity() * 4 + SERIES_OVERHEAD).sum::<usize>();
        // The lanes keep each frame too until it is written.
        let frames = parts.parts.iter().map(|part| part.end - part.start).sum::<usize>();
        self.charge.set(size_of::<Self>() + parts.allocated() + lists + frames);
        self.series = series;
    }

    /// Returns true if no part was sent.
    pub(super) fn is_unsent(&self) -> bool {
        self.series.iter().all(|series| series.sent == 0)
    }

    /// Leaves the lanes that parts wait for.
    fn leave_lanes(&self) {
        for series in &self.series {
            if series.left() > 0
                && let Some((_, lane)) = &series.lane
            {
                lane.leave(self.client);
            }
        }
    }

    /// Returns a part.
    pub(super) fn part(&self, index: usize) -> Option<&Part> {
        self.begun.parts.parts.get(index)
    }

    /// Returns true if parts are still to be sent.
    pub(super) fn is_sending(&self) -> bool {
        self.error.is_none() && self.series.iter().any(|series| series.next().is_some())
    }

    /// Returns true if a part was redirected, and waits for its reply.
    pub(super) fn is_redirected(&self) -> bool {
        self.series.iter().any(|series| series.replies.window(1) == 0)
    }

    /// Returns true if replies to parts are due.
    pub(super) fn awaits(&self) -> bool {
        self.series.iter().any(|series| series.replies.due_in_all() > 0)
    }

    /// Returns true if a part could not be sent.
    pub(super) fn has_failed(&self) -> bool {
        self.error.is_some()
    }

    /// Takes note that a part cannot be sent. The whole is answered with this error, and nothing more is sent.
    pub(super) fn fail(&mut self, line: ErrorLine) {
        self.error.get_or_insert(line);
    }

    /// Answers the whole if everything for that has come. Returns true if the command is over. `starts` are the first slots of all
    /// shards, and `mark` says which process scans the slot now.
    pub(super) fn finish(&mut self, starts: impl Fn() -> Vec<Slot>, mark: impl Fn(Slot) -> Mark) -> bool {
        let mut bytes = 0;
        for series in &self.series {
            match series.replies.client_state() {
                ClientState::Open | ClientState::Gone => bytes += series.replies.waiting(),
                ClientState::Overflowed => self.reply.overflow(),
                ClientState::Cut => self.reply.cut(),
            }
        }
        if self.reply.would_overflow(bytes) {
            self.reply.overflow();
        }
        if self.reply.client_state() != ClientState::Open {
            return true;
        }
        if self.error.is_none() && (self.is_sending() || self.awaits()) {
            return false;
        }
        if self.begun.mute {
            self.reply.swallow();
        } else {
            let reply = self.joined(starts, mark);
            self.reply.deliver(&reply, 1, reply.len());
        }
        true
    }

    /// Returns the reply to the whole.
    fn joined(&self, starts: impl Fn() -> Vec<Slot>, mark: impl Fn(Slot) -> Mark) -> Vec<u8> {
        if let Some(line) = &self.error {
            let mut out = Vec::new();
            error_line::write(&mut out, line);
            return out;
        }
        let parts = &self.begun.parts;
        let collected: Vec<Vec<u8>> = self.series.iter().map(|series| series.replies.collected()).collect();
        let mut replies: Vec<&[u8]> = vec![&[]; parts.parts.len()];
        for (series, bytes) in self.series.iter().zip(&collected) {
            let mut rest = &bytes[..];
            for part in &series.parts {
                if let (Some(reply), Some(taken)) = (replies.get_mut(*part as usize), join::take(&mut rest)) {
                    *reply = taken;
                }
            }
        }
        match (self.begun.whole, parts.parts.first()) {
            (Whole::Scan { mark: asked }, Some(part)) => {
                let reply = replies.first().copied().unwrap_or_default();
                join::scan(reply, part.slot, (asked, mark(part.slot)), &starts())
            }
            (Whole::Join(joint), _) => {
                let replies: Vec<PartReply<'_>> = parts
                    .parts
                    .iter()
                    .zip(replies)
                    .map(|(part, bytes)| PartReply { bytes, keys: part.keys, first: part.first })
                    .collect();
                join::join(joint, &replies, &parts.places, self.begun.resp)
            }
            (Whole::Scan { .. }, None) => join::OTHER_FORM.to_vec(),
        }
    }

    /// Has the session's waker called when replies come.
    pub(super) fn watch(&self, waker: &std::task::Waker) {
        self.series.iter().for_each(|series| series.replies.watch(waker));
    }
}

impl Drop for Gather {
    fn drop(&mut self) {
        // What still comes is dropped.
        self.series.iter().for_each(|series| series.replies.close());
        self.leave_lanes();
    }
}
