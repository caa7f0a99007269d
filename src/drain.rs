//! The orderly shutdown: one switch that every part that accepts work watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// Says how far the shutdown has come. Only a hand-over can be taken back.
#[derive(Clone, Copy, Debug, Default)]
struct DrainState {
    /// respgate has said that it will drain, and still accepts clients (`drain-delay`).
    announced: bool,
    /// Another process accepts the clients.
    handed_over: bool,
    /// The other process accepts no more clients on purpose, so nobody has to accept them in its place.
    released: bool,
    /// Sessions end as soon as they have no unanswered command.
    begun: bool,
}

/// Begins the drain. Clones are the same switch.
#[derive(Clone, Debug)]
pub struct Switch(watch::Sender<DrainState>);

/// Watches whether the drain has begun.
#[derive(Clone)]
pub struct Draining(watch::Receiver<DrainState>);

/// Creates a switch whose drain has not begun, and a watcher of it.
pub fn switch() -> (Switch, Draining) {
    let (sender, receiver) = watch::channel(DrainState::default());
    (Switch(sender), Draining(receiver))
}

impl Switch {
    /// Announces the drain: `/readyz` answers 503 from now on, and respgate still accepts clients.
    pub fn announce(&self) {
        self.0.send_modify(|state| state.announced = true);
    }

    /// Leaves new clients to another process. Existing sessions go on.
    pub fn hand_over(&self) {
        self.0.send_modify(|state| (state.handed_over, state.released) = (true, false));
    }

    /// Accepts clients again, because the other process has died. Returns false if it is too late: the drain has begun, or
    /// the other process had ended its work on purpose.
    pub fn take_back(&self) -> bool {
        self.0.send_if_modified(|state| {
            let possible = state.handed_over && !state.begun && !state.released;
            state.handed_over &= !possible;
            possible
        })
    }

    /// Gives up the listening sockets for good: the other process needs nobody to accept in its place.
    pub fn release(&self) {
        self.0.send_modify(|state| state.released = true);
    }

    /// Returns true after [`Self::release`].
    pub fn is_released(&self) -> bool {
        self.0.borrow().released
    }

    /// Begins the drain: nothing accepts new work from now on.
    pub fn begin(&self) {
        self.0.send_modify(|state| state.begun = true);
    }
}

impl Draining {
    /// Returns true if the drain has begun or is announced.
    pub fn announced(&self) -> bool {
        let state = *self.0.borrow();
        state.announced || state.begun
    }

    /// Returns true if the drain has begun.
    pub fn begun(&self) -> bool {
        self.0.borrow().begun
    }

    /// Waits until the drain begins, or until every [`Switch`] is dropped.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|state| state.begun).await;
    }

    /// Waits until this process accepts no more clients, or until every [`Switch`] is dropped.
    pub async fn closed(&mut self) {
        let _ = self.0.wait_for(|state| state.begun || state.handed_over).await;
    }

    /// Returns true if another process accepts the clients.
    pub fn is_handed_over(&self) -> bool {
        self.0.borrow().handed_over
    }

    /// Waits until this process accepts clients again after a hand-over. Returns false if it never will.
    pub async fn taken_back(&mut self) -> bool {
        let settled = self.0.wait_for(|state| state.begun || state.released || !state.handed_over).await;
        settled.is_ok_and(|state| !state.begun && !state.released)
    }

    /// Waits until another process accepts the clients, or until every [`Switch`] is dropped.
    pub async fn handed_over(&mut self) {
        let _ = self.0.wait_for(|state| state.handed_over).await;
    }
}

/// A process that this one has replaced, and that drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerProcess {
    /// The process id.
    pub pid: u32,
    /// The number of clients that it and the processes before it still serve.
    pub clients: usize,
}

/// The counts of one listener's clients.
#[derive(Clone)]
pub struct ClientCounts {
    /// The name of the listener.
    pub listener: String,
    /// The number of clients that this process serves.
    pub own: Arc<AtomicUsize>,
    /// The number of clients that the former processes still serve.
    pub former: Arc<AtomicUsize>,
}

impl ClientCounts {
    /// Returns the number of clients of this process and of the former ones.
    pub fn all(&self) -> usize {
        self.own.load(Ordering::Relaxed) + self.former.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_watcher_learns_of_the_drain() {
        let (switch, mut draining) = switch();
        assert!(!draining.begun());
        let mut other = draining.clone();
        switch.begin();
        draining.wait().await;
        other.wait().await;
        other.closed().await;
        assert!(other.begun() && other.announced());
    }

    #[tokio::test]
    async fn an_announced_drain_has_not_begun() {
        let (switch, draining) = switch();
        switch.announce();
        assert!(draining.announced() && !draining.begun());
    }

    #[tokio::test]
    async fn a_process_that_has_handed_over_accepts_nobody_and_does_not_drain() {
        let (switch, mut draining) = switch();
        switch.hand_over();
        draining.closed().await;
        draining.handed_over().await;
        assert!(!draining.begun() && draining.is_handed_over());
    }

    #[tokio::test]
    async fn a_hand_over_is_taken_back_if_the_other_process_has_died() {
        let (switch, mut draining) = switch();
        assert!(!switch.take_back(), "nothing was handed over");
        switch.hand_over();
        assert!(switch.take_back() && draining.taken_back().await && !draining.is_handed_over());
        // A process that ends on purpose, also while a later one accepts, is not replaced.
        switch.hand_over();
        switch.release();
        assert!(switch.is_released() && !switch.take_back() && !draining.taken_back().await);
        switch.hand_over();
        assert!(!switch.is_released());
        switch.begin();
        assert!(!switch.take_back() && !draining.taken_back().await);
    }
}
