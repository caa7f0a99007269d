//! Which replies a lease still owes, and what each does to the session. No I/O.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::pins::Transaction;
use crate::upstream::connection::reauth::InPlaceAuth;
use crate::upstream::shared::queue::IfLost;

/// One reply to come.
#[derive(Debug)]
pub(super) enum Expect {
    /// A reply for the client.
    Reply(Awaited),
    /// Confirmations of a (P|S)(UN)SUBSCRIBE, so many still, one for each name. `mute`: an error in their place is not shown.
    Confirmations { left: usize, mute: bool },
    /// The echo of a random value, by which a forged extra reply is noticed. Not for the client.
    Nonce([u8; NONCE]),
    /// What a stream's newest entry is: XREAD's id in this place, for when it must be sent again. Not for the client.
    Newest(usize),
    /// The reply to the PUBLISH that precedes a WAIT. Not for the client.
    Publish,
    /// The reply to the DISCARD that is sent in an EXEC's place. The client gets this instead.
    Discarded(Vec<u8>),
    /// Replies to what restores state on a new connection, so many still. Not for the client, and never an error.
    Restored(usize),
    /// The reply to a PING that keeps the connection alive. Not for the client.
    Alive,
    /// The reply to an AUTH by which the connection is authenticated again. Not for the client.
    Auth(InPlaceAuth),
    /// What the client gets without the server's doing.
    Decided(Vec<u8>),
}

impl Expect {
    /// Returns the number of bytes allocated for what it holds.
    fn capacity(&self) -> usize {
        match self {
            Self::Reply(Awaited { effect: Effect::Exec(transaction), .. }) => transaction.capacity(),
            Self::Reply(Awaited { effect: Effect::Tracking(Some(request)), .. }) => request.len(),
            Self::Discarded(reply) | Self::Decided(reply) => reply.capacity(),
            _ => 0,
        }
    }
}

/// A reply for the client.
#[derive(Debug)]
pub(super) struct Awaited {
    /// What it does to the session.
    pub(super) effect: Effect,
    /// The client asked not to see it.
    pub(super) mute: bool,
    /// What may be done with it if it was sent and the connection is lost.
    pub(super) if_lost: IfLost,
    /// How often it was sent to a server whose connection was lost before it answered.
    pub(super) sends: u8,
    /// It is queued by the server for an EXEC.
    pub(super) queued: bool,
    /// The command may block: since when.
    pub(super) blocking: Option<Instant>,
    /// The reply's bytes are a user's code's, error codes included.
    pub(super) forgeable: bool,
}

/// What a reply does to the session.
#[derive(Debug)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// Opens a transaction; an error means that there is none.
    Multi,
    /// Ends this transaction; the SELECTs in it take effect.
    Exec(Box<Transaction>),
    /// Ends a transaction without running it.
    Discard,
    /// Ends or begins state that respgate follows; after an error the connection's state is not known.
    State,
    /// Selects a database.
    Select(u32),
    /// CLIENT TRACKING: the request that turned it on, or none.
    Tracking(Option<Box<[u8]>>),
    /// CLIENT NO-TOUCH.
    NoTouch(bool),
    /// CLIENT IMPORT-SOURCE.
    ImportSource(bool),
    /// HIMPORT PREPARE, or HIMPORT DISCARDALL, which ends it.
    Fieldsets(bool),
    /// From now on the connection sends what others do.
    Monitor,
    /// WAIT's answer, which is only true if the PUBLISH before it worked.
    Wait,
}

/// Places for replies that are kept allocated while none is due.
const KEPT: usize = 64;

/// Length of a nonce, in bytes.
pub(super) const NONCE: usize = 16;

/// Replies to come, in order, each with the length of its request.
#[derive(Debug, Default)]
pub(super) struct Expected {
    queue: VecDeque<(Expect, usize)>,
    /// Bytes allocated for what its members hold.
    members: usize,
    /// The last request must be answered before another is sent.
    pub(super) gated: bool,
}

impl Expected {
    pub(super) fn push(&mut self, expect: Expect, len: usize) {
        self.members += expect.capacity();
        self.queue.push_back((expect, len));
    }

    /// Returns the number of bytes allocated.
    pub(super) fn capacity(&self) -> usize {
        self.queue.capacity() * size_of::<(Expect, usize)>() + self.members
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn front(&self) -> Option<&Expect> {
        self.queue.front().map(|(expect, _)| expect)
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Expect> {
        self.queue.front_mut().map(|(expect, _)| expect)
    }

    /// The length of the last request, if that may block.
    pub(super) fn blocked_last(&self) -> Option<usize> {
        match self.queue.back() {
            Some((Expect::Reply(Awaited { blocking: Some(_), .. }), len)) => Some(*len),
            _ => None,
        }
    }

    /// The last request is kept with another length.
    pub(super) fn amend_last(&mut self, len: usize) {
        if let Some((_, last)) = self.queue.back_mut() {
            *last = len;
        }
    }

    /// Whether a reply is due that does not wait for what other clients do.
    pub(super) fn due(&self) -> bool {
        self.queue.back().is_some_and(|(expect, _)| match expect {
            Expect::Reply(awaited) => awaited.blocking.is_none() && !matches!(awaited.effect, Effect::Wait),
            _ => true,
        })
    }

    /// Takes the next one out, with its request's length; the gate opens with the last.
    pub(super) fn pop(&mut self) -> Option<(Expect, usize)> {
        let next = self.queue.pop_front();
        self.gated &= !self.queue.is_empty();
        let (expect, _) = next.as_ref()?;
        self.members = self.members.saturating_sub(expect.capacity());
        if self.queue.is_empty() && self.queue.capacity() > KEPT {
            // One long pipeline must not hold its memory for ever.
            self.queue = VecDeque::new();
        }
        next
    }

    /// Takes everything out.
    pub(super) fn take(&mut self) -> VecDeque<(Expect, usize)> {
        self.gated = false;
        self.members = 0;
        std::mem::take(&mut self.queue)
    }
}

/// A random value that no script can know.
pub(super) fn nonce() -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    for byte in &mut nonce {
        *byte = fastrand::alphanumeric() as u8;
    }
    nonce
}

/// Whether a frame is the echo of `nonce`.
pub(super) fn echoes(frame: &[u8], nonce: &[u8; NONCE]) -> bool {
    frame.strip_prefix(b"$16\r\n").and_then(|rest| rest.strip_suffix(b"\r\n")) == Some(&nonce[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_echo_will_do() {
        let nonce = nonce();
        let mut frame = b"$16\r\n".to_vec();
        frame.extend_from_slice(&nonce);
        frame.extend_from_slice(b"\r\n");
        assert!(echoes(&frame, &nonce));
        assert!(!echoes(b"+INJ\r\n", &nonce));
    }

    #[test]
    fn the_gate_opens_with_the_last_reply() {
        let mut expected = Expected::default();
        expected.push(Expect::Publish, 1);
        expected.push(Expect::Confirmations { left: 2, mute: false }, 1);
        expected.gated = true;
        expected.pop();
        assert!(expected.gated);
        expected.pop();
        assert!(!expected.gated && expected.is_empty());
    }
}
