//! Holds: commands wait in their sessions while there is no primary to send them to.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Upstream;
use super::held::Held;
use crate::metrics::Gauged;

/// The hold has lasted longer than `hold-timeout`.
pub(super) struct Expired;

impl Upstream {
    /// Closes the gate of every lane: no new request is sent, and requests under way still get their replies.
    pub(super) fn hold(&self) {
        self.begin_hold();
        self.holding.set(true);
        for lane in self.every_lane() {
            lane.close_gate(true);
        }
    }

    /// Opens the gate of every lane again.
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

    /// Returns true while a failover is under way, so that no new request may be sent.
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

    /// Completes when commands next begin to wait for a primary.
    pub async fn hold_begun(&self) {
        self.hold_begun.notified().await;
    }

    /// Returns true if commands wait for a primary.
    pub fn in_hold(&self) -> bool {
        self.held_since.get().is_some()
    }

    /// Returns true if commands wait for a primary, and `more` bytes would exceed `hold-buffer`.
    pub fn hold_full(&self, more: usize) -> bool {
        self.in_hold() && self.held_bytes.count().saturating_add(more) > self.config.hold_buffer
    }

    /// Returns the error line, without CRLF, for a command that finds `hold-buffer` full.
    pub fn hold_overflow(&self) -> Vec<u8> {
        format!(
            "-ERR respgate: no primary to send to, and waiting commands fill hold-buffer (upstream '{}'); raise hold-buffer",
            self.config.name
        )
        .into_bytes()
    }

    /// Returns the time until which commands may wait for a primary. Without a hold they wait for a connection that is being
    /// opened, which takes `connect-timeout` at most.
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

    /// Returns the time until which commands may wait for a primary.
    ///
    /// # Errors
    /// Returns the error line, without CRLF, if the hold has lasted longer than `hold-timeout`.
    pub fn held_until(&self) -> Result<Instant, Rc<[u8]>> {
        self.hold_deadline().map_err(|Expired| self.hold_expired())
    }

    /// Returns the error line, without CRLF, for a command that waited longer than `hold-timeout`.
    pub(super) fn hold_expired(&self) -> Rc<[u8]> {
        self.held_for(self.held_since.get().map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// Returns the error line, without CRLF, for a command that waited for `time`.
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

    /// Counts one more client whose commands wait for a primary.
    pub fn client_held(&self) -> Held {
        self.timelines.client_held();
        Held::new(&self.held_bytes, Gauged::new(&self.counters, |c| &c.clients_held))
    }
}
