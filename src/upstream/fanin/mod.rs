//! Fan-in: the subscriptions of many sessions on one upstream connection per worker and upstream user.
//!
//! [`table`] knows who is subscribed to what, [`subscription`] is a session's side of it, [`drive`] opens the connection and
//! [`pump`] serves it. Published messages and confirmations are the only frames that are passed on in another RESP version
//! than they came in: both versions have them in the same form, but for the first byte.

mod announce;
mod drive;
mod pump;
pub mod subscription;
mod table;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use tokio::time::Instant;

use self::subscription::SubscriberSink;
use self::table::Table;
use super::Upstream;
use super::connection::identity::Identity;
use super::connection::reauth::{InPlaceAuth, Refresh};
use crate::poll_meter::PollMeter;
use crate::resp::request::Request;
use crate::topology::Generation;

/// Bytes of a server's error line that are logged.
const SHOWN: usize = 256;

/// Names of the table's backlog that are handled before other tasks have their turn: some 0.3 ms.
const NAMES_PER_TURN: usize = 1024;

/// The subscriptions of all clients may take one part in so many of the byte budget; more are refused, so that no client is
/// disconnected because of what others subscribe to.
const SHARE: usize = 4;

/// Why the link is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkOrder {
    /// Its primary has been superseded.
    Cut,
    /// The server has not answered for too long.
    GiveUp,
    /// Nobody has needed it for long.
    Retire,
}

/// The subscriptions of all sessions of one worker that act as one user of one upstream.
pub(super) struct FanIn {
    identity: Rc<Identity>,
    table: RefCell<Table<Rc<SubscriberSink>>>,
    driver: RefCell<Option<Waker>>,
    /// Of the link, while it is open.
    generation: Cell<Option<Generation>>,
    order: Cell<Option<LinkOrder>>,
    /// Reads from the link so far.
    reads: Cell<u64>,
    /// Reads when they were last looked at, and since when an answer is due without one.
    due: Cell<(u64, Option<Instant>)>,
    /// Reads when they were last looked at, and how many looks ago they rose.
    quiet: Cell<(u64, u64)>,
    ping: Cell<bool>,
    /// The link should be authenticated again.
    refresh: Cell<Refresh>,
    /// The AUTH that is under way. Nothing else is sent until it is answered.
    auth: RefCell<Option<InPlaceAuth>>,
    unused: Cell<Option<Instant>>,
    meter: Rc<PollMeter>,
    /// A task works the table's backlog off.
    working: Cell<bool>,
}

impl FanIn {
    fn new(identity: Rc<Identity>, meter: Rc<PollMeter>) -> Rc<Self> {
        Rc::new(Self {
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

    /// Has a task handle what the table could not handle at once, if there is anything and no task does.
    fn work_off(self: &Rc<Self>) {
        if !self.table.borrow().has_backlog() || self.working.replace(true) {
            return;
        }
        let fan = Rc::downgrade(self);
        self.meter.spawn_local(async move {
            while let Some(fan) = fan.upgrade() {
                if !fan.table.borrow_mut().proceed(NAMES_PER_TURN) {
                    fan.working.set(false);
                    // Names that nobody wants any more are to be ended.
                    fan.wake();
                    return;
                }
                drop(fan);
                tokio::task::yield_now().await;
            }
        });
    }

    /// Has the driver look at what there is to do.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.driver.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn watch(&self, waker: &Waker) {
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

    /// Has the link authenticated again with the newest credentials.
    pub(super) fn refresh(&self) {
        self.refresh.set(Refresh::Due);
        self.wake();
    }

    /// Returns the AUTH that authenticates the link again, if that is due.
    fn begin_refresh(&self) -> Option<InPlaceAuth> {
        if self.refresh.get() != Refresh::Due {
            return None;
        }
        self.refresh.set(Refresh::Later);
        InPlaceAuth::begin(&self.identity)
    }

    /// Returns true if the server owes an answer.
    fn owed(&self) -> bool {
        self.table.borrow().owed() || self.auth.borrow().is_some()
    }

    /// Ends the link unless it is of the `newest` generation.
    pub(super) fn cut(&self, newest: Option<Generation>) {
        if self.generation.get().is_some_and(|generation| Some(generation) != newest) {
            self.order(LinkOrder::Cut);
        }
    }

    /// Names that anybody is subscribed to.
    pub(super) fn names(&self) -> usize {
        self.table.borrow().names()
    }

    /// Has the link closed if nobody uses it. False: there is none, or somebody does.
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

    /// Once a second: notices a silent server and a link that nobody needs, has a quiet one pinged, and refuses what
    /// has waited too long for a primary.
    pub(super) fn inspect(&self, upstream: &Upstream) {
        let now = Instant::now();
        let config = &upstream.config;
        let (reads, open) = (self.reads.get(), self.generation.get().is_some());
        let (owed, unused) = (open && self.owed(), self.is_unused());
        if open && !owed && self.refresh.get() == Refresh::Later {
            self.refresh();
        }
        let (seen, since) = self.due.get();
        let since = owed.then(|| since.filter(|_| reads == seen).unwrap_or(now));
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
        if due && open && !owed {
            self.ping.set(true);
            self.wake();
        }
        if upstream.in_hold() && upstream.hold_deadline().is_err() {
            self.refuse_held(upstream);
        }
    }

    /// What has waited too long for a primary fails.
    fn refuse_held(&self, upstream: &Upstream) {
        let refused = self.table.borrow_mut().refuse_unsent(&upstream.hold_expired());
        upstream.counters.hold_expired.add(refused as u64);
    }
}

/// An error line for the log, where a server's whole one has no place: it may be a megabyte, of any bytes.
fn shown(line: &[u8]) -> String {
    line.get(..SHOWN).unwrap_or(line).escape_ascii().to_string()
}

impl Upstream {
    /// Whether a request for subscriptions by fan-in is for more than all clients of this worker may have together.
    pub fn fan_in_full(&self, request: &Request<'_>) -> bool {
        let held: usize = self.fans.borrow().values().map(|fan| fan.table.borrow().bytes()).sum();
        let budget = self.buffers.share().budget();
        held.saturating_add(request.len()) > budget.limit() / SHARE / budget.workers()
    }

    /// The fan-in of this user's subscriptions, started if there is none.
    fn fan_in(self: &Rc<Self>, identity: &Rc<Identity>) -> Rc<FanIn> {
        if let Some(fan) = self.fans.borrow().get(&identity.id()) {
            return fan.clone();
        }
        let fan = FanIn::new(identity.clone(), self.meter.clone());
        self.fans.borrow_mut().insert(identity.id(), fan.clone());
        self.meter.spawn_local(drive::drive(fan.clone(), self.clone()));
        fan
    }
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
