//! Handles HELLO with another protocol version in a session that keeps its lease.

use super::{Close, Leased};
use crate::session::Session;
use crate::session::hello::Hello;

impl Leased {
    /// Returns true if a HELLO can be granted although the connection has state. Only NO-TOUCH can be restored on
    /// a connection of the other version: a transaction or watched keys cannot move, messages would be lost
    /// between the two connections, and tracking needs RESP3.
    pub(super) fn may_change_version(&self, session: &Session, hello: &Hello) -> bool {
        hello.auth.is_none() && self.pins.only_no_touch() && session.ctx.upstream.server().is_some()
    }

    /// Replaces the connection by one of the version that HELLO asks for, and answers HELLO.
    ///
    /// # Errors
    /// Returns the reason to close if the client left, the server refused the new connection, or the client's new
    /// tenant is full.
    pub(super) async fn change_version(self, session: &mut Session, hello: &Hello) -> Result<Self, Close> {
        let upstream = session.ctx.upstream.clone();
        let (Some(mut key), Some(server)) = (session.key(), upstream.server()) else {
            return Err(Close::UpstreamLost);
        };
        key.resp = hello.resp.unwrap_or(key.resp);
        let replies = session.output.replies.clone();
        let reopened = tokio::select! {
            reopened = self.lease.reopen(&key, &replies) => reopened,
            () = session.until_abandoned() => return Err(Close::Left),
        };
        session.end_wait();
        let lease = match reopened {
            Ok(lease) => lease,
            Err(line) => {
                session.refuse(&line);
                return Err(Close::UpstreamLost);
            }
        };
        session.greet(hello, &server);
        if session.client.resp != key.resp {
            return Err(Close::Full);
        }
        let mut next = Self::new(lease, self.for_session, session);
        (next.used, next.client_left, next.pins) = (true, self.client_left, self.pins);
        next.begin(session);
        next.restore(session);
        Ok(next)
    }
}
