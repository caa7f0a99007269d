//! Bounds what TLS handshakes take from a worker: the number in progress at once, and the computing
//! time between two runs of other tasks.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::poll_meter::PollMeter;

/// Handshakes in progress at once on one worker. Each takes about 40 KiB.
const MAX_IN_PROGRESS: usize = 256;

/// Admits the handshakes of one worker. A step of a handshake computes for up to 1 ms, so other
/// tasks run between any two steps.
pub struct HandshakeGate {
    slots: Semaphore,
    /// Number of handshakes that wait for a slot.
    waiting: Cell<usize>,
    /// True if a step has run since other tasks last ran.
    step_done: Cell<bool>,
    /// Handshakes that wait to run their next step, oldest first.
    queue: RefCell<VecDeque<Weak<Ticket>>>,
    meter: Rc<PollMeter>,
}

/// A handshake's entry in the queue for the next step.
struct Ticket {
    called: Cell<bool>,
    waker: RefCell<Waker>,
}

impl HandshakeGate {
    /// Creates a gate with all slots free.
    pub fn new(meter: &Rc<PollMeter>) -> Rc<Self> {
        Rc::new(Self {
            slots: Semaphore::new(MAX_IN_PROGRESS),
            waiting: Cell::new(0),
            step_done: Cell::new(false),
            queue: RefCell::default(),
            meter: meter.clone(),
        })
    }

    /// Waits until fewer than [`MAX_IN_PROGRESS`] handshakes are in progress. Slots go to handshakes in
    /// order of arrival. It never returns `None`, because the gate is never closed.
    pub(super) async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(slot) = self.slots.try_acquire() {
            return Some(slot);
        }
        self.waiting.set(self.waiting.get() + 1);
        let _waiting = Waiting(&self.waiting);
        self.slots.acquire().await.ok()
    }

    /// Returns true if a handshake waits for a slot.
    pub(super) fn is_crowded(&self) -> bool {
        self.waiting.get() > 0
    }

    /// Wraps `future` so that each of its polls waits for the gate.
    pub(super) fn paced<F: Future>(self: &Rc<Self>, future: F) -> Paced<F> {
        Paced { future, gate: self.clone(), ticket: None }
    }

    /// Returns true if a step may run now. If so, it starts the task that calls the waiting
    /// handshakes one by one.
    fn begin_step(self: &Rc<Self>) -> bool {
        if self.step_done.replace(true) {
            return false;
        }
        let gate = self.clone();
        self.meter.spawn_local(async move {
            loop {
                // `yield_now` returns after all ready tasks have run and the runtime has polled the
                // sockets.
                tokio::task::yield_now().await;
                if !gate.call_next() {
                    return gate.step_done.set(false);
                }
            }
        });
        true
    }

    /// Wakes the handshake that has waited longest. Returns false if none waits.
    fn call_next(&self) -> bool {
        loop {
            let Some(next) = self.queue.borrow_mut().pop_front() else { return false };
            // A handshake that was dropped while it waited leaves a dead entry.
            if let Some(ticket) = next.upgrade() {
                ticket.called.set(true);
                ticket.waker.borrow().wake_by_ref();
                return true;
            }
        }
    }
}

struct Waiting<'a>(&'a Cell<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

pin_project! {
    /// The future that [`HandshakeGate::paced`] returns.
    pub(super) struct Paced<F> {
        #[pin]
        future: F,
        gate: Rc<HandshakeGate>,
        ticket: Option<Rc<Ticket>>,
    }
}

impl<F: Future> Future for Paced<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let may_step = match this.ticket {
            Some(ticket) if ticket.called.get() => true,
            // The handshake was polled for another reason than its turn.
            Some(ticket) => {
                ticket.waker.borrow_mut().clone_from(cx.waker());
                false
            }
            // No step has run since other tasks last ran, so this handshake need not queue.
            None if this.gate.begin_step() => true,
            None => {
                let ticket =
                    Rc::new(Ticket { called: Cell::new(false), waker: RefCell::new(cx.waker().clone()) });
                this.gate.queue.borrow_mut().push_back(Rc::downgrade(&ticket));
                *this.ticket = Some(ticket);
                false
            }
        };
        if !may_step {
            return Poll::Pending;
        }
        *this.ticket = None;
        this.future.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how often a yielding task runs until each of `handshakes` has done its `steps`
    /// steps.
    async fn turns(handshakes: usize, steps: usize) -> usize {
        let gate = HandshakeGate::new(&PollMeter::new());
        let done = Rc::new(Cell::new(0));
        for _ in 0..handshakes {
            let (gate, done) = (gate.clone(), done.clone());
            tokio::task::spawn_local(async move {
                let mut left = steps;
                let handshake = std::future::poll_fn(move |cx| {
                    left -= 1;
                    cx.waker().wake_by_ref();
                    if left == 0 { Poll::Ready(()) } else { Poll::Pending }
                });
                gate.paced(handshake).await;
                done.set(done.get() + 1);
            });
        }
        let mut turns = 0;
        while done.get() < handshakes {
            tokio::task::yield_now().await;
            turns += 1;
        }
        turns
    }

    #[tokio::test]
    async fn others_have_a_turn_after_each_step() {
        let local = tokio::task::LocalSet::new();
        let turns = local.run_until(turns(20, 3)).await;
        assert!(turns >= 20 * 3 - 1, "{turns}");
    }

    #[tokio::test]
    async fn a_handshake_that_is_dropped_gives_its_turn_away() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let gate = HandshakeGate::new(&PollMeter::new());
                let mut all: Vec<_> = (0..3).map(|_| Box::pin(gate.paced(std::future::ready(())))).collect();
                let mut cx = Context::from_waker(Waker::noop());
                let ready: Vec<bool> =
                    all.iter_mut().map(|one| one.as_mut().poll(&mut cx).is_ready()).collect();
                assert_eq!(ready, [true, false, false]);
                drop(all.remove(1));
                tokio::time::timeout(std::time::Duration::from_secs(5), all.remove(1))
                    .await
                    .expect("its turn");
            })
            .await;
    }

    #[tokio::test]
    async fn a_handshake_that_waits_for_a_slot_makes_the_gate_crowded() {
        let gate = HandshakeGate::new(&PollMeter::new());
        let mut slots = Vec::new();
        for _ in 0..MAX_IN_PROGRESS {
            slots.push(gate.enter().await);
        }
        assert!(!gate.is_crowded());
        let mut late = Box::pin(gate.enter());
        assert!(late.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(gate.is_crowded());
        slots.pop();
        assert!(late.await.is_some());
        assert!(!gate.is_crowded());
    }
}
