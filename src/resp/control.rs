//! The client of the control plane: sends commands and reads their replies on one connection.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::resp::Resp;
use crate::resp::value::{self, Extent, Value};

/// The longest reply, in bytes. COMMAND's reply, the longest that respgate asks for, has about 200 KiB.
const MAX_REPLY: usize = 8 * 1024 * 1024;
/// The first byte of a TLS alert record, with which a TLS port refuses plain text (RFC 8446, 5.1).
const TLS_ALERT: u8 = 0x15;

/// Sends commands and decodes replies on one connection, as RESP2 until [`Control::set_resp`] says otherwise. All calls
/// are cancel-safe: a call whose future is dropped keeps the bytes that it has read or written, and the next call
/// continues there.
#[derive(Debug)]
pub struct Control<S> {
    stream: S,
    resp: Resp,
    unsent: BytesMut,
    received: BytesMut,
    extent: Extent,
    /// True if the peer has sent a whole reply.
    answered: bool,
}

/// Why a call returned no reply.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The peer closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The peer closed the connection before it sent anything in RESP. Servers do that if plain text arrives at a TLS
    /// port.
    #[error(
        "the server ended the connection instead of answering; if its port speaks TLS, set tls = true (or begin the \
         url with rediss)"
    )]
    Unanswered,
    /// The bytes that arrived are not RESP, or a reply has more than 8 MiB.
    #[error(
        "the server does not speak the protocol: {0}; check that the address is that of a Valkey or Redis server"
    )]
    Protocol(String),
    /// The deadline passed.
    #[error("the server did not answer in time")]
    Timeout,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Control<S> {
    /// Creates a client on a new connection.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            resp: Resp::V2,
            unsent: BytesMut::new(),
            received: BytesMut::new(),
            extent: Extent::default(),
            answered: false,
        }
    }

    /// Sets the version in which following replies are decoded. Call it before you read the reply to a `HELLO` that
    /// changes the version.
    pub fn set_resp(&mut self, resp: Resp) {
        self.resp = resp;
    }

    /// Queues a command; [`Control::flush`] sends it.
    pub fn send(&mut self, args: &[&[u8]]) {
        let mut digits = itoa::Buffer::new();
        let mut header = |buf: &mut BytesMut, kind: u8, length: usize| {
            buf.extend_from_slice(&[kind]);
            buf.extend_from_slice(digits.format(length).as_bytes());
            buf.extend_from_slice(b"\r\n");
        };
        header(&mut self.unsent, b'*', args.len());
        for arg in args {
            header(&mut self.unsent, b'$', arg.len());
            self.unsent.extend_from_slice(arg);
            self.unsent.extend_from_slice(b"\r\n");
        }
    }

    /// Writes the queued commands.
    ///
    /// # Errors
    ///
    /// Returns an error if the connection fails or the deadline passes.
    pub async fn flush(&mut self, deadline: Instant) -> Result<(), ControlError> {
        let write = async {
            while !self.unsent.is_empty() {
                if self.stream.write_buf(&mut self.unsent).await? == 0 {
                    return Err(ControlError::Closed);
                }
            }
            Ok(self.stream.flush().await?)
        };
        timeout_at(deadline, write).await.unwrap_or(Err(ControlError::Timeout))
    }

    /// Reads the next reply or push.
    ///
    /// # Errors
    ///
    /// Returns an error if the connection fails, the peer breaks the protocol, or the deadline passes.
    pub async fn receive(&mut self, deadline: Instant) -> Result<Value, ControlError> {
        timeout_at(deadline, self.read_value()).await.unwrap_or(Err(ControlError::Timeout))
    }

    /// Sends one command and reads its reply; drops pushes that arrive before it.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Control::receive`]. An error reply is a value, not an error of the call.
    pub async fn call(&mut self, args: &[&[u8]], deadline: Instant) -> Result<Value, ControlError> {
        self.send(args);
        self.flush(deadline).await?;
        self.reply(deadline).await
    }

    /// Reads the next reply; drops pushes that arrive before it.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Control::receive`].
    pub async fn reply(&mut self, deadline: Instant) -> Result<Value, ControlError> {
        loop {
            match self.receive(deadline).await? {
                Value::Push(_) => {}
                reply => return Ok(reply),
            }
        }
    }

    /// Returns the connection, and the bytes that were read after the last reply.
    pub fn into_inner(self) -> (S, Bytes) {
        (self.stream, self.received.freeze())
    }

    async fn read_value(&mut self) -> Result<Value, ControlError> {
        loop {
            // A server without RESP on this port answers plain text with a TLS alert.
            if !self.answered && self.received.first() == Some(&TLS_ALERT) {
                return Err(ControlError::Unanswered);
            }
            if let Some(length) = self.extent.find(&self.received).map_err(ControlError::Protocol)? {
                self.answered = true;
                let reply = self.received.split_to(length);
                return value::decode(reply, self.resp).map_err(ControlError::Protocol);
            }
            if self.received.len() >= MAX_REPLY {
                return Err(ControlError::Protocol(format!("a reply is longer than {MAX_REPLY} bytes")));
            }
            self.received.reserve(4096);
            match self.stream.read_buf(&mut self.received).await {
                Ok(count) if count > 0 => {}
                // A reset before the first reply has the same cause as a close: plain text at a TLS port.
                Err(error) if self.answered || error.kind() != io::ErrorKind::ConnectionReset => {
                    return Err(error.into());
                }
                Ok(_) if self.answered => return Err(ControlError::Closed),
                _ => return Err(ControlError::Unanswered),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn commands_are_canonical_and_replies_come_in_order() {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let mut control = Control::new(ours);
        control.send(&[b"PING"]);
        control.send(&[b"ECHO", b""]);
        control.flush(soon()).await.unwrap();
        let mut sent = [0; 34];
        theirs.read_exact(&mut sent).await.unwrap();
        assert_eq!(&sent, b"*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$0\r\n\r\n");

        theirs.write_all(b"+PONG\r\n$0\r\n\r\nrest").await.unwrap();
        assert_eq!(control.reply(soon()).await.unwrap().text(), Some("PONG"));
        assert_eq!(control.reply(soon()).await.unwrap().text(), Some(""));
        assert_eq!(control.into_inner().1, "rest");
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_is_no_reply() {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let mut control = Control::new(ours);
        control.set_resp(Resp::V3);
        theirs.write_all(b">1\r\n+note\r\n+PONG\r\n").await.unwrap();
        assert_eq!(control.call(&[b"PING"], soon()).await.unwrap().text(), Some("PONG"));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_closing_and_nonsense_differ() {
        let (ours, theirs) = tokio::io::duplex(64);
        let mut control = Control::new(ours);
        assert!(matches!(control.receive(soon()).await, Err(ControlError::Timeout)));
        control.send(&[&[b'x'; 500]]);
        assert!(matches!(control.flush(soon()).await, Err(ControlError::Timeout)));
        drop(theirs);
        assert!(matches!(control.receive(soon()).await, Err(ControlError::Unanswered)));

        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut control = Control::new(ours);
        theirs.write_all(b"+OK\r\n").await.unwrap();
        assert!(control.receive(soon()).await.is_ok());
        drop(theirs);
        assert!(matches!(control.receive(soon()).await, Err(ControlError::Closed)));

        let (ours, mut theirs) = tokio::io::duplex(64);
        theirs.write_all(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap();
        assert!(matches!(Control::new(ours).receive(soon()).await, Err(ControlError::Protocol(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_endless_reply_is_cut_off() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let feed = tokio::spawn(async move {
            let _ = theirs.write_all(b"+").await;
            while theirs.write_all(&[b'x'; 65536]).await.is_ok() {}
        });
        let mut control = Control::new(ours);
        assert!(matches!(control.receive(soon()).await, Err(ControlError::Protocol(_))));
        assert!(control.received.len() < MAX_REPLY + (1 << 20));
        drop(control);
        feed.await.unwrap();
    }
}
