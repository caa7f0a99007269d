//! A buffer of bytes that were read from a socket and not consumed yet.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Holds bytes that were read from a socket and not consumed yet, in one contiguous piece.
pub struct ReadBuffer {
    data: Vec<u8>,
    start: usize,
    end: usize,
    size: usize,
}

/// Prints only the number of bytes, because the bytes are a user's data.
impl fmt::Debug for ReadBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadBuffer").field("bytes", &self.bytes().len()).finish_non_exhaustive()
    }
}

impl ReadBuffer {
    /// Creates an empty buffer. One read takes at most `size` bytes. The first read allocates
    /// memory.
    pub fn new(size: usize) -> Self {
        Self { data: Vec::new(), start: 0, end: 0, size }
    }

    /// Creates a buffer with bytes that were already read elsewhere.
    pub fn with(size: usize, bytes: &[u8]) -> Self {
        Self { data: bytes.to_vec(), start: 0, end: bytes.len(), size }
    }

    /// Returns the bytes that are not consumed yet.
    pub fn bytes(&self) -> &[u8] {
        self.data.get(self.start..self.end).unwrap_or_default()
    }

    /// Returns true if no byte waits.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Consumes `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Returns the number of bytes allocated.
    pub fn capacity(&self) -> usize {
        self.data.capacity()
    }

    /// Frees the memory if no byte waits.
    pub fn release(&mut self) {
        if self.is_empty() {
            self.data = Vec::new();
        }
    }

    /// Appends the bytes of one socket read. `Ready(Ok(0))` means that the peer ended the stream.
    /// The buffer grows only as bytes arrive. The caller must bound the unconsumed bytes.
    ///
    /// # Errors
    /// Returns the socket's error.
    pub fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        if self.start > 0 && self.data.len() - self.end < self.size {
            self.data.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.data.len() == self.end {
            let grown = (self.end + self.size).max(self.end.saturating_mul(3) / 2);
            self.data.resize(grown, 0);
        }
        // A read takes at most `size` bytes. Without this limit, one read of a grown buffer would
        // take many megabytes.
        let limit = self.data.len().min(self.end + self.size);
        let mut room = ReadBuf::new(self.data.get_mut(self.end..limit).unwrap_or_default());
        ready!(Pin::new(stream).poll_read(cx, &mut room))?;
        let count = room.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn bytes_stay_in_order_through_growth_and_consumption() {
        let mut stream = tokio_test_stream(b"abcdefghijklmnop");
        let mut buffer = ReadBuffer::new(4);
        let mut seen = Vec::new();
        loop {
            let count = poll_fn(|cx| buffer.poll_fill(cx, &mut stream)).await.unwrap();
            if count == 0 {
                break;
            }
            if buffer.bytes().len() > 5 {
                seen.extend_from_slice(&buffer.bytes()[..3]);
                buffer.consume(3);
            }
        }
        seen.extend_from_slice(buffer.bytes());
        assert_eq!(seen, b"abcdefghijklmnop");
    }

    fn tokio_test_stream(bytes: &'static [u8]) -> impl AsyncRead + Unpin {
        std::io::Cursor::new(bytes)
    }
}
