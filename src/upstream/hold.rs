//! Knows the primary, and holds commands in their sessions while there is none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::config::LiveConfig;
use super::held::{Held, HeldBytes};
use super::reports::Reports;
use crate::metrics::Gauged;
use crate::resp::error_line::ErrorLine;
use crate::topology::{Generation, Primary};

/// The hold has lasted longer than `hold-timeout`.
pub(super) struct Expired;

/// The primary of one worker's upstream, and the hold while commands wait for one.
pub(super) struct Hold {
    config: Rc<LiveConfig>,
    reports: Rc<Reports>,
    primary: RefCell<Option<Arc<Primary>>>,
    /// The reason why there is no primary, or why it cannot be reached.
    reason: RefCell<String>,
    /// When the hold began.
    since: Cell<Option<Instant>>,
    /// True if the server refuses respgate's own user or password, and has never accepted them. Commands then fail at once.
    never_authenticated: Cell<bool>,
    begun: Notify,
    ended: Notify,
    bytes: HeldBytes,
    /// True while commands wait although a primary is known: in a failover, or because an operator ordered it.
    failing_over: Cell<bool>,
    /// True while an operator has ordered that commands wait.
    ordered: Cell<bool>,
    /// True while the server is about to close the connections to the primary, until they have been replaced.
    closing: Cell<bool>,
    /// Since when every connection is being closed, because an operator has paused the upstream at once. None is opened
    /// meanwhile.
    disconnecting: Cell<Option<Instant>>,
    news: Notify,
}

impl Hold {
    /// `bytes` counts the bytes of all commands that wait for a primary of the upstream.
    pub(super) fn new(config: Rc<LiveConfig>, reports: Rc<Reports>, bytes: HeldBytes) -> Self {
        Self {
            config,
            reports,
            primary: RefCell::default(),
            reason: RefCell::default(),
            since: Cell::default(),
            never_authenticated: Cell::default(),
            begun: Notify::new(),
            ended: Notify::new(),
            bytes,
            failing_over: Cell::default(),
            ordered: Cell::default(),
            closing: Cell::default(),
            disconnecting: Cell::default(),
            news: Notify::new(),
        }
    }

    /// Returns the primary, if one is known.
    pub(super) fn primary(&self) -> Option<Arc<Primary>> {
        self.primary.borrow().clone()
    }

    /// Returns the current primary's generation.
    pub(super) fn generation(&self) -> Option<Generation> {
        self.primary.borrow().as_ref().map(|primary| primary.generation)
    }

    /// Sets the primary. Returns the former one.
    pub(super) fn set_primary(&self, primary: Option<Arc<Primary>>) -> Option<Arc<Primary>> {
        self.primary.replace(primary)
    }

    /// Completes with the next news from discovery.
    pub(super) async fn changed(&self) {
        self.news.notified().await;
    }

    /// Waits until the primary of this generation is no longer the one to use.
    pub(super) async fn superseded(&self, generation: Generation) {
        while self.generation() == Some(generation) {
            self.changed().await;
        }
    }

    /// Completes every [`Self::changed`] that waits.
    pub(super) fn notify_changed(&self) {
        self.news.notify_waiters();
    }

    /// Notes the reason why there is no primary, or why it cannot be reached. Clients see it when the hold expires.
    pub(super) fn note_reason(&self, reason: String) {
        *self.reason.borrow_mut() = reason;
    }

    /// Notes whether the server refuses respgate's own user or password, and has never accepted them.
    pub(super) fn set_never_authenticated(&self, never: bool) {
        self.never_authenticated.set(never);
    }

    /// Notes whether a failover is under way. Returns what was noted before.
    pub(super) fn set_failing_over(&self, failing_over: bool) -> bool {
        self.failing_over.replace(failing_over)
    }

    /// Notes whether an operator has ordered that commands wait.
    pub(super) fn set_ordered(&self, ordered: bool) {
        self.ordered.set(ordered);
    }

    /// Returns true while an operator has ordered that commands wait.
    pub(super) fn is_ordered(&self) -> bool {
        self.ordered.get()
    }

    /// Notes whether the server is about to close the connections to the primary. Returns what was noted before.
    pub(super) fn set_closing(&self, closing: bool) -> bool {
        self.closing.replace(closing)
    }

    /// Notes that every connection has to be closed, and none may be opened. Returns the time of the note; `None` if it was noted
    /// before.
    pub(super) fn begin_disconnect(&self) -> Option<Instant> {
        let began = Instant::now();
        let known = self.disconnecting.get();
        self.disconnecting.set(known.or(Some(began)));
        known.is_none().then_some(began)
    }

    /// Notes that connections may be opened again. Returns true if they were being closed.
    pub(super) fn end_disconnect(&self) -> bool {
        self.disconnecting.take().is_some()
    }

    /// Returns since when connections have been closed and none opened; `None` if that is not ordered.
    pub(super) fn disconnecting_since(&self) -> Option<Instant> {
        self.disconnecting.get()
    }

    /// Returns true while no connection may be opened.
    pub(super) fn is_disconnecting(&self) -> bool {
        self.disconnecting.get().is_some()
    }

    /// Returns true while a failover is under way, so that no new request may be sent.
    pub(super) fn is_failing_over(&self) -> bool {
        self.failing_over.get()
    }

    /// Begins a hold, unless one lasts already.
    pub(super) fn begin(&self) {
        if self.since.get().is_none() {
            self.since.set(Some(Instant::now()));
            self.reports.counters.holds.inc();
            self.begun.notify_waiters();
        }
    }

    /// Ends the hold because a connection was opened, unless a failover or an operator holds commands.
    pub(super) fn reached(&self) {
        if !self.failing_over.get() {
            self.end();
        }
    }

    /// Ends the hold.
    pub(super) fn end(&self) {
        if self.since.take().is_some() {
            self.ended.notify_waiters();
        }
    }

    /// Completes when a hold next begins.
    pub(super) async fn begun(&self) {
        self.begun.notified().await;
    }

    /// Completes when [`Self::is_active`] returns `active`.
    pub(super) async fn becomes(&self, active: bool) {
        loop {
            let changed = if active { self.begun.notified() } else { self.ended.notified() };
            if self.is_active() == active {
                return;
            }
            changed.await;
        }
    }

    /// Returns how long commands may still wait for a primary.
    pub(super) fn left(&self) -> Duration {
        let waited = self.since.get().map_or(Duration::ZERO, |since| since.elapsed());
        self.config.get().hold_timeout.saturating_sub(waited)
    }

    /// Returns true if commands wait for a primary.
    pub(super) fn is_active(&self) -> bool {
        self.since.get().is_some()
    }

    /// Returns true if commands wait for a primary, and `more` bytes would exceed `hold-buffer`.
    pub(super) fn is_full(&self, more: usize) -> bool {
        self.is_active() && self.bytes.count().saturating_add(more) > self.config.get().hold_buffer
    }

    /// Returns the error line, for a command that finds `hold-buffer` full.
    pub(super) fn overflow_error(&self) -> ErrorLine {
        format!(
            "-ERR respgate: no primary to send to, and waiting commands fill hold-buffer (upstream '{}'); raise hold-buffer",
            self.config.name
        )
        .into()
    }

    /// Returns the time until which commands may wait for a primary. Without a hold they wait for a connection that is being
    /// opened, which takes `connect-timeout` at most.
    pub(super) fn deadline(&self) -> Result<Instant, Expired> {
        if self.never_authenticated.get() {
            return Err(Expired);
        }
        let (now, config) = (Instant::now(), self.config.get());
        let deadline = match self.since.get() {
            None => now + config.hold_timeout.max(config.connect_timeout),
            Some(since) => since + config.hold_timeout,
        };
        if deadline > now { Ok(deadline) } else { Err(Expired) }
    }

    /// Returns the time until which commands may wait for a primary.
    ///
    /// # Errors
    /// Returns the error line, if the hold has lasted longer than `hold-timeout`.
    pub(super) fn held_until(&self) -> Result<Instant, ErrorLine> {
        self.deadline().map_err(|Expired| self.expired_error())
    }

    /// Returns the error line, for a command that waited longer than `hold-timeout`.
    pub(super) fn expired_error(&self) -> ErrorLine {
        self.timeout_error(self.since.get().map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// Returns the error line, for a command that waited for `time`.
    pub(super) fn timeout_error(&self, time: Duration) -> ErrorLine {
        let reason = self.reason.borrow();
        let name = &self.config.name;
        let mut line = if self.never_authenticated.get() {
            format!(
                "-ERR respgate: the server refuses respgate's own user or password, which have never worked (upstream '{name}'): {reason}"
            )
        } else {
            let why = if reason.is_empty() { "it could not be reached" } else { &reason };
            format!(
                "-ERR respgate: no primary to send to for {} s (upstream '{name}', hold-timeout): {why}",
                time.as_secs()
            )
        };
        line.retain(|c| !c.is_control());
        line.into()
    }

    /// Counts one more client whose commands wait for a primary.
    pub(super) fn client_held(&self) -> Held {
        self.reports.timelines.client_held();
        Held::new(&self.bytes, Gauged::new(&self.reports.counters, |c| &c.clients_held))
    }
}
