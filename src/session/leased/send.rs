//! Queues requests on a lease. The lease notes what each can leave on the connection, so that it can prove at its
//! end that nothing is left.

use super::Leased;
use super::expect::{Awaited, Effect, Expect, NONCE, nonce};
use crate::command::{Trace, trace_of};
use crate::resp::request::{self, Request};

impl Leased {
    /// Queues a request that can leave `trace`, and the reply that it expects. `write` appends the request's
    /// bytes.
    pub(super) fn post(&mut self, expect: Expect, trace: Trace, write: impl FnOnce(&mut Vec<u8>)) {
        let trace = match &expect {
            // A script in the transaction can forge EXEC's reply, and with it which database is selected.
            Expect::Reply(Awaited { effect: Effect::Exec(transaction), .. })
                if transaction.hides_database() =>
            {
                Trace::Unknown
            }
            _ => trace,
        };
        let len = self.outbound.push(write);
        self.lease.note(trace, len);
        self.expected.push(expect, len);
    }

    /// As [`Self::post`], for a request that was encoded before. Its trace is read from its bytes.
    pub(super) fn post_encoded(&mut self, expect: Expect, request: &[u8]) {
        let trace = Request::parse(request).map_or(Trace::Unknown, |request| trace_of(&request));
        self.post(expect, trace, |out| out.extend_from_slice(request));
    }

    /// Queues a client's request as it came.
    pub(super) fn send(&mut self, request: &Request<'_>, awaited: Awaited, trace: Trace) {
        self.ask_first(matches!(awaited.effect, Effect::Multi));
        self.post(Expect::Reply(awaited), trace, |out| out.extend_from_slice(request.raw()));
    }

    /// Queues a DISCARD of respgate's own.
    pub(super) fn send_discard(&mut self, expect: Expect) {
        self.post(expect, Trace::Followed, |out| request::encode(&[b"DISCARD"], out));
    }

    /// Sends an ECHO of a random value behind a script. On some servers scripts can emit a second reply
    /// (CVE-2025-67733), which would be taken for the next command's reply; the missing echo reveals it.
    pub(super) fn expect_nonce(&mut self) {
        let nonce: [u8; NONCE] = nonce();
        self.post(Expect::Nonce(nonce), Trace::Nothing, |out| request::encode(&[b"ECHO", &nonce], out));
    }
}
