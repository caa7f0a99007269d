//! A queue of bytes: bytes are appended at its end and consumed at its front.

use std::collections::VecDeque;

/// Size in bytes at which a piece ends and the next one begins.
const PIECE: usize = 256 * 1024;

/// Holds bytes in order, in pieces. Consuming bytes never moves the others, and a long queue frees
/// memory as it shrinks.
///
/// The front piece is contiguous. If a request continues in the next piece, its reader calls
/// [`Self::join`] to get it in one slice.
#[derive(Debug, Default)]
pub struct ByteQueue {
    front: Vec<u8>,
    /// Consumed bytes of the front piece.
    used: usize,
    rest: VecDeque<Vec<u8>>,
    /// Bytes in `rest`.
    rest_len: usize,
    /// Bytes allocated for `rest`.
    rest_capacity: usize,
    /// True if the reader has asked for more than the front piece holds. The next bytes are then
    /// appended to the front piece, so that a long request is copied once.
    joining: bool,
}

impl ByteQueue {
    /// Returns the number of waiting bytes.
    pub fn len(&self) -> usize {
        self.front.len() - self.used + self.rest_len
    }

    /// Returns true if no byte waits.
    pub fn is_empty(&self) -> bool {
        // The front piece is consumed completely only if there is no other piece.
        self.used == self.front.len()
    }

    /// Returns the number of allocated bytes.
    pub fn capacity(&self) -> usize {
        self.front.capacity() + self.rest_capacity
    }

    /// Returns the waiting bytes of the front piece. They are empty only if the queue is empty.
    pub fn front(&self) -> &[u8] {
        self.front.get(self.used..).unwrap_or_default()
    }

    /// Returns all pieces in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.front()).chain(self.rest.iter().map(Vec::as_slice))
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.push_with(|tail| tail.extend_from_slice(bytes));
        }
    }

    /// Appends the bytes that `write` appends to a piece. `write` must not change the bytes before
    /// them.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.rest.is_empty() {
            // A front piece whose reader waits for more of it grows beyond `PIECE`, because a new
            // piece would have to be copied by `join`.
            if self.joining || self.front.len() < PIECE {
                return write(&mut self.front);
            }
            self.rest.push_back(Vec::new());
        } else if self.rest.back().is_some_and(|last| last.len() >= PIECE) {
            self.rest.push_back(Vec::new());
        }
        if let Some(last) = self.rest.back_mut() {
            // `write` may grow the piece by any amount, so its growth is measured.
            let (len, capacity) = (last.len(), last.capacity());
            write(last);
            self.rest_len += last.len() - len;
            self.rest_capacity += last.capacity() - capacity;
        }
    }

    /// Consumes `count` bytes of the front piece.
    pub fn consume(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        self.joining = false;
        self.used += count;
        if self.used < self.front.len() {
            return;
        }
        self.used = 0;
        match self.rest.pop_front() {
            Some(next) => {
                self.rest_len -= next.len();
                self.rest_capacity -= next.capacity();
                self.front = next;
            }
            // The allocation stays until `release`, so that a busy queue does not allocate again.
            None => self.front.clear(),
        }
    }

    /// Appends the next piece to the front one. Returns false if there is no next piece; the next
    /// pushed bytes then go to the front piece.
    pub fn join(&mut self) -> bool {
        let Some(next) = self.rest.pop_front() else {
            self.joining = true;
            return false;
        };
        self.rest_len -= next.len();
        self.rest_capacity -= next.capacity();
        // The rest of the front piece is part of one request. It moves at most once per piece of
        // that request.
        self.front.drain(..std::mem::take(&mut self.used));
        self.front.extend_from_slice(&next);
        true
    }

    /// Uses `buffer` as the front piece; the queue must be empty.
    pub fn adopt(&mut self, buffer: Vec<u8>) {
        debug_assert!(self.is_empty());
        self.front = buffer;
        self.used = 0;
    }

    /// Empties the queue, and keeps the allocation of its front piece.
    pub fn clear(&mut self) {
        let front = self.release();
        self.front = front;
        self.front.clear();
    }

    /// Empties the queue and returns the allocation of its front piece.
    pub fn release(&mut self) -> Vec<u8> {
        // Most queues never have a second piece.
        if self.rest.capacity() > 0 {
            self.rest = VecDeque::new();
            (self.rest_len, self.rest_capacity) = (0, 0);
        }
        (self.used, self.joining) = (0, false);
        std::mem::take(&mut self.front)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Push(usize),
        Consume(usize),
        Join,
        Release,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            6 => (0..PIECE).prop_map(Op::Push),
            6 => (0..2 * PIECE).prop_map(Op::Consume),
            3 => Just(Op::Join),
            1 => Just(Op::Release),
        ];
        proptest::collection::vec(op, 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The bytes come out as they went in, and the counts are exact, whatever the order of
        /// operations.
        #[test]
        fn bytes_come_out_as_they_went_in(ops in ops()) {
            let mut queue = ByteQueue::default();
            let mut model = VecDeque::new();
            let mut next = 0u8;
            for op in ops {
                match op {
                    Op::Push(count) => {
                        let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                        queue.push(&bytes);
                        model.extend(bytes);
                    }
                    Op::Consume(count) => {
                        let count = count.min(queue.front().len());
                        let taken: Vec<u8> = model.drain(..count).collect();
                        prop_assert_eq!(queue.front().get(..count), Some(&taken[..]));
                        queue.consume(count);
                    }
                    Op::Join => {
                        queue.join();
                    }
                    Op::Release => {
                        queue.release();
                        model.clear();
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.front().is_empty(), model.is_empty());
                prop_assert!(queue.capacity() >= queue.len());
                let all: Vec<u8> = queue.pieces().flatten().copied().collect();
                prop_assert!(all.iter().eq(model.iter()));
            }
        }
    }

    /// A request of many pieces moves a bounded number of times, and consuming many small requests
    /// moves nothing.
    #[test]
    fn a_long_queue_is_used_up_in_place() {
        let mut queue = ByteQueue::default();
        for _ in 0..64 {
            queue.push(&[7; 64 * 1024]);
        }
        let full = queue.capacity();
        assert!(full < 5 * 1024 * 1024, "{full} bytes for 4 MiB");
        while queue.len() > 1024 * 1024 {
            let place = queue.front().as_ptr() as usize;
            let (step, piece) = (100.min(queue.front().len()), queue.front().len());
            queue.consume(step);
            assert!(step == piece || queue.front().as_ptr() as usize == place + step, "bytes were moved");
        }
        assert!(queue.capacity() < full / 2, "{} bytes for 1 MiB", queue.capacity());
    }

    #[test]
    fn a_request_that_goes_on_is_appended_to() {
        let mut queue = ByteQueue::default();
        queue.push(&vec![1; PIECE]);
        assert!(!queue.join());
        queue.push(&vec![1; PIECE]);
        assert_eq!(queue.front().len(), 2 * PIECE);
        queue.consume(1);
        queue.push(&vec![1; PIECE]);
        assert_eq!(queue.front().len(), 2 * PIECE - 1, "the next request is a piece of its own");
    }
}
