//! The leased lane: connections that belong to one session at a time.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::command::Trace;
use crate::metrics::Gauged;
use crate::net::backoff::Backoff;
use crate::net::read_buffer::ReadBuffer;
use crate::resp::Resp;
use crate::topology::Generation;
use crate::upstream::Upstream;
use crate::upstream::connection::identity::{AgeFate, Identity};
use crate::upstream::connection::open::{
    ConnectError, Connection, ConnectionKey, NeedlessPassword, Purpose, open,
};
use crate::upstream::connection::reauth::{InPlaceAuth, Refresh};
use crate::upstream::leased::history::History;
use crate::upstream::leased::idle::{IdleLinks, sound};
use crate::upstream::replies::Replies;
use crate::upstream::shared::fair::fair_queue::{FairQueue, Share};

/// The leased connections of one worker to one upstream.
pub(in crate::upstream) struct Leases {
    limit: usize,
    /// Connections in use or promised.
    taken: Cell<usize>,
    idle: IdleLinks,
    /// Connections that were begun until then are not used again, whatever their identity says.
    outdated: Cell<Option<Instant>>,
    /// Sessions that wait for room, by a number of their own.
    waiting: RefCell<HashMap<u64, oneshot::Sender<Grant>>>,
    turns: RefCell<FairQueue>,
    /// Leases out now, by a number of their own.
    out: RefCell<HashMap<u64, Rc<LeaseState>>>,
    next: Cell<u64>,
}

struct LeaseState {
    generation: Generation,
    cut: Cell<bool>,
    /// Since when a reply has been due without a byte of it.
    due: Cell<Option<Instant>>,
    silent: Cell<bool>,
    /// Something has come since it was last looked at, and how many looks ago that was.
    heard: Cell<bool>,
    quiet: Cell<u64>,
    /// It should be pinged.
    ping: Cell<bool>,
    /// The number of the identity that acts on it.
    identity: u64,
    refresh: Cell<Refresh>,
    replies: Rc<Replies>,
}

/// Room for one leased connection, and perhaps a connection with it.
struct Grant {
    permit: Permit,
    link: Option<(ConnectionKey, Connection)>,
}

/// Room for one leased connection. When it is dropped, the room goes to the session whose turn it is.
struct Permit {
    upstream: Rc<Upstream>,
    /// A connection without state that goes along with the room.
    clean: Option<(ConnectionKey, Connection)>,
}

impl Permit {
    fn new(upstream: &Rc<Upstream>) -> Self {
        Self { upstream: upstream.clone(), clean: None }
    }
}

/// A session's place among those that wait.
struct Waiting<'a> {
    leases: &'a Leases,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.leases.turns.borrow_mut().leave(self.number);
        self.leases.waiting.borrow_mut().remove(&self.number);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.upstream.leases.pass_on(&self.upstream, self.clean.take());
    }
}

/// A connection that a session holds is pinged after so many ping intervals: there may be a thousand of them, servers do
/// not time subscribers out, and TCP keepalive serves NAT. This is for what lies between and looks at data only.
const HELD_PING: u32 = 20;

/// What happens when the server refuses credentials that respgate keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnAuthFailure {
    /// Better ones are waited for.
    Wait,
    /// A client has sent the same ones and asks whether they are right.
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

/// A lease's entry in the list of those that a newer primary cuts.
struct LeaseRegistration {
    upstream: Rc<Upstream>,
    number: u64,
    out: Rc<LeaseState>,
}

impl Drop for LeaseRegistration {
    fn drop(&mut self) {
        self.upstream.leases.out.borrow_mut().remove(&self.number);
    }
}

impl Leases {
    pub(in crate::upstream) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            taken: Cell::new(0),
            idle: IdleLinks::default(),
            outdated: Cell::default(),
            waiting: RefCell::default(),
            turns: RefCell::default(),
            out: RefCell::default(),
            next: Cell::new(0),
        }
    }

    /// Returns true if fewer leases are out than may be.
    pub(in crate::upstream) fn has_room(&self) -> bool {
        self.taken.get() < self.limit
    }

    /// Idle connections.
    pub(in crate::upstream) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Gives the place of a finished lease, and its connection if that is clean, to the session whose turn it is; if
    /// none waits, the place is free and the connection idle.
    fn pass_on(&self, upstream: &Rc<Upstream>, link: Option<(ConnectionKey, Connection)>) {
        loop {
            let next = self.turns.borrow_mut().next(1);
            let Some((number, _)) = next else { break };
            let session = self.waiting.borrow_mut().remove(&number);
            if let Some(session) = session.filter(|session| !session.is_closed()) {
                let _ = session.send(Grant { permit: Permit::new(upstream), link });
                return;
            }
        }
        self.turns.borrow_mut().clear();
        self.taken.set(self.taken.get().saturating_sub(1));
        if let Some((key, link)) = link {
            self.idle.put(key, link);
        }
    }

    /// Waits until the place is dropped.
    fn enqueue(&self, session: oneshot::Sender<Grant>, share: Share) -> Waiting<'_> {
        let place = Waiting { leases: self, number: self.number() };
        self.waiting.borrow_mut().insert(place.number, session);
        self.turns.borrow_mut().join(place.number, share, 1);
        place
    }

    fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    /// Marks every lease of an older generation as cut and drops idle connections of one.
    pub(in crate::upstream) fn cut(&self, newest: Option<Generation>) {
        self.idle.retain(|_, link| Some(link.generation) == newest);
        for out in self.out.borrow().values().filter(|out| Some(out.generation) != newest) {
            out.cut.set(true);
            out.replies.wake();
        }
    }

    /// Wakes every session that holds a lease.
    pub(in crate::upstream) fn wake(&self) {
        self.out.borrow().values().for_each(|out| out.replies.wake());
    }

    /// Gives up leases whose reply has been due for longer than `limit`; zero: none.
    pub(in crate::upstream) fn expire(&self, limit: Duration) {
        let overdue = |out: &&Rc<LeaseState>| {
            !limit.is_zero() && out.due.get().is_some_and(|due| due.elapsed() >= limit)
        };
        for out in self.out.borrow().values().filter(overdue) {
            out.silent.set(true);
            out.replies.wake();
        }
    }

    /// Closes connections that have been idle for longer than `limit`, and has those pinged that have been quiet for
    /// `ping` (zero: none); those that sessions hold, [`HELD_PING`] times as rarely. Returns whom the server is to be asked
    /// about, see [`IdleLinks::tend`].
    pub(in crate::upstream) fn tend(
        &self,
        limit: Duration,
        ping: Duration,
        may_ping: impl Fn(&Identity) -> bool,
    ) -> Vec<ConnectionKey> {
        let asks = self.idle.tend(limit, ping, may_ping);
        if ping.is_zero() {
            return asks;
        }
        let ticks = ping.saturating_mul(HELD_PING).as_secs().max(1);
        for out in self.out.borrow().values() {
            let quiet = if out.heard.replace(false) { 0 } else { out.quiet.get() + 1 };
            let due = quiet >= ticks;
            out.quiet.set(if due { 0 } else { quiet });
            if due {
                out.ping.set(true);
                out.replies.wake();
            }
        }
        asks
    }

    /// Connections of this identity, or of all, that were begun until now are not used again once they are idle.
    pub(in crate::upstream) fn outdate(&self, identity: Option<&Identity>) {
        match identity {
            Some(identity) => identity.outdate(),
            None => self.outdated.set(Some(Instant::now())),
        }
        self.idle.retain(|key, _| identity.is_some_and(|identity| key.identity.id() != identity.id()));
    }

    /// Has the connections of this identity that sessions hold authenticated again.
    pub(in crate::upstream) fn refresh(&self, identity: &Identity) {
        self.set_refresh(|out| out.identity == identity.id());
    }

    /// Has those authenticated again for which that did not come about.
    pub(in crate::upstream) fn refresh_again(&self) {
        self.set_refresh(|out| out.refresh.get() == Refresh::Later);
    }

    fn set_refresh(&self, concerned: impl Fn(&LeaseState) -> bool) {
        for out in self.out.borrow().values().filter(|out| concerned(out)) {
            out.refresh.set(Refresh::Due);
            out.replies.wake();
        }
    }

    /// Whether a connection that was begun then has credentials or certificates of the past.
    pub(in crate::upstream) fn is_outdated(&self, key: &ConnectionKey, began: Instant) -> bool {
        key.identity.outdated().max(self.outdated.get()).is_some_and(|until| began <= until)
    }

    /// Whether a connection may be used by yet another session.
    fn reusable(&self, key: &ConnectionKey, link: &Connection) -> bool {
        let young = |at: &Instant| *at > Instant::now() || key.identity.fate_at_max_age(*at) != AgeFate::Ends;
        link.retires.as_ref().is_none_or(young) && !self.is_outdated(key, link.began)
    }
}

/// A connection that one session has to itself. Dropping it closes it.
pub struct Lease {
    pub(in crate::upstream) link: Connection,
    history: History,
    key: ConnectionKey,
    listed: LeaseRegistration,
    permit: Permit,
    _gauge: Gauged,
}

/// A lease whose connection is proven to hold no state of its session. Only such a one returns to the pool.
pub struct CleanLease(Lease);

impl Lease {
    /// The primary of this generation is at the other end.
    pub fn generation(&self) -> Generation {
        self.link.generation
    }

    /// The protocol version that the connection speaks.
    pub fn resp(&self) -> Resp {
        self.key.resp
    }

    /// What has been read and not been used.
    pub fn input(&mut self) -> &mut ReadBuffer {
        &mut self.link.read
    }

    /// Reads more from the connection into [`Self::input`]. Returns the number of bytes; 0: the server closed it.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.link.read.poll_fill(cx, &mut self.link.stream)
    }

    /// Notes a request of `bytes` bytes, which can leave `trace` on the connection. To be called for every request
    /// before it is written: bytes that no request accounts for close the connection at the end of the lease.
    pub fn note(&mut self, trace: Trace, bytes: usize) {
        self.history.note(trace, bytes);
    }

    /// Writes the beginning of `bytes`, which belong to noted requests. Returns how many bytes the connection took.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.link.stream).poll_write(cx, bytes))?;
        self.history.wrote(count);
        Poll::Ready(Ok(count))
    }

    /// Has the connection send what it took.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link.stream).poll_flush(cx)
    }

    /// Judges the connection at the end of the lease. The caller vouches that every reply has come, and that the
    /// server's replies confirmed the end of all state that is followed ([`Trace::Followed`]). `None`: what ran on it
    /// proves nothing, and the connection is closed.
    pub fn proven(self) -> Option<CleanLease> {
        self.history.leaves_nothing().then_some(CleanLease(self))
    }

    /// Whether its primary has been superseded: nothing may be written to it any more.
    pub fn is_cut(&self) -> bool {
        self.listed.out.cut.get()
    }

    /// Whether the server has not answered in time.
    pub fn is_silent(&self) -> bool {
        self.listed.out.silent.get()
    }

    /// Returns the number of bytes allocated for what has been read from the server.
    pub fn read_capacity(&self) -> usize {
        self.link.read.capacity()
    }

    /// Who acts on it.
    pub fn identity(&self) -> &Rc<Identity> {
        &self.key.identity
    }

    /// The server has sent something.
    pub fn heard(&self) {
        self.listed.out.heard.set(true);
    }

    /// Whether it has been quiet for so long that it should be pinged; true once.
    pub fn takes_ping(&self) -> bool {
        self.listed.out.ping.take()
    }

    /// Returns true if the connection should be authenticated again with the newest credentials.
    pub fn is_refresh_due(&self) -> bool {
        self.listed.out.refresh.get() == Refresh::Due
    }

    /// Returns the AUTH that authenticates the connection again, or `None` if that has to be tried later.
    pub fn begin_refresh(&self) -> Option<InPlaceAuth> {
        self.listed.out.refresh.set(Refresh::Later);
        InPlaceAuth::begin(&self.key.identity)
    }

    /// Handles the reply to an AUTH of [`Self::begin_refresh`].
    pub fn end_refresh(&mut self, auth: InPlaceAuth, frame: &[u8]) {
        if let Some(began) = auth.answered(&self.listed.upstream, frame) {
            self.listed.out.refresh.set(Refresh::Done);
            self.link.began = began;
        }
    }

    /// Notes whether a reply is due, other than one that may take as long as it likes.
    pub fn due(&self, due: bool) {
        let since = self.listed.out.due.get();
        if due != since.is_some() {
            self.listed.out.due.set(due.then(Instant::now));
        }
    }

    /// Closes a connection on which the session is blocked, in a way that tells whether the server ran the command
    /// after all. The server forgets a client when it reads the end of its stream, and sends replies before it reads
    /// on (valkey's networking.c): if the connection ends without a reply, nothing ran. Takes at most 100 ms.
    pub async fn abandon(&mut self) -> bool {
        const PATIENCE: Duration = Duration::from_millis(100);
        // To close it would send what waits in TLS, and to a superseded primary nothing may be sent.
        if !self.link.stream.is_flushed() {
            return false;
        }
        let silent_end = async {
            self.link.stream.shutdown().await.ok()?;
            let read = poll_fn(|cx| self.link.read.poll_fill(cx, &mut self.link.stream)).await.ok()?;
            (read == 0 && self.link.read.is_empty()).then_some(())
        };
        matches!(tokio::time::timeout(PATIENCE, silent_end).await, Ok(Some(())))
    }

    /// Closes the connection and opens another one in its place, to the current primary. Waits for a primary as long
    /// as a hold may last.
    ///
    /// # Errors
    /// The error line for the client, without CRLF.
    pub async fn reopen(
        self,
        upstream: &Rc<Upstream>,
        key: &ConnectionKey,
        replies: &Rc<Replies>,
    ) -> Result<Self, Rc<[u8]>> {
        let Self { permit, .. } = self;
        upstream.open_lease(key, replies, permit, OnAuthFailure::Wait).await
    }

    /// The database that is selected on it has changed.
    pub fn reselected(&mut self, database: u32) {
        self.key.database = database;
        self.key.selector = None;
    }
}

impl CleanLease {
    /// Returns the connection to the pool. One that is cut, or has sent something that nothing asked for, is closed
    /// instead.
    pub fn give_back(self) {
        let Lease { mut link, key, listed, mut permit, history: _, _gauge } = self.0;
        let reusable = listed.upstream.leases.reusable(&key, &link);
        if !listed.out.cut.get() && reusable && sound(&mut link) {
            permit.clean = Some((key, link));
        }
    }
}

impl Upstream {
    /// A connection for `key`: an idle one, a new one, or, when all are in use, the next that is given back, when
    /// it is the turn of `share`. Waits at most `lease_wait` for room, and for a primary as long as a hold may last.
    ///
    /// # Errors
    /// The error line for the client, without CRLF.
    pub async fn lease(
        self: &Rc<Self>,
        key: &ConnectionKey,
        replies: &Rc<Replies>,
        share: Share,
    ) -> Result<Lease, Rc<[u8]>> {
        let mut grant = self.room(key, share).await?;
        self.wait_while_held().await?;
        match self.usable(key, &mut grant) {
            Some(link) => Ok(self.lend(link, key, replies, grant.permit)),
            None => self.open_lease(key, replies, grant.permit, OnAuthFailure::Wait).await,
        }
    }

    /// The connection that came with the room, if it is one for `key` and sound.
    fn usable(&self, key: &ConnectionKey, grant: &mut Grant) -> Option<Connection> {
        let (known, mut link) = grant.link.take()?;
        (known == *key && Some(link.generation) == self.generation() && sound(&mut link)).then_some(link)
    }

    /// As [`Self::lease`], but never an idle connection: the server is asked about the credentials now.
    pub(in crate::upstream) async fn lease_fresh(
        self: &Rc<Self>,
        key: &ConnectionKey,
        replies: &Rc<Replies>,
    ) -> Result<Lease, Rc<[u8]>> {
        let grant = self.room(key, Share::default()).await?;
        self.open_lease(key, replies, grant.permit, OnAuthFailure::Report).await
    }

    /// Opens a connection for `key`, to learn whether the server still lets its user in; it is idle afterwards.
    pub(in crate::upstream) fn ask_about(self: &Rc<Self>, key: ConnectionKey) {
        if key.identity.asking.replace(true) {
            return;
        }
        let upstream = self.clone();
        self.meter.spawn_local(async move {
            let primary = upstream.primary().filter(|_| !upstream.holding());
            if let Some(primary) = primary {
                let opened =
                    open(&upstream, &primary, &key, NeedlessPassword::Accepted, Purpose::Leased).await;
                let leases = &upstream.leases;
                let room = leases.taken.get() + leases.idle() < leases.limit;
                if let Some(link) =
                    opened.ok().filter(|link| room && Some(link.generation) == upstream.generation())
                {
                    leases.idle.put(key.clone(), link);
                }
            }
            key.identity.asking.set(false);
        });
    }

    /// Waits while a failover is under way.
    async fn wait_while_held(&self) -> Result<(), Rc<[u8]>> {
        while self.holding() {
            let Ok(deadline) = self.hold_deadline() else {
                self.counters.hold_expired.inc();
                return Err(self.hold_expired());
            };
            let _ = tokio::time::timeout_at(deadline, self.changed()).await;
        }
        Ok(())
    }

    async fn room(self: &Rc<Self>, key: &ConnectionKey, share: Share) -> Result<Grant, Rc<[u8]>> {
        let leases = &self.leases;
        if leases.waiting.borrow().is_empty() {
            if let Some(link) = leases.idle.take(key, self.generation()) {
                leases.taken.set(leases.taken.get() + 1);
                return Ok(Grant { permit: Permit::new(self), link: Some((key.clone(), link)) });
            }
            if leases.taken.get() + leases.idle() >= leases.limit && leases.idle() > 0 {
                leases.idle.drop_oldest();
            }
            if leases.taken.get() + leases.idle() < leases.limit {
                leases.taken.set(leases.taken.get() + 1);
                return Ok(Grant { permit: Permit::new(self), link: None });
            }
        }
        self.counters.lease_waits.inc();
        let (tell, told) = oneshot::channel();
        let _place = leases.enqueue(tell, share);
        match tokio::time::timeout(self.config.lease_wait, told).await {
            Ok(Ok(grant)) => Ok(grant),
            _ => {
                self.counters.lease_timeouts.inc();
                Err(format!(
                    "-ERR respgate: no upstream connection became free within {} ms; this worker may lease {} of upstream '{}' (max-leased), and blocked, subscribed and transactional clients hold them",
                    self.config.lease_wait.as_millis(),
                    leases.limit,
                    self.config.name,
                )
                .into_bytes()
                .into())
            }
        }
    }

    async fn open_lease(
        self: &Rc<Self>,
        key: &ConnectionKey,
        replies: &Rc<Replies>,
        mut permit: Permit,
        patience: OnAuthFailure,
    ) -> Result<Lease, Rc<[u8]>> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            // Tried before the hold is looked at: its end is only noticed by trying.
            if let Some(primary) = self.primary().filter(|_| !self.holding()) {
                match open(self, &primary, key, patience.needless_password(), Purpose::Leased).await {
                    Ok(mut link) if Some(link.generation) == self.generation() => {
                        if let Err(why) = self.tell_scripts(&mut link, key).await {
                            self.note_fault(why);
                            continue;
                        }
                        self.end_hold();
                        return Ok(self.lend(link, key, replies, permit));
                    }
                    Ok(_) => continue,
                    Err(ConnectError::AuthRequired(line)) => {
                        self.note_auth_required(key);
                        return Err(line.into());
                    }
                    Err(ConnectError::Refused(line)) => return Err(line.into()),
                    Err(ConnectError::AuthRejected(refused)) if patience == OnAuthFailure::Report => {
                        return Err(refused.line.into());
                    }
                    Err(ConnectError::AuthRejected(refused)) => {
                        if let Some(line) = self.unwelcome(&key.identity, &refused) {
                            return Err(line.into());
                        }
                        if key.identity.is_of_a_user() {
                            let mut grant = self.step_aside(permit, key, backoff.next_delay()).await?;
                            if let Some(link) = self.usable(key, &mut grant) {
                                return Ok(self.lend(link, key, replies, grant.permit));
                            }
                            permit = grant.permit;
                            continue;
                        }
                    }
                    Err(ConnectError::Unavailable(why)) => {
                        self.note_fault(why);
                        self.begin_hold();
                    }
                }
            }
            let Ok(deadline) = self.hold_deadline() else {
                self.counters.hold_expired.inc();
                return Err(self.hold_expired());
            };
            // News end the pause; without a primary to try, only they do.
            let tries = self.primary().is_some() && !self.holding();
            let until = if tries { deadline.min(Instant::now() + backoff.next_delay()) } else { deadline };
            let _ = tokio::time::timeout_at(until, self.changed()).await;
        }
    }

    /// Pauses without the room and asks for some again: nobody else is to wait for want of what this one cannot use.
    async fn step_aside(
        self: &Rc<Self>,
        permit: Permit,
        key: &ConnectionKey,
        pause: Duration,
    ) -> Result<Grant, Rc<[u8]>> {
        drop(permit);
        let _ = tokio::time::timeout(pause, self.changed()).await;
        self.room(key, Share::default()).await
    }

    fn lend(
        self: &Rc<Self>,
        link: Connection,
        key: &ConnectionKey,
        replies: &Rc<Replies>,
        permit: Permit,
    ) -> Lease {
        let number = self.leases.number();
        let outdated = self.refreshes() && self.leases.is_outdated(key, link.began);
        let out = Rc::new(LeaseState {
            generation: link.generation,
            identity: key.identity.id(),
            refresh: Cell::new(if outdated { Refresh::Due } else { Refresh::Done }),
            cut: Cell::new(false),
            due: Cell::new(None),
            silent: Cell::new(false),
            heard: Cell::new(true),
            quiet: Cell::new(0),
            ping: Cell::new(false),
            replies: replies.clone(),
        });
        self.leases.out.borrow_mut().insert(number, out.clone());
        let listed = LeaseRegistration { upstream: self.clone(), number, out };
        let gauge = Gauged::new(&self.counters, |c| &c.leased_open);
        Lease { link, history: History::default(), key: key.clone(), listed, permit, _gauge: gauge }
    }
}

#[cfg(test)]
mod tests;
