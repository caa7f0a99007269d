//! A shared lane: one connection that carries the commands of many sessions, in order.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::latency::Arrival;
use crate::resp::error_line::ErrorLine;
use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::replies::Replies;
use crate::upstream::shared::fair::fair_queue::Share;
use crate::upstream::shared::fair::scheduler::{Asker, FairScheduler};
use crate::upstream::shared::fair::window::Window;
use crate::upstream::shared::queue::answer::answer;
use crate::upstream::shared::queue::redirected::RedirectedRequest;
use crate::upstream::shared::queue::{IfLost, Queue, Slot};

mod upkeep;

/// The bytes that one lane holds before sessions must wait, so that a slow server slows its clients down.
const ROOM: usize = 1024 * 1024;

/// The answer of a lane to a session that wants to push a request.
#[derive(Clone, Debug)]
pub enum Admission {
    /// The session may push the request.
    Open,
    /// The window is full. The session waits for its turn.
    Full,
    /// There is no connection yet. The session waits to be woken, until this time at most.
    Held(Instant),
    /// The request fails with this error line.
    Refused(ErrorLine),
    /// The request fails with this error line, because the hold has lasted longer than `hold-timeout`.
    Expired(ErrorLine),
}

/// The phase of a lane's connection.
#[derive(Clone, Debug)]
pub(in crate::upstream) enum Phase {
    /// There is no connection, and no session wants one.
    Idle,
    /// A session wants a connection, or one is being opened.
    Opening,
    /// The connection is open, and takes requests.
    Open,
    /// The server refuses this user, database or protocol version. The lane repeats the refusal until `until`, unless the server has
    /// accepted the user after `since`.
    Refused { line: ErrorLine, since: Instant, until: Instant },
}

/// The time for which a lane repeats a refusal (of a wrong password, for example) before it asks the server again.
const REFUSAL_STANDS: Duration = Duration::from_secs(1);

/// One shared lane. Its queue outlives the connections that serve it, one after another.
pub struct Lane {
    key: ConnectionKey,
    fair: bool,
    /// True for a side lane: it carries the last requests of clients that a shared connection could not serve beside others. No
    /// session pushes requests to it.
    side: bool,
    pub(in crate::upstream) queue: RefCell<Queue>,
    pub(in crate::upstream) phase: RefCell<Phase>,
    open: Cell<bool>,
    /// True while a failover is under way: requests wait in their sessions although the connection is open.
    gated: Cell<bool>,
    driver: RefCell<Option<Waker>>,
    /// The sessions that wait to push, by client id. A session that leaves removes itself.
    waiting: RefCell<HashMap<u64, Waker>>,
    /// Decides which session pushes next when the window is full.
    scheduler: RefCell<FairScheduler>,
    /// The number of requests up to which every session may push, as the scheduler said last.
    depth: Cell<usize>,
    order: Cell<Option<Order>>,
    /// The queue's progress at the last inspection, and since when it has not changed although replies are due.
    progress: Cell<(u64, Option<Instant>)>,
    unused_since: Cell<Option<Instant>>,
    /// The queue's progress at the last look for a quiet connection, and the number of looks without progress.
    quiet: Cell<(u64, u64)>,
    /// When the connection must be replaced.
    retires: Cell<Option<Instant>>,
}

/// An order to the driver of a lane's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Order {
    /// Write nothing more: a newer primary has taken over.
    Cut,
    /// Give the connection up: the server has not answered within `response-timeout`.
    GiveUp,
    /// Close the connection: no session uses it.
    Retire,
    /// Close the connection once its queue is empty: an operator has paused the upstream at once.
    Vacate,
    /// Open another connection, and put it in this one's place.
    Replace,
    /// Replace the connection at once, and leave it to the client whose replies are too large for a shared one.
    Isolate,
}

impl Phase {
    /// Returns the phase after a refusal of just now, which the lane repeats for [`REFUSAL_STANDS`].
    pub(in crate::upstream) fn refused(line: ErrorLine) -> Self {
        let since = Instant::now();
        Self::Refused { line, since, until: since + REFUSAL_STANDS }
    }
}

impl Lane {
    /// Creates a lane. `fair`: tenants share it, so that the fair scheduler is in use.
    pub(in crate::upstream) fn new(key: ConnectionKey, fair: bool) -> Rc<Self> {
        Self::with(key, fair, None)
    }

    /// Creates a side lane, which ends when every request of `queue` is answered.
    pub(in crate::upstream) fn side(key: ConnectionKey, queue: Queue) -> Rc<Self> {
        Self::with(key, false, Some(queue))
    }

    fn with(key: ConnectionKey, fair: bool, side: Option<Queue>) -> Rc<Self> {
        let scheduler = FairScheduler::new(if fair { Window::adaptive() } else { Window::fixed() });
        Rc::new(Self {
            key,
            fair,
            side: side.is_some(),
            queue: RefCell::new(side.unwrap_or_default()),
            phase: RefCell::new(Phase::Idle),
            open: Cell::new(false),
            gated: Cell::new(false),
            driver: RefCell::default(),
            waiting: RefCell::default(),
            depth: Cell::new(scheduler.depth()),
            scheduler: RefCell::new(scheduler),
            order: Cell::default(),
            progress: Cell::default(),
            unused_since: Cell::default(),
            quiet: Cell::default(),
            retires: Cell::default(),
        })
    }

    /// Returns true for a side lane, which gets no further requests.
    pub(in crate::upstream) fn is_side(&self) -> bool {
        self.side
    }

    /// Returns the key of the connection.
    pub fn key(&self) -> &ConnectionKey {
        &self.key
    }

    /// Returns true if every session may push a request. The path of nearly every command ends here: two comparisons.
    pub fn is_open(&self) -> bool {
        self.open.get() && !self.gated.get() && {
            let queue = self.queue.borrow();
            queue.kept_bytes() < ROOM && queue.len() < self.depth.get()
        }
    }

    /// Decides about one request of this client. An idle lane begins to open a connection. `deadline`: when held commands fail.
    pub(in crate::upstream) fn admission(
        &self,
        asker: Asker,
        deadline: impl FnOnce() -> Result<Instant, ErrorLine>,
    ) -> Admission {
        let mut phase = self.phase.borrow_mut();
        match &*phase {
            Phase::Open if self.is_open() => Admission::Open,
            Phase::Open if self.gated.get() => deadline().map_or_else(Admission::Expired, Admission::Held),
            Phase::Open if self.is_admitted(asker) => Admission::Open,
            Phase::Open => Admission::Full,
            Phase::Refused { line, since, until }
                if Instant::now() < *until && !self.key.identity.was_let_in_after(*since) =>
            {
                Admission::Refused(line.clone())
            }
            Phase::Idle | Phase::Refused { .. } => {
                *phase = Phase::Opening;
                self.wake_driver();
                deadline().map_or_else(Admission::Expired, Admission::Held)
            }
            Phase::Opening => deadline().map_or_else(Admission::Expired, Admission::Held),
        }
    }

    /// Returns true if no request is unanswered, and no connection is being opened.
    pub(in crate::upstream) fn is_drained(&self) -> bool {
        self.queue.borrow().is_empty() && !matches!(&*self.phase.borrow(), Phase::Opening)
    }

    /// Returns true if the connection is open.
    pub(in crate::upstream) fn is_connected(&self) -> bool {
        self.open.get()
    }

    /// Returns true if the connection is open, and no request is unanswered.
    pub(in crate::upstream) fn is_idle(&self) -> bool {
        self.open.get() && self.queue.borrow().is_empty()
    }

    /// Returns since when no session has used the lane, in an order in which a longer time is less. A lane that was used at the
    /// last inspection is the greatest.
    pub(in crate::upstream) fn unused_since(&self) -> (bool, Option<Instant>) {
        let since = self.unused_since.get();
        (since.is_none(), since)
    }

    fn is_admitted(&self, asker: Asker) -> bool {
        let (kept, under_way) = {
            let queue = self.queue.borrow();
            (queue.kept_bytes(), queue.len())
        };
        self.schedule(|scheduler| kept < ROOM && scheduler.admits(asker, under_way))
    }

    /// Asks the scheduler, and keeps a copy of its depth, so that most requests need not borrow it.
    fn schedule<T>(&self, ask: impl FnOnce(&mut FairScheduler) -> T) -> T {
        let mut scheduler = self.scheduler.borrow_mut();
        let answer = ask(&mut scheduler);
        self.depth.set(scheduler.depth());
        answer
    }

    /// Wakes this client's session once, when it may push some of the `wanted` requests that it has.
    pub fn wait_turn(&self, client: u64, waker: &Waker, share: Share, wanted: u32) {
        self.wait(client, waker);
        if self.gated.get() || !self.open.get() {
            return;
        }
        self.schedule(|scheduler| scheduler.join(client, share, wanted));
        // With room in the window, no reply need come to wake the driver.
        if self.queue.borrow().len() < self.scheduler.borrow().window.size() {
            self.wake_driver();
        }
    }

    /// Grants the free room to the sessions that wait, under contention.
    pub(in crate::upstream) fn grant_room(&self) {
        if self.depth.get() > 0 || !self.open.get() || self.gated.get() {
            return;
        }
        let (kept, under_way, replies) = {
            let queue = self.queue.borrow();
            (queue.kept_bytes(), queue.len(), queue.progress())
        };
        if kept >= ROOM {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        let again = self.schedule(|scheduler| {
            scheduler.grant(under_way, replies, Instant::now(), |client| {
                if let Some(waker) = waiting.remove(&client) {
                    waker.wake();
                }
            })
        });
        if again {
            self.wake_driver();
        }
    }

    /// Returns true if tenants share the lane.
    pub(in crate::upstream) fn is_fair(&self) -> bool {
        self.fair
    }

    /// Takes note of a new connection, whose server answered the greeting in `round_trip`.
    pub(in crate::upstream) fn reopened(&self, round_trip: Duration) {
        self.schedule(|scheduler| scheduler.window.reopened(round_trip));
    }

    /// Takes note of whether tenants share the lane from now on.
    pub(in crate::upstream) fn set_fair(&self, fair: bool) {
        self.schedule(|scheduler| scheduler.window = scheduler.window.with_fairness(fair));
        self.wake_driver();
    }

    /// Wakes this client's session once, when [`Self::admission`] may have changed.
    pub fn wait(&self, client: u64, waker: &Waker) {
        self.waiting.borrow_mut().entry(client).or_insert_with(|| waker.clone());
    }

    /// Removes the client from those that wait.
    pub fn leave(&self, client: u64) {
        self.waiting.borrow_mut().remove(&client);
        if self.depth.get() == 0 {
            self.schedule(|scheduler| scheduler.leave(client));
        }
    }

    /// Appends a request. The lane must be open.
    pub fn push(&self, request: &[u8], replies: &Rc<Replies>, if_lost: IfLost, mute: bool, arrival: Arrival) {
        replies.expect();
        let mut queue = self.queue.borrow_mut();
        let idle = queue.unwritten().is_empty();
        queue.push(request, replies.clone(), if_lost, mute, arrival);
        if idle {
            self.wake_driver();
        }
    }

    /// Returns true if a redirected request may be pushed. A lane without a connection takes it too, and opens one. While a connection
    /// is cut, the requests on it may have to go before the redirected one.
    pub(in crate::upstream) fn takes_redirected(&self) -> bool {
        let cut = self.open.get() && self.order.get() == Some(Order::Cut);
        !self.gated.get() && !cut && self.queue.borrow().kept_bytes() < ROOM
    }

    /// Appends a redirected request. `asks`: with an ASKING before it.
    pub(in crate::upstream) fn push_redirected(&self, request: RedirectedRequest, asks: bool) {
        let mut queue = self.queue.borrow_mut();
        let idle = queue.unwritten().is_empty();
        queue.push_redirected(request, asks);
        if idle {
            self.wake_driver();
        }
    }

    /// Gives the driver an order. No later order replaces [`Order::Cut`].
    pub(in crate::upstream) fn order(&self, order: Order) {
        if self.order.get() != Some(Order::Cut) {
            self.order.set(Some(order));
        }
        self.wake_driver();
    }

    /// Returns true if the connection should be closed because the queue is empty.
    pub(in crate::upstream) fn is_vacated(&self) -> bool {
        self.order.get() == Some(Order::Vacate) && self.queue.borrow().is_empty()
    }

    pub(in crate::upstream) fn ordered(&self) -> Option<Order> {
        self.order.get()
    }

    /// Closes the gate, so that requests stay in their sessions, or opens it again.
    pub(in crate::upstream) fn close_gate(&self, closed: bool) {
        self.gated.set(closed);
        if !closed {
            self.wake_waiting();
        }
    }

    pub(in crate::upstream) fn enter(&self, phase: Phase) {
        self.open.set(matches!(phase, Phase::Open));
        *self.phase.borrow_mut() = phase;
        self.wake_waiting();
    }

    /// Ends the contention, and wakes every waiting session, so that it asks again whether it may still wait.
    pub(in crate::upstream) fn wake_waiting(&self) {
        self.schedule(FairScheduler::end);
        for (_, waker) in self.waiting.take() {
            waker.wake();
        }
    }

    pub(in crate::upstream) fn watch(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
    }

    pub(in crate::upstream) fn wake_driver(&self) {
        if let Some(driver) = self.driver.borrow().as_ref() {
            driver.wake_by_ref();
        }
    }

    /// Returns true if a session wants a connection, or a request waits for one.
    pub(in crate::upstream) fn wanted(&self) -> bool {
        matches!(&*self.phase.borrow(), Phase::Opening | Phase::Open) || !self.queue.borrow().is_empty()
    }

    /// Answers the requests at the front of the queue whose outcome is decided.
    pub(in crate::upstream) fn answer_decided(&self) {
        loop {
            let Some((slot, outcome)) = self.queue.borrow_mut().pop_decided() else { return };
            answer(&slot, &outcome.reply());
        }
    }

    /// Fails every request with the same error line. Returns the number of requests.
    pub(in crate::upstream) fn fail_all(&self, line: &[u8]) -> usize {
        self.fail(line).len()
    }

    /// Fails every request with the same error line, and disconnects the clients that sent them.
    pub(in crate::upstream) fn fail_and_disconnect(&self, line: &[u8]) {
        self.fail(line).iter().for_each(|slot| slot.replies.cut());
    }

    fn fail(&self, line: &[u8]) -> Vec<Slot> {
        let slots: Vec<Slot> = self.queue.borrow_mut().drain().collect();
        for slot in &slots {
            match slot.outcome() {
                Some(outcome) => answer(slot, &outcome.reply()),
                None => answer(slot, &[line, b"\r\n"].concat()),
            }
        }
        slots
    }
}
