//! Looks after a lane once a second: a silent server, an unused connection, a quiet one, and an old one.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Lane, Order};
use crate::latency::Arrival;
use crate::upstream::replies::Replies;
use crate::upstream::shared::queue::IfLost;

/// The time after which an unused lane without a connection is removed.
const UNOPENED: Duration = Duration::from_secs(2);

impl Lane {
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
        self.cancel(Order::Isolate);
    }

    /// Takes an order back, if it is the present one.
    pub(in crate::upstream) fn cancel(&self, order: Order) {
        if self.order.get() == Some(order) {
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
        self.push(request(), nobody, IfLost::Resend, true, Arrival::default());
    }
}
