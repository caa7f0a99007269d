//! The TCP connection below TLS, which is read in large pieces while much data arrives.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::net::read_buffer::ReadBuffer;

/// Size of one large read, in bytes: two full TLS records.
const LARGE: usize = 32 * 1024;

/// Reads ahead for rustls. rustls reads 4 KiB at a time, which takes five system calls for each
/// full record. Once such a read was filled, more data is likely to follow: this type then reads up
/// to 32 KiB at once and returns it in pieces. The buffer exists only until its bytes are consumed,
/// so small commands and idle connections need none.
#[derive(Debug)]
pub struct ReadAhead<S = TcpStream> {
    stream: S,
    ahead: ReadBuffer,
    /// True if the last read was filled.
    more: bool,
}

impl<S> ReadAhead<S> {
    /// Wraps a stream from which nothing has been read, or whose bytes are all consumed.
    pub fn new(stream: S) -> Self {
        Self { stream, ahead: ReadBuffer::new(LARGE), more: false }
    }

    /// Returns the connection itself. The caller must not read from it.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> ReadAhead<S> {
    fn poll_read_large(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let filled = self.ahead.poll_fill(cx, &mut self.stream);
        self.more = matches!(filled, Poll::Ready(Ok(LARGE)));
        filled.map_ok(|_| ())
    }

    fn hand_over(&mut self, buf: &mut ReadBuf<'_>) {
        let waiting = self.ahead.bytes();
        let count = waiting.len().min(buf.remaining());
        buf.put_slice(waiting.get(..count).unwrap_or_default());
        self.ahead.consume(count);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = if !this.ahead.is_empty() {
            this.hand_over(buf);
            Poll::Ready(Ok(()))
        } else if this.more {
            this.poll_read_large(cx).map_ok(|()| this.hand_over(buf))
        } else {
            let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
            // A read that filled its buffer suggests that more data waits in the socket.
            this.more = polled.is_ready() && buf.remaining() == 0;
            return polled;
        };
        if !this.more {
            this.ahead.release();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Records the size of each read of the connection.
    struct Noting<S>(S, Vec<usize>);

    impl<S: AsyncRead + Unpin> AsyncRead for Noting<S> {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            let wanted = buf.remaining();
            let polled = Pin::new(&mut this.0).poll_read(cx, buf);
            if polled.is_ready() {
                this.1.push(wanted);
            }
            polled
        }
    }

    async fn next(reader: &mut ReadAhead<Noting<tokio::io::DuplexStream>>, count: usize) -> Vec<u8> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let mut piece = [0; 4096];
            let length = reader.read(&mut piece).await.unwrap();
            seen.extend_from_slice(&piece[..length]);
        }
        seen
    }

    #[tokio::test]
    async fn much_takes_few_reads_and_no_memory_afterwards() {
        let (mut far, near) = tokio::io::duplex(1 << 20);
        let mut reader = ReadAhead::new(Noting(near, Vec::new()));
        let much: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        for sent in [&much[..10], &much, &much[..4096], &much[..20]] {
            far.write_all(sent).await.unwrap();
            assert_eq!(next(&mut reader, sent.len()).await, sent);
        }
        assert!(reader.ahead.is_empty() && reader.ahead.capacity() == 0);
        // The 4096 bytes filled a read, so the next read was large although little data came.
        let (small, large) = (4096, LARGE);
        assert_eq!(reader.get_ref().1, [small, small, large, large, large, small, large]);
        drop(far);
        assert_eq!(reader.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
