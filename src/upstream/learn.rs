//! Asks the server for the commands that the static table lacks, once per primary and only when a client uses one, and for the
//! number of its users.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::command::learned::Learned;
use crate::resp::Resp;
use crate::resp::control::{Control, ControlError};
use crate::resp::error_line::ErrorLine;
use crate::resp::value::Value;
use crate::rotation::login::Principal;
use crate::upstream::connection::identity::Identity;
use crate::upstream::connection::open::{ConnectionKey, Dialing, NeedlessPassword, Purpose};
use crate::upstream::leased::lease::Lease;
use crate::upstream::leased::pool::LeasePool;
use crate::upstream::replies::Replies;
use crate::upstream::shared::fair::fair_queue::Share;

/// The time for which the server's answer counts that it has one user only.
const ONE_USER_COUNTS: Duration = Duration::from_secs(1);

/// The time for which the answer counts that the server has several users, or does not say. A server that denies `ACL USERS`
/// writes each question to its `ACL LOG`.
const SEVERAL_USERS_COUNT: Duration = Duration::from_secs(60);

/// The error line if there is no primary to ask.
pub(super) const NO_PRIMARY: &[u8] = b"-ERR respgate: there is no primary at present; try again";

/// Asks the server questions on behalf of sessions, one question of a kind at a time.
pub(super) struct Inquiries {
    pool: Rc<LeasePool>,
    /// True while a session asks the server for its commands.
    learning: Cell<bool>,
    /// True while a session asks the server for its users.
    counting_users: Cell<bool>,
    /// Locked by the question that has a connection beside the pool.
    beside: Mutex<()>,
}

impl Inquiries {
    pub(super) fn new(pool: Rc<LeasePool>) -> Self {
        Self { pool, learning: Cell::default(), counting_users: Cell::default(), beside: Mutex::default() }
    }

    fn dialing(&self) -> &Dialing {
        &self.pool.dialing
    }

    /// Asks the server for its users, as `key`'s user, for `ServerFacts::has_one_user`. Sessions that ask at the same time share one
    /// question. A server that does not answer within `connect-timeout`, or refuses, counts as one with several users.
    pub(super) async fn count_users(&self, key: &ConnectionKey) {
        let Dialing { config, hold, server, .. } = self.dialing();
        let deadline = Instant::now() + config.get().connect_timeout;
        if self.counting_users.replace(true) {
            if server.has_one_user().is_none() {
                let _ = timeout_at(deadline, hold.changed()).await;
            }
            return;
        }
        let generation = hold.generation();
        let one = timeout_at(deadline, self.ask_for_users(key, deadline)).await.unwrap_or(false);
        self.counting_users.set(false);
        // After a failover the answer is about another server, and the session asks again.
        if generation == hold.generation() {
            let counts = if one { ONE_USER_COUNTS } else { SEVERAL_USERS_COUNT };
            server.set_one_user(one, Instant::now() + counts);
        }
        hold.notify_changed();
    }

    /// Leases a connection for a question of respgate itself.
    async fn lease(&self, key: &ConnectionKey) -> Option<Lease> {
        let nobody = Replies::nobody(&self.dialing().buffers);
        let mut lease = self.pool.lease(key, &nobody, Share::default()).await.ok()?;
        lease.finish_unnaming().await.ok()?;
        Some(lease)
    }

    /// Sends a command that leaves no state on its connection, and returns the reply.
    ///
    /// # Errors
    /// Returns the error line for the client, if the server could not be asked.
    pub(super) async fn ask(
        &self,
        key: &ConnectionKey,
        words: &[&[u8]],
        deadline: Instant,
    ) -> Result<Value, ErrorLine> {
        let unanswered = |error: ControlError| {
            ErrorLine::from(format!("-ERR respgate: the server did not answer: {error}"))
        };
        if !self.pool.has_room() {
            return self.ask_beside(key, words, deadline).await?.map_err(unanswered);
        }
        let nobody = Replies::nobody(&self.dialing().buffers);
        let mut lease = self.pool.lease(key, &nobody, Share::default()).await?;
        lease.finish_unnaming().await.map_err(|error| unanswered(error.into()))?;
        let mut control = Control::new(&mut lease.link.stream);
        let reply = control.call(words, deadline).await.map_err(unanswered)?;
        drop(control);
        if let Some(lease) = lease.proven() {
            lease.give_back();
        }
        Ok(reply)
    }

    /// As [`Self::ask`], on a connection that `max-leased` does not count: while blocked clients have all leases, somebody must be
    /// able to unblock one. There is one such connection at a time.
    async fn ask_beside(
        &self,
        key: &ConnectionKey,
        words: &[&[u8]],
        deadline: Instant,
    ) -> Result<Result<Value, ControlError>, ErrorLine> {
        let _one = self.beside.lock().await;
        let unavailable = || ErrorLine::from(NO_PRIMARY);
        let hold = &self.dialing().hold;
        let primary = hold.primary().filter(|_| !hold.is_disconnecting()).ok_or_else(unavailable)?;
        let opened = self.dialing().open(&primary, key, NeedlessPassword::Accepted, Purpose::Leased).await;
        let mut link = opened.map_err(|_| unavailable())?;
        Ok(Control::new(&mut link.stream).call(words, deadline).await)
    }

    async fn ask_for_users(&self, asker: &ConnectionKey, deadline: Instant) -> bool {
        let key = ConnectionKey::new(asker.identity.clone(), 0, Resp::V2);
        let Some(mut lease) = self.lease(&key).await else { return false };
        let mut control = Control::new(&mut lease.link.stream);
        let Ok(reply) = control.call(&[b"ACL", b"USERS"], deadline).await else { return false };
        drop(control);
        // ACL USERS leaves nothing, and its reply has come.
        if let Some(lease) = lease.proven() {
            lease.give_back();
        }
        reply.elements().is_some_and(|users| users.len() == 1)
    }

    /// Asks the server for its commands, as `key`'s user, for `ServerFacts::learned`. Takes `connect-timeout` at most. Returns false if
    /// the server could not be asked. A server that denies COMMAND to the user describes nothing. For a user of respgate's own,
    /// respgate asks as itself if it can: all clients use the answer, and that user may be allowed little.
    pub(super) async fn learn(&self, key: &ConnectionKey) -> bool {
        let Dialing { config, hold, server, .. } = self.dialing();
        let deadline = Instant::now() + config.get().connect_timeout;
        if self.learning.replace(true) {
            if server.learned().is_none() {
                let _ = timeout_at(deadline, hold.changed()).await;
            }
        } else {
            let generation = hold.generation();
            let learned = timeout_at(deadline, self.ask_for_commands(key, deadline)).await;
            self.learning.set(false);
            if generation == hold.generation()
                && let Ok(Some(learned)) = learned
            {
                server.set_learned(learned);
            }
            hold.notify_changed();
        }
        server.learned().is_some()
    }

    /// Sends SELECT on a connection for `key`, which is in that database already.
    ///
    /// # Errors
    /// Returns the error line for the client: the server's own, if the user may not SELECT.
    pub(super) async fn ask_to_select(
        &self,
        key: &ConnectionKey,
        replies: &Rc<Replies>,
        share: Share,
    ) -> Result<(), ErrorLine> {
        let mut lease = self.pool.lease(key, replies, share).await?;
        let deadline = Instant::now() + self.dialing().config.get().connect_timeout;
        let unanswered = |error: ControlError| {
            ErrorLine::from(format!("-ERR respgate: the server did not answer SELECT: {error}"))
        };
        timeout_at(deadline, lease.finish_unnaming())
            .await
            .unwrap_or(Err(std::io::ErrorKind::TimedOut.into()))
            .map_err(|error| unanswered(error.into()))?;
        let mut control = Control::new(&mut lease.link.stream);
        control.set_resp(key.resp);
        let database = key.database.to_string();
        let reply = control.call(&[b"SELECT", database.as_bytes()], deadline).await;
        drop(control);
        let answer = match reply {
            Ok(reply) => reply.error().map_or(Ok(()), |line| Err([b"-", line.as_ref()].concat().into())),
            Err(error) => return Err(unanswered(error)),
        };
        // The database is the one that the connection had, and the reply has come.
        if let Some(lease) = lease.proven() {
            lease.give_back();
        }
        answer
    }

    async fn ask_for_commands(&self, asker: &ConnectionKey, deadline: Instant) -> Option<Learned> {
        // `ask` waits for a primary only if the pool has room.
        while self.dialing().hold.primary().is_none() {
            self.dialing().hold.changed().await;
        }
        let commands: &[&[u8]] = &[b"COMMAND"];
        let key = |identity: &Rc<Identity>| ConnectionKey::new(identity.clone(), 0, Resp::V2);
        let as_itself = match asker.identity.login().map(|login| login.principal().clone()) {
            Some(Principal::User(_)) => {
                self.ask(&key(self.dialing().identities.own()), commands, deadline).await.ok()
            }
            Some(Principal::Own) | None => None,
        };
        let reply = match as_itself {
            Some(reply) => reply,
            None => self.ask(&key(&asker.identity), commands, deadline).await.ok()?,
        };
        Some(if reply.elements().is_some() { Learned::from_reply(&reply) } else { Learned::nothing() })
    }
}
