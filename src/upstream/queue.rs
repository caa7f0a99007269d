//! The requests of one shared connection: what waits to be written, what waits for its reply, and what becomes
//! of both when the connection is lost. No I/O.

use std::collections::VecDeque;
use std::rc::Rc;

use super::replies::{Replies, Standing};

/// Why a connection is given up, as far as its requests are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It broke, or a newer primary took over: reads are sent again.
    Broken,
    /// The server did not answer in time: sending a read again would only make it wait longer.
    Silent,
}

/// What may be done with a request that was written and not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfLost {
    /// Read-only: send it again.
    Resend,
    /// Read-only, but the client asks again itself: say that the connection was lost.
    ReportLost,
    /// A write that may run twice: send it again.
    ResendWrite,
    /// It may have run: say so to the client.
    ReportUnknown,
}

/// How often a request is sent at most. A read that makes the server drop the connection must not do so for
/// ever.
pub const MAX_SENDS: u8 = 3;

/// One request's place in the order of replies.
pub struct Slot {
    /// Whose reply it is.
    pub replies: Rc<Replies>,
    /// The client asked not to see the reply (CLIENT REPLY OFF or SKIP).
    pub mute: bool,
    len: usize,
    if_lost: IfLost,
    sends: u8,
    verdict: Option<Verdict>,
}

impl IfLost {
    /// What the client gets if it is not sent again, or not once more.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Resend => Verdict::GivenUp,
            Self::ReportLost => Verdict::Lost,
            Self::ResendWrite | Self::ReportUnknown => Verdict::OutcomeUnknown,
        }
    }

    /// What the client gets if the server did not answer in time: nothing is sent again then.
    pub fn verdict_of_silence(self) -> Verdict {
        match self {
            Self::Resend | Self::ReportLost => Verdict::TimedOut,
            Self::ResendWrite | Self::ReportUnknown => Verdict::OutcomeUnknown,
        }
    }

    /// Whether it is sent again.
    pub fn resends(self) -> bool {
        matches!(self, Self::Resend | Self::ResendWrite)
    }
}

impl Slot {
    /// The answer, if it is decided.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// What may be done with it if its answer does not count.
    pub fn if_lost(&self) -> IfLost {
        self.if_lost
    }
}

/// An answer that respgate gives in the server's place, in the slot's turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What the server answered, kept back until earlier requests of the same client are answered.
    Answered(Box<[u8]>),
    /// The connection was lost after the request was written: it may or may not have run.
    OutcomeUnknown,
    /// A read was sent [`MAX_SENDS`] times and the connection was lost each time.
    GivenUp,
    /// The connection was lost after a read was sent, and reads are not sent again.
    Lost,
    /// A read was not answered in time.
    TimedOut,
}

/// What became of the requests of a lost connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Written writes that will be answered with [`Verdict::OutcomeUnknown`].
    pub unknown: usize,
    /// Written reads that will be sent again, and writes that may run twice.
    pub resent: usize,
}

/// Requests in order. Bytes stay until their reply, so that a read can be sent again.
#[derive(Default)]
pub struct Queue {
    bytes: Vec<u8>,
    /// Where the first unanswered request starts.
    head: usize,
    /// How far the bytes are written to the connection.
    written: usize,
    slots: VecDeque<Slot>,
    /// Requests that were answered by a node that turned out not to be the primary: they come before all others, and
    /// those without a verdict are sent again.
    deferred: Vec<(Slot, Vec<u8>)>,
    progress: u64,
}

impl Queue {
    /// Appends a request.
    pub fn push(&mut self, request: &[u8], replies: Rc<Replies>, if_lost: IfLost, mute: bool) {
        self.bytes.extend_from_slice(request);
        self.slots.push_back(Slot { replies, mute, len: request.len(), if_lost, sends: 0, verdict: None });
    }

    /// Bytes to be written next.
    pub fn unwritten(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    /// Notes that `count` more bytes were taken by the connection.
    pub fn wrote(&mut self, count: usize) {
        self.written = (self.written + count).min(self.bytes.len());
    }

    /// Whether a request has been written that is not answered.
    pub fn awaits_reply(&self) -> bool {
        self.written > self.head
    }

    /// Bytes held, written or not.
    pub fn held(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Requests without a reply.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing waits, neither to be written nor to be answered.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.deferred.is_empty()
    }

    /// The request whose reply comes next, if it has been written whole; a reply without one is not ours.
    pub fn front(&self) -> Option<&Slot> {
        self.slots.front().filter(|slot| self.head + slot.len <= self.written)
    }

    /// Rises with every reply, and with every piece of one that is not whole yet.
    pub fn progress(&self) -> u64 {
        self.progress
    }

    /// Part of a reply has come.
    pub fn progressed(&mut self) {
        self.progress += 1;
    }

    /// Takes the front request out: it has been answered.
    pub fn pop(&mut self) -> Option<Slot> {
        let slot = self.slots.pop_front()?;
        self.progress += 1;
        self.head += slot.len;
        if self.head == self.bytes.len() {
            self.bytes.clear();
            (self.head, self.written) = (0, 0);
            // One large burst must not hold its memory for ever.
            if self.bytes.capacity() > 1024 * 1024 {
                self.bytes = Vec::new();
            }
        } else if self.head > 64 * 1024 && self.head > self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.written -= self.head;
            self.head = 0;
        }
        Some(slot)
    }

    /// Takes the front request out for a later settlement: the node that answered it is not the primary. With
    /// `answer`, that is what the client gets in its turn; without, the request is sent again.
    pub fn defer(&mut self, answer: Option<&[u8]>) {
        let len = self.slots.front().map_or(0, |slot| slot.len);
        let request = self.bytes.get(self.head..self.head + len).unwrap_or_default().to_vec();
        if let Some(mut slot) = self.pop() {
            slot.verdict = answer.map(|answer| Verdict::Answered(answer.into()));
            self.deferred.push((slot, request));
        }
        // The server knows nothing of those whose answer was decided before.
        while self.slots.front().is_some_and(|slot| slot.verdict.is_some()) {
            let decided = self.pop().map(|slot| (slot, Vec::new()));
            self.deferred.extend(decided);
        }
    }

    /// The connection is gone. What was never written whole did not run and stays, as does what may be sent again;
    /// another written request keeps its place with its verdict. Departed clients' requests are dropped.
    pub fn settle(&mut self, loss: Loss) -> Settled {
        let old = std::mem::take(&mut self.bytes);
        let (mut at, written) = (self.head, self.written);
        (self.head, self.written) = (0, 0);
        let mut settled = Settled::default();
        let slots = std::mem::take(&mut self.slots);
        for (mut slot, request) in std::mem::take(&mut self.deferred) {
            if slot.replies.standing() != Standing::Open {
                continue;
            }
            match slot.verdict {
                Some(_) => slot.len = 0,
                None => {
                    settled.resent += 1;
                    self.bytes.extend_from_slice(&request);
                }
            }
            self.slots.push_back(slot);
        }
        for mut slot in slots {
            let end = at + slot.len;
            let request = old.get(at..end).unwrap_or_default();
            at = end;
            slot.replies.lost();
            if slot.replies.standing() != Standing::Open {
                continue;
            }
            if slot.verdict.is_none() && end <= written {
                slot.sends += 1;
                slot.verdict = match loss {
                    Loss::Silent => Some(slot.if_lost.verdict_of_silence()),
                    Loss::Broken if slot.if_lost.resends() && slot.sends < MAX_SENDS => None,
                    Loss::Broken => Some(slot.if_lost.verdict()),
                };
                settled.resent += usize::from(slot.verdict.is_none());
                settled.unknown += usize::from(slot.verdict == Some(Verdict::OutcomeUnknown));
            }
            match slot.verdict {
                Some(_) => slot.len = 0,
                None => self.bytes.extend_from_slice(request),
            }
            self.slots.push_back(slot);
        }
        settled
    }

    /// Takes the front slot out if its answer is already decided.
    pub fn pop_decided(&mut self) -> Option<(Slot, Verdict)> {
        self.slots.front()?.verdict.as_ref()?;
        let mut slot = self.pop()?;
        let verdict = slot.verdict.take()?;
        Some((slot, verdict))
    }

    /// Takes out every request: no connection will be made for them.
    pub fn drain(&mut self) -> impl Iterator<Item = Slot> + '_ {
        self.bytes = Vec::new();
        (self.head, self.written) = (0, 0);
        self.deferred.drain(..).map(|(slot, _)| slot).chain(self.slots.drain(..))
    }
}
