//! Keeps what was read from the client and is not handled yet.

use std::rc::Rc;

use tokio::time::Instant;

use crate::net::budget::{Account, Charge};
use crate::net::byte_queue::ByteQueue;
use crate::resp::request::RequestScanner;

/// The first bytes of every TLS connection: a handshake record of any version (RFC 8446, 5.1).
const TLS: [u8; 2] = [0x16, 0x03];

/// Holds the bytes of a client from the read until their requests are handled.
pub(super) struct Input {
    /// Part of a request, or requests that wait for earlier replies.
    queue: ByteQueue,
    /// The bytes allocated for `queue`.
    charge: Charge,
    /// Finds the end of the request at the front.
    pub(super) scanner: RequestScanner,
    /// True until the client has sent enough bytes to tell TLS from plain text.
    may_be_tls: bool,
    /// True if the client has closed its sending side. The session still handles the requests that arrived
    /// before.
    pub(super) closed: bool,
    /// When the check of a password first noticed that the client has left.
    pub(super) departed: Option<Instant>,
}

impl Input {
    /// Creates an empty input, whose bytes count in `account`. `plain` is true for a connection without TLS.
    pub(super) fn new(account: &Rc<Account>, plain: bool) -> Self {
        Self {
            queue: ByteQueue::default(),
            charge: Charge::new(account),
            scanner: RequestScanner::default(),
            may_be_tls: plain,
            closed: false,
            departed: None,
        }
    }

    /// Returns the number of bytes that are not handled.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Returns true if all bytes are handled.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Appends bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.queue.push(bytes);
        self.charge.set(self.queue.capacity());
    }

    /// Lends the queue, so that requests can be read from it while the session changes. [`Self::put_back`] ends
    /// the loan.
    pub(super) fn lend(&mut self) -> ByteQueue {
        std::mem::take(&mut self.queue)
    }

    /// Takes the queue back, and drops the `used` bytes at its front, which were handled.
    pub(super) fn put_back(&mut self, queue: ByteQueue, used: usize) {
        self.queue = queue;
        self.queue.consume(used);
        if self.queue.is_empty() {
            self.queue.release();
        }
        self.charge.set(self.queue.capacity());
    }

    /// Joins the front piece of the queue with the next one. Returns false if there is no next piece.
    pub(super) fn join(&mut self) -> bool {
        self.queue.join()
    }

    /// Returns true if the client speaks TLS. `bytes` were just read.
    #[inline]
    pub(super) fn is_tls(&mut self, bytes: &[u8]) -> bool {
        self.may_be_tls && self.begins_with_tls(bytes)
    }

    fn begins_with_tls(&mut self, bytes: &[u8]) -> bool {
        let mut received = self.queue.front().iter().chain(bytes);
        let first = [received.next(), received.next()];
        self.may_be_tls = first == [Some(&TLS[0]), None];
        first == [Some(&TLS[0]), Some(&TLS[1])]
    }
}
