//! Limits the requests that one client may have under way on a shared connection, by the sizes of its replies, and decides whether
//! the client may use a shared connection. No I/O.
//!
//! A request does not tell how large its reply will be. So a client begins with few requests under way. Each reply allows one more,
//! as in TCP's slow start (RFC 5681), as long as all replies under way would fit into [`UNDER_WAY`] if each were as large as the
//! largest recent one. If a client's replies still outgrow the shared connection, the client gets a connection to itself until its
//! replies are small again.

use std::cell::Cell;

/// The size above which a reply is large, in bytes. Every client behind it on a shared connection waits for it.
pub const LARGE: u64 = 1024 * 1024;
/// The size above which no reply is received to its end on a shared connection, in bytes.
const HUGE: u64 = 8 * LARGE;
/// The reply bytes that one client may have under way and waiting on a shared connection.
const UNDER_WAY: usize = 4 * 1024 * 1024;
/// The number of requests that a new client may have under way.
const FIRST_WINDOW: u32 = 4;
/// The number of requests that any client may have under way.
const MAX_WINDOW: u32 = 1024;
/// The size up to which replies never limit the window, in bytes.
const UNLIMITED: usize = UNDER_WAY / MAX_WINDOW as usize;
/// The reply bytes that may arrive for a client while it has more than twice its bound under way.
const TOLERATED: usize = 4 * 1024 * 1024;
/// The number of consecutive leases without a large reply after which a client uses the shared connection again.
const SMALL_AGAIN: u8 = 16;

/// The connection that a client's shareable commands use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// The shared one.
    #[default]
    Shared,
    /// The shared one, once every earlier reply has come. Those replies come from a connection that the shared one replaced.
    SharedWhenAnswered,
    /// A leased one, because the client's replies are large.
    Own,
}

/// The sizes of one client's replies, and what follows from them.
#[derive(Debug)]
pub struct ReplySizes {
    /// The number of bytes that may be under way and waiting.
    bound: Cell<usize>,
    /// The number of requests that may be under way.
    window: Cell<u32>,
    /// The number of reasons why no request may be sent, and the window after the last of them. `window` is 0 meanwhile.
    paused: Cell<(u32, u32)>,
    /// The largest recent reply, in bytes. It decays by an eighth with each delivery of smaller ones.
    largest: Cell<usize>,
    /// The number of bytes that have come of an incomplete reply.
    part: Cell<usize>,
    /// The number of bytes that came while more than twice the bound was under way.
    excess: Cell<usize>,
    placement: Cell<Placement>,
    /// The number of consecutive leases without a large reply.
    small_leases: Cell<u8>,
    /// True if a large reply came on the present lease.
    large_on_lease: Cell<bool>,
}

impl ReplySizes {
    /// Creates the sizes of a client that may have `limit` bytes of replies waiting.
    pub fn new(limit: usize) -> Self {
        Self {
            bound: Cell::new(bound(limit)),
            window: Cell::new(FIRST_WINDOW),
            paused: Cell::default(),
            largest: Cell::default(),
            part: Cell::default(),
            excess: Cell::default(),
            placement: Cell::default(),
            small_leases: Cell::default(),
            large_on_lease: Cell::default(),
        }
    }

    /// Replaces the number of bytes of replies that may wait.
    pub fn set_limit(&self, limit: usize) {
        self.bound.set(bound(limit));
    }

    /// Returns the number of requests that may be under way: 0 while they are [paused](Self::pause), and at least 1 otherwise.
    pub fn window(&self) -> u32 {
        self.window.get()
    }

    /// Has no further request sent until [`Self::resume`] was called as often as this.
    pub fn pause(&self) {
        let (reasons, window) = self.paused.get();
        self.paused.set((reasons + 1, window.max(self.window.take())));
    }

    /// Ends one [pause](Self::pause).
    pub fn resume(&self) {
        let (reasons, window) = self.paused.get();
        if reasons <= 1 {
            self.window.set(window.max(1));
            self.paused.take();
        } else {
            self.paused.set((reasons - 1, window));
        }
    }

    /// Returns the reply bytes that the client may have under way and waiting on a shared connection.
    pub fn bound(&self) -> usize {
        self.bound.get()
    }

    /// Returns the connection that the client's next command uses.
    pub fn placement(&self) -> Placement {
        self.placement.get()
    }

    /// Takes note of `count` replies of `bytes` bytes together. The largest of them has `largest` bytes. `awaited`: the replies that
    /// are still due. `waiting`: the bytes that wait for the client.
    pub fn replied(&self, count: u32, bytes: usize, largest: usize, awaited: u32, waiting: usize) {
        let part = self.part.replace(0);
        // A single reply may have come in pieces: its size is that of all of them.
        let known = self.largest.get();
        let largest = largest.max(part + if count == 1 { bytes } else { 0 }).max(known - known / 8);
        self.largest.set(largest);
        // Clients with small replies and a full window, nearly all of them, need no more arithmetic.
        if largest > UNLIMITED || self.window.get() < MAX_WINDOW || self.bound.get() < UNDER_WAY {
            let fits =
                u32::try_from(self.bound.get() / largest.max(64)).unwrap_or(MAX_WINDOW).clamp(1, MAX_WINDOW);
            if self.paused.get().0 == 0 {
                self.window.set(self.window.get().saturating_add(count).min(fits));
            }
            self.count_excess(bytes, awaited, waiting);
        }
    }

    /// Takes note of the next `bytes` of an incomplete reply.
    pub fn replied_part(&self, bytes: usize, awaited: u32, waiting: usize) {
        self.part.set(self.part.get() + bytes);
        self.largest.set(self.largest.get().max(self.part.get()));
        self.count_excess(bytes, awaited, waiting);
    }

    /// Counts `bytes` as excess if the replies under way may exceed twice the bound.
    fn count_excess(&self, bytes: usize, awaited: u32, waiting: usize) {
        let under_way = (self.largest.get()).saturating_mul(awaited as usize).saturating_add(waiting);
        let within = under_way <= 2 * self.bound.get();
        self.excess.set(if within { 0 } else { self.excess.get().saturating_add(bytes) });
    }

    /// Returns true if more bytes have come for the client than a shared connection may carry for one client.
    pub fn outgrown(&self) -> bool {
        self.excess.get() > TOLERATED.min(self.bound.get())
    }

    /// Takes note that a reply has begun on a shared connection that has `size` bytes at least. `awaited`: the replies that are due,
    /// with this one. Returns true if other clients should not wait for it and for the replies behind it.
    pub fn announced(&self, size: u64, awaited: u32) -> bool {
        if size <= LARGE {
            return false;
        }
        self.use_own();
        size > HUGE || awaited > 1
    }

    /// Has the client's commands use a leased connection from now on.
    pub fn use_own(&self) {
        self.placement.set(Placement::Own);
        self.small_leases.set(0);
    }

    /// Has the client's next command wait until every command before it is answered.
    pub fn wait_until_answered(&self) {
        if self.placement.get() == Placement::Shared {
            self.placement.set(Placement::SharedWhenAnswered);
        }
    }

    /// Takes note that every earlier reply has come.
    pub fn all_answered(&self) {
        if self.placement.get() == Placement::SharedWhenAnswered {
            self.placement.set(Placement::Shared);
        }
    }

    /// Takes note of a reply of `size` bytes on the client's lease.
    pub fn replied_on_lease(&self, size: u64) {
        if size > LARGE {
            self.large_on_lease.set(true);
        }
    }

    /// Takes note that the client's lease has ended.
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

/// Returns the reply bytes that a client may have under way and waiting on a shared connection, if `limit` bytes may wait for it.
fn bound(limit: usize) -> usize {
    UNDER_WAY.min(limit / 4)
}

#[cfg(test)]
mod tests;
