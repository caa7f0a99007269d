//! The state of one fan-in: its table, its connection, and what the two have to do next.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use tokio::time::Instant;

use super::sink::SubscriberSink;
use super::table::Table;
use crate::cluster::slot::Slot;
use crate::poll_meter::PollMeter;
use crate::topology::Generation;
use crate::upstream::config::UpstreamConfig;
use crate::upstream::connection::identity::Identity;
use crate::upstream::connection::reauth::{InPlaceAuth, Refresh};
use crate::upstream::hold::Hold;
use crate::upstream::reports::Reports;
use crate::upstream::shared::fair::fair_queue::Share;

/// The length up to which a server's error line is logged, in bytes.
const SHOWN: usize = 256;

/// The number of names of the table's backlog that are handled before other tasks have their turn: some 0.3 ms of work.
const NAMES_PER_TURN: usize = 1024;

/// An order to end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkOrder {
    /// A newer primary has taken over.
    Cut,
    /// The server has not answered for too long.
    GiveUp,
    /// No session has used the connection for long.
    Retire,
}

/// Who shares the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum FanInKey {
    /// All sessions of the identity with this number.
    Identity(u64),
    /// One session. The number is the connection's own.
    Session(u64),
}

/// The subscriptions of all sessions of one worker that act as one user of one upstream, or of one session.
pub(in crate::upstream) struct FanIn {
    pub(super) key: FanInKey,
    /// The share as which the only session waits for room for its connection.
    pub(super) share: Share,
    /// True if the only session has left.
    closed: Cell<bool>,
    pub(super) identity: Rc<Identity>,
    pub(super) table: RefCell<Table<Rc<SubscriberSink>>>,
    driver: RefCell<Option<Waker>>,
    /// The generation of the primary to which the connection leads, while it is open.
    pub(super) generation: Cell<Option<Generation>>,
    pub(super) order: Cell<Option<LinkOrder>>,
    /// The number of reads from the connection.
    pub(super) reads: Cell<u64>,
    /// The number of reads at the last inspection, and since when a reply has been due without one.
    due: Cell<(u64, Option<Instant>)>,
    /// The number of reads at the last inspection, and the number of inspections since it last rose.
    quiet: Cell<(u64, u64)>,
    /// True if the connection should be pinged.
    pub(super) ping: Cell<bool>,
    /// Whether the connection should be authenticated again.
    pub(super) refresh: Cell<Refresh>,
    /// The AUTH that is under way. Nothing else is sent until the server answers it.
    pub(super) auth: RefCell<Option<InPlaceAuth>>,
    /// Since when no session has used the connection.
    unused: Cell<Option<Instant>>,
    meter: Rc<PollMeter>,
    /// True while a task handles the table's backlog.
    working: Cell<bool>,
}

impl FanIn {
    pub(super) fn new(key: FanInKey, share: Share, identity: Rc<Identity>, meter: Rc<PollMeter>) -> Rc<Self> {
        Rc::new(Self {
            key,
            share,
            closed: Cell::default(),
            identity,
            table: RefCell::default(),
            driver: RefCell::default(),
            generation: Cell::default(),
            order: Cell::default(),
            reads: Cell::default(),
            due: Cell::default(),
            quiet: Cell::default(),
            ping: Cell::default(),
            refresh: Cell::default(),
            auth: RefCell::default(),
            unused: Cell::default(),
            meter,
            working: Cell::default(),
        })
    }

    /// Returns true if one session has the connection to itself.
    pub(super) fn is_private(&self) -> bool {
        matches!(self.key, FanInKey::Session(_))
    }

    /// Has the connection closed at once, because its only session has left.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.order(LinkOrder::Retire);
    }

    /// Returns true if the only session has left.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Has every session leave with its shard channels for other shards, because this one has left the cluster.
    pub(super) fn leave(&self) {
        self.cut(None);
        let mut table = self.table.borrow_mut();
        table.disconnected();
        table.evict(|_| true);
    }

    /// Has sessions leave with the shard channels for whose slots `leaves` returns true. While there is a connection, the server ends
    /// such channels itself.
    pub(super) fn slots_left(&self, leaves: impl Fn(Slot) -> bool) {
        if self.generation.get().is_none() {
            self.table.borrow_mut().evict(leaves);
        }
    }

    /// Starts a task that handles the table's backlog, if there is any and no task does.
    pub(super) fn work_off(self: &Rc<Self>) {
        if !self.table.borrow().has_backlog() || self.working.replace(true) {
            return;
        }
        let fan = Rc::downgrade(self);
        self.meter.spawn_local(async move {
            while let Some(fan) = fan.upgrade() {
                if !fan.table.borrow_mut().proceed(NAMES_PER_TURN) {
                    fan.working.set(false);
                    // Commands may have to end names that no session wants any more.
                    fan.wake();
                    return;
                }
                drop(fan);
                tokio::task::yield_now().await;
            }
        });
    }

    /// Wakes the driver, so that it looks for work.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.driver.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Sets the driver's waker.
    pub(super) fn watch(&self, waker: &Waker) {
        let mut mine = self.driver.borrow_mut();
        if !mine.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *mine = Some(waker.clone());
        }
    }

    fn order(&self, order: LinkOrder) {
        if self.order.get() != Some(LinkOrder::Cut) {
            self.order.set(Some(order));
        }
        self.wake();
    }

    /// Has the connection authenticated again with the newest credentials.
    pub(super) fn refresh(&self) {
        self.refresh.set(Refresh::Due);
        self.wake();
    }

    /// Returns the AUTH that authenticates the connection again, if that is due.
    pub(super) fn begin_refresh(&self) -> Option<InPlaceAuth> {
        if self.refresh.get() != Refresh::Due {
            return None;
        }
        self.refresh.set(Refresh::Later);
        InPlaceAuth::begin(&self.identity)
    }

    /// Returns true if the server owes a reply.
    fn is_reply_due(&self) -> bool {
        self.table.borrow().is_reply_due() || self.auth.borrow().is_some()
    }

    /// Ends the connection unless it is of the `newest` generation.
    pub(super) fn cut(&self, newest: Option<Generation>) {
        if self.generation.get().is_some_and(|generation| Some(generation) != newest) {
            self.order(LinkOrder::Cut);
        }
    }

    /// Returns the number of names to which a session is subscribed, or asks to be.
    pub(super) fn names(&self) -> usize {
        self.table.borrow().names()
    }

    /// Has the connection closed if no session uses it. Returns false if there is none, or if a session uses it.
    pub(super) fn retire_unused(&self) -> bool {
        let unused = self.generation.get().is_some() && self.is_unused();
        if unused {
            self.order(LinkOrder::Retire);
        }
        unused
    }

    fn is_unused(&self) -> bool {
        let table = self.table.borrow();
        table.names() == 0 && table.sessions() == 0
    }

    /// Checks the connection, once a second: ends it if the server is silent or no session uses it, and has a quiet one pinged.
    /// Refuses requests that have waited too long for a primary.
    pub(super) fn inspect(&self, config: &UpstreamConfig, hold: &Hold, reports: &Reports) {
        let now = Instant::now();
        let (reads, open) = (self.reads.get(), self.generation.get().is_some());
        let (reply_due, unused) = (open && self.is_reply_due(), self.is_unused());
        if open && !reply_due && self.refresh.get() == Refresh::Later {
            self.refresh();
        }
        let (seen, since) = self.due.get();
        let since = reply_due.then(|| since.filter(|_| reads == seen).unwrap_or(now));
        self.due.set((reads, since));
        if !config.response_timeout.is_zero()
            && since.is_some_and(|since| now - since >= config.response_timeout)
        {
            return self.order(LinkOrder::GiveUp);
        }
        self.unused.set(unused.then(|| self.unused.get().unwrap_or(now)));
        if open && self.unused.get().is_some_and(|since| now - since >= config.lease_idle_timeout) {
            return self.order(LinkOrder::Retire);
        }
        let (seen, quiet) = self.quiet.get();
        let quiet = if seen == reads { quiet + 1 } else { 0 };
        let due = !config.ping_interval.is_zero() && quiet >= config.ping_interval.as_secs();
        self.quiet.set((reads, if due { 0 } else { quiet }));
        if due && open && !reply_due {
            self.ping.set(true);
            self.wake();
        }
        if hold.is_active() && hold.deadline().is_err() {
            self.refuse_held(hold, reports);
        }
    }

    /// Refuses the requests that have waited too long for a primary.
    pub(super) fn refuse_held(&self, hold: &Hold, reports: &Reports) {
        let refused = self.table.borrow_mut().refuse_unsent(&hold.expired_error());
        reports.counters.hold_expired.add(refused as u64);
    }
}

/// Returns the beginning of an error line, printable for the log. A server's whole line may be a megabyte, of any bytes.
pub(super) fn shown(line: &[u8]) -> String {
    line.get(..SHOWN).unwrap_or(line).escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged_is_short_and_printable() {
        assert_eq!(shown(b"-NOPERM no"), "-NOPERM no");
        assert_eq!(shown(b"-ERR \x1b[2J\n\xff"), "-ERR \\x1b[2J\\n\\xff");
        assert_eq!(shown(&[b'x'; 1 << 20]).len(), SHOWN);
    }
}
