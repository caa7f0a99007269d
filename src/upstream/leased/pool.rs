//! The pool of leased connections: room for them, the sessions that wait for room, and the idle connections.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::resp::error_line::ErrorLine;
use crate::topology::Generation;
use crate::upstream::cluster_room::ClusterPermit;
use crate::upstream::connection::identity::{AgeFate, Identity};
use crate::upstream::connection::open::{Connection, ConnectionKey, Dialing};
use crate::upstream::connection::reauth::Refresh;
use crate::upstream::leased::idle::{IdleConnections, sound};
use crate::upstream::leased::state::{LeaseState, Vacate};
use crate::upstream::shared::fair::fair_queue::{FairQueue, Share};

/// The leased connections of one worker to one upstream.
pub(in crate::upstream) struct LeasePool {
    pub(in crate::upstream) dialing: Rc<Dialing>,
    /// The number of connections that the pool may have, leased and idle.
    limit: Cell<usize>,
    /// The number of leased connections, and of those that are being opened.
    taken: Cell<usize>,
    idle: IdleConnections,
    /// The sessions that wait for room, by number.
    waiting: RefCell<HashMap<u64, oneshot::Sender<LeaseGrant>>>,
    /// The order in which they get room.
    queue: RefCell<FairQueue>,
    /// The state of each lease, by number.
    states: RefCell<HashMap<u64, Rc<LeaseState>>>,
    next: Cell<u64>,
}

/// Room for one leased connection, and perhaps an idle connection to use.
pub(in crate::upstream::leased) struct LeaseGrant {
    pub(in crate::upstream::leased) permit: Permit,
    link: Option<(ConnectionKey, Connection)>,
}

impl LeaseGrant {
    /// Closes the idle connection that came with the room.
    pub(in crate::upstream::leased) fn close(&mut self) {
        self.link = None;
    }
}

/// Room for one leased connection. Dropping it gives the room to the session whose turn it is.
pub(in crate::upstream::leased) struct Permit {
    pool: Rc<LeasePool>,
    /// The room among the connections to all nodes of a cluster. It is taken out only when this is dropped.
    cluster: Option<ClusterPermit>,
    /// A connection without state, which the next session may use.
    pub(in crate::upstream::leased) clean: Option<(ConnectionKey, Connection)>,
}

impl Permit {
    fn new(pool: &Rc<LeasePool>, cluster: ClusterPermit) -> Self {
        Self { pool: pool.clone(), cluster: Some(cluster), clean: None }
    }
}

/// Room for a connection that one session has to itself and that no lease stands for. Dropping it frees the room.
pub(in crate::upstream) struct LeaseRoom {
    _permit: Permit,
}

/// A session in the queue. Dropping it takes the session out.
struct Waiting<'a> {
    pool: &'a LeasePool,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pool.queue.borrow_mut().leave(self.number);
        self.pool.waiting.borrow_mut().remove(&self.number);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(cluster) = self.cluster.take() {
            self.pool.release(self.clean.take(), cluster);
        }
    }
}

/// The number of quiet ping intervals after which a leased connection is pinged. There may be a thousand of them, servers do not
/// time subscribers out, and TCP keepalive keeps NAT open. The ping is for middleboxes that look at data only.
const HELD_PING: u32 = 20;

impl LeasePool {
    pub(in crate::upstream) fn new(dialing: Rc<Dialing>) -> Self {
        Self {
            limit: Cell::new(dialing.config.get().max_leased.max(1)),
            dialing,
            taken: Cell::new(0),
            idle: IdleConnections::default(),
            waiting: RefCell::default(),
            queue: RefCell::default(),
            states: RefCell::default(),
            next: Cell::new(0),
        }
    }

    /// Returns true if fewer leases are out than may be.
    pub(in crate::upstream) fn has_room(&self) -> bool {
        self.taken.get() < self.limit.get()
    }

    /// Returns the number of idle connections.
    pub(in crate::upstream) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Returns the number of sessions that wait for room.
    pub(in crate::upstream) fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Replaces the limit. A higher one serves sessions that wait. A lower one closes idle connections at once, and leased ones as
    /// they come back.
    pub(in crate::upstream) fn set_limit(self: &Rc<Self>, limit: usize) {
        self.limit.set(limit);
        while self.idle() > 0 && self.taken.get() + self.idle() > limit {
            self.idle.drop_oldest();
        }
        while self.serve_waiting() {}
    }

    /// Gives the session whose turn it is free room. Returns false if none waits, or no room is free.
    pub(in crate::upstream) fn serve_waiting(self: &Rc<Self>) -> bool {
        if !self.waits_for_room() {
            return false;
        }
        let Some(cluster) = self.dialing.room.take_for_lease() else { return false };
        let Some(session) = self.next_waiting() else { return false };
        self.taken.set(self.taken.get() + 1);
        let _ = session.send(LeaseGrant { permit: Permit::new(self, cluster), link: None });
        true
    }

    /// Returns true if a session waits for room although the limit allows one more.
    pub(in crate::upstream) fn waits_for_room(&self) -> bool {
        self.taken.get() + self.idle() < self.limit.get() && !self.waiting.borrow().is_empty()
    }

    /// Closes the connection that has been idle for longest. Returns false if there is none.
    pub(in crate::upstream) fn close_idle(&self) -> bool {
        self.idle.drop_oldest()
    }

    /// Takes the session whose turn it is out of the queue.
    fn next_waiting(&self) -> Option<oneshot::Sender<LeaseGrant>> {
        loop {
            let (number, _) = self.queue.borrow_mut().next(1)?;
            let session = self.waiting.borrow_mut().remove(&number);
            if let Some(session) = session.filter(|session| !session.is_closed()) {
                return Some(session);
            }
        }
    }

    /// Gives the room of a finished lease, and its connection if that is clean, to the session whose turn it is. If no session
    /// waits, the room becomes free and the connection idle. If a reload has lowered the limit below the number of leases, the
    /// room is gone and the connection is closed.
    ///
    /// If sessions wait at other nodes of a cluster too, and the room of all nodes is short, the connection is closed and its room goes by turns.
    fn release(self: &Rc<Self>, link: Option<(ConnectionKey, Connection)>, cluster: ClusterPermit) {
        let waits = !self.waiting.borrow().is_empty();
        let by_turns = waits && self.dialing.room.goes_by_turns(self.waits_for_room());
        if self.taken.get() > self.limit.get() || by_turns {
            self.taken.set(self.taken.get().saturating_sub(1));
            return;
        }
        if let Some(session) = self.next_waiting() {
            let _ = session.send(LeaseGrant { permit: Permit::new(self, cluster), link });
            return;
        }
        self.queue.borrow_mut().clear();
        self.taken.set(self.taken.get().saturating_sub(1));
        if let Some((key, link)) = link {
            self.idle.put(key, link, cluster);
        }
    }

    /// Queues a session, until the returned value is dropped.
    fn enqueue(&self, session: oneshot::Sender<LeaseGrant>, share: Share) -> Waiting<'_> {
        let waiting = Waiting { pool: self, number: self.number() };
        self.waiting.borrow_mut().insert(waiting.number, session);
        self.queue.borrow_mut().join(waiting.number, share, 1);
        waiting
    }

    /// Returns a number that no session or lease of this pool has had.
    fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    /// Cuts every lease that is not of the `newest` generation, and closes such idle connections.
    pub(in crate::upstream) fn cut(&self, newest: Option<Generation>) {
        self.idle.retain(|_, link| Some(link.generation) == newest);
        for state in self.states.borrow().values().filter(|state| Some(state.generation) != newest) {
            state.cut.set(true);
            state.replies.wake();
        }
    }

    /// Wakes every session that holds a lease.
    pub(in crate::upstream) fn wake(&self) {
        self.states.borrow().values().for_each(|state| state.replies.wake());
    }

    /// Gives up leases whose reply has been due for `limit` or longer. Zero gives up none.
    pub(in crate::upstream) fn expire(&self, limit: Duration) {
        let overdue = |state: &&Rc<LeaseState>| {
            !limit.is_zero() && state.due.get().is_some_and(|due| due.elapsed() >= limit)
        };
        for state in self.states.borrow().values().filter(overdue) {
            state.silent.set(true);
            state.replies.wake();
        }
    }

    /// Closes connections that have been idle for `limit`, and pings those that have been quiet for `ping` (zero: none). Leased
    /// connections are pinged after [`HELD_PING`] times `ping`. Returns the keys that the server must be asked about (see
    /// [`IdleConnections::tend`]).
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
        for state in self.states.borrow().values() {
            let quiet = if state.heard.replace(false) { 0 } else { state.quiet.get() + 1 };
            let due = quiet >= ticks;
            state.quiet.set(if due { 0 } else { quiet });
            if due {
                state.ping.set(true);
                state.replies.wake();
            }
        }
        asks
    }

    /// Closes idle connections of this identity (`None`: of all), and keeps leased ones from being used again.
    pub(in crate::upstream) fn outdate(&self, identity: Option<&Identity>) {
        self.dialing.identities.outdate(identity);
        self.idle.retain(|key, _| identity.is_some_and(|identity| key.identity.id() != identity.id()));
    }

    /// Has the leased connections of this identity authenticated again.
    pub(in crate::upstream) fn refresh(&self, identity: &Identity) {
        self.set_refresh(|state| state.identity.id() == identity.id());
    }

    /// Has those connections authenticated again that could not be at the last attempt.
    pub(in crate::upstream) fn refresh_again(&self) {
        self.set_refresh(|state| state.refresh.get() == Refresh::Later);
    }

    fn set_refresh(&self, applies: impl Fn(&LeaseState) -> bool) {
        for state in self.states.borrow().values().filter(|state| applies(state)) {
            state.refresh.set(Refresh::Due);
            state.replies.wake();
        }
    }

    /// Has sessions leave their leased connections for others, and closes the idle ones.
    pub(in crate::upstream) fn vacate(&self, order: Vacate) {
        self.idle.retain(|_, _| false);
        for state in self.states.borrow().values().filter(|state| state.vacate.get() < order) {
            state.vacate.set(order);
            state.replies.wake();
        }
    }

    /// Returns the number of leased connections whose sessions have been ordered to leave them.
    pub(in crate::upstream) fn vacating(&self) -> usize {
        self.states.borrow().values().filter(|state| state.vacate.get() != Vacate::No).count()
    }

    /// Returns the number of requests on leased connections whose replies are due. Requests that block do not count.
    pub(in crate::upstream) fn unanswered(&self) -> usize {
        self.states.borrow().values().map(|state| state.unanswered.get()).sum()
    }

    /// Returns the identity and the database of each leased connection.
    pub(in crate::upstream) fn leased_as(&self) -> Vec<(Rc<Identity>, u32)> {
        self.states.borrow().values().map(|state| (state.identity.clone(), state.database.get())).collect()
    }

    /// Enters the state of a lease, and returns its number.
    pub(in crate::upstream::leased) fn register(&self, state: Rc<LeaseState>) -> u64 {
        let number = self.number();
        self.states.borrow_mut().insert(number, state);
        number
    }

    /// Removes the state of a lease.
    pub(in crate::upstream::leased) fn unregister(&self, number: u64) {
        self.states.borrow_mut().remove(&number);
    }

    /// Keeps a connection that no session uses, if the limit allows one more.
    pub(in crate::upstream::leased) fn keep(&self, key: ConnectionKey, connection: Connection) {
        if self.taken.get() + self.idle() < self.limit.get()
            && !self.dialing.hold.is_disconnecting()
            && let Some(cluster) = self.dialing.room.take()
        {
            self.idle.put(key, connection, cluster);
        }
    }

    /// Returns true if another session may use the connection.
    pub(in crate::upstream::leased) fn reusable(&self, key: &ConnectionKey, link: &Connection) -> bool {
        let young = |at: &Instant| *at > Instant::now() || key.identity.fate_at_max_age(*at) != AgeFate::Ends;
        link.retires.as_ref().is_none_or(young)
            && !self.dialing.hold.is_disconnecting()
            && !self.dialing.identities.is_outdated(&key.identity, link.began)
    }

    /// Returns the connection that came with the room, if it is sound and is one for `key`.
    pub(in crate::upstream::leased) fn usable(
        &self,
        key: &ConnectionKey,
        grant: &mut LeaseGrant,
    ) -> Option<Connection> {
        let (known, mut link) = grant.link.take()?;
        let hold = &self.dialing.hold;
        let current = Some(link.generation) == hold.generation() && !hold.is_disconnecting();
        (known == *key && current && sound(&mut link)).then_some(link)
    }

    /// Takes room for one leased connection, when it is the turn of `share`. Waits for `lease-timeout` at most.
    ///
    /// # Errors
    /// Returns the error line for the client, if no room became free.
    pub(in crate::upstream::leased) async fn take_room(
        self: &Rc<Self>,
        key: &ConnectionKey,
        share: Share,
    ) -> Result<LeaseGrant, ErrorLine> {
        if self.waiting.borrow().is_empty() {
            if let Some((link, cluster)) = self.idle.take(key, self.dialing.hold.generation()) {
                self.taken.set(self.taken.get() + 1);
                return Ok(LeaseGrant {
                    permit: Permit::new(self, cluster),
                    link: Some((key.clone(), link)),
                });
            }
            if self.taken.get() + self.idle() >= self.limit.get() && self.idle() > 0 {
                self.idle.drop_oldest();
            }
            if self.taken.get() + self.idle() < self.limit.get()
                && let Some(cluster) = self.dialing.room.take_for_lease()
            {
                self.taken.set(self.taken.get() + 1);
                return Ok(LeaseGrant { permit: Permit::new(self, cluster), link: None });
            }
        }
        self.dialing.reports.counters.lease_waits.inc();
        let (tell, told) = oneshot::channel();
        let _waiting = self.enqueue(tell, share);
        self.dialing.room.note_waiting();
        let timeout = self.dialing.config.get().lease_timeout;
        match tokio::time::timeout(timeout, told).await {
            Ok(Ok(grant)) => Ok(grant),
            _ => {
                self.dialing.reports.counters.lease_timeouts.inc();
                if self.taken.get() + self.idle() < self.limit.get()
                    && let Some(line) = self.dialing.room.limit_error()
                {
                    return Err(line);
                }
                Err(format!(
                    "-ERR respgate: no upstream connection became free within {} ms; this worker may lease {} of upstream '{}' (max-leased), and blocked, subscribed and transactional clients hold them",
                    timeout.as_millis(),
                    self.limit.get(),
                    self.dialing.config.name,
                )
                .into_bytes()
                .into())
            }
        }
    }

    /// Takes room for a connection that no lease stands for, as [`Self::take_room`] does.
    ///
    /// # Errors
    /// Returns the error line for the client, if no room became free.
    pub(in crate::upstream) async fn room(
        self: &Rc<Self>,
        key: &ConnectionKey,
        share: Share,
    ) -> Result<LeaseRoom, ErrorLine> {
        let mut grant = self.take_room(key, share).await?;
        grant.close();
        Ok(LeaseRoom { _permit: grant.permit })
    }

    /// Gives the room up for `pause`, and then takes room again: other sessions must not wait for room that this one cannot use
    /// at present.
    pub(in crate::upstream::leased) async fn step_aside(
        self: &Rc<Self>,
        permit: Permit,
        key: &ConnectionKey,
        pause: Duration,
    ) -> Result<LeaseGrant, ErrorLine> {
        drop(permit);
        let _ = tokio::time::timeout(pause, self.dialing.hold.changed()).await;
        self.take_room(key, Share::default()).await
    }
}

#[cfg(test)]
mod tests;
