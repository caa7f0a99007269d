//! Keeps the sessions of one worker: drains, reloads and the clock reach them here, and the byte budget chooses
//! among them which clients to disconnect.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::activity::{Activity, Tick};
use super::output::segments::SpareSegments;
use super::view::ClientView;
use crate::net::budget::{Holding, Share, relief, weightiest};
use crate::net::buffers::Buffers;

/// Pause between two checks of a byte budget that is spent.
const RELIEF_PAUSE: Duration = Duration::from_millis(2);
/// Minimum time between two log lines about evictions.
const RELIEF_LOG_PERIOD: Duration = Duration::from_secs(1);
/// Number of sessions that one step looks at.
const VIEWS_PER_STEP: usize = 64;
/// Number of checks after which a worker disconnects its own largest client although another worker's client is
/// larger.
const MAX_DEFERRED_ROUNDS: u32 = 10;

/// Keeps the sessions of one worker, and the clock of their timeouts.
pub struct SessionRegistry {
    sessions: RefCell<HashMap<u64, Rc<Activity>>>,
    /// What each session shows, in the order of the ids.
    pub(super) views: RefCell<BTreeMap<u64, Rc<ClientView>>>,
    /// True during a drain.
    pub(super) draining: Cell<bool>,
    /// The finished segments of all sessions.
    pub(super) spare: Rc<SpareSegments>,
    /// Notified when a session ends.
    left: Notify,
    /// The start of the worker's clock.
    since: Instant,
    /// The clock, in seconds since `since`. Advances once per second.
    pub(super) now: Cell<Tick>,
}

impl Default for SessionRegistry {
    fn default() -> Self {
        Self {
            sessions: RefCell::default(),
            views: RefCell::default(),
            draining: Cell::new(false),
            spare: Rc::default(),
            left: Notify::new(),
            since: Instant::now(),
            now: Cell::new(0),
        }
    }
}

impl SessionRegistry {
    /// Ends each session as soon as none of its requests is under way.
    pub fn drain(&self) {
        self.draining.set(true);
        for session in self.sessions.borrow().values() {
            session.wake();
        }
    }

    /// Wakes the sessions of an upstream, so that they see that it is being removed.
    pub fn wake_of(&self, upstream: usize) {
        self.of(upstream).iter().for_each(|view| view.activity.wake());
    }

    /// Disconnects the clients of an upstream.
    pub fn kill_of(&self, upstream: usize) {
        self.of(upstream).iter().for_each(|view| view.activity.kill());
    }

    /// Ends when no session of an upstream is left.
    pub async fn emptied_of(&self, upstream: usize) {
        loop {
            let left = self.left.notified();
            if !self.views.borrow().values().any(|view| view.upstream == upstream) {
                return;
            }
            left.await;
        }
    }

    /// Returns the databases in which the sessions of an upstream are. Looks at a few sessions at a time, between which others run.
    pub async fn databases_of(self: Rc<Self>, upstream: usize) -> BTreeSet<u32> {
        let (mut databases, mut last) = (BTreeSet::new(), None);
        loop {
            let seen = {
                let views = self.views.borrow();
                let from = last.map_or(Bound::Unbounded, Bound::Excluded);
                let mut some = views.range((from, Bound::Unbounded)).take(VIEWS_PER_STEP).peekable();
                if some.peek().is_none() {
                    return databases;
                }
                some.inspect(|(_, view)| {
                    if view.upstream == upstream {
                        databases.insert(view.database());
                    }
                })
                .last()
                .map(|(id, _)| *id)
            };
            last = seen;
            yield_now().await;
        }
    }

    fn of(&self, upstream: usize) -> Vec<Rc<ClientView>> {
        let views = self.views.borrow();
        views.values().filter(|view| view.upstream == upstream).cloned().collect()
    }

    /// Advances the clock and checks the timeouts of all sessions. Called once per second.
    pub fn inspect(&self) {
        self.now.set(self.since.elapsed().as_secs());
        self.spare.trim();
        for session in self.sessions.borrow().values() {
            session.inspect(self.now.get());
        }
    }

    /// Tells every session that a reload has changed something. Each follows the change at its next poll.
    pub fn notify_reload(&self) {
        for session in self.sessions.borrow().values() {
            session.notify_reload();
        }
    }

    /// Disconnects the clients that hold most memory whenever the byte budget of the process is spent. Never ends.
    pub async fn relieve(self: Rc<Self>, buffers: Rc<Buffers>) {
        let share = buffers.share();
        let mut logged_at: Option<Instant> = None;
        loop {
            share.spent().await;
            // Do not evict at once: much of what is held now is written within milliseconds, and the other
            // workers need a moment to publish how much their largest client holds.
            let (mut clients, mut bytes) = self.rank(0, 0, share);
            for round in 0.. {
                tokio::time::sleep(RELIEF_PAUSE).await;
                let missing = share.budget().missing();
                if missing == 0 {
                    break;
                }
                let evicted = self.rank(missing, round, share);
                clients += evicted.0;
                bytes += evicted.1;
            }
            self.end_waits();
            if clients > 0 && logged_at.is_none_or(|at| at.elapsed() >= RELIEF_LOG_PERIOD) {
                logged_at = Some(Instant::now());
                tracing::warn!(
                    clients,
                    bytes,
                    max_buffered = share.budget().limit(),
                    "max-buffered is spent: respgate disconnects the clients that hold most; raise max-buffered, or limit tenants"
                );
            }
        }
    }

    /// Publishes how much this worker's largest client holds, and evicts the clients that must go to free
    /// `missing` bytes. Returns the number of evicted clients, and the bytes that they hold.
    fn rank(&self, missing: usize, round: u32, share: &Share) -> (usize, usize) {
        let sessions = self.sessions.borrow();
        let (leaving, staying): (Vec<_>, Vec<_>) =
            sessions.values().partition(|session| session.is_evicted());
        let leaving = leaving.iter().map(|session| session.kept_bytes()).sum();
        let clients: Vec<Holding> = staying.iter().map(|session| session.holding()).collect();
        // The equal part of one client. `relief` weighs clients against it.
        let equal = share.budget().limit() / (sessions.len() * share.budget().workers()).max(1);
        let others = share.compare_largest(weightiest(&clients, equal));
        // A worker that does not answer must not keep the other workers from evicting.
        let others = if round < MAX_DEFERRED_ROUNDS { others } else { 0 };
        let (mut evicted, mut bytes) = (0, 0);
        let chosen = relief(&clients, equal, leaving, missing, others);
        for session in chosen.into_iter().filter_map(|at| staying.get(at)) {
            session.evict();
            evicted += 1;
            bytes += session.kept_bytes();
        }
        (evicted, bytes)
    }

    /// Wakes the clients that waited for memory, now that the byte budget is relieved.
    fn end_waits(&self) {
        for session in self.sessions.borrow().values() {
            session.end_wait();
        }
    }

    /// Ends when no session is left.
    pub async fn emptied(&self) {
        loop {
            let left = self.left.notified();
            if self.sessions.borrow().is_empty() {
                return;
            }
            left.await;
        }
    }

    /// Adds the session of a client.
    pub(super) fn join(&self, session: Rc<Activity>, view: Rc<ClientView>) {
        self.sessions.borrow_mut().insert(view.id, session);
        self.views.borrow_mut().insert(view.id, view);
    }

    /// Removes the session of a client.
    pub(super) fn leave(&self, client: u64) {
        self.sessions.borrow_mut().remove(&client);
        self.views.borrow_mut().remove(&client);
        self.left.notify_waiters();
    }
}
