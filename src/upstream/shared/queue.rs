//! The requests of one shared connection that wait to be written, or for their replies. No I/O.
//!
//! `settle` decides about each of them when the connection is lost, `divide` divides them between two connections, and `redirected`
//! takes out those that a node of a cluster has not run.

pub(in crate::upstream) mod answer;
mod divide;
pub(in crate::upstream) mod redirected;
pub(in crate::upstream) mod settle;

use std::collections::VecDeque;
use std::rc::Rc;

use crate::latency::Arrival;
use crate::upstream::replies::{ClientState, Replies};
use crate::upstream::shared::probation::Probation;

/// The reason why a connection was lost. It decides whether requests are sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// The connection was closed or broke. Reads are sent again, and one of them may be the reason (see [`Probation`]).
    Broken,
    /// A newer primary took over, or the node is no primary any more. Reads are sent again.
    Superseded,
    /// The server did not answer in time. Reads are not sent again, because their clients would only wait longer.
    Silent,
}

/// The fate of a request that was written and not answered when the connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfLost {
    /// It only reads: respgate sends it again.
    Resend,
    /// It only reads, but `retry-reads` is off: the client gets an error, and repeats the read itself.
    ReportLost,
    /// It is a write that may run twice: respgate sends it again.
    ResendWrite,
    /// It may have run: the client gets `OUTCOMEUNKNOWN`.
    ReportUnknown,
}

/// The number of lost connections after which a request is given up, so that a read that makes the server drop the connection
/// does not do so for ever. A loss that another request caused does not count.
pub const MAX_SENDS: u8 = 3;
/// One request in the order of replies.
pub struct Slot {
    /// The client that gets the reply.
    pub replies: Rc<Replies>,
    /// True if the client asked not to see the reply (CLIENT REPLY OFF or SKIP).
    pub mute: bool,
    /// The length of the request in [`Queue::bytes`]; 0 for one that has an outcome.
    len: usize,
    if_lost: IfLost,
    /// The number of lost connections that count against it.
    sends: u8,
    /// True if it may be the reason why the last connection was lost.
    suspect: bool,
    /// When and how the request came.
    arrival: Arrival,
    /// The reply that respgate gives in the server's place, once that is decided.
    outcome: Option<RequestOutcome>,
}

impl Slot {
    /// Returns the outcome, if it is decided.
    pub fn outcome(&self) -> Option<&RequestOutcome> {
        self.outcome.as_ref()
    }

    /// Returns when and how the request came.
    pub fn arrival(&self) -> Arrival {
        self.arrival
    }

    /// Returns what happens to the request if the connection is lost.
    pub fn if_lost(&self) -> IfLost {
        self.if_lost
    }
}

/// A reply that respgate gives in the server's place, in the order of the client's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// Holds the server's own reply, which waits until earlier requests of the same client are answered.
    Answered(Box<[u8]>),
    /// The connection was lost after the request was written. The request may or may not have run.
    OutcomeUnknown,
    /// The connection was lost each time that the read was sent, [`MAX_SENDS`] times at most.
    GivenUp,
    /// The connection was lost after the read was sent, and reads are not sent again.
    Lost,
    /// The server did not answer the read in time.
    TimedOut,
}

/// Says until when bytes were written to the connection.
#[derive(Clone, Copy)]
struct WriteMark {
    /// The number of bytes that were written, since the queue's start.
    end: u64,
    /// When the last of them was written.
    at: u32,
}

/// The requests of one connection, in order. The bytes of a request stay until its reply comes, so that a read can be sent again.
pub struct Queue {
    bytes: Vec<u8>,
    /// The offset in `bytes` of the first unanswered request.
    head: usize,
    /// The offset in `bytes` up to which they are written to the connection.
    written: usize,
    slots: VecDeque<Slot>,
    /// Requests that a node answered before it turned out not to be the primary. They come before all others. Those without an
    /// outcome are sent again.
    deferred: Vec<(Slot, Vec<u8>)>,
    /// Rises with every reply, and with every piece of one.
    progress: u64,
    probation: Probation,
    /// The offset in `bytes` up to which they may be written now. It is below their length during probation only.
    stop: usize,
    /// The client whose request made the server close the connection, as probation found out.
    culprit: Option<Rc<Replies>>,
    /// The progress at the last loss, and the number of losses in a row that saw no progress.
    fruitless: (u64, u8),
    /// When unanswered requests were written, while latency is measured. There are fewer than there are requests.
    marks: VecDeque<WriteMark>,
    /// The number of bytes that were dropped from `bytes`.
    dropped: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            head: 0,
            written: 0,
            slots: VecDeque::new(),
            deferred: Vec::new(),
            progress: 0,
            probation: Probation::default(),
            stop: usize::MAX,
            culprit: None,
            fruitless: (0, 0),
            marks: VecDeque::new(),
            dropped: 0,
        }
    }
}

impl Queue {
    /// Appends a request.
    pub fn push(
        &mut self,
        request: &[u8],
        replies: Rc<Replies>,
        if_lost: IfLost,
        mute: bool,
        arrival: Arrival,
    ) {
        self.bytes.extend_from_slice(request);
        let len = request.len();
        let (sends, suspect, outcome) = (0, false, None);
        self.slots.push_back(Slot { replies, mute, len, if_lost, sends, suspect, arrival, outcome });
    }

    /// Returns the bytes to write next.
    pub fn unwritten(&self) -> &[u8] {
        self.bytes.get(self.written..self.stop.min(self.bytes.len())).unwrap_or_default()
    }

    /// Returns true if requests wait until the suspects of a loss are answered.
    pub fn holds_back(&self) -> bool {
        self.stop < self.bytes.len()
    }

    /// Takes note that the connection took `count` more bytes.
    pub fn wrote(&mut self, count: usize) {
        self.written = (self.written + count).min(self.bytes.len());
    }

    /// Takes note that the bytes written so far were written now, unless an earlier note says so. `now` returns the time.
    pub fn mark_written(&mut self, now: impl FnOnce() -> u32) {
        let end = self.dropped + self.written as u64;
        let is_known = self.marks.back().is_some_and(|last| last.end >= end);
        if is_known || !self.awaits_reply() {
            return;
        }
        // Most requests are answered without a look at their marks.
        let answered = self.dropped + self.head as u64;
        while self.marks.front().is_some_and(|mark| mark.end <= answered) {
            self.marks.pop_front();
        }
        let full = self.marks.len() >= self.slots.len();
        let mark = WriteMark { end, at: now() };
        match self.marks.back_mut() {
            Some(last) if full => *last = mark,
            _ => self.marks.push_back(mark),
        }
    }

    /// Returns the front request, and the number of bytes up to its end since the queue's start.
    #[inline]
    pub fn front_end(&self) -> Option<(&Slot, u64)> {
        let slot = self.slots.front()?;
        Some((slot, self.dropped + (self.head + slot.len) as u64))
    }

    /// Returns when the bytes up to `end` were written, and up to which byte that holds. Returns `None` if it was not noted.
    pub fn written_at(&mut self, end: u64) -> Option<(u32, u64)> {
        while self.marks.front().is_some_and(|mark| mark.end < end) {
            self.marks.pop_front();
        }
        self.marks.front().map(|mark| (mark.at, mark.end))
    }

    /// Returns the bytes of the front request.
    pub fn front_bytes(&self) -> &[u8] {
        let len = self.slots.front().map_or(0, |slot| slot.len);
        self.bytes.get(self.head..self.head + len).unwrap_or_default()
    }

    /// Returns true if a written request is unanswered.
    pub fn awaits_reply(&self) -> bool {
        self.written > self.head
    }

    /// Returns the number of bytes that the queue keeps, written or not.
    pub fn kept_bytes(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Returns the number of requests without a reply.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns the number of requests that wait, to be written or to be answered.
    pub fn waiting(&self) -> usize {
        self.slots.len() + self.deferred.len()
    }

    /// Returns true if no request waits, to be written or to be answered.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.deferred.is_empty()
    }

    /// Returns the request whose reply comes next, if it was written completely. A reply without such a request belongs to nobody.
    pub fn front(&self) -> Option<&Slot> {
        self.slots.front().filter(|slot| self.head + slot.len <= self.written)
    }

    /// Returns a number that rises with every reply, and with every piece of one.
    pub fn progress(&self) -> u64 {
        self.progress
    }

    /// Takes note that a piece of a reply has come.
    pub fn progressed(&mut self) {
        self.progress += 1;
    }

    /// Takes the front request out, because its reply has come.
    pub fn pop(&mut self) -> Option<Slot> {
        self.progress += 1;
        self.take_front()
    }

    fn take_front(&mut self) -> Option<Slot> {
        let slot = self.slots.pop_front()?;
        self.head += slot.len;
        if self.head == self.bytes.len() {
            self.dropped += self.head as u64;
            self.bytes.clear();
            (self.head, self.written) = (0, 0);
            // One large burst must not keep its memory for ever.
            if self.bytes.capacity() > 1024 * 1024 {
                self.bytes = Vec::new();
            }
        } else if self.head > 64 * 1024 && self.head > self.bytes.len() / 2 {
            // Moving the rest costs less than the answered requests before it did.
            self.bytes.drain(..self.head);
            self.dropped += self.head as u64;
            self.written -= self.head;
            if self.stop != usize::MAX {
                self.stop -= self.head;
            }
            self.head = 0;
        }
        if slot.suspect
            && let Some(batch) = self.probation.answered()
        {
            self.let_out(batch);
        }
        Some(slot)
    }

    /// Lets the next `batch` suspects be written; if it is 0, every request.
    fn let_out(&mut self, batch: usize) {
        if batch == 0 {
            self.stop = usize::MAX;
            return;
        }
        let (mut at, mut left) = (self.head, batch);
        for slot in &self.slots {
            at += slot.len;
            left -= usize::from(slot.suspect);
            if left == 0 {
                break;
            }
        }
        self.stop = at;
    }

    /// Ends the search for a culprit, because another server answers now.
    pub fn end_probation(&mut self) {
        self.probation = Probation::default();
        self.stop = usize::MAX;
        self.slots.iter_mut().for_each(|slot| slot.suspect = false);
    }

    /// Takes the front request out until the connection is settled, because the node that answered it is not the primary. The client
    /// gets `answer`, in the order of its requests; if it is `None`, the request is sent again.
    pub fn defer(&mut self, answer: Option<&[u8]>) {
        let len = self.slots.front().map_or(0, |slot| slot.len);
        let request = self.bytes.get(self.head..self.head + len).unwrap_or_default().to_vec();
        if let Some(mut slot) = self.pop() {
            slot.outcome = answer.map(|answer| RequestOutcome::Answered(answer.into()));
            self.deferred.push((slot, request));
        }
        // Requests that have an outcome were not sent to this server: it sends no reply for them.
        while self.slots.front().is_some_and(|slot| slot.outcome.is_some()) {
            let decided = self.pop().map(|slot| (slot, Vec::new()));
            self.deferred.extend(decided);
        }
    }

    /// Returns true if a client waits for any of the replies.
    pub fn is_wanted(&self) -> bool {
        self.slots.iter().any(|slot| slot.replies.client_state() == ClientState::Open)
    }

    /// Returns true if no client waits for a reply but the one whose reply comes next.
    pub fn serves_one(&self) -> bool {
        let Some(first) = self.slots.front() else { return true };
        self.slots.iter().all(|slot| {
            slot.replies.owner() == first.replies.owner() || slot.replies.client_state() != ClientState::Open
        })
    }

    /// Takes the front slot out if its outcome is decided.
    pub fn pop_decided(&mut self) -> Option<(Slot, RequestOutcome)> {
        self.slots.front()?.outcome.as_ref()?;
        let mut slot = self.take_front()?;
        let outcome = slot.outcome.take()?;
        Some((slot, outcome))
    }

    /// Moves every request behind those of `other`, in order. The connection was lost and the queue is settled: nothing is written.
    pub fn move_to(&mut self, other: &mut Self) {
        let moved = std::mem::take(self);
        other.bytes.extend_from_slice(moved.bytes.get(moved.head..).unwrap_or_default());
        other.slots.extend(moved.slots);
        self.progress = moved.progress + 1;
    }

    /// Takes out every request, because no connection will be opened for them.
    pub fn drain(&mut self) -> impl Iterator<Item = Slot> + '_ {
        self.bytes = Vec::new();
        self.marks.clear();
        (self.head, self.written) = (0, 0);
        (self.probation, self.stop, self.culprit) = (Probation::default(), usize::MAX, None);
        self.deferred.drain(..).map(|(slot, _)| slot).chain(self.slots.drain(..))
    }
}

#[cfg(test)]
mod tests;
