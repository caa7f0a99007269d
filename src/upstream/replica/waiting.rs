//! The sessions that wait for a replica.

use std::cell::RefCell;
use std::collections::HashMap;
use std::task::Waker;

/// The sessions that wait for a replica, by client id.
#[derive(Default)]
pub(super) struct WaitingSessions(RefCell<HashMap<u64, Waker>>);

impl WaitingSessions {
    /// Wakes this client's session once, at the next [`Self::wake_all`].
    pub(super) fn add(&self, client: u64, waker: &Waker) {
        self.0.borrow_mut().insert(client, waker.clone());
    }

    /// Removes the client.
    pub(super) fn remove(&self, client: u64) {
        self.0.borrow_mut().remove(&client);
    }

    /// Wakes every session that waits, so that it chooses again.
    pub(super) fn wake_all(&self) {
        for (_, waker) in self.0.take() {
            waker.wake();
        }
    }
}
