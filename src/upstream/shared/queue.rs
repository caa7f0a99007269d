//! The requests of one shared connection: what waits to be written, what waits for its reply, and what becomes
//! of both when the connection is lost. No I/O.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use crate::upstream::replies::{ClientState, Replies};
use crate::upstream::shared::probation::Probation;

/// Why a connection is given up, as far as its requests are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// It was closed or broke: reads are sent again, and one of them may be the reason (see [`Probation`]).
    Broken,
    /// A newer primary took over, or this one is none any more: reads are sent again.
    Superseded,
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

/// How many lost connections end a request. A read that makes the server drop the connection must not do so for
/// ever. A loss that was another request's doing does not count.
pub const MAX_SENDS: u8 = 3;
/// Connections that are lost in a row without any reply, after which each loss counts against every unanswered request:
/// then it is the server that drops connections.
const FRUITLESS: u8 = 3;

/// One request's place in the order of replies.
pub struct Slot {
    /// Whose reply it is.
    pub replies: Rc<Replies>,
    /// The client asked not to see the reply (CLIENT REPLY OFF or SKIP).
    pub mute: bool,
    len: usize,
    if_lost: IfLost,
    /// How many losses of a connection count against it.
    sends: u8,
    /// It may be the reason why the connection was lost.
    suspect: bool,
    verdict: Option<RequestOutcome>,
}

impl IfLost {
    /// What the client gets if it is not sent again, or not once more.
    pub fn verdict(self) -> RequestOutcome {
        match self {
            Self::Resend => RequestOutcome::GivenUp,
            Self::ReportLost => RequestOutcome::Lost,
            Self::ResendWrite | Self::ReportUnknown => RequestOutcome::OutcomeUnknown,
        }
    }

    /// What the client gets if the server did not answer in time: nothing is sent again then.
    pub fn verdict_of_silence(self) -> RequestOutcome {
        match self {
            Self::Resend | Self::ReportLost => RequestOutcome::TimedOut,
            Self::ResendWrite | Self::ReportUnknown => RequestOutcome::OutcomeUnknown,
        }
    }

    /// Whether it is sent again.
    pub fn resends(self) -> bool {
        matches!(self, Self::Resend | Self::ResendWrite)
    }
}

impl Slot {
    /// The answer, if it is decided.
    pub fn verdict(&self) -> Option<&RequestOutcome> {
        self.verdict.as_ref()
    }

    /// What may be done with it if its answer does not count.
    pub fn if_lost(&self) -> IfLost {
        self.if_lost
    }
}

/// An answer that respgate gives in the server's place, in the slot's turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// What the server answered, kept back until earlier requests of the same client are answered.
    Answered(Box<[u8]>),
    /// The connection was lost after the request was written: it may or may not have run.
    OutcomeUnknown,
    /// The connection was lost each time that a read was sent, [`MAX_SENDS`] times at most.
    GivenUp,
    /// The connection was lost after a read was sent, and reads are not sent again.
    Lost,
    /// A read was not answered in time.
    TimedOut,
}

/// What became of the requests of a lost connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Written writes that will be answered with [`RequestOutcome::OutcomeUnknown`].
    pub unknown: usize,
    /// Written reads that will be sent again, and writes that may run twice.
    pub resent: usize,
}

/// Requests in order. Bytes stay until their reply, so that a read can be sent again.
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
    probation: Probation,
    /// Up to where the bytes may be written now; less than all of them during probation only.
    stop: usize,
    /// The request that made the server close the connection, found by probation.
    culprit: Option<Rc<Replies>>,
    /// The progress at the last loss, and how many losses in a row saw none.
    fruitless: (u64, u8),
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
        }
    }
}

impl Queue {
    /// Appends a request.
    pub fn push(&mut self, request: &[u8], replies: Rc<Replies>, if_lost: IfLost, mute: bool) {
        self.bytes.extend_from_slice(request);
        let len = request.len();
        self.slots.push_back(Slot { replies, mute, len, if_lost, sends: 0, suspect: false, verdict: None });
    }

    /// Bytes to be written next.
    pub fn unwritten(&self) -> &[u8] {
        self.bytes.get(self.written..self.stop.min(self.bytes.len())).unwrap_or_default()
    }

    /// Whether requests wait until suspects of a loss are answered.
    pub fn holds_back(&self) -> bool {
        self.stop < self.bytes.len()
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
        self.progress += 1;
        self.take_front()
    }

    fn take_front(&mut self) -> Option<Slot> {
        let slot = self.slots.pop_front()?;
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

    /// The next `batch` suspects may be written, and everything if there are none.
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

    /// Looks for a culprit no longer: another server answers now.
    pub fn end_probation(&mut self) {
        self.probation = Probation::default();
        self.stop = usize::MAX;
        self.slots.iter_mut().for_each(|slot| slot.suspect = false);
    }

    /// Takes the front request out for a later settlement: the node that answered it is not the primary. With
    /// `answer`, that is what the client gets in its turn; without, the request is sent again.
    pub fn defer(&mut self, answer: Option<&[u8]>) {
        let len = self.slots.front().map_or(0, |slot| slot.len);
        let request = self.bytes.get(self.head..self.head + len).unwrap_or_default().to_vec();
        if let Some(mut slot) = self.pop() {
            slot.verdict = answer.map(|answer| RequestOutcome::Answered(answer.into()));
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
    pub fn settle(&mut self, loss: LossCause) -> Settled {
        let counts = self.counts_against_all(loss);
        let (unanswered, batch) = (self.unanswered(), self.probation.batch());
        let counts = counts || unanswered == 1;
        let old = std::mem::take(&mut self.bytes);
        let (mut at, written) = (self.head, self.written);
        (self.head, self.written, self.stop) = (0, 0, usize::MAX);
        let mut settled = Settled::default();
        let slots = std::mem::take(&mut self.slots);
        for (mut slot, request) in std::mem::take(&mut self.deferred) {
            if slot.replies.client_state() != ClientState::Open {
                continue;
            }
            slot.suspect = false;
            match slot.verdict {
                Some(_) => slot.len = 0,
                None => {
                    settled.resent += 1;
                    self.bytes.extend_from_slice(&request);
                }
            }
            self.slots.push_back(slot);
        }
        let mut suspects = 0;
        for mut slot in slots {
            let end = at + slot.len;
            let request = old.get(at..end).unwrap_or_default();
            at = end;
            slot.replies.lost();
            if slot.replies.client_state() != ClientState::Open {
                continue;
            }
            if slot.verdict.is_none() && end <= written {
                slot.sends = slot.sends.saturating_add(u8::from(counts));
                slot.verdict = match loss {
                    LossCause::Silent => Some(slot.if_lost.verdict_of_silence()),
                    _ if slot.if_lost.resends() && slot.sends < MAX_SENDS => None,
                    LossCause::Broken | LossCause::Superseded => Some(slot.if_lost.verdict()),
                };
                settled.resent += usize::from(slot.verdict.is_none());
                settled.unknown += usize::from(slot.verdict == Some(RequestOutcome::OutcomeUnknown));
                if unanswered == 1 && batch == 1 && loss == LossCause::Broken && slot.verdict.is_none() {
                    self.culprit = Some(slot.replies.clone());
                }
                slot.suspect = true;
            }
            slot.suspect &= slot.verdict.is_none() && loss == LossCause::Broken;
            suspects += usize::from(slot.suspect);
            match slot.verdict {
                Some(_) => slot.len = 0,
                None => self.bytes.extend_from_slice(request),
            }
            self.slots.push_back(slot);
        }
        let batch = self.probation.begin(suspects, batch);
        self.let_out(batch);
        settled
    }

    /// Whether this loss is none of one request's doing.
    fn counts_against_all(&mut self, loss: LossCause) -> bool {
        if loss != LossCause::Broken {
            return true;
        }
        let (seen, losses) = self.fruitless;
        let losses = if seen == self.progress { losses.saturating_add(1) } else { 1 };
        self.fruitless = (self.progress, losses);
        losses > FRUITLESS
    }

    /// Requests that were written whole and have no answer.
    fn unanswered(&self) -> usize {
        let mut end = self.head;
        let written = |slot: &&Slot| {
            end += slot.len;
            end <= self.written
        };
        self.slots.iter().take_while(written).filter(|slot| slot.verdict.is_none()).count()
    }

    /// Takes out the requests of the client whose read made the server close the connection, if there is one: they are
    /// for a connection of its own. If that is lost too, the read is given up.
    pub fn take_culprit(&mut self, nobody: &Rc<Replies>) -> Option<Self> {
        let client = self.culprit.take()?;
        client.sizes().use_own();
        let mut own = self.divide(&client, nobody);
        if let Some(culprit) = own.slots.iter_mut().find(|slot| slot.verdict.is_none()) {
            culprit.sends = MAX_SENDS - 1;
        }
        own.slots.iter_mut().for_each(|slot| slot.suspect = slot.if_lost.resends());
        own.restart_probation();
        Some(own)
    }

    /// Divides the requests between this connection and another one to the same server, which takes the place of this
    /// one: the other one carries what stays in `self`, and this one what is returned.
    ///
    /// This connection keeps all requests of `client`, all requests of each client that has a written request which may
    /// not be sent twice, and every written request, since its reply comes here. But the client of a written read gets
    /// the reply from the other connection, to which the read is sent again; the reply from this one goes to `nobody`.
    /// So each client's requests stand on one connection, in order.
    pub fn divide(&mut self, client: &Rc<Replies>, nobody: &Rc<Replies>) -> Self {
        let staying = self.staying(client);
        let bytes = std::mem::take(&mut self.bytes);
        let (mut at, written) = (self.head, self.written);
        let mut kept = Self { written: written - at, progress: self.progress, ..Self::default() };
        (self.head, self.written) = (0, 0);
        for mut slot in std::mem::take(&mut self.slots) {
            let (begun, end) = (at < written && slot.verdict.is_none(), at + slot.len);
            let request = bytes.get(at..end).unwrap_or_default();
            at = end;
            let gone = slot.replies.client_state() != ClientState::Open;
            if gone || staying.contains(&Rc::as_ptr(&slot.replies)) {
                if begun || !gone {
                    slot.suspect = false;
                    kept.bytes.extend_from_slice(request);
                    kept.slots.push_back(slot);
                }
                continue;
            }
            if begun {
                kept.bytes.extend_from_slice(request);
                let (replies, len) = (nobody.clone(), slot.len);
                let (mute, if_lost, sends, suspect) = (true, IfLost::Resend, 0, false);
                kept.slots.push_back(Slot { replies, mute, len, if_lost, sends, suspect, verdict: None });
            }
            self.bytes.extend_from_slice(request);
            self.slots.push_back(slot);
        }
        self.restart_probation();
        kept
    }

    /// The clients whose requests cannot move from their connection to another, and `client`.
    fn staying(&self, client: &Rc<Replies>) -> HashSet<*const Replies> {
        let mut staying = HashSet::from([Rc::as_ptr(client)]);
        let mut at = self.head;
        for slot in &self.slots {
            let begun = at < self.written && slot.verdict.is_none();
            at += slot.len;
            let moves = slot.if_lost == IfLost::Resend && !slot.replies.is_partial();
            if begun && !moves && staying.insert(Rc::as_ptr(&slot.replies)) {
                slot.replies.sizes().wait_until_answered();
            }
        }
        staying
    }

    fn restart_probation(&mut self) {
        let suspects = self.slots.iter().filter(|slot| slot.suspect).count();
        let batch = self.probation.begin(suspects, 0);
        self.let_out(batch);
    }

    /// Whether a client waits for any of the replies.
    pub fn is_wanted(&self) -> bool {
        self.slots.iter().any(|slot| slot.replies.client_state() == ClientState::Open)
    }

    /// Whether nobody but the client whose reply comes next waits for any.
    pub fn serves_one(&self) -> bool {
        let Some(first) = self.slots.front() else { return true };
        self.slots.iter().all(|slot| {
            Rc::ptr_eq(&slot.replies, &first.replies) || slot.replies.client_state() != ClientState::Open
        })
    }

    /// Takes the front slot out if its answer is already decided.
    pub fn pop_decided(&mut self) -> Option<(Slot, RequestOutcome)> {
        self.slots.front()?.verdict.as_ref()?;
        let mut slot = self.take_front()?;
        let verdict = slot.verdict.take()?;
        Some((slot, verdict))
    }

    /// Takes out every request: no connection will be made for them.
    pub fn drain(&mut self) -> impl Iterator<Item = Slot> + '_ {
        self.bytes = Vec::new();
        (self.head, self.written) = (0, 0);
        (self.probation, self.stop, self.culprit) = (Probation::default(), usize::MAX, None);
        self.deferred.drain(..).map(|(slot, _)| slot).chain(self.slots.drain(..))
    }
}

#[cfg(test)]
mod tests;
