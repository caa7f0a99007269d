//! Where upstream connections put the replies of one client, in the order of its commands.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::AsyncWrite;

use super::reply_sizes::ReplySizes;
use crate::net::budget::Account;
use crate::net::buffers::Buffers;
use crate::net::byte_queue::ByteQueue;

/// How a client's queue of replies stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// Replies are taken.
    Open,
    /// The client let more than its limit pile up: it must be disconnected.
    Overflowed,
    /// A reply was cut short by a lost connection, or subscriptions could not be made anew: the client must be disconnected.
    Cut,
    /// The client left: what still arrives for it is dropped.
    Gone,
}

/// The replies of one client that wait to be written to it, and the count of those still to come.
pub struct Replies {
    buffers: Rc<Buffers>,
    account: Rc<Account>,
    bytes: RefCell<ByteQueue>,
    /// Bytes allocated for what waits, as the account counts them.
    charged: Cell<usize>,
    /// Bytes written in all.
    progress: Cell<u64>,
    awaited: Cell<u32>,
    sizes: ReplySizes,
    limit: usize,
    standing: Cell<ClientState>,
    /// A reply has been delivered in part: the stream cannot be cut here.
    partial: Cell<bool>,
    /// What had been taken when the pieces of the present reply began, in bytes.
    pieces_from: Cell<u64>,
    /// Messages that wait for the rest of that reply.
    messages: RefCell<Vec<u8>>,
    waker: RefCell<Option<Waker>>,
}

impl Replies {
    /// `account`: what counts the bytes that this client holds. `limit`: bytes that may wait for it.
    pub fn new(buffers: Rc<Buffers>, account: Rc<Account>, limit: usize) -> Rc<Self> {
        Rc::new(Self {
            buffers,
            account,
            bytes: RefCell::default(),
            charged: Cell::new(0),
            progress: Cell::new(0),
            awaited: Cell::new(0),
            sizes: ReplySizes::new(limit),
            limit,
            standing: Cell::new(ClientState::Open),
            partial: Cell::new(false),
            pieces_from: Cell::default(),
            messages: RefCell::default(),
            waker: RefCell::default(),
        })
    }

    /// The replies of nobody: all of them are dropped.
    pub fn nobody(buffers: &Rc<Buffers>) -> Rc<Self> {
        let nobody = Self::new(buffers.clone(), Account::new(buffers.share()), 0);
        nobody.close();
        nobody
    }

    /// What counts the bytes that this client holds.
    pub fn account(&self) -> &Rc<Account> {
        &self.account
    }

    /// Whom to wake when replies arrive.
    pub fn watch(&self, waker: &Waker) {
        let mut mine = self.waker.borrow_mut();
        if !mine.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *mine = Some(waker.clone());
        }
    }

    /// Wakes the session.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// One more reply is to come.
    pub fn expect(&self) {
        self.awaited.set(self.awaited.get() + 1);
    }

    /// Replies still to come.
    pub fn awaited(&self) -> u32 {
        self.awaited.get()
    }

    /// How many commands may be under way at once on a shared connection, at most `depth`, at least 1.
    pub fn window(&self, depth: usize) -> u32 {
        let depth = u32::try_from(depth.max(1)).unwrap_or(u32::MAX);
        self.sizes.window().min(depth)
    }

    /// How large the replies are, and what follows from it.
    pub fn sizes(&self) -> &ReplySizes {
        &self.sizes
    }

    /// Bytes that wait to be written.
    pub fn waiting(&self) -> usize {
        self.bytes.borrow().len()
    }

    /// Moves what waits to be written to `other`, which belongs to the same client.
    pub fn move_to(&self, other: &Self) {
        let moved = self.bytes.take();
        self.count();
        *other.bytes.borrow_mut() = moved;
        other.count();
    }

    /// Counts what is allocated now.
    #[inline]
    fn count(&self) {
        let messages = self.messages.borrow().capacity();
        let now = self.bytes.borrow().capacity() + messages;
        let before = self.charged.get();
        if now != before {
            self.charged.set(now);
            self.account.change(before, now);
        }
    }

    /// Bytes taken for the client so far, written to it or not.
    fn taken(&self) -> u64 {
        self.progress.get() + self.waiting() as u64
    }

    /// Bytes written to the client so far.
    pub fn progress(&self) -> u64 {
        self.progress.get()
    }

    /// How the queue stands.
    pub fn client_state(&self) -> ClientState {
        self.standing.get()
    }

    /// Adds `bytes`, which complete `replies` awaited replies; the largest of them has `largest` bytes here.
    pub fn deliver(&self, bytes: &[u8], replies: u32, largest: usize) {
        self.partial.set(false);
        let awaited = self.awaited.get().saturating_sub(replies);
        self.awaited.set(awaited);
        self.append(bytes);
        self.sizes.replied(replies, bytes.len(), largest, awaited, self.waiting());
        self.append_messages();
        self.wake();
    }

    /// Adds the next piece of a reply that is too large to wait for as a whole.
    pub fn deliver_part(&self, bytes: &[u8]) {
        self.partial.set(true);
        self.append(bytes);
        self.sizes.replied_part(bytes.len(), self.awaited.get(), self.waiting());
        self.wake();
    }

    /// What [`Self::answer`] is given from now on are the pieces of one reply: messages wait until it is whole.
    pub fn begin_pieces(&self) {
        if !self.partial.replace(true) {
            self.pieces_from.set(self.taken());
        }
    }

    /// The reply is whole.
    pub fn end_pieces(&self) {
        if self.partial.replace(false) {
            self.sizes.replied_on_lease(self.taken() - self.pieces_from.get());
        }
        self.append_messages();
    }

    /// Adds a published message, or what else comes unasked, whose first byte depends on the client's protocol. Between
    /// two replies: while one has come in part, behind it. The caller wakes the session.
    pub fn publish(&self, first: u8, rest: &[u8]) {
        if self.standing.get() != ClientState::Open {
            return;
        }
        let mut held = self.messages.borrow_mut();
        let waiting = self.waiting() + held.len() + 1 + rest.len();
        if waiting > self.limit {
            self.standing.set(ClientState::Overflowed);
        } else if self.partial.get() {
            held.push(first);
            held.extend_from_slice(rest);
            drop(held);
            self.count();
        } else {
            drop(held);
            self.answer(|out| {
                out.push(first);
                out.extend_from_slice(rest);
            });
        }
    }

    /// Adds the messages that have waited for the end of a reply.
    #[inline]
    fn append_messages(&self) {
        if !self.messages.borrow().is_empty() {
            self.append_waiting_messages();
        }
    }

    #[cold]
    fn append_waiting_messages(&self) {
        let messages = self.messages.take();
        self.append(&messages);
        self.count();
    }

    /// The client must be disconnected: it is sent more than it may have waiting.
    pub fn overflow(&self) {
        if self.standing.get() == ClientState::Open {
            self.standing.set(ClientState::Overflowed);
            self.wake();
        }
    }

    /// The client must be disconnected: what it was promised will not come.
    pub fn cut(&self) {
        if self.standing.get() == ClientState::Open {
            self.standing.set(ClientState::Cut);
            self.wake();
        }
    }

    /// Whether a reply has been delivered in part.
    pub fn is_partial(&self) -> bool {
        self.partial.get()
    }

    /// The connection was lost: if a reply was delivered in part, its rest will never come.
    pub fn lost(&self) {
        if self.partial.get() {
            self.cut();
        }
    }

    /// Adds a reply that respgate writes itself, in the session's own turn.
    pub fn answer(&self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.standing.get() != ClientState::Open {
            return;
        }
        let mut bytes = self.bytes.borrow_mut();
        if bytes.capacity() == 0 {
            bytes.adopt(self.buffers.take());
        }
        bytes.push_with(write);
        let now = bytes.capacity();
        drop(bytes);
        if now != self.charged.get() {
            self.count();
        }
    }

    /// Drops a reply that the client asked not to see.
    pub fn swallow(&self) {
        self.awaited.set(self.awaited.get().saturating_sub(1));
        if self.awaited.get() == 0 {
            self.wake();
        }
    }

    #[inline]
    fn append(&self, piece: &[u8]) {
        if self.standing.get() != ClientState::Open {
            return;
        }
        if self.waiting() + piece.len() > self.limit {
            self.standing.set(ClientState::Overflowed);
            return;
        }
        self.answer(|bytes| bytes.extend_from_slice(piece));
    }

    /// Writes what waits. `Ready(Ok(true))`: all is written; `Ready(Ok(false))`: nothing was waiting.
    ///
    /// # Errors
    /// The client's connection failed.
    #[inline]
    pub fn poll_write_to<S: AsyncWrite + Unpin>(
        &self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<std::io::Result<bool>> {
        // Of three calls per command, two find nothing.
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
        let mut blocked = false;
        while !bytes.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, bytes.front()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.progress.set(self.progress.get() + count as u64);
                    self.account.note_moved(count);
                    bytes.consume(count);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    blocked = true;
                    break;
                }
            }
        }
        if !blocked {
            self.buffers.give(bytes.release());
        }
        drop(bytes);
        self.count();
        if blocked { Poll::Pending } else { Pin::new(stream).poll_flush(cx).map_ok(|()| true) }
    }

    /// The client left: what waits is dropped, and what still arrives will be.
    pub fn close(&self) {
        self.standing.set(ClientState::Gone);
        let buffer = self.bytes.borrow_mut().release();
        self.buffers.give(buffer);
        self.messages.take();
        self.count();
        self.waker.borrow_mut().take();
    }
}

#[cfg(test)]
mod tests;
