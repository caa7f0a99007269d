//! A shared lane: one connection that carries the commands of many sessions, in order.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::connection::open::ConnectionKey;
use crate::upstream::replies::Replies;
use crate::upstream::shared::fair::fair_queue::Share;
use crate::upstream::shared::fair::scheduler::{Asker, FairScheduler};
use crate::upstream::shared::fair::window::Window;
use crate::upstream::shared::queue::{IfLost, Queue, RequestOutcome, Slot};

/// The bytes that one lane holds before sessions must wait, so that a slow server slows its clients down.
const ROOM: usize = 1024 * 1024;
/// The time after which an unused lane without a connection is removed.
const UNOPENED: Duration = Duration::from_secs(2);

/// The answer of a lane to a session that wants to push a request.
#[derive(Clone, Debug)]
pub enum Admission {
    /// The session may push the request.
    Open,
    /// The window is full. The session waits for its turn.
    Full,
    /// There is no connection yet. The session waits to be woken, until this time at most.
    Held(Instant),
    /// The request fails with this error line, without CRLF.
    Refused(Rc<[u8]>),
    /// The request fails with this error line, without CRLF, because the hold has lasted longer than `hold-timeout`.
    Expired(Rc<[u8]>),
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
    Refused { line: Rc<[u8]>, since: Instant, until: Instant },
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
    contention: RefCell<FairScheduler>,
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
    /// Open another connection, and put it in this one's place.
    Replace,
    /// Replace the connection at once, and leave it to the client whose replies are too large for a shared one.
    Isolate,
}

impl Phase {
    /// Returns the phase after a refusal of just now, which the lane repeats for [`REFUSAL_STANDS`].
    pub(in crate::upstream) fn refused(line: Rc<[u8]>) -> Self {
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
        let contention = FairScheduler::new(if fair { Window::adaptive() } else { Window::fixed() });
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
            depth: Cell::new(contention.depth()),
            contention: RefCell::new(contention),
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
            queue.held() < ROOM && queue.len() < self.depth.get()
        }
    }

    /// Decides about one request of this client. An idle lane begins to open a connection. `deadline`: when held commands fail.
    pub(in crate::upstream) fn admission(
        &self,
        asker: Asker,
        deadline: impl FnOnce() -> Result<Instant, Rc<[u8]>>,
    ) -> Admission {
        let mut phase = self.phase.borrow_mut();
        match &*phase {
            Phase::Open if self.is_open() => Admission::Open,
            Phase::Open if self.gated.get() => deadline().map_or_else(Admission::Expired, Admission::Held),
            Phase::Open if self.has_turn(asker) => Admission::Open,
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

    fn has_turn(&self, asker: Asker) -> bool {
        let (held, under_way) = {
            let queue = self.queue.borrow();
            (queue.held(), queue.len())
        };
        self.contend(|contention| held < ROOM && contention.admits(asker, under_way))
    }

    fn contend<T>(&self, ask: impl FnOnce(&mut FairScheduler) -> T) -> T {
        let mut contention = self.contention.borrow_mut();
        let answer = ask(&mut contention);
        self.depth.set(contention.depth());
        answer
    }

    /// Wakes this client's session once, when it may push some of the `wanted` requests that it has.
    pub fn wait_turn(&self, client: u64, waker: &Waker, share: Share, wanted: u32) {
        self.wait(client, waker);
        if self.gated.get() || !self.open.get() {
            return;
        }
        self.contend(|contention| contention.join(client, share, wanted));
        // With room in the window, no reply need come to wake the driver.
        if self.queue.borrow().len() < self.contention.borrow().window.size() {
            self.wake_driver();
        }
    }

    /// Grants the free room to the sessions that wait, under contention.
    pub(in crate::upstream) fn grant_turns(&self) {
        if self.depth.get() > 0 || !self.open.get() || self.gated.get() {
            return;
        }
        let (held, under_way, replies) = {
            let queue = self.queue.borrow();
            (queue.held(), queue.len(), queue.progress())
        };
        if held >= ROOM {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        let again = self.contend(|contention| {
            contention.grant(under_way, replies, Instant::now(), |client| {
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
        self.contend(|contention| contention.window.reopened(round_trip));
    }

    /// Takes note of whether tenants share the lane from now on.
    pub(in crate::upstream) fn set_fair(&self, fair: bool) {
        self.contend(|contention| contention.window = contention.window.turned(fair));
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
            self.contend(|contention| contention.leave(client));
        }
    }

    /// Appends a request. The lane must be open.
    pub fn push(&self, request: &[u8], replies: &Rc<Replies>, if_lost: IfLost, mute: bool) {
        replies.expect();
        let mut queue = self.queue.borrow_mut();
        let idle = queue.unwritten().is_empty();
        queue.push(request, replies.clone(), if_lost, mute);
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

    pub(in crate::upstream) fn ordered(&self) -> Option<Order> {
        self.order.get()
    }

    /// Forgets the orders for the former connection, because a new one is being opened.
    pub(in crate::upstream) fn reset_orders(&self) {
        self.order.set(None);
        self.progress.set((0, None));
        self.retires.set(None);
    }

    /// Takes note of another connection in the former one's place. It must be replaced at `retires`.
    pub(in crate::upstream) fn replaced(&self, retires: Option<Instant>) {
        if matches!(self.order.get(), Some(Order::Replace | Order::Isolate)) {
            self.order.set(None);
        }
        // A side lane ends soon by itself.
        self.retires.set(retires.filter(|_| !self.side));
    }

    /// Takes back the order to leave the connection to one client.
    pub(in crate::upstream) fn cancel_isolation(&self) {
        if self.order.get() == Some(Order::Isolate) {
            self.order.set(None);
        }
    }

    /// Takes note that the connection could not be replaced. The next attempt is at `at`.
    pub(in crate::upstream) fn postpone_replacement(&self, at: Instant) {
        self.replaced(Some(at));
    }

    /// Has the connection replaced at `at`, or before if it was due before.
    pub(in crate::upstream) fn retire_by(&self, at: Instant) {
        self.retires.set(Some(self.retires.get().map_or(at, |known| known.min(at))));
    }

    /// Inspects the lane, once a second. Gives its connection up if no part of a due reply has come for `response_timeout`, closes
    /// it if no session has used it for `idle`, and has it replaced when it is due.
    pub(in crate::upstream) fn inspect(&self, references: usize, response_timeout: Duration, idle: Duration) {
        let now = Instant::now();
        let queue = self.queue.borrow();
        let (seen, since) = self.progress.get();
        let waits = !queue.is_empty() && self.open.get();
        let next = match since {
            Some(_) if !waits || queue.progress() != seen => waits.then_some(now),
            None => waits.then_some(now),
            kept => kept,
        };
        self.progress.set((queue.progress(), next));
        let unused = references <= 2 && queue.is_empty();
        drop(queue);
        if !response_timeout.is_zero() && next.is_some_and(|since| now - since >= response_timeout) {
            self.order(Order::GiveUp);
        }
        let unused_since = unused.then(|| self.unused_since.get().unwrap_or(now));
        self.unused_since.set(unused_since);
        // A lane without a connection keeps nothing of use. Lanes for keys that the server refuses must not pile up.
        let idle = if self.open.get() { idle } else { idle.min(UNOPENED) };
        if unused_since.is_some_and(|since| now - since >= idle) {
            self.order(Order::Retire);
        }
        let due = self.retires.get().is_some_and(|at| at <= now);
        if due && self.open.get() && self.order.get().is_none() {
            self.order(Order::Replace);
        }
    }

    /// Closes the gate, so that requests stay in their sessions, or opens it again.
    pub(in crate::upstream) fn close_gate(&self, closed: bool) {
        self.gated.set(closed);
        if !closed {
            self.wake_waiting();
        }
    }

    /// Sends `request` on a connection that has carried nothing for `ticks` looks, a second apart. Servers (`timeout`) and NAT close
    /// idle connections, and a write that is sent at that moment would have an unknown outcome.
    pub(in crate::upstream) fn keep_alive(
        &self,
        ticks: u64,
        nobody: &Rc<Replies>,
        request: impl FnOnce() -> &'static [u8],
    ) {
        let progress = {
            let queue = self.queue.borrow();
            if !queue.is_empty() || !self.is_open() {
                return;
            }
            queue.progress()
        };
        let (seen, quiet) = self.quiet.get();
        let quiet = if seen == progress { quiet + 1 } else { 0 };
        if quiet < ticks {
            return self.quiet.set((progress, quiet));
        }
        self.quiet.set((progress, 0));
        self.push(request(), nobody, IfLost::Resend, true);
    }

    pub(in crate::upstream) fn enter(&self, phase: Phase) {
        self.open.set(matches!(phase, Phase::Open));
        *self.phase.borrow_mut() = phase;
        self.wake_waiting();
    }

    /// Has every waiting session look again whether it may still wait.
    pub(in crate::upstream) fn look_again(&self) {
        self.wake_waiting();
    }

    /// Ends the contention, and wakes every waiting session.
    fn wake_waiting(&self) {
        self.contend(FairScheduler::end);
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
            let Some((slot, verdict)) = self.queue.borrow_mut().pop_decided() else { return };
            answer(&slot, &verdict.reply());
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
            match slot.verdict() {
                Some(verdict) => answer(slot, &verdict.reply()),
                None => answer(slot, &[line, b"\r\n"].concat()),
            }
        }
        slots
    }
}

impl RequestOutcome {
    /// Returns the whole reply, with CRLF.
    pub fn reply(&self) -> Vec<u8> {
        let line: &[u8] = match self {
            Self::Answered(reply) => return reply.to_vec(),
            Self::OutcomeUnknown => {
                b"-OUTCOMEUNKNOWN the connection to the primary was lost after the command was sent and before it was answered: it may or may not have run"
            }
            Self::GivenUp => {
                b"-ERR respgate: the primary closed the connection each time this read was sent; if its reply is large, it may exceed the primary's client-output-buffer-limit for normal clients: raise that limit or read less at once"
            }
            Self::Lost => {
                b"-ERR respgate: the connection to the primary was lost before this read was answered (retry-reads is off)"
            }
            Self::TimedOut => b"-ERR respgate: the primary did not reply within response-timeout",
        };
        [line, b"\r\n"].concat()
    }
}

/// Answers a request in the server's place, unless its client turned replies off.
pub(in crate::upstream) fn answer(slot: &Slot, reply: &[u8]) {
    if slot.mute {
        slot.replies.swallow();
    } else {
        slot.replies.deliver(reply, 1, reply.len());
    }
}
