//! An accepted client on its way to a worker, and the guards that count it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::session::client::Origin;

/// An accepted client on its way to a worker.
pub struct AcceptedClient {
    /// The client's socket, not yet registered with a runtime.
    pub socket: Socket,
    /// Number of the client's listener.
    pub listener: usize,
    /// The addresses and attributes that the client comes with.
    pub origin: Origin,
    /// Counts the client against its listener's limit until it is dropped.
    pub guard: CountGuard,
}

/// An accepted socket.
pub enum Socket {
    /// A TCP socket.
    Tcp(std::net::TcpStream),
    /// A unix socket.
    Unix(std::os::unix::net::UnixStream),
}

/// Counts one client while it lives, and subtracts it again when it is dropped.
pub struct CountGuard {
    taken: Arc<AtomicUsize>,
    /// The guard of another count for the same client.
    joined: Option<Box<CountGuard>>,
}

impl CountGuard {
    /// Adds one to `taken` and returns its guard, or `None` if the count has reached `limit`.
    pub fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        // The guard exists before the check. If the count was full, dropping the guard subtracts
        // the 1 again.
        let before = taken.fetch_add(1, Ordering::Relaxed);
        let guard = Self::counted(taken);
        (before < limit).then_some(guard)
    }

    /// Returns the guard of a client that `taken` has counted already.
    pub fn counted(taken: &Arc<AtomicUsize>) -> Self {
        Self { taken: taken.clone(), joined: None }
    }

    /// Joins two guards in one. Dropping it releases both.
    pub fn and(mut self, other: Self) -> Self {
        self.joined = Some(Box::new(other));
        self
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
