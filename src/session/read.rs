//! Reads what the client sends, and keeps the bytes that cannot be handled yet.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::Session;
use super::close::Close;
use super::step::Pause;
use crate::net::tls::handshake_error::{HandshakeError, Reason};

/// Limit of unhandled input, in bytes. The session reads ahead up to it while requests wait, to notice that the
/// client leaves.
pub(super) const AHEAD: usize = 64 * 1024;

/// Number of reads, of 64 KiB at most each, before the session checks again whether the client takes replies.
const AHEAD_READS: usize = 4;

/// Number of reads from a client that waits for something else, before other sessions run.
const LEFT_READS: usize = 32;

/// The error line for a client that speaks TLS to a plain-text port. respgate sends no TLS alert, because clients
/// would then look for a common version or cipher. Plain text makes them report "wrong version number" or "not a
/// TLS record".
const SPEAK_PLAIN: &[u8] =
    b"-ERR respgate: this port speaks plain text; connect without TLS (redis://), or use a port with TLS";

impl Session {
    /// Reads once and handles the bytes. Requests are handled straight from the worker's scratch buffer, unless
    /// part of a request waits in the input.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Pause> {
        if self.input.closed {
            return Poll::Ready(Pause::Close(Close::Left));
        }
        if self.account.must_wait() {
            return Poll::Pending;
        }
        let buffers = self.ctx.buffers.clone();
        let mut scratch = buffers.scratch().borrow_mut();
        let mut room = ReadBuf::new(&mut scratch);
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room));
        let bytes = room.filled();
        if let Err(error) = read {
            return Poll::Ready(Pause::Close(self.close_for_read_error(&error)));
        }
        if bytes.is_empty() {
            return Poll::Ready(Pause::Close(Close::Left));
        }
        self.account.note_moved(bytes.len());
        if self.input.is_tls(bytes) {
            return Poll::Ready(Pause::Close(self.refuse_tls()));
        }
        if !self.input.is_empty() {
            self.keep(bytes);
            return Poll::Ready(self.handle_input());
        }
        self.note_read();
        let (used, pause) = self.handle(bytes);
        self.keep(bytes.get(used..).unwrap_or_default());
        Poll::Ready(pause)
    }

    /// Reads once and appends the bytes to the input without handling them. Also pending while the client [must
    /// wait](crate::net::budget::Account::must_wait) for memory.
    pub(super) fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        if self.account.must_wait() {
            return Poll::Pending;
        }
        let buffers = self.ctx.buffers.clone();
        let mut scratch = buffers.scratch().borrow_mut();
        let mut room = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
        if self.input.is_empty() {
            self.note_input();
        }
        self.keep(room.filled());
        self.account.note_moved(room.filled().len());
        Poll::Ready(Ok(room.filled().len()))
    }

    /// Reads on while replies wait for the client. A client may write a whole pipeline before it reads (hiredis,
    /// redis-py and phpredis do); it and respgate would otherwise wait for each other. The session runs none of
    /// the requests that it reads here before the client has taken replies, so that few bytes of requests cannot
    /// make many bytes of replies wait. The bytes read count against `max-buffered`.
    ///
    /// Ready once something was read. Pending if the client sends no more.
    ///
    /// # Errors
    /// Returns the reason to close if the connection failed.
    pub(super) fn poll_backlog(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Close> {
        for reads in 0..AHEAD_READS {
            if self.input.closed {
                break;
            }
            match self.poll_read_ahead(cx) {
                Poll::Pending if reads > 0 => break,
                Poll::Pending => return Ok(Poll::Pending),
                // The client sends no more, but still gets its replies.
                Poll::Ready(Ok(0)) => self.input.closed = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(self.close_for_read_error(&error)),
            }
        }
        Ok(if self.input.closed { Poll::Pending } else { Poll::Ready(()) })
    }

    /// Ready when the client has closed its sending side. Appends what the client sends before that to the input,
    /// up to [`AHEAD`] bytes. If it has sent more, the session learns of the end at the next call.
    pub(super) fn poll_client_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_client_left_within(cx, AHEAD)
    }

    /// As `poll_client_left`, but keeps up to `ahead` bytes.
    pub(super) fn poll_client_left_within(&mut self, cx: &mut Context<'_>, ahead: usize) -> Poll<()> {
        // When the hold buffer is full, a held client is not read from.
        let full = self.hold.is_held() && self.ctx.upstream.hold_full(0);
        let mut reads = 0;
        while !full && !self.input.closed && self.input.len() < ahead {
            if reads == LEFT_READS {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            match ready!(self.poll_read_ahead(cx)) {
                Ok(0) => self.input.closed = true,
                Ok(_) => {}
                Err(error) => {
                    self.closing = Some(self.close_for_read_error(&error));
                    self.input.closed = true;
                }
            }
        }
        // Behind bytes that are not read yet, only the system knows the end.
        let ended = self.input.closed || (full || self.input.len() >= ahead) && self.stream.is_half_closed();
        if ended { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Appends bytes to the input, to be handled later.
    fn keep(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.input.push(bytes);
        self.hold.set_bytes(self.input.len());
    }

    /// Refuses a client that speaks TLS to a plain-text port.
    fn refuse_tls(&mut self) -> Close {
        self.refuse(SPEAK_PLAIN);
        self.tls_error = Some(Box::new(HandshakeError {
            reason: Reason::OnPlainPort,
            text: "speaks TLS to a port without; give this listener tls-cert and tls-key, or configure the client \
                   without TLS (redis://)"
                .into(),
        }));
        Close::Tls
    }

    /// Returns the reason to close after a failed read. Keeps the error if it is a TLS error.
    pub(super) fn close_for_read_error(&mut self, error: &std::io::Error) -> Close {
        let tls_error = error.get_ref().and_then(|inner| inner.downcast_ref::<HandshakeError>());
        match tls_error {
            Some(tls_error) => {
                self.tls_error = Some(Box::new(tls_error.clone()));
                Close::Tls
            }
            None => Close::Left,
        }
    }
}
