//! Holds: commands wait in their sessions while there is no primary to send them to.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Upstream;
use super::held::Held;
use crate::metrics::Gauged;

/// The hold has lasted too long.
pub(super) struct Expired;

impl Upstream {
    /// Lets nothing new out: what is under way gets its replies.
    pub(super) fn hold(&self) {
        self.begin_hold();
        self.holding.set(true);
        for lane in self.every_lane() {
            lane.close_gate(true);
        }
    }

    /// Lets commands out again.
    pub(super) fn release(&self) {
        if self.holding.replace(false) {
            for lane in self.every_lane() {
                lane.close_gate(false);
            }
            self.end_hold();
            self.timelines.dismissed_unless_switched(self.generation());
            self.leases.wake();
            self.fans.borrow().values().for_each(|fan| fan.wake());
        }
    }

    /// Whether a failover is under way: nothing new may be sent.
    pub fn holding(&self) -> bool {
        self.holding.get()
    }

    pub(super) fn begin_hold(&self) {
        if self.held_since.get().is_none() {
            self.held_since.set(Some(Instant::now()));
            self.counters.holds.inc();
            self.hold_begun.notify_waiters();
        }
    }

    pub(super) fn end_hold(&self) {
        self.held_since.set(None);
    }

    /// Ends when commands next begin to wait for a primary.
    pub async fn hold_begun(&self) {
        self.hold_begun.notified().await;
    }

    /// Whether commands wait for a primary.
    pub fn in_hold(&self) -> bool {
        self.held_since.get().is_some()
    }

    /// Whether commands wait for a primary and `more` bytes of them would be too many.
    pub fn hold_full(&self, more: usize) -> bool {
        self.in_hold() && self.held_bytes.count().saturating_add(more) > self.config.hold_buffer
    }

    /// The error line for a command that may not wait, without CRLF.
    pub fn hold_overflow(&self) -> Vec<u8> {
        format!(
            "-ERR respgate: no primary to send to, and the commands that wait for one already take what they may (upstream '{}'); raise hold-buffer",
            self.config.name
        )
        .into_bytes()
    }

    /// Until when commands may wait for a primary. Without a hold they wait for a connection that is being opened,
    /// which itself ends within the connect timeout.
    pub(super) fn hold_deadline(&self) -> Result<Instant, Expired> {
        if self.never_authenticated.get() {
            return Err(Expired);
        }
        let now = Instant::now();
        let deadline = match self.held_since.get() {
            None => now + self.config.hold_timeout.max(self.config.connect_timeout),
            Some(since) => since + self.config.hold_timeout,
        };
        if deadline > now { Ok(deadline) } else { Err(Expired) }
    }

    /// As `hold_deadline`, with the error line for a command that waited too long, without CRLF.
    ///
    /// # Errors
    /// It has.
    pub fn held_until(&self) -> Result<Instant, Rc<[u8]>> {
        self.hold_deadline().map_err(|Expired| self.hold_expired())
    }

    /// The error line for a command that waited too long, without CRLF.
    pub(super) fn hold_expired(&self) -> Rc<[u8]> {
        self.held_for(self.held_since.get().map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// The error line for a command that waited so long, without CRLF.
    pub fn held_for(&self, time: Duration) -> Rc<[u8]> {
        let fault = self.fault.borrow();
        let name = &self.config.name;
        let mut line = if self.never_authenticated.get() {
            format!(
                "-ERR respgate: the server refuses respgate's own user or password, which have never worked (upstream '{name}'): {fault}"
            )
        } else {
            let why = if fault.is_empty() { "it could not be reached" } else { &fault };
            format!(
                "-ERR respgate: no primary to send to for {} s (upstream '{name}', hold-timeout): {why}",
                time.as_secs()
            )
        };
        line.retain(|c| !c.is_control());
        line.into_bytes().into()
    }

    /// One more client's commands wait for a primary.
    pub fn client_held(&self) -> Held {
        self.timelines.client_held();
        Held::new(&self.held_bytes, Gauged::new(&self.counters, |c| &c.held))
    }
}
