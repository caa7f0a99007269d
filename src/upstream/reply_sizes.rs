//! How many requests one client may have under way on a shared connection, and whether it may use one at all, judged
//! by the sizes of its replies. No I/O.
//!
//! A request does not tell how large its reply will be. So a client begins with few requests under way. Each reply
//! lets it have one more, as in TCP's slow start (RFC 5681), while all replies that are under way, if they are as large
//! as the largest recent one, fit into [`UNDER_WAY`]. A client whose replies outgrow the shared connection all the
//! same gets a connection of its own until its replies are small again.

use std::cell::Cell;

/// A reply above this size, in bytes, is large: it keeps every client behind it on a shared connection waiting.
pub const LARGE: u64 = 1024 * 1024;
/// A reply above this size, in bytes, is not received on a shared connection to its end, whoever asked for it.
const HUGE: u64 = 8 * LARGE;
/// Reply bytes that one client may have under way and waiting on a shared connection.
const UNDER_WAY: usize = 4 * 1024 * 1024;
/// Requests that a new client may have under way.
const FIRST_WINDOW: u32 = 4;
/// Requests that any client may have under way.
const MAX_WINDOW: u32 = 1024;
/// Largest reply, in bytes, that never limits the window.
const UNLIMITED: usize = UNDER_WAY / MAX_WINDOW as usize;
/// Reply bytes that may arrive for a client while it has more than twice its bound under way.
const TOLERATED: usize = 4 * 1024 * 1024;
/// Consecutive uses of a connection of its own without a large reply after which a client shares one again.
const SMALL_AGAIN: u8 = 16;

/// Which connection a client's shareable commands use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// The shared one.
    #[default]
    Shared,
    /// The shared one, once every earlier reply has come: they come from a connection that the shared one replaced.
    SharedWhenAnswered,
    /// One of its own, because its replies are large.
    Own,
}

/// The sizes of one client's replies, and what follows from them.
#[derive(Debug)]
pub struct ReplySizes {
    /// Bytes that may be under way and waiting.
    bound: usize,
    /// Requests that may be under way.
    window: Cell<u32>,
    /// A slowly forgetting maximum of reply sizes, in bytes.
    largest: Cell<usize>,
    /// Bytes of the reply that has come in part.
    part: Cell<usize>,
    /// Bytes that came while more than twice the bound was under way.
    excess: Cell<usize>,
    placement: Cell<Placement>,
    /// Consecutive leases without a large reply.
    small_leases: Cell<u8>,
    /// A large reply came on the present lease.
    large_on_lease: Cell<bool>,
}

impl ReplySizes {
    /// For a client that may have `limit` bytes of replies waiting.
    pub fn new(limit: usize) -> Self {
        Self {
            bound: UNDER_WAY.min(limit / 4),
            window: Cell::new(FIRST_WINDOW),
            largest: Cell::default(),
            part: Cell::default(),
            excess: Cell::default(),
            placement: Cell::default(),
            small_leases: Cell::default(),
            large_on_lease: Cell::default(),
        }
    }

    /// Requests that may be under way, at least 1.
    pub fn window(&self) -> u32 {
        self.window.get()
    }

    /// Reply bytes that the client may have under way and waiting on a shared connection.
    pub fn bound(&self) -> usize {
        self.bound
    }

    /// Which connection the client's next command uses.
    pub fn placement(&self) -> Placement {
        self.placement.get()
    }

    /// `count` replies have come, the largest of them `largest` bytes, `bytes` in all. `awaited` are still to come,
    /// and `waiting` bytes wait for the client.
    pub fn replied(&self, count: u32, bytes: usize, largest: usize, awaited: u32, waiting: usize) {
        let part = self.part.replace(0);
        let known = self.largest.get();
        let largest = largest.max(part + if count == 1 { bytes } else { 0 }).max(known - known / 8);
        self.largest.set(largest);
        if largest > UNLIMITED || self.window.get() < MAX_WINDOW || self.bound < UNDER_WAY {
            let fits = u32::try_from(self.bound / largest.max(64)).unwrap_or(MAX_WINDOW).clamp(1, MAX_WINDOW);
            self.window.set(self.window.get().saturating_add(count).min(fits));
            self.weigh(bytes, awaited, waiting);
        }
    }

    /// The next `bytes` of a reply have come, which is not whole yet.
    pub fn replied_part(&self, bytes: usize, awaited: u32, waiting: usize) {
        self.part.set(self.part.get() + bytes);
        self.largest.set(self.largest.get().max(self.part.get()));
        self.weigh(bytes, awaited, waiting);
    }

    fn weigh(&self, bytes: usize, awaited: u32, waiting: usize) {
        let under_way = (self.largest.get()).saturating_mul(awaited as usize).saturating_add(waiting);
        let within = under_way <= 2 * self.bound;
        self.excess.set(if within { 0 } else { self.excess.get().saturating_add(bytes) });
    }

    /// Whether more has come for the client than a shared connection may carry for one client.
    pub fn outgrown(&self) -> bool {
        self.excess.get() > TOLERATED.min(self.bound)
    }

    /// A reply that has begun on a shared connection has `size` bytes at least; `awaited` replies are to come, it
    /// included. Returns true if other clients should not wait for it and what stands behind it.
    pub fn announced(&self, size: u64, awaited: u32) -> bool {
        if size <= LARGE {
            return false;
        }
        self.use_own();
        size > HUGE || awaited > 1
    }

    /// From now on the client's commands use a connection of its own.
    pub fn use_own(&self) {
        self.placement.set(Placement::Own);
        self.small_leases.set(0);
    }

    /// The client's next command waits until everything before it is answered.
    pub fn wait_until_answered(&self) {
        if self.placement.get() == Placement::Shared {
            self.placement.set(Placement::SharedWhenAnswered);
        }
    }

    /// Every earlier reply has come.
    pub fn all_answered(&self) {
        if self.placement.get() == Placement::SharedWhenAnswered {
            self.placement.set(Placement::Shared);
        }
    }

    /// A reply of `size` bytes has come on a connection of the client's own.
    pub fn replied_on_lease(&self, size: u64) {
        if size > LARGE {
            self.large_on_lease.set(true);
        }
    }

    /// The client has given up the connection that it had of its own.
    pub fn lease_ended(&self) {
        if self.large_on_lease.take() {
            return self.small_leases.set(0);
        }
        self.small_leases.set(self.small_leases.get().saturating_add(1));
        if self.small_leases.get() >= SMALL_AGAIN && self.placement.get() == Placement::Own {
            self.placement.set(Placement::Shared);
            self.excess.set(0);
        }
    }
}

#[cfg(test)]
mod tests;
