//! Runs the operations that a session must wait for outside the data path: checking a password, opening another
//! database's lane, leasing a connection.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::hello::Hello;
use super::turn::{AHEAD, DEPARTED_CHECK};
use super::{Close, Session, hello, leased, refusal};
use crate::resp::Resp;
use crate::resp::error_line::ErrorLine;
use crate::resp::write;
use crate::tenant::users::source::Source;
use crate::tenant::users::throttle::{Attempt, AuthDecision, Throttle, TooSoon};
use crate::tenant::users::{Refused, User, Users};
use crate::topology::ServerInfo;
use crate::upstream::Upstream;
use crate::upstream::connection::identity::{self, Identity};
use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::shared::lane::Admission;

/// The error line for a command that the table lacks while the server cannot be asked about it.
const CANNOT_LEARN: &[u8] =
    b"-ERR respgate: respgate does not know this command and could not ask the server about it; try again";

/// An error line that no client reads, because it has left.
const CLIENT_LEFT: &[u8] = b"-ERR respgate: the client left";

/// How long respgate still checks the password of a client that has closed its sending side. Such a client may
/// still read, but after this time it has probably left.
const DEPARTED_GRACE: Duration = Duration::from_secs(1);

/// Names an operation to wait for.
pub(super) enum AsyncOp {
    /// AUTH.
    Auth {
        /// The user; `None` for the one-argument form.
        user: Option<Vec<u8>>,
        /// The password.
        password: Vec<u8>,
    },
    /// HELLO with AUTH, or HELLO before any server has been greeted.
    Hello(Hello),
    /// SELECT of a database other than the current one.
    Select(u32),
    /// Finds out whether clients have to authenticate, which is not known yet.
    Greet,
    /// Asks the server about the command of the request at the front of the input, which the table lacks.
    Learn,
    /// Asks the server how many users it has. The request at the front of the input is allowed only if it has
    /// one.
    CountUsers,
    /// Leases a connection for the request at the front of the input.
    Lease,
}

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
    }

    /// Runs an operation, without updating the activity.
    async fn execute_op(&mut self, op: AsyncOp) {
        match op {
            AsyncOp::Auth { user, password } => self.authenticate(user, password).await,
            AsyncOp::Hello(hello) => self.hello(hello).await,
            AsyncOp::Select(database) => self.select(database).await,
            AsyncOp::Greet => {
                let upstream = self.ctx.upstream.clone();
                let own = upstream.identities.own().clone();
                let key = ConnectionKey::new(own, upstream.config.database, Resp::V2);
                // Ignore a refusal: `opened` has noted what the server says about AUTH.
                let _ = self.opened(&key).await;
                upstream.auth_cleared();
                if upstream.wants_auth() && !self.admitted() {
                    self.client.identity = None;
                }
            }
            AsyncOp::Learn => {
                if let Some(key) = self.key()
                    && !self.ctx.upstream.clone().learn(&key).await
                {
                    self.skip_request();
                    self.refuse(CANNOT_LEARN);
                }
            }
            AsyncOp::CountUsers => {
                if let Some(key) = self.key() {
                    self.ctx.upstream.clone().count_users(&key).await;
                }
            }
            AsyncOp::Lease => {
                if let Err(close) = leased::serve(self).await {
                    self.closing = Some(close);
                }
                self.end_lease();
                if self.closing.is_none()
                    && let Some(op) = self.pending.take()
                {
                    Box::pin(self.execute_op(op)).await;
                }
            }
        }
    }

    async fn authenticate(&mut self, user: Option<Vec<u8>>, password: Vec<u8>) {
        match self.verify(user.as_deref(), &password).await {
            Ok(()) => self.answer(write::ok),
            Err(line) => self.refuse(&line),
        }
    }

    async fn hello(&mut self, hello: Hello) {
        if let Some((user, password)) = &hello.auth
            && let Err(line) = self.verify(Some(user), password).await
        {
            return self.refuse(&line);
        }
        if self.ctx.upstream.server().is_none()
            && let Some(key) = self.key()
            && let Err(line) = self.opened(&key).await
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
            self.leave_lane();
        }
        let mut reply = Vec::new();
        hello::reply(&mut reply, &self.client, server);
        self.answer(|out| out.extend_from_slice(&reply));
    }

    /// Has the upstream check a password, and gives the client that user's identity. A refusal changes nothing.
    ///
    /// # Errors
    /// Returns the error line if the password was refused or not checked, or the user's tenant is full.
    async fn verify(&mut self, user: Option<&[u8]>, password: &[u8]) -> Result<(), ErrorLine> {
        if let Some(users) = self.ctx.tenants.users() {
            return self.verify_own(users, user.unwrap_or(b"default"), password).await;
        }
        // No user's name is other than UTF-8, so answer as the server answers an unknown user.
        let user = match user.map(std::str::from_utf8).transpose() {
            Ok(user) => user,
            Err(_) => {
                return Err(refusal::WRONG_PASSWORD.into());
            }
        };
        let (upstream, throttle) = (self.ctx.upstream.clone(), self.ctx.tenants.throttle());
        let source = self.source();
        let decided = tokio::select! {
            decided = judge_by_upstream(&upstream, &throttle, source, user, password) => decided,
            () = self.left() => {
                self.closing = Some(Close::Left);
                return Err(CLIENT_LEFT.into());
            }
        };
        match decided {
            Ok(AuthDecision::Right) => {}
            Ok(
                AuthDecision::Wrong(line) | AuthDecision::Inapplicable(line) | AuthDecision::Undecided(line),
            ) => {
                return Err((&*line).into());
            }
            Err(too_soon) => return Err(self.refuse_password(&Refused::TooSoon(too_soon)).into()),
        }
        let identity = upstream.identities.of(user, password);
        let name = self.client.name.to_vec();
        self.assign(Some(&identity.user()), &name)?;
        self.client.login = Some(identity.user());
        self.act_as(identity);
        Ok(())
    }

    /// As `verify`, for a user of respgate's own. The user acts on the server under the login that is configured
    /// for it, or else under respgate's.
    async fn verify_own(&mut self, users: Arc<Users>, user: &[u8], password: &[u8]) -> Result<(), ErrorLine> {
        let source = self.source();
        let verified = tokio::select! {
            verified = users.verify(source, user, password) => verified,
            () = self.departed() => {
                self.closing = Some(Close::Left);
                return Err(CLIENT_LEFT.into());
            }
        };
        let user = verified.map_err(|refused| {
            self.ctx.upstream.counters.auth_refused.inc();
            self.refuse_password(&refused)
        })?;
        let name = self.client.name.to_vec();
        self.assign(Some(&user.name), &name)?;
        self.client.login = Some(user.name.clone());
        let identity = self.identity_of(&user);
        self.act_as(identity);
        Ok(())
    }

    /// Returns the source of the client's passwords, by which wrong ones are counted.
    fn source(&self) -> Source {
        Source::of(self.client.known.address, self.client.known.uid)
    }

    /// Counts and logs a password that respgate refused. Returns the error line.
    fn refuse_password(&self, refused: &Refused) -> Vec<u8> {
        if matches!(refused, Refused::TooSoon(_)) {
            self.ctx.upstream.counters.auth_throttled.inc();
        }
        tracing::info!(
            client = self.client.id,
            peer = self.client.peer,
            ?refused,
            "respgate refused a client's AUTH"
        );
        refusal::not_authenticated(refused)
    }

    /// Returns the server identity of a user of respgate's own.
    pub(super) fn identity_of(&self, user: &User) -> Rc<Identity> {
        let upstream = &self.ctx.upstream;
        match user.login(&upstream.config.name) {
            Some(login) => upstream.identities.kept(login),
            None => upstream.identities.own().clone(),
        }
    }

    /// Gives the client an identity, and leaves the former identity's lane.
    fn act_as(&mut self, identity: Rc<Identity>) {
        if self.client.identity.as_ref().is_none_or(|mine| mine.id() != identity.id()) {
            self.client.act_as(identity);
            self.leave_lane();
        }
    }

    /// Gives the client the new server identity of its user. No reply may be due.
    pub(super) fn switch_identity(&mut self) {
        self.identity_stale = false;
        if let (Some(users), Some(login)) = (self.ctx.tenants.users(), &self.client.login)
            && let Some(user) = users.find(login)
        {
            let identity = self.identity_of(&user);
            self.act_as(identity);
        }
    }

    /// Runs SELECT on a lane of that database.
    async fn select(&mut self, database: u32) {
        let Some(mut key) = self.key() else { return };
        // A connection in database 0 sends no SELECT, so opening it does not show whether the user may select.
        let unverified = database == 0 && key.selector.is_some();
        key = ConnectionKey::new(key.identity, database, key.resp);
        let selected = match self.opened(&key).await {
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
        let (replies, share) = (self.replies.clone(), self.scheduler_share());
        tokio::select! {
            asked = upstream.ask_to_select(key, &replies, share) => Ok(asked?),
            () = self.left() => {
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
    async fn opened(&mut self, key: &ConnectionKey) -> Result<(), ErrorLine> {
        let upstream = self.ctx.upstream.clone();
        let lane = upstream.lane(key);
        let client = self.client.id;
        loop {
            let deadline = match upstream.admission(&lane, self.asks(false)) {
                Admission::Open | Admission::Full => return Ok(()),
                Admission::Refused(line) => return Err(line.into()),
                Admission::Expired(line) => {
                    upstream.counters.hold_expired.inc();
                    return Err(line.into());
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
                () = self.left() => {
                    lane.leave(client);
                    self.closing = Some(Close::Left);
                    return Err(CLIENT_LEFT.into());
                }
            }
        }
    }

    /// Ends when the client has left and the operation is not worth the wait: there is no primary, or the request
    /// waits for other clients. A client that only closed its sending side still gets its replies. Keeps a
    /// limited number of the bytes that the client sends meanwhile.
    pub(super) async fn left(&mut self) {
        let upstream = self.ctx.upstream.clone();
        loop {
            if upstream.in_hold() {
                self.wait_held();
            }
            tokio::select! {
                () = poll_fn(|cx| {
                    let ahead = if self.poll_messages(cx) { usize::MAX } else { AHEAD };
                    if self.account.is_evicted() {
                        return Poll::Ready(());
                    }
                    self.poll_left_within(cx, ahead)
                }) => break,
                () = upstream.hold_begun() => {}
                () = upstream.changed() => {}
            }
        }
        while !self.account.is_evicted() && !self.ctx.upstream.in_hold() && !self.waits_for_others() {
            tokio::time::sleep(DEPARTED_CHECK).await;
        }
    }

    /// Ends when the client's password need not be checked any more: its connection has failed, or it closed its
    /// sending side [`DEPARTED_GRACE`] ago.
    async fn departed(&mut self) {
        poll_fn(|cx| {
            self.poll_messages(cx);
            if self.account.is_evicted() { Poll::Ready(()) } else { self.poll_left(cx) }
        })
        .await;
        if self.closing.is_none() && !self.account.is_evicted() {
            tokio::time::sleep(DEPARTED_GRACE).await;
        }
    }

    /// Runs RESET.
    ///
    /// # Errors
    /// Returns an error line if the client then belongs to a tenant that is full. The session cannot go on.
    pub(super) fn reset(&mut self) -> Result<(), ErrorLine> {
        let upstream = &self.ctx.upstream;
        let identity = (!upstream.wants_auth()).then(|| upstream.identities.own().clone());
        self.client.reset(upstream.config.database, identity);
        self.end_subscriptions();
        self.leave_lane();
        self.reassign()
    }
}

/// Has the server of an upstream check a password, unless it has accepted that password lately.
///
/// # Errors
/// Returns [`TooSoon`] if too many wrong passwords came before.
async fn judge_by_upstream(
    upstream: &Rc<Upstream>,
    throttle: &Throttle,
    source: Source,
    user: Option<&str>,
    password: &[u8],
) -> Result<AuthDecision, TooSoon> {
    let (realm, name) = (upstream.config.name.as_str(), user.unwrap_or("default"));
    // The server treats AUTH with one argument differently from AUTH with two.
    let form: &[u8] = if user.is_some() { b"2" } else { b"1" };
    let digest = throttle.digest([realm.as_bytes(), name.as_bytes(), form], password);
    let attempt = Attempt { source, realm, user: name.as_bytes(), digest };
    let believed = || upstream.identities.believes(user, password, throttle.remembered(&digest));
    let ask = async || {
        let key = ConnectionKey::new(upstream.identities.candidate(user, password), 0, Resp::V2);
        match upstream.verify(&key).await {
            Ok(()) => {
                upstream.identities.accept(&key.identity);
                throttle.remember(digest, identity::BELIEVED);
                AuthDecision::Right
            }
            Err(line) => refusal::verdict(&line),
        }
    };
    throttle.judge(attempt, believed, ask).await
}
