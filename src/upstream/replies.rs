//! Collects the replies for one client from upstream connections, in the order of its commands.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::reply_sizes::ReplySizes;
use crate::latency::PendingTimes;
use crate::net::budget::{Account, Charge};
use crate::net::buffers::Buffers;
use crate::net::byte_queue::ByteQueue;
use crate::net::write::{WriteSource, poll_write_all};

/// Limit of the bytes that one poll writes to a client. The system copies them in about 1 ms.
const BYTES_PER_POLL: usize = 512 * 1024;

/// Whether a client still takes replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// The client takes replies.
    Open,
    /// More bytes wait for the client than its limit allows. It must be disconnected.
    Overflowed,
    /// A lost connection cut a reply short, or subscriptions could not be restored. The client must be disconnected.
    Cut,
    /// The client has left. Replies that still arrive for it are dropped.
    Gone,
}

/// What all segments of one client hold and await.
#[derive(Default)]
struct Parked {
    awaited: Cell<u32>,
    bytes: Cell<usize>,
    /// How many of the bytes are respgate's own answers.
    answers: Cell<usize>,
}

/// What makes replies a segment.
struct SegmentOf {
    client: Rc<Replies>,
    /// True if every earlier reply has come, so that the replies of this segment follow at once.
    promoted: Cell<bool>,
    /// The number of parked bytes that are respgate's own answers.
    answers: Cell<usize>,
    /// The replies in which this segment fills a hole. `None` for a segment that the session has begun.
    hole: Option<HoleIn>,
    _overhead: Charge,
}

/// The reply to one redirected command, and what came after it.
struct Hole {
    /// The replies of the redirected command alone.
    replies: Rc<Replies>,
    /// What came after it, up to the next hole.
    after: ByteQueue,
    /// True if those bytes end inside a reply.
    partial: bool,
    charge: Charge,
}

/// Where the replies of one redirected command stand, and how it has fared.
struct HoleIn {
    /// The replies that have the hole.
    within: Weak<Replies>,
    /// When the command was first redirected.
    since: Instant,
    tries: Cell<Tries>,
    /// The number of holes that the client's replies had before.
    number: u64,
}

/// How often a command was redirected, and how often it had to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// The number of redirects to another node.
    pub redirects: u8,
    /// The number of times that no node could run the command.
    pub waits: u8,
}

/// The size from which bytes move as a whole and are not copied.
const WORTH_MOVING: usize = 4 * 1024;

/// The replies that wait to be written to one client, and the number of those that are due.
///
/// A client has one object that writes to it. While its requests are under way on several connections, there is also a
/// [segment](Self::segment) for each series of requests behind the first.
pub struct Replies {
    buffers: Rc<Buffers>,
    account: Rc<Account>,
    bytes: RefCell<ByteQueue>,
    /// The number of allocated bytes for which the account is charged.
    charged: Cell<usize>,
    /// The number of bytes written to the client so far.
    progress: Cell<u64>,
    /// The number of replies that are due here, without those of segments.
    due: Cell<u32>,
    /// What the segments behind these replies hold and await.
    parked: Parked,
    /// The replies that this segment stands behind. `None` for the object that writes to the client.
    behind: Option<SegmentOf>,
    /// True for a collector: see `collect`.
    collects: bool,
    /// The replies to redirected commands that have not come, in order, each with what came after it.
    holes: RefCell<VecDeque<Hole>>,
    /// The number of holes that the replies of the client have had.
    holes_opened: Cell<u64>,
    /// True if bytes go straight to the client: these are no segment, and have no hole.
    direct: Cell<bool>,
    sizes: ReplySizes,
    /// The number of bytes that may wait.
    limit: Cell<usize>,
    state: Cell<ClientState>,
    /// True if a reply was delivered in part, so that nothing else may follow before its rest.
    partial: Cell<bool>,
    /// The bytes taken for the client before the first piece of the present reply.
    pieces_from: Cell<u64>,
    /// Published messages that wait for the rest of that reply.
    messages: RefCell<Vec<u8>>,
    waker: RefCell<Option<Waker>>,
    /// The times of commands whose replies wait to be written, once latency was measured.
    times: OnceCell<Box<PendingTimes>>,
}

impl Replies {
    /// Creates the replies of a client whose memory `account` counts. `limit`: the number of bytes that may wait.
    pub fn new(buffers: Rc<Buffers>, account: Rc<Account>, limit: usize) -> Rc<Self> {
        Rc::new(Self::with(buffers, account, limit))
    }

    fn with(buffers: Rc<Buffers>, account: Rc<Account>, limit: usize) -> Self {
        Self {
            buffers,
            account,
            bytes: RefCell::default(),
            charged: Cell::new(0),
            progress: Cell::new(0),
            due: Cell::new(0),
            parked: Parked::default(),
            behind: None,
            collects: false,
            holes: RefCell::default(),
            holes_opened: Cell::default(),
            direct: Cell::new(true),
            sizes: ReplySizes::new(limit),
            limit: Cell::new(limit),
            state: Cell::new(ClientState::Open),
            partial: Cell::new(false),
            pieces_from: Cell::default(),
            messages: RefCell::default(),
            waker: RefCell::default(),
            times: OnceCell::new(),
        }
    }

    /// Replaces the number of bytes that may wait.
    pub fn set_limit(&self, limit: usize) {
        self.limit.set(limit);
        self.sizes.set_limit(limit);
    }

    /// Creates replies that no client waits for: all of them are dropped.
    pub fn nobody(buffers: &Rc<Buffers>) -> Rc<Self> {
        let nobody = Self::new(buffers.clone(), Account::new(buffers.share()), 0);
        nobody.close();
        nobody
    }

    /// Returns the times of commands whose replies wait to be written.
    pub fn times(&self) -> &PendingTimes {
        self.client().times.get_or_init(Box::default)
    }

    /// Returns the times of commands whose replies wait to be written, if any was ever noted.
    #[inline]
    pub fn known_times(&self) -> Option<&PendingTimes> {
        self.client().times.get().map(AsRef::as_ref)
    }

    /// Returns the account that counts the client's memory.
    pub fn account(&self) -> &Rc<Account> {
        &self.account
    }

    /// Sets the waker of the session, which is called when replies arrive.
    pub fn watch(&self, waker: &Waker) {
        let mut mine = self.waker.borrow_mut();
        if !mine.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *mine = Some(waker.clone());
        }
    }

    /// Wakes the session.
    pub fn wake(&self) {
        self.client().wake_session();
    }

    #[inline]
    fn wake_session(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Takes note that one more reply is due.
    pub fn expect(&self) {
        self.due.set(self.due.get() + 1);
        if let Some(segment) = &self.behind {
            segment.expect();
        }
    }

    /// Takes note that `replies` due replies have come.
    #[inline]
    fn answered(&self, replies: u32) {
        let due = self.due.get();
        let answered = replies.min(due);
        self.due.set(due - answered);
        if let Some(segment) = &self.behind {
            segment.answered(answered);
        }
    }

    /// Returns the number of replies that are due to the client, on all connections.
    #[inline]
    pub fn awaited(&self) -> u32 {
        self.client().due_in_all()
    }

    /// Returns the number of replies that are due here and to all segments. For the object that writes to the client, it is
    /// [`Self::awaited`] without the look for that object, because the session calls it for each command.
    #[inline]
    pub fn due_in_all(&self) -> u32 {
        self.due.get() + self.parked.awaited()
    }

    /// Returns the number of replies that are due here, without those of other segments.
    #[inline]
    pub fn due(&self) -> u32 {
        self.due.get()
    }

    /// Returns the number of commands that the client may have under way on a shared connection, from 1 to `depth`.
    pub fn window(&self, depth: usize) -> u32 {
        let depth = u32::try_from(depth.max(1)).unwrap_or(u32::MAX);
        self.sizes.window().min(depth)
    }

    /// Returns the sizes of the client's replies, and what follows from them.
    pub fn sizes(&self) -> &ReplySizes {
        &self.client().sizes
    }

    /// Returns the number of bytes that wait for the client, with those that wait behind other replies.
    pub fn waiting(&self) -> usize {
        let client = self.client();
        client.buffered() + client.parked.bytes()
    }

    /// Returns the number of bytes that the client can take now: those before which no reply is due.
    pub fn ready(&self) -> usize {
        self.client().buffered()
    }

    /// Returns the number of bytes that wait here, without those of segments.
    #[inline]
    pub fn buffered(&self) -> usize {
        self.bytes.borrow().len()
    }

    /// Moves the bytes that wait here behind those of `other`, which belongs to the same client.
    fn move_to(&self, other: &Self) {
        let moved = self.bytes.take();
        self.charge();
        other.take_over(moved);
    }

    /// Adds `moved` behind the bytes that wait here.
    fn take_over(&self, mut moved: ByteQueue) {
        if moved.len() >= WORTH_MOVING && self.bytes.borrow().is_empty() {
            moved = self.bytes.replace(moved);
        } else {
            moved.pieces().for_each(|piece| self.push(|bytes| bytes.extend_from_slice(piece)));
        }
        self.buffers.give(moved.release());
        self.charge();
    }

    /// Moves the bytes that wait here behind those of `other`, with `error` in the place of each reply that is due. The caller closes
    /// these replies, which drop what still comes.
    pub fn give_up_to(&self, other: &Self, error: &[u8]) {
        self.move_to(other);
        let due = self.due.get() - self.give_up_holes(other, error);
        other.answer(|out| (0..due).for_each(|_| out.extend_from_slice(error)));
    }

    /// Charges the account for the bytes that are allocated now.
    #[inline]
    fn charge(&self) {
        let messages = self.messages.borrow().capacity();
        let now = self.bytes.borrow().capacity() + messages;
        let before = self.charged.get();
        if now != before {
            self.charged.set(now);
            self.account.change(before, now);
        }
    }

    /// Returns the number of bytes taken for the client so far, written to it or not.
    fn taken(&self) -> u64 {
        self.progress.get() + self.ready() as u64
    }

    /// Returns the number of bytes written to the client so far.
    pub fn progress(&self) -> u64 {
        self.client().progress.get()
    }

    /// Returns whether the client still takes replies.
    #[inline]
    pub fn client_state(&self) -> ClientState {
        self.client().state.get()
    }

    /// Adds `bytes`, which complete `replies` due replies. The largest of them has `largest` bytes here.
    pub fn deliver(&self, bytes: &[u8], replies: u32, largest: usize) {
        if !self.direct.get() {
            return self.deliver_in_order(bytes, replies, largest);
        }
        self.partial.set(false);
        self.due.set(self.due.get().saturating_sub(replies));
        if self.takes(bytes.len()) {
            self.push(|waiting| waiting.extend_from_slice(bytes));
        }
        self.replied(replies, bytes.len(), largest);
    }

    /// Takes note of `replies` whole replies of `bytes` bytes together. Called for the client's own object.
    #[inline]
    fn replied(&self, replies: u32, bytes: usize, largest: usize) {
        self.sizes.replied(replies, bytes, largest, self.due_in_all(), self.limited());
        self.append_messages();
        self.wake_session();
    }

    /// Adds the next piece of a reply that is too large to be delivered at once.
    pub fn deliver_part(&self, bytes: &[u8]) {
        let client = self.client();
        self.set_partial(true);
        if client.takes(bytes.len()) {
            self.push_arrived(bytes);
        }
        client.sizes.replied_part(bytes.len(), client.due_in_all(), client.limited());
        client.wake_session();
    }

    /// Begins a reply whose pieces [`Self::answer`] adds. Messages wait until [`Self::end_pieces`].
    pub fn begin_pieces(&self) {
        if !self.partial.replace(true) {
            self.pieces_from.set(self.taken());
        }
    }

    /// Ends the reply that [`Self::begin_pieces`] began.
    pub fn end_pieces(&self) {
        if self.partial.replace(false) {
            self.sizes.replied_on_lease(self.taken() - self.pieces_from.get());
        }
        self.append_messages();
    }

    /// Adds a published message, or another frame that no request asked for. Its first byte, `first`, depends on the client's
    /// protocol. A message stands between two replies, so it waits while a reply has come in part. The caller wakes the session.
    pub fn publish(&self, first: u8, rest: &[u8]) {
        if self.state.get() != ClientState::Open {
            return;
        }
        let mut messages = self.messages.borrow_mut();
        let waiting = self.limited() + messages.len() + 1 + rest.len();
        if waiting > self.limit.get() {
            self.state.set(ClientState::Overflowed);
        } else if self.partial.get() {
            messages.push(first);
            messages.extend_from_slice(rest);
            drop(messages);
            self.charge();
        } else {
            drop(messages);
            self.answer(|out| {
                out.push(first);
                out.extend_from_slice(rest);
            });
        }
    }

    /// Adds the messages that have waited for the end of a reply.
    #[inline]
    fn append_messages(&self) {
        if !self.messages.borrow().is_empty() && !self.partial.get() {
            self.append_waiting_messages();
        }
    }

    #[cold]
    fn append_waiting_messages(&self) {
        let messages = self.messages.take();
        if self.takes(messages.len()) {
            self.push(|bytes| bytes.extend_from_slice(&messages));
        }
        self.charge();
    }

    /// Has the client disconnected, because more bytes wait for it than its limit allows.
    pub fn overflow(&self) {
        if self.client_state() == ClientState::Open {
            self.client().state.set(ClientState::Overflowed);
            self.wake();
        }
    }

    /// Has the client disconnected, because the rest of a reply or its subscriptions are lost.
    pub fn cut(&self) {
        if self.client_state() == ClientState::Open {
            self.client().state.set(ClientState::Cut);
            self.wake();
        }
    }

    /// Returns true if the bytes that were written to the client, and those that wait for it here, end inside a reply.
    pub fn ends_inside_reply(&self) -> bool {
        self.partial.get()
    }

    /// Takes note that the connection was lost. If a reply was delivered in part, its rest will never come.
    pub fn lost(&self) {
        if self.is_partial() {
            self.cut();
        }
    }

    /// Adds a reply that respgate writes itself, from the session's own task.
    pub fn answer(&self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.client_state() != ClientState::Open {
            return;
        }
        match &self.behind {
            None => self.push(write),
            Some(segment) => {
                let parked = self.push_in_order(segment, write);
                segment.note_answer(parked);
            }
        }
    }

    fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.bytes.borrow_mut();
        if bytes.capacity() == 0 {
            bytes.adopt(self.buffers.take());
        }
        bytes.push_with(write);
        let now = bytes.capacity();
        drop(bytes);
        if now != self.charged.get() {
            self.charge();
        }
    }

    /// Drops a reply that the client asked not to see.
    pub fn swallow(&self) {
        self.answered(1);
        if self.due.get() == 0 {
            self.filled();
            self.wake();
        }
    }

    /// Returns true if the client takes `count` more bytes. A client that would exceed its limit overflows. Called for the client's own
    /// object.
    #[inline]
    fn takes(&self, count: usize) -> bool {
        if self.state.get() != ClientState::Open {
            return false;
        }
        let takes = self.limited() + count <= self.limit.get();
        if !takes {
            self.state.set(ClientState::Overflowed);
        }
        takes
    }

    /// Writes the bytes that wait to the client, [`BYTES_PER_POLL`] at most. Returns true when all are written, and false if
    /// none waited.
    ///
    /// # Errors
    /// Returns an error if the client's connection failed.
    #[inline]
    pub fn poll_write_to<S: AsyncWrite + Unpin>(
        &self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<std::io::Result<bool>> {
        // Of three calls for each command, two find nothing to write.
        if self.bytes.borrow().is_empty() {
            return Pin::new(stream).poll_flush(cx).map_ok(|()| false);
        }
        self.poll_write_waiting(cx, stream)
    }

    #[inline(never)]
    fn poll_write_waiting<S: AsyncWrite + Unpin>(
        &self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<std::io::Result<bool>> {
        let mut bytes = self.bytes.borrow_mut();
        let (progress, account) = (&self.progress, &self.account);
        let mut taken = Taken { bytes: &mut bytes, left: BYTES_PER_POLL, progress, account };
        let mut written = poll_write_all(cx, stream, &mut taken);
        if bytes.is_empty() {
            self.buffers.give(bytes.release());
        } else if let Poll::Ready(Ok(())) = written {
            // The other tasks run before the rest.
            cx.waker().wake_by_ref();
            written = Poll::Pending;
        }
        drop(bytes);
        self.charge();
        written.map_ok(|()| true)
    }

    /// Takes note that the client has left. Drops the bytes that wait, and the replies that still arrive. A segment drops the bytes
    /// that it holds; the client's own object must be closed too.
    pub fn close(&self) {
        self.state.set(ClientState::Gone);
        let buffer = self.bytes.borrow_mut().release();
        self.buffers.give(buffer);
        self.close_holes();
        self.messages.take();
        self.charge();
        self.waker.borrow_mut().take();
    }
}

/// The bytes that wait for a client. What it takes is counted as its progress.
struct Taken<'a> {
    bytes: &'a mut ByteQueue,
    /// The number of bytes that this poll may still write.
    left: usize,
    progress: &'a Cell<u64>,
    account: &'a Account,
}

impl WriteSource for Taken<'_> {
    fn unwritten(&self) -> &[u8] {
        let front = self.bytes.front();
        front.get(..self.left).unwrap_or(front)
    }

    fn wrote(&mut self, count: usize) {
        self.left -= count.min(self.left);
        self.progress.set(self.progress.get() + count as u64);
        self.account.note_moved(count);
        self.bytes.consume(count);
    }
}

mod collect;
mod hole;
pub mod segment;

#[cfg(test)]
mod tests;
