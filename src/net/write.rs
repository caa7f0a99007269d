//! The one loop that writes waiting bytes to a stream and flushes it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::net::byte_queue::ByteQueue;

/// Bytes that wait to be written to a stream.
pub trait WriteSource {
    /// Returns the bytes to write next. They are empty only if none wait.
    fn unwritten(&self) -> &[u8];

    /// Takes note that the stream took the first `count` bytes.
    fn wrote(&mut self, count: usize);
}

impl WriteSource for ByteQueue {
    fn unwritten(&self) -> &[u8] {
        self.front()
    }

    fn wrote(&mut self, count: usize) {
        self.consume(count);
    }
}

/// Writes the waiting bytes and flushes the stream. Pending while the stream takes no more bytes.
///
/// # Errors
/// Returns the stream's error, and `WriteZero` if the stream takes no bytes for good.
#[inline]
pub fn poll_write_all<S, W>(cx: &mut Context<'_>, stream: &mut S, source: &mut W) -> Poll<io::Result<()>>
where
    S: AsyncWrite + Unpin,
    W: WriteSource,
{
    while !source.unwritten().is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, source.unwritten()) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => source.wrote(count),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => break,
        }
    }
    // Bytes of an earlier write may still wait in TLS, so the flush runs in each case.
    ready!(Pin::new(stream).poll_flush(cx))?;
    if source.unwritten().is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// Takes at most three bytes a write and eight in all, as a socket whose buffer is full does.
    #[derive(Default)]
    struct Narrow {
        taken: Vec<u8>,
        flushes: usize,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(3).min(8 - self.taken.len());
            if count == 0 {
                return Poll::Pending;
            }
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_the_stream_does_not_take_stays_and_is_written_later() {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut queue, mut stream) = (ByteQueue::default(), Narrow::default());
        queue.push(b"0123456789");
        assert!(poll_write_all(&mut cx, &mut stream, &mut queue).is_pending());
        assert_eq!((queue.front(), stream.flushes), (&b"89"[..], 1), "a stream that is full is flushed too");
        let first = std::mem::take(&mut stream.taken);
        assert!(matches!(poll_write_all(&mut cx, &mut stream, &mut queue), Poll::Ready(Ok(()))));
        assert_eq!([first, stream.taken].concat(), b"0123456789");
        assert!(queue.is_empty());
    }
}
