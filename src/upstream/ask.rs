//! Sends the server a command of respgate's own about clients, and returns the reply.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::Upstream;
use super::connection::identity::Identity;
use super::connection::open::ConnectionKey;
use super::learn::NO_PRIMARY;
use crate::resp::Resp;
use crate::resp::error_line::ErrorLine;
use crate::resp::value::Value;
use crate::topology::Primary;

impl Upstream {
    /// Sends a command that leaves no state on its connection, as `identity`, and returns the reply. Takes
    /// `connect-timeout` at most, and does not wait for a primary.
    ///
    /// # Errors
    /// Returns the error line for the client: the server's own, or respgate's.
    pub async fn ask(&self, identity: &Rc<Identity>, words: &[&[u8]]) -> Result<Value, ErrorLine> {
        if self.in_hold() {
            return Err(NO_PRIMARY.into());
        }
        let key = ConnectionKey::new(identity.clone(), 0, Resp::V2);
        let deadline = Instant::now() + self.config.get().connect_timeout;
        let unanswered =
            |why: &str| ErrorLine::from(format!("-ERR respgate: the server did not answer: {why}"));
        match timeout_at(deadline, self.inquiries.ask(&key, words, deadline)).await {
            Ok(Ok(Value::Error(line))) => Err(ErrorLine::of_server(&line)),
            Ok(reply) => reply,
            Err(_) => Err(unanswered("connect-timeout has passed")),
        }
    }

    /// Returns the identity that may unblock a client of `identity`: respgate's own, unless clients must authenticate
    /// themselves.
    pub fn identity_to_unblock<'a>(&'a self, identity: &'a Rc<Identity>) -> &'a Rc<Identity> {
        if self.parts.dialing.server.is_auth_required() { identity } else { self.identities.own() }
    }

    /// Returns the primary; `None` while there is none.
    pub fn primary(&self) -> Option<Arc<Primary>> {
        self.hold.primary()
    }

    /// Returns the server's ids of this worker's open connections.
    pub fn connection_ids(&self) -> Vec<u64> {
        self.parts.dialing.ids.all()
    }

    /// Takes note that the server may be silent until then, because a client has paused it.
    pub fn suspend_response_timeout(&self, until: Instant) {
        self.parts.dialing.pause.suspend(until);
    }
}
