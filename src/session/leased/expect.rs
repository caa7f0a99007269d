//! Queues the replies that a lease still owes, and says what each does to the session. No I/O.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::pins::Transaction;
use crate::latency::Arrival;
use crate::upstream::connection::reauth::InPlaceAuth;
use crate::upstream::shared::queue::IfLost;

/// Describes one reply to come.
#[derive(Debug)]
pub(super) enum Expect {
    /// A reply for the client.
    Reply(Awaited),
    /// Confirmations of a (P|S)(UN)SUBSCRIBE, one for each name; `left` of them are still to come. If `mute` is
    /// true, an error in their place is not shown.
    Confirmations { left: usize, mute: bool },
    /// The echo of a random value, which reveals a forged extra reply. Not for the client.
    Nonce([u8; NONCE]),
    /// The reply to XINFO STREAM, which names a stream's newest id. Holds the index of the `$` in the XREAD that
    /// follows, which gets this id if it must be sent again. Not for the client.
    Newest(usize),
    /// The reply to the PUBLISH that precedes a WAIT. Not for the client.
    Publish,
    /// The reply to the DISCARD that respgate sends in place of an EXEC. The client gets these bytes instead.
    Discarded(Vec<u8>),
    /// Replies to a request that restores state on a new connection: this many are still to come. Not for the
    /// client, and none may be an error.
    Restored(usize),
    /// The reply to a PING that keeps the connection alive. Not for the client.
    Alive,
    /// The reply to a CLIENT SETNAME that gives the connection the client's name, or takes an earlier one away. Not for
    /// the client.
    Name,
    /// The reply to an AUTH that authenticates the connection again. Not for the client.
    Auth(InPlaceAuth),
    /// A reply that respgate decided without the server. The client gets these bytes.
    Decided(Vec<u8>),
}

impl Expect {
    /// Returns the number of bytes allocated for the bytes it holds.
    fn capacity(&self) -> usize {
        match self {
            Self::Reply(Awaited { effect: Effect::Exec(transaction), .. }) => transaction.capacity(),
            Self::Reply(Awaited { effect: Effect::Tracking(Some(request)), .. }) => request.len(),
            Self::Discarded(reply) | Self::Decided(reply) => reply.capacity(),
            _ => 0,
        }
    }
}

/// Describes a reply for the client.
#[derive(Debug)]
pub(super) struct Awaited {
    /// What the reply does to the session.
    pub(super) effect: Effect,
    /// True if the client asked not to see the reply.
    pub(super) mute: bool,
    /// What to do if the request was sent and the connection is lost before the reply.
    pub(super) if_lost: IfLost,
    /// Number of servers that the request was sent to and that were lost before they answered.
    pub(super) sends: u8,
    /// True if the server queues the request for an EXEC.
    pub(super) queued: bool,
    /// When the command began to wait, if it can block.
    pub(super) blocking: Option<Instant>,
    /// True if a user's code chooses the reply's bytes, error codes included.
    pub(super) forgeable: bool,
    /// When and how the request came.
    pub(super) arrival: Arrival,
}

/// Says what a reply does to the session.
#[derive(Debug)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// Unknown. The session keeps the connection, unless the server did not run the command.
    Unknown,
    /// Opens a transaction. After an error, no transaction is open.
    Multi,
    /// Nothing but an error: a MULTI or WATCH inside a transaction. Most of these errors make EXEC fail.
    Nested,
    /// Ends this transaction. The SELECTs in it take effect.
    Exec(Box<Transaction>),
    /// Ends a transaction without running it.
    Discard,
    /// Begins or ends state that respgate tracks. After an error, the connection's state is unknown.
    State,
    /// Selects a database.
    Select(u32),
    /// CLIENT TRACKING: the request that turned tracking on, or `None` if it was turned off.
    Tracking(Option<Box<[u8]>>),
    /// CLIENT PAUSE of this duration, or CLIENT UNPAUSE, which ends it.
    Pause(Option<Duration>),
    /// CLIENT NO-TOUCH.
    NoTouch(bool),
    /// CLIENT IMPORT-SOURCE.
    ImportSource(bool),
    /// HIMPORT PREPARE (true), or HIMPORT DISCARDALL (false), which ends it.
    Fieldsets(bool),
    /// MONITOR: from now on the connection sends the commands of other clients.
    Monitor,
    /// WAIT's reply, which is only true if the PUBLISH before it worked.
    Wait,
}

/// Number of queue entries that stay allocated while no reply is due.
const KEPT: usize = 64;

/// Length of a nonce, in bytes.
pub(super) const NONCE: usize = 16;

/// Queues the replies to come, in order, each with the length of its request in bytes.
#[derive(Debug, Default)]
pub(super) struct Expected {
    queue: VecDeque<(Expect, usize)>,
    /// Bytes allocated for the contents of the entries.
    members: usize,
    /// True if the last request must be answered before another is sent.
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
        self.front_entry().map(|(expect, _)| expect)
    }

    /// Returns the next entry, with its request's length in bytes.
    pub(super) fn front_entry(&self) -> Option<&(Expect, usize)> {
        self.queue.front()
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Expect> {
        self.queue.front_mut().map(|(expect, _)| expect)
    }

    /// Returns true if a transaction whose end was sent still awaits replies.
    pub(super) fn ends_transaction(&self) -> bool {
        self.queue.iter().any(|(expect, _)| match expect {
            Expect::Reply(awaited) => matches!(awaited.effect, Effect::Exec(_) | Effect::Discard),
            Expect::Discarded(_) => true,
            _ => false,
        })
    }

    /// Returns the length of the last request in bytes, if that request may block.
    pub(super) fn blocked_last(&self) -> Option<usize> {
        match self.queue.back() {
            Some((Expect::Reply(Awaited { blocking: Some(_), .. }), len)) => Some(*len),
            _ => None,
        }
    }

    /// Changes the length of the last request, which was replaced in the outbound queue.
    pub(super) fn amend_last(&mut self, len: usize) {
        if let Some((_, last)) = self.queue.back_mut() {
            *last = len;
        }
    }

    /// Returns the number of replies to come, without that of a command that blocks.
    pub(super) fn unblocked(&self) -> usize {
        self.len() - usize::from(self.blocked_last().is_some())
    }

    /// Returns true if a reply is due that does not wait for other clients.
    pub(super) fn due(&self) -> bool {
        self.queue.back().is_some_and(|(expect, _)| match expect {
            Expect::Reply(awaited) => awaited.blocking.is_none() && !matches!(awaited.effect, Effect::Wait),
            _ => true,
        })
    }

    /// Takes the next entry out, with its request's length. The gate opens with the last entry.
    pub(super) fn pop(&mut self) -> Option<(Expect, usize)> {
        let next = self.queue.pop_front();
        self.gated &= !self.queue.is_empty();
        let (expect, _) = next.as_ref()?;
        self.members = self.members.saturating_sub(expect.capacity());
        if self.queue.is_empty() && self.queue.capacity() > KEPT {
            // Free the memory of a long pipeline.
            self.queue = VecDeque::new();
        }
        next
    }

    /// Takes all entries out, and opens the gate.
    pub(super) fn take(&mut self) -> VecDeque<(Expect, usize)> {
        self.gated = false;
        self.members = 0;
        std::mem::take(&mut self.queue)
    }
}

/// Returns a random value that no script can know.
pub(super) fn nonce() -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    for byte in &mut nonce {
        *byte = fastrand::alphanumeric() as u8;
    }
    nonce
}

/// Returns true if a frame is the echo of `nonce`.
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
