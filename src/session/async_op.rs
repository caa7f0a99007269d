//! Runs the operations that a session must wait for outside the data path: checking a password, opening another
//! database's lane, leasing a connection.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::close::Close;
use super::departure::CLIENT_LEFT;
use super::hello::Hello;
use super::step::AsyncOp;
use super::{Session, hello, leased, refusal};
use crate::resp::Resp;
use crate::resp::error_line::ErrorLine;
use crate::resp::write;
use crate::topology::ServerInfo;
use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::shared::lane::Admission;

/// The error line for a command that the table lacks while the server cannot be asked about it.
const CANNOT_LEARN: &[u8] =
    b"-ERR respgate: respgate does not know this command and could not ask the server about it; try again";

impl Session {
    /// Runs an operation and answers its command. Ends early when the client leaves.
    pub(super) async fn run_op(&mut self, op: AsyncOp) {
        self.activity.set_lease_state(self.ctx.registry.now.get(), true, false);
        self.execute_op(op).await;
        let now = self.ctx.registry.now.get();
        self.activity.set_lease_state(now, false, false);
        self.activity.touch(now);
        if self.admitted() {
            self.activity.mark_established();
        }
        self.update_view();
    }

    /// Runs an operation, without updating the activity.
    pub(super) async fn execute_op(&mut self, op: AsyncOp) {
        match op {
            AsyncOp::Auth { user, password } => self.authenticate(user, password).await,
            AsyncOp::Hello(hello) => self.hello(hello).await,
            AsyncOp::Select(database) => self.select(database).await,
            AsyncOp::Greet => {
                let upstream = self.ctx.upstream.clone();
                let own = upstream.identities.own().clone();
                let key = ConnectionKey::new(own, self.ctx.upstream_config.database, Resp::V2);
                // Ignore a refusal: `opened` has noted what the server says about AUTH.
                let _ = self.open_lane(&key).await;
                upstream.auth_cleared();
                if upstream.wants_auth() && !self.admitted() {
                    self.client.identity = None;
                }
            }
            AsyncOp::Learn => {
                self.learn().await;
            }
            AsyncOp::CountUsers => {
                if let Some(key) = self.key() {
                    self.ctx.upstream.clone().count_users(&key).await;
                }
            }
            AsyncOp::Clients(command) => self.run_about_clients(*command).await,
            AsyncOp::Info(request) => self.run_info(request).await,
            AsyncOp::Aside => self.run_aside().await,
            AsyncOp::Lease => {
                if let Err(close) = leased::serve(self).await {
                    self.closing = Some(close);
                }
                self.end_lease();
                if self.closing.is_none()
                    && let Some(op) = self.pending_op.take()
                {
                    Box::pin(self.execute_op(op)).await;
                }
            }
        }
    }

    /// Asks the server for its commands. If it cannot be asked, refuses the request at the front of the input and returns false.
    pub(super) async fn learn(&mut self) -> bool {
        let Some(key) = self.key() else { return true };
        let learned = self.ctx.upstream.clone().learn(&key).await;
        if !learned {
            self.skip_request();
            self.refuse(CANNOT_LEARN);
        }
        learned
    }

    async fn hello(&mut self, hello: Hello) {
        if let Some((user, password)) = &hello.auth
            && let Err(line) = self.verify(Some(user), password).await
        {
            return self.refuse(&line);
        }
        if self.ctx.upstream.server().is_none()
            && let Some(key) = self.key()
            && let Err(line) = self.open_lane(&key).await
        {
            self.refuse(if self.admitted() { &line } else { refusal::NO_AUTH_HELLO });
            return self.close_if_dead();
        }
        // The version stays unknown if the user may not run HELLO.
        let server = self.ctx.upstream.server().unwrap_or_else(|| Rc::new(ServerInfo::default()));
        self.greet(&hello, &server);
    }

    /// Applies a HELLO whose AUTH has been accepted, and answers it.
    pub(super) fn greet(&mut self, hello: &Hello, server: &ServerInfo) {
        if let Some(name) = &hello.name {
            let user = self.client.login.clone();
            if let Err(line) = self.assign(user.as_deref(), name) {
                return self.refuse(&line);
            }
            self.client.name.set(name);
        }
        if let Some(resp) = hello.resp
            && resp != self.client.resp
        {
            self.client.resp = resp;
            self.ctx.maintenance.leave(self.client.id);
            self.leave_lane();
        }
        self.update_view();
        let mut reply = Vec::new();
        hello::reply(&mut reply, &self.client, server);
        self.answer(|out| out.extend_from_slice(&reply));
    }

    /// Runs SELECT on a lane of that database.
    async fn select(&mut self, database: u32) {
        let Some(mut key) = self.key() else { return };
        // A connection in database 0 sends no SELECT, so opening it does not show whether the user may select.
        let unverified = database == 0 && key.selector.is_some();
        key = ConnectionKey::new(key.identity, database, key.resp);
        let selected = match self.open_lane(&key).await {
            Ok(()) if unverified => self.ask_to_select(&key).await,
            selected => selected,
        };
        match selected {
            Ok(()) => {
                self.client.select(database);
                self.leave_lane();
                self.answer(write::ok);
            }
            Err(line) => {
                self.refuse(&line);
                self.close_if_dead();
            }
        }
    }

    /// Asks the server whether `key`'s user may select its database.
    async fn ask_to_select(&mut self, key: &ConnectionKey) -> Result<(), ErrorLine> {
        let upstream = self.ctx.upstream.clone();
        let (replies, share) = (self.output.replies.clone(), self.tenancy.share());
        tokio::select! {
            asked = upstream.ask_to_select(key, &replies, share) => Ok(asked?),
            () = self.until_abandoned() => {
                self.closing = Some(Close::Left);
                Err(CLIENT_LEFT.into())
            }
        }
    }

    /// Waits until the lane for `key` is open, that is, until the server has accepted the user, the database and
    /// the version.
    ///
    /// # Errors
    /// Returns the error line if the server refused them, no primary was found in time, or the client left.
    async fn open_lane(&mut self, key: &ConnectionKey) -> Result<(), ErrorLine> {
        let upstream = self.ctx.upstream.clone();
        let lane = upstream.lane(key);
        let client = self.client.id;
        loop {
            let deadline = match upstream.admission(&lane, self.asker(false)) {
                Admission::Open | Admission::Full => return Ok(()),
                Admission::Refused(line) => return Err(line),
                Admission::Expired(line) => {
                    upstream.counters.hold_expired.inc();
                    return Err(line);
                }
                Admission::Held(deadline) => deadline,
            };
            let mut registered = false;
            let change = poll_fn(|cx| {
                if std::mem::replace(&mut registered, true) {
                    return Poll::Ready(());
                }
                lane.wait(client, cx.waker());
                Poll::Pending
            });
            tokio::select! {
                _ = tokio::time::timeout_at(deadline, change) => {}
                () = self.until_abandoned() => {
                    lane.leave(client);
                    self.closing = Some(Close::Left);
                    return Err(CLIENT_LEFT.into());
                }
            }
        }
    }

    /// Runs RESET.
    ///
    /// # Errors
    /// Returns an error line if the client then belongs to a tenant that is full. The session cannot go on.
    pub(super) fn reset(&mut self) -> Result<(), ErrorLine> {
        let upstream = &self.ctx.upstream;
        let identity = (!upstream.wants_auth()).then(|| upstream.identities.own().clone());
        self.client.reset(self.ctx.upstream_config.database, identity);
        self.ctx.maintenance.leave(self.client.id);
        self.apply_certificate();
        self.end_subscriptions();
        self.leave_lane();
        self.reassign()?;
        self.update_view();
        Ok(())
    }
}
