//! Decides about each request of a lost connection: it stays in the queue, or it gets an outcome. No I/O.

use super::{IfLost, LossCause, MAX_SENDS, Queue, RequestOutcome, Slot};
use crate::upstream::replies::ClientState;

/// The number of connections that are lost in a row without any reply, after which each loss counts against every unanswered
/// request. The server then drops connections for a reason of its own.
const FRUITLESS: u8 = 3;

/// Counts what became of the requests of a lost connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Written writes that will be answered with [`RequestOutcome::OutcomeUnknown`].
    pub unknown: usize,
    /// Written reads that will be sent again, and writes that may run twice.
    pub resent: usize,
}

impl IfLost {
    /// Returns what the client gets if the request is not sent again.
    pub fn outcome(self) -> RequestOutcome {
        match self {
            Self::Resend => RequestOutcome::GivenUp,
            Self::ReportLost => RequestOutcome::Lost,
            Self::ResendWrite | Self::ReportUnknown => RequestOutcome::OutcomeUnknown,
        }
    }

    /// Returns what the client gets if the server did not answer in time. Nothing is sent again then.
    pub fn outcome_of_silence(self) -> RequestOutcome {
        match self {
            Self::Resend | Self::ReportLost => RequestOutcome::TimedOut,
            Self::ResendWrite | Self::ReportUnknown => RequestOutcome::OutcomeUnknown,
        }
    }

    /// Returns true if the request is sent again.
    pub fn resends(self) -> bool {
        matches!(self, Self::Resend | Self::ResendWrite)
    }
}

impl Queue {
    /// Settles the requests of a lost connection. A request that was not written completely did not run: it stays, and so does a
    /// written one that may be sent again. Any other written request gets an outcome, which its client receives in the order of its
    /// requests. Requests of clients that have left are dropped.
    pub fn settle(&mut self, loss: LossCause) -> Settled {
        let (unanswered, batch) = (self.unanswered(), self.probation.batch());
        // A single unanswered request is certainly the one that the loss counts against.
        let counts = self.counts_against_all(loss) || unanswered == 1;
        let old = std::mem::take(&mut self.bytes);
        self.marks.clear();
        let (mut at, written) = (self.head, self.written);
        (self.head, self.written, self.stop) = (0, 0, usize::MAX);
        let mut settled = Settled::default();
        let slots = std::mem::take(&mut self.slots);
        // Deferred requests came first on the connection, so they come first again.
        for (mut slot, request) in std::mem::take(&mut self.deferred) {
            if slot.replies.client_state() != ClientState::Open {
                continue;
            }
            slot.suspect = false;
            slot.arrival = slot.arrival.delayed_for_primary();
            match slot.outcome {
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
            // `end <= written`: the server has got the whole request, so it may have run.
            if slot.outcome.is_none() && end <= written {
                slot.sends = slot.sends.saturating_add(u8::from(counts));
                slot.outcome = match loss {
                    LossCause::Silent => Some(slot.if_lost.outcome_of_silence()),
                    _ if slot.if_lost.resends() && slot.sends < MAX_SENDS => None,
                    LossCause::Broken | LossCause::Superseded => Some(slot.if_lost.outcome()),
                };
                settled.resent += usize::from(slot.outcome.is_none());
                settled.unknown += usize::from(slot.outcome == Some(RequestOutcome::OutcomeUnknown));
                // Probation had let out this request alone, and the connection was lost again.
                if unanswered == 1 && batch == 1 && loss == LossCause::Broken && slot.outcome.is_none() {
                    self.culprit = Some(slot.replies.clone());
                }
                slot.suspect = true;
            }
            slot.suspect &= slot.outcome.is_none() && loss == LossCause::Broken;
            suspects += usize::from(slot.suspect);
            slot.arrival = slot.arrival.delayed_for_primary();
            // A request with an outcome keeps its slot, for the order of replies, but no bytes.
            match slot.outcome {
                Some(_) => slot.len = 0,
                None => self.bytes.extend_from_slice(request),
            }
            self.slots.push_back(slot);
        }
        let batch = self.probation.begin(suspects, batch);
        self.let_out(batch);
        settled
    }

    /// Returns true if this loss counts against every unanswered request, because no single one caused it.
    fn counts_against_all(&mut self, loss: LossCause) -> bool {
        if loss != LossCause::Broken {
            return true;
        }
        let (seen, losses) = self.fruitless;
        let losses = if seen == self.progress { losses.saturating_add(1) } else { 1 };
        self.fruitless = (self.progress, losses);
        losses > FRUITLESS
    }

    /// Returns the number of requests that were written completely and have no answer.
    fn unanswered(&self) -> usize {
        let mut end = self.head;
        let written = |slot: &&Slot| {
            end += slot.len;
            end <= self.written
        };
        self.slots.iter().take_while(written).filter(|slot| slot.outcome.is_none()).count()
    }
}
