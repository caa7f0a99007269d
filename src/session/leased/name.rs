//! Carries the client's name to the connection, so that others see in the server's CLIENT LIST whose blocked connection
//! it is: another respgate's clients look for their like by name. The requests go out with the client's own, and nobody
//! waits for their replies.

use super::Leased;
use super::expect::Expect;
use crate::command::Trace;
use crate::resp::request;
use crate::session::Session;

/// Size limit of a name that respgate carries to the server, in bytes.
const LONGEST: usize = 1024;

impl Leased {
    /// Gives a connection that the session begins to use the client's name.
    pub(super) fn begin_name(&mut self, session: &Session) {
        if self.lease.take_unnaming() {
            self.expected.push(Expect::Name, 0);
        }
        if !session.client.name.is_empty() {
            self.send_name(session);
        }
    }

    /// Gives the connection the client's newest name, unless the server denies that to the user.
    pub(super) fn send_name(&mut self, session: &Session) {
        let name = &session.client.name;
        if name.len() > LONGEST || self.lease.identity().is_naming_denied() || !self.may_name() {
            return;
        }
        self.named = true;
        self.post(Expect::Name, Trace::Followed, |out| request::encode(&[b"CLIENT", b"SETNAME", name], out));
    }

    /// Handles the reply to a request about the name.
    pub(super) fn handle_name_reply(&mut self, frame: &[u8]) {
        if frame.starts_with(b"-NOPERM") {
            self.named = false;
            self.lease.identity().deny_naming();
        } else if !frame.starts_with(b"+OK") {
            self.state_unknown = true;
        }
    }

    /// Takes the name from the connection before it serves others. Returns false if the connection must be closed.
    pub(super) fn end_name(&mut self) -> bool {
        !self.named || self.lease.begin_unnaming()
    }

    /// Returns true if a request about the name may be sent now: the server would queue it in a transaction, and refuse it
    /// from a subscriber in RESP2. Behind MONITOR, replies cannot be told from other traffic.
    fn may_name(&self) -> bool {
        self.pins.transaction.is_none()
            && !self.pins.monitoring
            && !self.expected.gated
            && (!self.pins.subscribed() || self.lease.resp() == crate::resp::Resp::V3)
    }
}
