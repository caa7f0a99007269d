//! The shared lane: one connection on which the commands of many sessions travel, in order.

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

/// Bytes that may wait on one lane before sessions must wait, so that a slow server slows its clients.
const ROOM: usize = 1024 * 1024;
/// A lane without a connection that no session uses is forgotten after this.
const UNOPENED: Duration = Duration::from_secs(2);

/// Whether a lane takes a request now.
#[derive(Clone, Debug)]
pub enum Admission {
    /// Push it.
    Open,
    /// As much is under way as may be: wait for a turn.
    Full,
    /// No connection yet: wait to be woken, until then at most.
    Held(Instant),
    /// It fails with this error line (without CRLF).
    Refused(Rc<[u8]>),
    /// As `Refused`, because it, or others before it, waited too long for a primary.
    Expired(Rc<[u8]>),
}

/// What a lane's connection is doing.
#[derive(Clone, Debug)]
pub(in crate::upstream) enum Phase {
    /// No connection; nobody has asked for one.
    Idle,
    /// A connection is wanted or being opened.
    Opening,
    /// Requests can be pushed.
    Open,
    /// The server refuses this user, database or protocol version: asking again before `until` is no use, unless it has
    /// let the user in since.
    Refused { line: Rc<[u8]>, since: Instant, until: Instant },
}

/// A refusal by the server (a wrong password, say) is repeated to sessions for this long before it is asked anew.
const REFUSAL_STANDS: Duration = Duration::from_secs(1);

/// One shared connection's queue, which outlives the connections that serve it.
pub struct Lane {
    key: ConnectionKey,
    fair: bool,
    /// It carries the last requests of clients that a shared connection could not serve beside others. No session
    /// pushes onto it.
    side: bool,
    pub(in crate::upstream) queue: RefCell<Queue>,
    pub(in crate::upstream) phase: RefCell<Phase>,
    open: Cell<bool>,
    /// A failover is under way: requests wait in their sessions although the connection is open.
    gated: Cell<bool>,
    driver: RefCell<Option<Waker>>,
    /// Sessions that wait to be let in, by client id; a session that leaves takes itself out.
    waiting: RefCell<HashMap<u64, Waker>>,
    /// Whose turn it is when as much is under way as may be.
    contention: RefCell<FairScheduler>,
    /// What it says of how many requests may be under way while anybody may push.
    depth: Cell<usize>,
    order: Cell<Option<Order>>,
    /// The queue's progress when it was last looked at, and since when it has been due.
    progress: Cell<(u64, Option<Instant>)>,
    unused_since: Cell<Option<Instant>>,
    /// The queue's progress when it was last looked whether the connection is quiet, and how often there was none.
    quiet: Cell<(u64, u64)>,
    /// When its connection is to be replaced.
    retires: Cell<Option<Instant>>,
}

/// What its driver is told to do with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Order {
    /// A newer primary took over: write nothing more.
    Cut,
    /// The server has not answered for too long.
    GiveUp,
    /// No session uses it.
    Retire,
    /// Put another one in its place.
    Replace,
    /// As `Replace`, at once: the old one is left to the client whose replies have outgrown it.
    Isolate,
}

impl Phase {
    /// The server has refused just now, which stands for [`REFUSAL_STANDS`].
    pub(in crate::upstream) fn refused(line: Rc<[u8]>) -> Self {
        let since = Instant::now();
        Self::Refused { line, since, until: since + REFUSAL_STANDS }
    }
}

impl Lane {
    /// `fair`: tenants share it, so that nobody may fill it for long.
    pub(in crate::upstream) fn new(key: ConnectionKey, fair: bool) -> Rc<Self> {
        Self::with(key, fair, None)
    }

    /// A side lane, which ends when `queue` is answered.
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

    /// Returns true if it serves only what it was made with.
    pub(in crate::upstream) fn is_side(&self) -> bool {
        self.side
    }

    /// Whose commands it carries.
    pub fn key(&self) -> &ConnectionKey {
        &self.key
    }

    /// Whether it takes anybody's requests, the answer on all but a few calls.
    pub fn is_open(&self) -> bool {
        self.open.get() && !self.gated.get() && {
            let queue = self.queue.borrow();
            queue.held() < ROOM && queue.len() < self.depth.get()
        }
    }

    /// Whether it takes one request of this client, and if not, why. An idle lane starts to open. `deadline`: when held
    /// commands fail.
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

    /// Whether its connection, if it has one, is sound and has answered everything.
    pub(in crate::upstream) fn is_drained(&self) -> bool {
        self.queue.borrow().is_empty() && !matches!(&*self.phase.borrow(), Phase::Opening)
    }

    /// Whether its connection is open and has answered everything.
    pub(in crate::upstream) fn is_idle(&self) -> bool {
        self.open.get() && self.queue.borrow().is_empty()
    }

    /// Since when no session has used it, as far as that has been seen: longer ago is less, and just now is most.
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
        // Nothing that is under way might come back to make room.
        if self.queue.borrow().len() < self.contention.borrow().window.size() {
            self.wake_driver();
        }
    }

    /// Deals out what room there is, if there was none for all.
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

    /// Whether tenants share it.
    pub(in crate::upstream) fn is_fair(&self) -> bool {
        self.fair
    }

    /// Its connection's server answered its greeting in this time.
    pub(in crate::upstream) fn reopened(&self, round_trip: Duration) {
        self.contend(|contention| contention.window.reopened(round_trip));
    }

    /// Tenants share it from now on, or none do any more.
    pub(in crate::upstream) fn set_fair(&self, fair: bool) {
        self.contend(|contention| contention.window = contention.window.turned(fair));
        self.wake_driver();
    }

    /// Wakes this client's session once, when [`Self::admission`] may have changed.
    pub fn wait(&self, client: u64, waker: &Waker) {
        self.waiting.borrow_mut().entry(client).or_insert_with(|| waker.clone());
    }

    /// The client no longer waits.
    pub fn leave(&self, client: u64) {
        self.waiting.borrow_mut().remove(&client);
        if self.depth.get() == 0 {
            self.contend(|contention| contention.leave(client));
        }
    }

    /// Appends a request; the lane must be open.
    pub fn push(&self, request: &[u8], replies: &Rc<Replies>, if_lost: IfLost, mute: bool) {
        replies.expect();
        let mut queue = self.queue.borrow_mut();
        let idle = queue.unwritten().is_empty();
        queue.push(request, replies.clone(), if_lost, mute);
        if idle {
            self.wake_driver();
        }
    }

    /// Tells the driver; a cut is never taken back.
    pub(in crate::upstream) fn order(&self, order: Order) {
        if self.order.get() != Some(Order::Cut) {
            self.order.set(Some(order));
        }
        self.wake_driver();
    }

    pub(in crate::upstream) fn ordered(&self) -> Option<Order> {
        self.order.get()
    }

    /// A new connection is being made: earlier orders are done with.
    pub(in crate::upstream) fn reset_orders(&self) {
        self.order.set(None);
        self.progress.set((0, None));
        self.retires.set(None);
    }

    /// Its connection is another one now, which is to be replaced in its turn at `retires`.
    pub(in crate::upstream) fn replaced(&self, retires: Option<Instant>) {
        if matches!(self.order.get(), Some(Order::Replace | Order::Isolate)) {
            self.order.set(None);
        }
        // A side lane ends soon by itself.
        self.retires.set(retires.filter(|_| !self.side));
    }

    /// Its connection stays with all its clients.
    pub(in crate::upstream) fn cancel_isolation(&self) {
        if self.order.get() == Some(Order::Isolate) {
            self.order.set(None);
        }
    }

    /// Its connection could not be replaced; that is tried again at `at`.
    pub(in crate::upstream) fn postpone_replacement(&self, at: Instant) {
        self.replaced(Some(at));
    }

    /// Its connection is to be replaced at `at`, if not sooner.
    pub(in crate::upstream) fn retire_by(&self, at: Instant) {
        self.retires.set(Some(self.retires.get().map_or(at, |known| known.min(at))));
    }

    /// Looks at progress, now and then: a lane without a reply, or a piece of one, for `response_timeout` is given up, one that no
    /// session has used for `idle` is retired.
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
        // Without a connection there is nothing to keep: keys that the server refuses must not pile up.
        let idle = if self.open.get() { idle } else { idle.min(UNOPENED) };
        if unused_since.is_some_and(|since| now - since >= idle) {
            self.order(Order::Retire);
        }
        let due = self.retires.get().is_some_and(|at| at <= now);
        if due && self.open.get() && self.order.get().is_none() {
            self.order(Order::Replace);
        }
    }

    /// Keeps requests in their sessions, or lets them out again.
    pub(in crate::upstream) fn close_gate(&self, closed: bool) {
        self.gated.set(closed);
        if !closed {
            self.wake_waiting();
        }
    }

    /// Pings a connection that has carried nothing at `ticks` looks, a second apart. Servers and the network between close
    /// idle ones (valkey's `timeout`, and NAT), and a write sent at that very moment would have an unknown outcome.
    pub(in crate::upstream) fn keep_alive(
        &self,
        ticks: u64,
        nobody: &Rc<Replies>,
        may_ping: impl FnOnce() -> bool,
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
        // Everybody may send HELLO, whatever the server's ACL says.
        let asks: &[u8] = if may_ping() { b"*1\r\n$4\r\nPING\r\n" } else { b"*1\r\n$5\r\nHELLO\r\n" };
        self.push(asks, nobody, IfLost::Resend, true);
    }

    pub(in crate::upstream) fn enter(&self, phase: Phase) {
        self.open.set(matches!(phase, Phase::Open));
        *self.phase.borrow_mut() = phase;
        self.wake_waiting();
    }

    /// Those who wait look again whether they still may.
    pub(in crate::upstream) fn look_again(&self) {
        self.wake_waiting();
    }

    /// Everybody is to look again.
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

    /// Whether a connection is wanted.
    pub(in crate::upstream) fn wanted(&self) -> bool {
        matches!(&*self.phase.borrow(), Phase::Opening | Phase::Open) || !self.queue.borrow().is_empty()
    }

    /// Answers the requests at the front whose outcome is decided.
    pub(in crate::upstream) fn answer_decided(&self) {
        loop {
            let Some((slot, verdict)) = self.queue.borrow_mut().pop_decided() else { return };
            answer(&slot, &verdict.reply());
        }
    }

    /// Fails every request with the same error line.
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
    /// The whole reply.
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

/// Answers a request in the server's place.
pub(in crate::upstream) fn answer(slot: &Slot, reply: &[u8]) {
    if slot.mute {
        slot.replies.swallow();
    } else {
        slot.replies.deliver(reply, 1, reply.len());
    }
}
