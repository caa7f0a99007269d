//! The sessions of one worker: a drain, a reload and the clock reach them here, and the byte budget chooses among them
//! whom to disconnect.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::activity::{Activity, Tick};
use crate::net::budget::{Holding, Share, relief, weightiest};
use crate::net::buffers::Buffers;

/// How long a worker waits between two looks at a byte budget that is spent.
const RELIEF_PAUSE: Duration = Duration::from_millis(2);
/// Evictions are logged at most this often.
const RELIEF_LOG_PERIOD: Duration = Duration::from_secs(1);
/// Looks after which a worker disconnects its own largest client, although another worker's was larger.
const RELIEF_PATIENCE: u32 = 10;

/// The sessions of one worker, so that a drain reaches them, and the clock of their timeouts.
pub struct SessionRegistry {
    sessions: RefCell<HashMap<u64, Rc<Activity>>>,
    pub(super) draining: Cell<bool>,
    left: Notify,
    since: Instant,
    pub(super) now: Cell<Tick>,
}

impl Default for SessionRegistry {
    fn default() -> Self {
        Self {
            sessions: RefCell::default(),
            draining: Cell::new(false),
            left: Notify::new(),
            since: Instant::now(),
            now: Cell::new(0),
        }
    }
}

impl SessionRegistry {
    /// From now on sessions end as soon as nothing of theirs is under way.
    pub fn drain(&self) {
        self.draining.set(true);
        for session in self.sessions.borrow().values() {
            session.wake();
        }
    }

    /// Once a second: looks whose time is up.
    pub fn inspect(&self) {
        self.now.set(self.since.elapsed().as_secs());
        for session in self.sessions.borrow().values() {
            session.inspect(self.now.get());
        }
    }

    /// Users or tenants have changed: every session looks at what that means for it, at its next turn.
    pub fn tell_reload(&self) {
        for session in self.sessions.borrow().values() {
            session.tell_reload();
        }
    }

    /// Disconnects the clients that hold most, whenever the byte budget of the process is spent. Never ends.
    pub async fn relieve(self: Rc<Self>, buffers: Rc<Buffers>) {
        let share = buffers.share();
        let mut told: Option<Instant> = None;
        loop {
            share.spent().await;
            // Much of what is held at one moment is written at the next, and the other workers need a moment to say how
            // much their largest client holds.
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
            if clients > 0 && told.is_none_or(|at| at.elapsed() >= RELIEF_LOG_PERIOD) {
                told = Some(Instant::now());
                tracing::warn!(
                    clients,
                    bytes,
                    max_buffered = share.budget().limit(),
                    "the memory for clients was spent: those that held most are disconnected; raise max-buffered, or bound clients by tenant"
                );
            }
        }
    }

    /// Tells the other workers how much the largest client holds, and marks those that must go for `missing` bytes.
    /// Returns how many those are, and how many bytes they hold.
    fn rank(&self, missing: usize, round: u32, share: &Share) -> (usize, usize) {
        let sessions = self.sessions.borrow();
        let (leaving, staying): (Vec<_>, Vec<_>) =
            sessions.values().partition(|session| session.is_evicted());
        let leaving = leaving.iter().map(|session| session.held()).sum();
        let clients: Vec<Holding> = staying.iter().map(|session| session.holding()).collect();
        let equal = share.budget().limit() / (sessions.len() * share.budget().workers()).max(1);
        let others = share.compare_largest(weightiest(&clients, equal));
        // A worker that does not answer must not keep the others from doing their part.
        let others = if round < RELIEF_PATIENCE { others } else { 0 };
        let (mut evicted, mut bytes) = (0, 0);
        let chosen = relief(&clients, equal, leaving, missing, others);
        for session in chosen.into_iter().filter_map(|at| staying.get(at)) {
            session.evict();
            evicted += 1;
            bytes += session.held();
        }
        (evicted, bytes)
    }

    /// Clients that may send again since the byte budget is relieved are read from.
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

    pub(super) fn join(&self, client: u64, session: Rc<Activity>) {
        self.sessions.borrow_mut().insert(client, session);
    }

    pub(super) fn leave(&self, client: u64) {
        self.sessions.borrow_mut().remove(&client);
        self.left.notify_waiters();
    }
}
