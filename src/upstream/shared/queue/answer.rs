//! The replies that respgate gives in the server's place.

use super::{RequestOutcome, Slot};

impl RequestOutcome {
    /// Returns the whole reply, with CRLF.
    pub fn reply(&self) -> Vec<u8> {
        let line: &[u8] = match self {
            Self::Answered(reply) => return reply.to_vec(),
            Self::OutcomeUnknown => {
                b"-OUTCOMEUNKNOWN the connection to the primary was lost after the command was sent and before it was answered: it may or may not have run"
            }
            Self::GivenUp => {
                b"-ERR respgate: the primary closed the connection each time this read was sent; if its reply is large, it may exceed the primary's client-output-buffer-limit for normal clients: raise that limit or read less at once"
            }
            Self::Lost => {
                b"-ERR respgate: the connection to the primary was lost before this read was answered (retry-reads is off)"
            }
            Self::TimedOut => b"-ERR respgate: the primary did not reply within response-timeout",
        };
        [line, b"\r\n"].concat()
    }
}

/// Answers a request in the server's place, unless its client turned replies off.
pub(in crate::upstream) fn answer(slot: &Slot, reply: &[u8]) {
    if slot.mute {
        slot.replies.swallow();
    } else {
        slot.replies.deliver(reply, 1, reply.len());
    }
}
