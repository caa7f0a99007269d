//! Replies that a session collects to make one reply of them, and that are not written to its client as they are.
//!
//! A collector is delivered to like the replies of a client of its own. It is never full: nobody takes its bytes before all have come,
//! so a connection that waited for that would wait for ever. Its bytes are charged to the client's account, and limited as the client's.

use std::rc::Rc;

use super::Replies;
use crate::net::byte_queue::ByteQueue;

impl Replies {
    /// Creates a collector for `client`, whose session it wakes.
    pub fn collector(client: &Rc<Self>) -> Rc<Self> {
        let client = client.client();
        let collector = Self::with(client.buffers.clone(), client.account.clone(), client.limit.get());
        *collector.waker.borrow_mut() = client.waker.borrow().clone();
        Rc::new(Self { collects: true, ..collector })
    }

    /// Takes out the bytes that have come.
    pub fn collected(&self) -> Vec<u8> {
        let mut bytes: ByteQueue = self.bytes.take();
        self.charge();
        while bytes.join() {}
        bytes.release()
    }

    /// Returns true if more than `limit` bytes would wait for the client with `bytes` more.
    pub fn would_overflow(&self, bytes: usize) -> bool {
        let client = self.client();
        client.limited() + bytes > client.limit.get()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::replies;
    use super::*;

    #[tokio::test]
    async fn collected_bytes_are_charged_until_they_are_taken() {
        let (share, client) = replies(1 << 20);
        let collector = Replies::collector(&client);
        collector.expect();
        collector.expect();
        let long = vec![b'x'; 600 * 1024];
        collector.deliver_part(&long);
        collector.deliver(b":1\r\n:2\r\n", 2, 4);
        assert_eq!((collector.due_in_all(), client.due_in_all()), (0, 0));
        assert_eq!(collector.waiting_before(), 0, "a collector is never full");
        assert!(share.bytes() >= long.len());
        assert_eq!(collector.collected(), [&long[..], b":1\r\n:2\r\n"].concat());
        assert_eq!(share.bytes(), 0);
        assert!(client.would_overflow((1 << 20) + 1) && !client.would_overflow(1 << 20));
    }
}
