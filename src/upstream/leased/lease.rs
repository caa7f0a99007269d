//! A lease: one connection that one session has to itself, from the pool or newly opened.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::command::Trace;
use crate::metrics::Gauged;
use crate::net::backoff::Backoff;
use crate::net::byte_queue::ByteQueue;
use crate::net::read_buffer::ReadBuffer;
use crate::net::write::{WriteSource, poll_write_all};
use crate::resp::Resp;
use crate::resp::error_line::ErrorLine;
use crate::resp::request;
use crate::topology::Generation;
use crate::upstream::connection::identity::Identity;
use crate::upstream::connection::open::{ConnectError, Connection, ConnectionKey, NeedlessPassword, Purpose};
use crate::upstream::connection::reauth::{InPlaceAuth, Refresh, refresh_of};
use crate::upstream::leased::history::History;
use crate::upstream::leased::idle::sound;
use crate::upstream::leased::pool::{LeaseGrant, LeasePool, Permit};
use crate::upstream::leased::state::{LeaseState, Vacate};
use crate::upstream::replies::Replies;
use crate::upstream::shared::fair::fair_queue::Share;

/// The time within which a former primary must show whether it has run a blocked command.
const ABANDON_TIMEOUT: Duration = Duration::from_millis(100);

/// The same time if an operator has ordered the session to leave its connection: the server works, and may only be slow.
const VACATE_TIMEOUT: Duration = Duration::from_secs(1);

/// A session's choice when the server refuses credentials that respgate keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnAuthFailure {
    /// It waits for new ones.
    Wait,
    /// It reports the refusal: a client has sent the same credentials, and asks whether they are right.
    Report,
}

impl OnAuthFailure {
    fn needless_password(self) -> NeedlessPassword {
        match self {
            Self::Wait => NeedlessPassword::Accepted,
            Self::Report => NeedlessPassword::Refused,
        }
    }
}

/// A lease's entry in the pool. Dropping it removes the entry.
struct LeaseRegistration {
    pool: Rc<LeasePool>,
    number: u64,
    state: Rc<LeaseState>,
}

impl Drop for LeaseRegistration {
    fn drop(&mut self) {
        self.pool.unregister(self.number);
    }
}

/// A connection that one session has to itself. Dropping it closes it.
pub struct Lease {
    pub(in crate::upstream) link: Connection,
    history: History,
    key: ConnectionKey,
    registration: LeaseRegistration,
    permit: Permit,
    _gauge: Gauged,
}

/// A lease whose connection provably holds no state of its session. Only such a connection returns to the pool.
pub struct CleanLease(Lease);

impl Lease {
    /// Returns the generation of the primary that the connection leads to.
    pub fn generation(&self) -> Generation {
        self.link.generation
    }

    /// Returns the protocol version that the connection speaks.
    pub fn resp(&self) -> Resp {
        self.key.resp
    }

    /// Returns the bytes that were read and not used yet.
    pub fn input(&mut self) -> &mut ReadBuffer {
        &mut self.link.read
    }

    /// Reads more into [`Self::input`]. Returns the number of bytes; 0 if the server closed the connection.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.link.read.poll_fill(cx, &mut self.link.stream)
    }

    /// Notes a request of `bytes` bytes, which can leave `trace` on the connection. The caller notes every request before it writes
    /// it: bytes that belong to no noted request close the connection at the end of the lease.
    pub fn note(&mut self, trace: Trace, bytes: usize) {
        self.history.note(trace, bytes);
    }

    /// Writes what waits in `source`, which belongs to noted requests. Pending while the connection takes no more bytes.
    pub fn poll_write_all(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl WriteSource,
    ) -> Poll<io::Result<()>> {
        let mut recorded = Recorded { source, history: &mut self.history };
        poll_write_all(cx, &mut self.link.stream, &mut recorded)
    }

    /// Ends the lease. The caller guarantees that every reply has come, and that the server's replies confirmed the end of all
    /// followed state ([`Trace::Followed`]). Returns `None`, and closes the connection, if a request can have left other state.
    pub fn proven(self) -> Option<CleanLease> {
        self.history.leaves_nothing().then_some(CleanLease(self))
    }

    /// Returns true if a newer primary has taken over, so that nothing more may be written.
    pub fn is_cut(&self) -> bool {
        self.registration.state.cut.get()
    }

    /// Returns whether the session should leave the connection.
    pub fn vacate(&self) -> Vacate {
        self.registration.state.vacate.get()
    }

    /// Cuts the lease: nothing more may be written.
    pub fn cut(&self) {
        self.registration.state.cut.set(true);
    }

    /// Takes note of the number of requests whose replies are due, without one that blocks.
    pub fn set_unanswered(&self, count: usize) {
        self.registration.state.unanswered.set(count);
    }

    /// Returns true if a reply has been due for longer than `response-timeout`.
    pub fn is_silent(&self) -> bool {
        self.registration.state.silent.get()
    }

    /// Returns the number of bytes allocated for what has been read from the server.
    pub fn read_capacity(&self) -> usize {
        self.link.read.capacity()
    }

    /// Returns the identity that the connection is authenticated as.
    pub fn identity(&self) -> &Rc<Identity> {
        &self.key.identity
    }

    /// Takes note that the server has sent something.
    pub fn heard(&self) {
        self.registration.state.heard.set(true);
    }

    /// Returns true, once, if the connection has been quiet for so long that it should be pinged.
    pub fn take_ping(&self) -> bool {
        self.registration.state.ping.take()
    }

    /// Returns true if the connection should be authenticated again with the newest credentials.
    pub fn is_refresh_due(&self) -> bool {
        self.registration.state.refresh.get() == Refresh::Due
    }

    /// Returns the AUTH that authenticates the connection again; `None` if the session must try later.
    pub fn begin_refresh(&self) -> Option<InPlaceAuth> {
        self.registration.state.refresh.set(Refresh::Later);
        InPlaceAuth::begin(&self.key.identity)
    }

    /// Handles the reply to an AUTH of [`Self::begin_refresh`].
    pub fn end_refresh(&mut self, auth: InPlaceAuth, frame: &[u8]) {
        let dialing = &self.registration.pool.dialing;
        if let Some(began) = auth.answered(&dialing.config.name, &dialing.reports, frame) {
            self.registration.state.refresh.set(Refresh::Done);
            self.link.began = began;
        }
    }

    /// Takes note of whether a reply is due. The reply to a command that may block is not.
    pub fn set_reply_due(&self, due: bool) {
        let since = self.registration.state.due.get();
        if due != since.is_some() {
            self.registration.state.due.set(due.then(Instant::now));
        }
    }

    /// Closes a connection on which the session is blocked, and reads until the server closes it too. Returns true if it did: it sends
    /// replies before it reads on, and forgets a client when it reads the end of the stream (valkey's networking.c), so the
    /// command ran if and only if its reply is in [`Self::input`]. Takes
    /// [`VACATE_TIMEOUT`] at most.
    pub async fn abandon(&mut self) -> bool {
        // Closing the stream would send the bytes that wait in TLS, and a superseded primary must get no more.
        if !self.link.stream.is_flushed() {
            return false;
        }
        let limit = match self.vacate() {
            Vacate::No => ABANDON_TIMEOUT,
            Vacate::Unnoticed | Vacate::AtOnce => VACATE_TIMEOUT,
        };
        let end = async {
            self.link.stream.shutdown().await?;
            loop {
                match poll_fn(|cx| self.link.read.poll_fill(cx, &mut self.link.stream)).await {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    // The server answers a close_notify by closing, without one of its own (observed on valkey 8.0).
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        };
        matches!(tokio::time::timeout(limit, end).await, Ok(Ok(())))
    }

    /// Closes the connection and opens one to the current primary in its place. Waits for a primary for `hold-timeout` at most.
    ///
    /// # Errors
    /// Returns the error line for the client.
    pub async fn reopen(self, key: &ConnectionKey, replies: &Rc<Replies>) -> Result<Self, ErrorLine> {
        let Self { permit, registration, link, history: _, key: _, _gauge } = self;
        let pool = registration.pool.clone();
        // The wait for a primary may be long, and the server may be stopped in it.
        drop((link, registration, _gauge));
        pool.open_lease(key, replies, permit, OnAuthFailure::Wait).await
    }

    /// Returns the server's id of the connection; `None` if the server did not tell it.
    pub fn server_id(&self) -> Option<u64> {
        self.link.id.get()
    }

    /// Returns true, once, if the reply to the request is due that [`Self::begin_unnaming`] sent for an earlier session.
    pub fn take_unnaming(&mut self) -> bool {
        std::mem::take(&mut self.link.unnaming)
    }

    /// Takes the name from the connection before it returns to the pool, without waiting for the reply. Returns false if the
    /// connection took only part of the request: the caller then closes it.
    pub fn begin_unnaming(&mut self) -> bool {
        let mut request = Vec::new();
        request::encode(&[b"CLIENT", b"SETNAME", b""], &mut request);
        self.note(Trace::Followed, request.len());
        let mut waiting = ByteQueue::default();
        waiting.push(&request);
        let mut cx = Context::from_waker(Waker::noop());
        self.link.unnaming = matches!(self.poll_write_all(&mut cx, &mut waiting), Poll::Ready(Ok(())));
        self.link.unnaming
    }

    /// Waits for the reply to the request that [`Self::begin_unnaming`] sent for an earlier session.
    ///
    /// # Errors
    /// Returns an error if the connection failed, or the server answered something else.
    pub async fn finish_unnaming(&mut self) -> io::Result<()> {
        while self.link.unnaming {
            let read = poll_fn(|cx| self.link.read.poll_fill(cx, &mut self.link.stream)).await?;
            if read == 0 || !self.link.read_unnamed() {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    }

    /// Takes note that the session has selected another database.
    pub fn set_database(&mut self, database: u32) {
        self.key.database = database;
        self.registration.state.database.set(database);
        self.key.selector = None;
    }
}

impl CleanLease {
    /// Returns the connection to the pool. Closes it instead if it is cut, too old, or has sent bytes that no request asked for.
    pub fn give_back(self) {
        let Lease { mut link, key, registration, mut permit, history: _, _gauge } = self.0;
        let reusable = registration.pool.reusable(&key, &link);
        if !registration.state.cut.get() && reusable && sound(&mut link) {
            permit.clean = Some((key, link));
        }
    }
}

impl LeasePool {
    /// Leases a connection for `key`: an idle one, a new one, or, when all are in use, the next that is given back when it is the
    /// turn of `share`. Waits for room for `lease-timeout` at most, and for a primary for `hold-timeout` at most.
    ///
    /// # Errors
    /// Returns the error line for the client.
    pub(in crate::upstream) async fn lease(
        self: &Rc<Self>,
        key: &ConnectionKey,
        replies: &Rc<Replies>,
        share: Share,
    ) -> Result<Lease, ErrorLine> {
        let mut grant = self.take_room(key, share).await?;
        self.wait_while_held(&mut grant).await?;
        match self.usable(key, &mut grant) {
            Some(link) => Ok(self.lend(link, key, replies, grant.permit)),
            None => self.open_lease(key, replies, grant.permit, OnAuthFailure::Wait).await,
        }
    }

    /// Leases a new connection for `key`, so that the server judges the credentials now.
    pub(in crate::upstream) async fn lease_fresh(
        self: &Rc<Self>,
        key: &ConnectionKey,
        replies: &Rc<Replies>,
    ) -> Result<Lease, ErrorLine> {
        let grant = self.take_room(key, Share::default()).await?;
        self.open_lease(key, replies, grant.permit, OnAuthFailure::Report).await
    }

    /// Opens a connection for `key`, to learn whether the server still accepts its user. Keeps it as an idle one.
    pub(in crate::upstream) fn ask_about(self: &Rc<Self>, key: ConnectionKey) {
        if key.identity.asking.replace(true) {
            return;
        }
        let pool = self.clone();
        self.dialing.meter.spawn_local(async move {
            let dialing = &pool.dialing;
            let primary = dialing.hold.primary().filter(|_| !dialing.hold.is_failing_over());
            if let Some(primary) = primary {
                let opened = dialing.open(&primary, &key, NeedlessPassword::Accepted, Purpose::Leased).await;
                if let Some(connection) =
                    opened.ok().filter(|link| Some(link.generation) == dialing.hold.generation())
                {
                    pool.keep(key.clone(), connection);
                }
            }
            key.identity.asking.set(false);
        });
    }

    /// Waits while a failover is under way, for `hold-timeout` at most. Closes the connection of `grant` if none may stay open.
    async fn wait_while_held(&self, grant: &mut LeaseGrant) -> Result<(), ErrorLine> {
        let hold = &self.dialing.hold;
        while hold.is_failing_over() {
            if hold.is_disconnecting() {
                grant.close();
            }
            let Ok(deadline) = hold.deadline() else { return Err(self.count_expired()) };
            let _ = tokio::time::timeout_at(deadline, hold.changed()).await;
        }
        Ok(())
    }

    /// Counts a command that waited longer than `hold-timeout`. Returns its error line.
    fn count_expired(&self) -> ErrorLine {
        self.dialing.reports.counters.hold_expired.inc();
        self.dialing.hold.expired_error()
    }

    async fn open_lease(
        self: &Rc<Self>,
        key: &ConnectionKey,
        replies: &Rc<Replies>,
        mut permit: Permit,
        on_auth_failure: OnAuthFailure,
    ) -> Result<Lease, ErrorLine> {
        let (dialing, hold) = (&self.dialing, &self.dialing.hold);
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            // This comes before the look at the hold, because only an attempt shows that the hold is over.
            if let Some(primary) = hold.primary().filter(|_| !hold.is_failing_over()) {
                match dialing.open(&primary, key, on_auth_failure.needless_password(), Purpose::Leased).await
                {
                    // The outcome of an attempt to reach a former primary says nothing about the new one.
                    _ if hold.generation() != Some(primary.generation) || hold.is_disconnecting() => continue,
                    Ok(mut link) => {
                        let (target, timeout) =
                            ((link.generation, key.resp), dialing.config.get().connect_timeout);
                        let scripts = dialing.scripts.load(&mut link.stream, target, &key.identity, timeout);
                        if let Err(why) = scripts.await {
                            hold.note_reason(why);
                            continue;
                        }
                        if hold.is_disconnecting() {
                            continue;
                        }
                        hold.reached();
                        return Ok(self.lend(link, key, replies, permit));
                    }
                    Err(ConnectError::AuthRejected(refused)) if on_auth_failure == OnAuthFailure::Report => {
                        return Err(refused.line);
                    }
                    Err(error) => {
                        let rejected = matches!(error, ConnectError::AuthRejected(_));
                        if let Some(line) = dialing.on_connect_error(&key.identity, error) {
                            return Err(line);
                        }
                        if rejected && key.identity.is_of_a_user() {
                            let mut grant = self.step_aside(permit, key, backoff.next_delay()).await?;
                            if let Some(link) = self.usable(key, &mut grant) {
                                return Ok(self.lend(link, key, replies, grant.permit));
                            }
                            permit = grant.permit;
                            continue;
                        }
                    }
                }
            }
            let Ok(deadline) = hold.deadline() else { return Err(self.count_expired()) };
            // News from discovery end the pause. Without a primary to dial, nothing else does.
            let tries = hold.primary().is_some() && !hold.is_failing_over();
            let until = if tries { deadline.min(Instant::now() + backoff.next_delay()) } else { deadline };
            let _ = tokio::time::timeout_at(until, hold.changed()).await;
        }
    }

    /// Makes a lease of a connection and of the room for it.
    fn lend(
        self: &Rc<Self>,
        link: Connection,
        key: &ConnectionKey,
        replies: &Rc<Replies>,
        permit: Permit,
    ) -> Lease {
        let dialing = &self.dialing;
        let refresh = refresh_of(&dialing.config, &dialing.identities, &key.identity, link.began);
        let state = Rc::new(LeaseState {
            generation: link.generation,
            identity: key.identity.clone(),
            vacate: Cell::default(),
            unanswered: Cell::default(),
            database: Cell::new(key.database),
            refresh: Cell::new(refresh),
            cut: Cell::new(false),
            due: Cell::new(None),
            silent: Cell::new(false),
            heard: Cell::new(true),
            quiet: Cell::new(0),
            ping: Cell::new(false),
            replies: replies.clone(),
        });
        let number = self.register(state.clone());
        let registration = LeaseRegistration { pool: self.clone(), number, state };
        let gauge = Gauged::new(&dialing.reports.counters, |c| &c.leased_open);
        Lease { link, history: History::default(), key: key.clone(), registration, permit, _gauge: gauge }
    }
}
/// Bytes for a connection that keeps the history of what it was sent.
struct Recorded<'a, W> {
    source: &'a mut W,
    history: &'a mut History,
}

impl<W: WriteSource> WriteSource for Recorded<'_, W> {
    fn unwritten(&self) -> &[u8] {
        self.source.unwritten()
    }

    fn wrote(&mut self, count: usize) {
        self.history.wrote(count);
        self.source.wrote(count);
    }
}
