//! Sends respgate's own requests on a lease: PING and AUTH.

use super::Leased;
use super::expect::Expect;
use super::pins::Pins;
use crate::command::Trace;
use crate::resp::Resp;
use crate::session::Session;

impl Leased {
    /// Sends the PING or the AUTH that the connection needs, if it may be sent now.
    pub(super) fn send_own_requests(&mut self, session: &Session) {
        if self.lease.take_ping() && self.may_interject() {
            self.send_ping(session);
        }
        if self.lease.is_refresh_due() && self.may_authenticate(session) {
            self.authenticate();
        }
    }

    /// Returns true if respgate may send a request of its own: not behind a reply that is due, whose command may
    /// block; not in a transaction, which would queue it; not where replies cannot be told from other traffic.
    pub(super) fn may_interject(&self) -> bool {
        let Pins { transaction, monitoring, .. } = &self.pins;
        let unknown = self.pins.is_pinned_for_unknown();
        self.expected.is_empty() && transaction.is_none() && !monitoring && !unknown
    }

    /// Returns true if the connection can be authenticated again now. A RESP2 subscriber may not send AUTH
    /// (observed on valkey 8.0 and redis 7.0).
    fn may_authenticate(&self, session: &Session) -> bool {
        self.may_interject() && (session.client.resp == Resp::V3 || !self.pins.subscribed())
    }

    /// Authenticates the connection again. Sends nothing behind the AUTH until its reply comes.
    pub(super) fn authenticate(&mut self) {
        if let Some(auth) = self.lease.begin_refresh() {
            let mut request = Vec::new();
            auth.write(&mut request);
            self.post(Expect::Auth(auth), Trace::Nothing, |out| out.append(&mut request));
            self.expected.gated = true;
        }
    }

    /// Sends a request that changes nothing, whose reply the client does not see.
    pub(super) fn send_ping(&mut self, session: &Session) {
        let request = session.ctx.upstream.probe_request(self.lease.identity());
        self.post(Expect::Alive, Trace::Nothing, |out| out.extend_from_slice(request));
    }
}
