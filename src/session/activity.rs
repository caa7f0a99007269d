//! Tracks how long clients have been inactive or busy with one thing. The worker inspects all its sessions once
//! per second, so that no command sets a timer. A timeout is noticed up to 2 s late, and never early.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::config::Timeouts;
use crate::net::budget::{Account, Holding};
use crate::upstream::replies::Replies;

/// Seconds since the worker started.
pub(super) type Tick = u64;

/// Names the timeout that a session has exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// `first-command-timeout`.
    FirstCommand,
    /// `idle-timeout`.
    Idle,
    /// `transaction-timeout`.
    Transaction,
    /// `command-timeout`.
    Command,
    /// `slow-reader-soft`, for `slow-reader-soft-time`.
    SlowReader,
    /// None: somebody has the client disconnected.
    Killed,
}

/// A client's traffic, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Bytes of replies that wait.
    pub(super) waiting: usize,
    /// Bytes read from the client so far.
    pub(super) read: u64,
    /// Bytes written to the client so far.
    pub(super) written: u64,
}

/// Tracks a session's activity for its timeouts.
pub(super) struct Activity {
    replies: RefCell<Rc<Replies>>,
    timeouts: Cell<Timeouts>,
    state: RefCell<ActivityState>,
    expired: Cell<Option<Expiry>>,
    /// True if a reload has changed something since the session last looked.
    reload: Cell<bool>,
}

/// See [`Activity`].
#[derive(Clone, Debug)]
struct ActivityState {
    /// When the client connected.
    connected_at: Tick,
    /// When the client last sent a whole request, or got the last reply to one.
    last_active: Tick,
    /// True until the client has sent a command, or has authenticated where it must.
    unestablished: bool,
    /// True while the client waits for other clients: blocked, subscribed or monitoring.
    listening: bool,
    /// True while the client has, or is requesting, fan-in subscriptions.
    subscribed: bool,
    /// When a transaction or WATCH was opened, if one is open.
    transaction_since: Option<Tick>,
    /// Since when the current reply is due, if one is due that does not wait for other clients.
    due_since: Option<Tick>,
    /// Since when more bytes than `slow-reader-soft` wait for the client, if they do.
    slow_since: Option<Tick>,
}

impl ActivityState {
    fn set_reply_due(&mut self, now: Tick, due: bool, came: bool) {
        if !due {
            self.due_since = None;
        } else if came || self.due_since.is_none() {
            self.due_since = Some(now);
        }
    }
}

impl Activity {
    pub(super) fn new(replies: Rc<Replies>, timeouts: Timeouts, now: Tick) -> Rc<Self> {
        let state = ActivityState {
            connected_at: now,
            last_active: now,
            unestablished: true,
            listening: false,
            subscribed: false,
            transaction_since: None,
            due_since: None,
            slow_since: None,
        };
        Rc::new(Self {
            replies: RefCell::new(replies),
            timeouts: Cell::new(timeouts),
            state: RefCell::new(state),
            expired: Cell::new(None),
            reload: Cell::new(false),
        })
    }

    /// Replaces the timeouts. Times that run count against the new ones.
    pub(super) fn set_timeouts(&self, timeouts: Timeouts) {
        self.timeouts.set(timeouts);
    }

    /// Wakes the session.
    pub(super) fn wake(&self) {
        self.replies.borrow().wake();
    }

    /// Sends the client a push, between two replies, and wakes the session. `frame` is RESP3.
    pub(super) fn push(&self, frame: &[u8]) {
        if let Some((first, rest)) = frame.split_first() {
            self.replies.borrow().publish(*first, rest);
            self.wake();
        }
    }

    /// Returns the account that counts the client's memory.
    pub(super) fn account(&self) -> Rc<Account> {
        self.replies.borrow().account().clone()
    }

    /// Returns the bytes that respgate keeps for the client.
    pub(super) fn kept_bytes(&self) -> usize {
        self.replies.borrow().account().held()
    }

    /// Returns the client's memory figures. The budget compares them to choose the clients to evict.
    pub(super) fn holding(&self) -> Holding {
        let replies = self.replies.borrow();
        Holding { weight: replies.account().weigh(), held: replies.account().held() }
    }

    /// Has the session disconnect its client, because the byte budget is spent and the client holds most of it.
    pub(super) fn evict(&self) {
        let replies = self.replies.borrow();
        replies.account().evict();
        replies.wake();
    }

    /// Wakes the session if it waited for memory, because the byte budget is no longer spent.
    pub(super) fn end_wait(&self) {
        let replies = self.replies.borrow();
        if replies.account().end_wait() {
            replies.wake();
        }
    }

    /// Has the session disconnect its client, because somebody asked for that.
    pub(super) fn kill(&self) {
        self.expired.set(Some(Expiry::Killed));
        self.wake();
    }

    /// Returns true if the session must disconnect its client because somebody asked for that.
    pub(super) fn is_killed(&self) -> bool {
        self.expired.get() == Some(Expiry::Killed)
    }

    /// Returns for how long the client has sent and received nothing, in seconds.
    pub(super) fn idle_for(&self, now: Tick) -> u64 {
        now.saturating_sub(self.state.borrow().last_active)
    }

    /// Returns the client's traffic.
    pub(super) fn traffic(&self) -> Traffic {
        let replies = self.replies.borrow();
        let written = replies.progress();
        let read = replies.account().moved().saturating_sub(written);
        Traffic { waiting: replies.waiting(), read, written }
    }

    /// Returns true if the client is to be disconnected because it holds too much memory.
    pub(super) fn is_evicted(&self) -> bool {
        self.replies.borrow().account().is_evicted()
    }

    /// Tells the session that a reload has changed something.
    pub(super) fn notify_reload(&self) {
        self.reload.set(true);
        self.wake();
    }

    /// Returns true once after a reload has changed something.
    pub(super) fn take_reload(&self) -> bool {
        self.reload.get() && self.reload.replace(false)
    }

    /// Takes over the session's new reply queue.
    pub(super) fn replace(&self, replies: Rc<Replies>) {
        *self.replies.borrow_mut() = replies;
    }

    fn change(&self, change: impl FnOnce(&mut ActivityState)) {
        change(&mut self.state.borrow_mut());
    }

    /// Notes that the client sent something, or that something came for it.
    pub(super) fn touch(&self, now: Tick) {
        self.change(|state| state.last_active = now);
    }

    /// Notes that the client is admitted and has sent its first command.
    pub(super) fn mark_established(&self) {
        self.change(|state| state.unestablished = false);
    }

    /// Notes whether the client waits for other clients (`listening`), and whether a transaction or WATCH keeps
    /// its upstream connection.
    pub(super) fn set_lease_state(&self, now: Tick, listening: bool, transaction: bool) {
        self.change(|state| {
            state.listening = listening;
            state.transaction_since = transaction.then(|| state.transaction_since.unwrap_or(now));
        });
    }

    /// Notes whether the client has fan-in subscriptions, whatever else it does.
    pub(super) fn set_subscribed(&self, subscribed: bool) {
        self.change(|state| state.subscribed = subscribed);
    }

    /// Notes whether a reply is due. `came` is true if a reply came: the next one is then due from `now`.
    pub(super) fn set_reply_due(&self, now: Tick, due: bool, came: bool) {
        self.change(|state| state.set_reply_due(now, due, came));
    }

    /// As [`Self::set_reply_due`], and notes that the client is active if a reply is due or came. `admitted`
    /// returns true if the reply was for a command of an admitted client.
    pub(super) fn on_traffic(&self, now: Tick, due: bool, came: bool, admitted: impl FnOnce() -> bool) {
        self.change(|state| {
            state.set_reply_due(now, due, came);
            if due || came {
                state.last_active = now;
                state.unestablished = state.unestablished && !admitted();
            }
        });
    }

    /// Returns the exceeded timeout, once.
    pub(super) fn expired(&self) -> Option<Expiry> {
        self.expired.take()
    }

    /// Checks the session's timeouts, and wakes it if one is exceeded.
    pub(super) fn inspect(&self, now: Tick) {
        self.replies.borrow().account().tick();
        // What waits behind a reply that is due does not make the client a slow reader.
        let waiting = self.replies.borrow().ready();
        let awaited = self.replies.borrow().awaited();
        let timeouts = self.timeouts.get();
        let soft = timeouts.slow_reader_soft.is_some_and(|soft| waiting > soft);
        self.change(|state| state.slow_since = soft.then(|| state.slow_since.unwrap_or(now)));
        let expiry = expiry(&self.state.borrow(), &timeouts, now, waiting > 0 || awaited > 0);
        if let Some(expiry) = expiry
            && !self.is_killed()
        {
            self.expired.set(Some(expiry));
            self.wake();
        }
    }
}

/// Returns true if more than `limit` has passed. Both ticks were rounded down, so the check adds one second.
fn exceeds(since: Tick, now: Tick, limit: Duration) -> bool {
    let limit = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
    now.saturating_sub(since) > limit
}

/// Returns the timeout that is exceeded, the most specific first. `busy` is true while replies are awaited or
/// wait.
fn expiry(state: &ActivityState, timeouts: &Timeouts, now: Tick, busy: bool) -> Option<Expiry> {
    let passed = |since: Option<Tick>, limit: Option<Duration>| {
        since.zip(limit).is_some_and(|(since, limit)| exceeds(since, now, limit))
    };
    if passed(state.slow_since, Some(timeouts.slow_reader_soft_time)) {
        return Some(Expiry::SlowReader);
    }
    if passed(state.due_since, timeouts.command) {
        return Some(Expiry::Command);
    }
    if passed(state.transaction_since, timeouts.transaction) {
        return Some(Expiry::Transaction);
    }
    let busy = busy || state.listening || state.subscribed;
    if state.unestablished && passed(Some(state.connected_at).filter(|_| !busy), timeouts.first_command) {
        return Some(Expiry::FirstCommand);
    }
    let idle = Some(state.last_active).filter(|_| !busy && state.transaction_since.is_none());
    passed(idle, timeouts.idle).then_some(Expiry::Idle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: ActivityState = ActivityState {
        connected_at: 10,
        last_active: 10,
        unestablished: false,
        listening: false,
        subscribed: false,
        transaction_since: None,
        due_since: None,
        slow_since: None,
    };

    fn timeouts() -> Timeouts {
        let second = Duration::from_secs;
        Timeouts {
            idle: Some(second(60)),
            transaction: Some(second(30)),
            first_command: Some(second(5)),
            command: Some(second(20)),
            slow_reader_soft: Some(1000),
            slow_reader_soft_time: second(15),
        }
    }

    #[test]
    fn an_idle_client_s_time_is_up_never_early() {
        let at = |now| expiry(&IDLE, &timeouts(), now, false);
        assert_eq!(at(70), None);
        assert_eq!(at(71), Some(Expiry::Idle));
        assert_eq!(expiry(&IDLE, &Timeouts::default(), 1_000_000, false), None);
    }

    #[test]
    fn a_client_that_waits_for_others_is_never_idle() {
        for state in [
            ActivityState { listening: true, ..IDLE },
            ActivityState { listening: true, unestablished: false, ..IDLE },
            ActivityState { transaction_since: Some(990), ..IDLE },
            ActivityState { subscribed: true, ..IDLE },
        ] {
            assert_eq!(expiry(&state, &timeouts(), 1000, false), None, "{state:?}");
        }
        assert_eq!(expiry(&IDLE, &timeouts(), 1000, true), None, "a reply is on its way");
    }

    #[test]
    fn each_limit_has_its_own_beginning() {
        for (state, at, why) in [
            (ActivityState { unestablished: true, ..IDLE }, 16, Expiry::FirstCommand),
            (ActivityState { transaction_since: Some(40), last_active: 70, ..IDLE }, 71, Expiry::Transaction),
            (ActivityState { due_since: Some(40), last_active: 60, ..IDLE }, 61, Expiry::Command),
            (ActivityState { slow_since: Some(40), last_active: 55, ..IDLE }, 56, Expiry::SlowReader),
        ] {
            assert_eq!(expiry(&state, &timeouts(), at - 1, false), None, "{state:?}");
            assert_eq!(expiry(&state, &timeouts(), at, false), Some(why), "{state:?}");
        }
    }

    #[test]
    fn fractions_of_a_second_are_rounded_up() {
        assert!(!exceeds(0, 2, Duration::from_millis(1500)));
        assert!(exceeds(0, 3, Duration::from_millis(1500)));
    }
}
